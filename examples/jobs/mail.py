"""E-mail: messages with attachments over SMTP. One task a message.

A server says with its answer what is to be done: after a 4xx the message is tried again later, by the `RetryPolicy`;
after a 5xx it never will be accepted, so the task fails at once and waits among the dead letters for somebody who
repairs what is wrong and gives it a new run. No recipient's domain gets more than `--rate` allows, over all workers.
A message that is submitted again within a day is the task that is there.

A worker that dies after the server has accepted a message, and before it could say so, sends it once more. The
Message-ID stays the same, by which mailboxes drop doubles.

    python -m examples.jobs mail demo

Prints

    6 messages to 2 domains, submitted twice: 6 tasks
    5 sent, each in attempt 2; attempt 1: 451 4.7.1 greylisted, come back later
    1 failed at once: 550 5.1.1 no such mailbox
    its mailbox was made, and it got a new run: sent
    each mailbox has one message, with its attachment unharmed
"""

import argparse
import hashlib
import mimetypes
import smtplib
from collections.abc import Iterable, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from pathlib import Path

from examples.jobs.command import Job, open_queue
from examples.jobs.mail_server import Mailboxes, mail_server
from sitq import RetryPolicy, Status, TaskHandle, TaskQueue, Worker, current_task, task

QUEUE = "mail"
RATE = "60/minute"
DAY = timedelta(days=1)
PATIENCE = 30
"""Seconds that the server may take for an answer."""


class DeferredError(Exception):
    """The server said 4xx: not now."""


class RejectedError(Exception):
    """The server said 5xx: never like this."""


def refusal(code: int, text: bytes | str) -> Exception:
    said = f"{code} {text.decode(errors='replace') if isinstance(text, bytes) else text}"
    return DeferredError(said) if 400 <= code < 500 else RejectedError(said)


def until_accepted(wait: float) -> RetryPolicy:
    """Try again after `wait` seconds, then after twice as long, up to an hour; from a minute on that is half a day.

    A server that cannot be reached counts as one that said 4xx.
    """
    return RetryPolicy(
        max_attempts=16, base=wait, max_delay=3600, on=(DeferredError, OSError), give_up_on=RejectedError
    )


# -- The task --------------------------------------------------------------------------------------


@task(queue=QUEUE, timeout=10 * PATIENCE)
def send(server: str, sender: str, recipient: str, message: bytes) -> str:
    """Hand a message to a server. A plain function, because `smtplib` blocks: workers run it on a thread."""
    current_task().progress(0, f"to {recipient}")
    host, _, port = server.rpartition(":")
    try:
        # Closed without QUIT: what a server answers to that could make an accepted message look like a refused one.
        with closing(smtplib.SMTP(host, int(port), timeout=PATIENCE)) as client:
            client.sendmail(sender, [recipient], message)
    except smtplib.SMTPRecipientsRefused as error:
        [(code, text)] = error.recipients.values()
        raise refusal(code, text) from error
    except smtplib.SMTPResponseException as error:
        raise refusal(error.smtp_code, error.smtp_error) from error
    return f"sent to {recipient}"


# -- Messages and their tasks ----------------------------------------------------------------------


def compose(
    sender: str, recipient: str, subject: str, text: str, attachments: Iterable[Path]
) -> EmailMessage:
    """Make a message. Its Message-ID tells who gets what, so that the same one made again has the same."""
    message = EmailMessage(policy=SMTP)
    message["From"], message["To"], message["Subject"] = sender, recipient, subject
    message.set_content(text)
    digest = hashlib.sha256(f"{sender}\0{recipient}\0{subject}\0{text}".encode())
    for path in attachments:
        data = path.read_bytes()
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        main, _, sub = kind.partition("/")
        message.add_attachment(data, maintype=main, subtype=sub, filename=path.name)
        digest.update(hashlib.sha256(data).digest())
    message["Message-ID"] = f"<{digest.hexdigest()}@{sender.rpartition('@')[2]}>"
    message["Date"] = format_datetime(datetime.now(UTC))
    return message


async def post(
    queue: TaskQueue, server: str, messages: Iterable[EmailMessage], *, rate: str = RATE, wait: float = 60
) -> list[TaskHandle[str]]:
    """Store a task for each message: unique by its Message-ID for a day, at a rate for the domain of its recipient."""
    handles: list[TaskHandle[str]] = []
    for message in messages:
        recipient = str(message["To"])
        options = queue.options(
            unique_key=f"mail {message['Message-ID']}",
            unique_until=DAY,
            rate_limit=rate,
            rate_key=f"mail {recipient.rpartition('@')[2].lower()}",
            retry=until_accepted(wait),
            metadata={"to": recipient, "subject": str(message["Subject"])},
        )
        handles.append(await options.enqueue(send, server, str(message["From"]), recipient, bytes(message)))
    return handles


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--server", required=True, metavar="HOST:PORT", help="where to hand the messages to")
    parser.add_argument("--from", required=True, dest="sender", metavar="ADDRESS")
    parser.add_argument("--to", required=True, nargs="+", metavar="ADDRESS", help="a message to each of them")
    parser.add_argument("--subject", required=True)
    parser.add_argument("--text", default="")
    parser.add_argument("--attach", nargs="*", type=Path, default=[], metavar="FILE")
    parser.add_argument("--rate", default=RATE, help=f"for each domain of a recipient ({RATE})")
    parser.add_argument("--wait", type=float, default=60, metavar="S", help="before the first retry (60)")


async def submit(queue: TaskQueue, given: argparse.Namespace) -> Sequence[str]:
    messages = [
        compose(given.sender, recipient, given.subject, given.text, given.attach) for recipient in given.to
    ]
    return await post(queue, given.server, messages, rate=given.rate, wait=given.wait)


# -- The demonstration -----------------------------------------------------------------------------


async def demo(folder: Path) -> None:
    people = [
        f"{name}@{domain}" for domain in ("north.example", "south.example") for name in ("ada", "bo", "cy")
    ]
    gone = people[-1]
    attached = Path(__file__)
    messages = [compose("me@here.example", to, "The source", "See below.", [attached]) for to in people]
    mailboxes = Mailboxes(person for person in people if person != gone)
    async with open_queue(folder / "mail.db") as queue, mail_server(mailboxes) as server:
        handles = await post(queue, server, messages, rate="20/s", wait=0.1)
        assert await post(queue, server, messages) == handles
        tasks = await queue.find(queue=QUEUE)
        print(f"{len(messages)} messages to 2 domains, submitted twice: {len(tasks)} tasks")

        async with Worker(queue):
            results = [await queue.get_result(handle, timeout=60) for handle in handles]
            sent = [result for result in results if result.status is Status.SUCCESS]
            assert {result.attempts for result in sent} == {2}
            [first, *_] = (await queue.get(sent[0].id)).attempts_log
            print(f"{len(sent)} sent, each in attempt 2; attempt 1: {first.error.message}")
            [failed] = [result for result in results if result.status is Status.FAILED]
            assert failed.attempts == 1
            print(f"1 failed at once: {failed.error}")

            mailboxes.known.add(gone)
            await queue.requeue(queue=QUEUE)
            assert await handles[-1].result(timeout=60) == f"sent to {gone}"
            print("its mailbox was made, and it got a new run: sent")

    check(mailboxes, people, attached)


def check(mailboxes: Mailboxes, people: Iterable[str], attached: Path) -> None:
    """Each of them has one message, with the file as it was."""
    for person in people:
        [message] = mailboxes.received[person]
        [attachment] = message.iter_attachments()
        assert attachment.get_payload(decode=True) == attached.read_bytes()
    print("each mailbox has one message, with its attachment unharmed")


JOB = Job(QUEUE, "messages with attachments over SMTP", arguments, submit, demo)
