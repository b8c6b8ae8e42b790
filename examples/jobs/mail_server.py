"""A mail server on the loopback interface, as strict as real ones are.

It refuses a mailbox that does not exist with 550, for good. And it greylists: the first time that a sender writes to a
recipient the answer is 451, come back later. That is how many servers get rid of senders that never try again.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage

from aiosmtpd.smtp import SMTP, Envelope, Session


class Mailboxes:
    """What the server does with what it gets.

    Attributes:
        known: The addresses that have a mailbox.
        received: The messages in each.
        refusals: How often it has said which code.
    """

    def __init__(self, known: Iterable[str]) -> None:
        self.known = set(known)
        self.received: dict[str, list[EmailMessage]] = defaultdict(list)
        self.refusals: dict[int, int] = defaultdict(int)
        self._met: set[tuple[str | None, str]] = set()

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address not in self.known:
            self.refusals[550] += 1
            return "550 5.1.1 no such mailbox"
        if (envelope.mail_from, address) not in self._met:
            self._met.add((envelope.mail_from, address))
            self.refusals[451] += 1
            return "451 4.7.1 greylisted, come back later"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 recipient ok"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        content = envelope.content
        assert isinstance(content, bytes)
        for address in envelope.rcpt_tos:
            self.received[address].append(message_from_bytes(content, policy=policy.default))
        return "250 2.0.0 accepted"


@asynccontextmanager
async def mail_server(mailboxes: Mailboxes) -> AsyncGenerator[str]:
    """Serve SMTP on a free port for as long as the block lasts. Yields where, as HOST:PORT."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(mailboxes, loop=loop), "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
