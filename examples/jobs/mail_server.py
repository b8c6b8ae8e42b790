"""A mail server on the loopback interface, as strict as real ones are.

It refuses a mailbox that does not exist with 550, for good. And it greylists: the first time that a sender writes to a
recipient the answer is 451, come back later. That is how many servers get rid of senders that never try again.

    python -m examples.jobs.mail_server --port 8025 ada@north.example bo@south.example
"""

import argparse
import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager, suppress
from email import message_from_bytes, policy
from email.message import EmailMessage

from aiosmtpd.smtp import SMTP, Envelope, Session


class Mailboxes:
    """What the server does with what it gets.

    Attributes:
        known: The addresses that have a mailbox.
        received: The messages in each.
    """

    def __init__(self, known: Iterable[str], *, greylists: bool = True) -> None:
        self.known = set(known)
        self.received: dict[str, list[EmailMessage]] = defaultdict(list)
        self._greylists = greylists
        self._met: set[tuple[str | None, str]] = set()

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address not in self.known:
            return "550 5.1.1 no such mailbox"
        if self._greylists and (envelope.mail_from, address) not in self._met:
            self._met.add((envelope.mail_from, address))
            return "451 4.7.1 greylisted, come back later"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 recipient ok"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        content = envelope.content
        assert isinstance(content, bytes)
        for address in envelope.rcpt_tos:
            self.received[address].append(message_from_bytes(content, policy=policy.default))
        return "250 2.0.0 accepted"


@asynccontextmanager
async def mail_server(mailboxes: Mailboxes, port: int = 0) -> AsyncGenerator[str]:
    """Serve SMTP for as long as the block lasts, on a free port if none is given. Yields where, as HOST:PORT."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(mailboxes, loop=loop), "127.0.0.1", port)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.jobs.mail_server")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("mailboxes", nargs="+", metavar="ADDRESS")
    given = parser.parse_args()
    async with mail_server(Mailboxes(given.mailboxes), given.port) as address:
        print(address, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main())
