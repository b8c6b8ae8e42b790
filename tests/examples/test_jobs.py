"""The three jobs from their command line, with a worker in a process of its own, and what their parts promise."""

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from examples.jobs import mail
from examples.jobs.command import Job, main
from examples.jobs.images import photographs
from examples.jobs.mail_server import Mailboxes, mail_server
from sitq import Status, TaskQueue, Worker
from sitq.retry import is_retryable
from tests.support import PATIENCE

ROOT = Path(__file__).parents[2]
PATIENT = 6 * PATIENCE
"""Seconds until a program that does not end fails the test. Never waited for otherwise."""


class Shell:
    """Types commands, for one job on one database."""

    def __init__(self, job: Job, db: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._job = job
        self._db = db
        self._capsys = capsys

    async def __call__(self, verb: str, *arguments: str, code: int = 0) -> list[str]:
        """Do what `python -m examples.jobs JOB VERB` does, and return the lines it printed."""
        argv = [self._job.name, verb, "--db", str(self._db), *arguments]
        done = await asyncio.to_thread(main, [self._job], argv)  # it has an event loop of its own
        printed, errors = self._capsys.readouterr()
        assert (done, errors) == (code, "")
        return printed.splitlines()

    @asynccontextmanager
    async def worker(self) -> AsyncGenerator[None]:
        """`sitq worker`, for as long as the block lasts."""
        command = ["-m", "sitq", "worker", str(self._db), "-q", self._job.name, "--log-level", "critical"]
        process = await asyncio.create_subprocess_exec(sys.executable, *command, cwd=ROOT)
        try:
            yield
        finally:
            process.terminate()
            assert await asyncio.wait_for(process.wait(), PATIENT) == 0


def of(task_id: str, lines: list[str]) -> list[str]:
    """What was told about one task."""
    return [line.removeprefix(f"{task_id} ") for line in lines if line.startswith(task_id)]


class TestMail:
    async def test_from_the_command_line(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        shell = Shell(mail.JOB, tmp_path / "jobs.db", capsys)
        ada, nobody = "ada@north.example", "nobody@south.example"
        photo = photographs()[0]
        letter = [
            "--from",
            "me@here.example",
            "--to",
            ada,
            nobody,
            "--subject",
            "Grüße",
            "--attach",
            str(photo),
        ]
        mailboxes = Mailboxes([ada])
        async with mail_server(mailboxes) as server, shell.worker():
            submitted = await shell("submit", "--server", server, *letter, "--wait", "0.1")
            assert await shell("submit", "--server", server, *letter) == submitted
            to_ada, to_nobody = submitted

            lines = await shell("watch", code=1)
            assert (
                "will be tried again: examples.jobs.mail.DeferredError: 451 4.7.1 greylisted, come back later"
                in of(to_ada, lines)
            )
            assert of(to_ada, lines)[-1] == f"success: sent to {ada}"
            assert (
                of(to_nobody, lines)[-1]
                == "failed: examples.jobs.mail.RejectedError: 550 5.1.1 no such mailbox"
            )

            mailboxes.known.add(nobody)
            assert await shell("retry") == [to_nobody]
            assert of(to_nobody, await shell("watch", to_nobody))[-1] == f"success: sent to {nobody}"

            # One an hour: the second one waits, and is given up.
            slow = ["--from", "me@here.example", "--to", ada, "--rate", "1/hour"]
            ids = [(await shell("submit", "--server", server, *slow, "--subject", each))[0] for each in "ab"]
            assert await shell("cancel", ids[1]) == [f"{ids[1]} cancelled"]
            assert of(ids[1], await shell("watch", ids[1], code=1)) == ["cancelled"]

        for address in (ada, nobody):
            [message] = [each for each in mailboxes.received[address] if each["Subject"] == "Grüße"]
            [attachment] = message.iter_attachments()
            assert attachment.get_filename() == photo.name
            assert attachment.get_content_type() == "image/jpeg"
            assert attachment.get_content() == photo.read_bytes()
        assert "b" not in [message["Subject"] for message in mailboxes.received[ada]]

    async def test_a_domain_gets_no_more_than_its_rate(self, tmp_path: Path) -> None:
        people = [f"p{n}@{domain}" for n in range(5) for domain in ("north.example", "SOUTH.example")]
        messages = [mail.compose("me@here.example", to, "hello", "", []) for to in people]
        async with (
            TaskQueue(tmp_path / "q.db") as queue,
            mail_server(Mailboxes(people, greylists=False)) as server,
            Worker(queue),
        ):
            handles = await mail.post(queue, server, messages, rate="2/500ms")
            for handle in handles:
                await handle.result(timeout=PATIENT)
            details = [await queue.get(handle) for handle in handles]
        for domain in ("north", "SOUTH"):
            starts = sorted(
                one.started_at for one in details if one.started_at and domain in one.metadata["to"]
            )
            assert len(starts) == 5
            assert all(starts[n + 2] - starts[n] >= timedelta(milliseconds=500) for n in range(3))

    async def test_a_message_is_unique_by_all_that_it_says(self, tmp_path: Path) -> None:
        attached = tmp_path / "a.txt"
        attached.write_text("one")
        letter = partial(mail.compose, "me@here.example", "ada@north.example")
        first, same = (letter("Hello", "text", [attached]) for _ in range(2))
        attached.write_text("two")
        others = [
            letter("Hello", "text", [attached]),
            letter("Hello", "text", []),
            letter("Hello", "", []),
            letter("Hello!", "", []),
        ]
        async with TaskQueue(tmp_path / "q.db") as queue:
            handles = await mail.post(queue, "127.0.0.1:1", [first, same, *others])
        assert handles[0] == handles[1]
        assert len(set(handles)) == 5

    async def test_the_end_of_a_message_does_not_let_it_be_sent_again(self, tmp_path: Path) -> None:
        message = mail.compose("me@here.example", "ada@north.example", "Hello", "", [])
        mailboxes = Mailboxes(["ada@north.example"], greylists=False)
        async with TaskQueue(tmp_path / "q.db") as queue, mail_server(mailboxes) as server, Worker(queue):
            [handle] = await mail.post(queue, server, [message])
            await handle.result(timeout=PATIENT)
            assert await mail.post(queue, server, [message]) == [handle]
            assert await handle.status() is Status.SUCCESS

    @pytest.mark.parametrize("code", [400, 421, 450, 451, 499])
    def test_4xx_and_a_server_that_is_away_are_tried_again(self, code: int) -> None:
        policy = mail.until_accepted(60)
        assert is_retryable(policy, mail.refusal(code, b"later"))
        assert is_retryable(policy, ConnectionRefusedError())
        assert is_retryable(policy, TimeoutError())

    @pytest.mark.parametrize("code", [500, 550, 552, 554, -1])
    def test_5xx_is_not(self, code: int) -> None:
        assert not is_retryable(mail.until_accepted(60), mail.refusal(code, "never"))
