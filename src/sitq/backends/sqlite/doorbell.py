"""Wake-ups between processes that share one file: a datagram on the loopback interface.

Each process that listens binds a UDP socket and writes its port, with a secret token, into `sitq_listeners`;
whoever commits something reads that table and sends a datagram. It costs nothing while idle and arrives in a
fraction of a millisecond; the same code serves Linux, macOS and Windows. A datagram without the token is
ignored; one that is lost costs a poll interval.
"""

import asyncio
import os
import secrets
import socket
import sqlite3
from typing import Final

from sitq.backends.base import Bells
from sitq.backends.sqlite.rings import Rings

_HOST: Final = "127.0.0.1"
_TOKEN_BYTES: Final = 8
_MAX_DATAGRAM: Final = 8192
_QUEUES: Final = b"q"
_TASKS: Final = b"t"
_CANCELS: Final = b"c"


class Doorbell(asyncio.DatagramProtocol):
    """The listening end of this process."""

    def __init__(self, bells: Bells) -> None:
        self._bells = bells
        self.token = secrets.token_hex(_TOKEN_BYTES)
        self.port: int | None = None
        self._transport: asyncio.DatagramTransport | None = None
        self._pid = os.getpid()

    async def open(self) -> None:
        """Bind. Where the loopback interface is not to be had, `port` stays None and polling has to do."""
        loop = asyncio.get_running_loop()
        try:
            self._transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=(_HOST, 0))
        except OSError:
            return
        self.port = int(self._transport.get_extra_info("sockname")[1])
        self._pid = os.getpid()

    def close(self) -> None:
        # A forked child shares what the loop waits with: closed there, the parent would no longer hear anything.
        if self._transport is not None and self._pid == os.getpid():
            self._transport.close()
        self._transport = None
        self.port = None

    def datagram_received(self, data: bytes, addr: object) -> None:
        token, kind, names = (
            data[: 2 * _TOKEN_BYTES],
            data[2 * _TOKEN_BYTES : 2 * _TOKEN_BYTES + 1],
            data[17:],
        )
        if not secrets.compare_digest(token, self.token.encode()):
            return
        found = names.decode("utf-8", errors="replace").split("\n") if names else []
        if kind == _QUEUES and found:
            self._bells.ring_queues(found)
        elif kind == _TASKS and found:
            self._bells.ring_tasks(found)
        elif kind == _CANCELS:
            self._bells.ring_cancels()
        else:
            self._bells.ring_all()

    def error_received(self, exc: Exception) -> None:
        """Nothing to do: a datagram is a hint."""


class Ringer:
    """The sending end. Used on the database thread only, after a commit."""

    def __init__(self) -> None:
        self._sockets: dict[int, socket.socket] = {}
        self._gone: list[tuple[int, str]] = []

    def ring(self, db: sqlite3.Connection, own_port: int | None, rings: Rings) -> None:
        """Ring the other listeners whom this concerns, and remember where nobody is listening any more."""
        no_names: list[str] = []
        datagrams = (
            (bool(rings.queues), _QUEUES, list(rings.queues)),
            (bool(rings.tasks), _TASKS, rings.tasks),
            (rings.cancels, _CANCELS, no_names),
        )
        for port, token, *wants in db.execute(
            "SELECT port, token, queues, tasks, cancels FROM sitq_listeners"
        ):
            if port == own_port:
                continue
            sent = [
                self._send(port, token.encode() + kind, names)
                for wanted, (needed, kind, names) in zip(wants, datagrams, strict=True)
                if wanted and needed
            ]
            if not all(sent):
                self._gone.append((port, token))

    def forget(self, db: sqlite3.Connection) -> None:
        """Take those who are gone off the list, as part of somebody's transaction: alone it would cost a commit."""
        if self._gone:
            db.executemany("DELETE FROM sitq_listeners WHERE port = ? AND token = ?", self._gone)
            self._gone.clear()

    def _send(self, port: int, head: bytes, names: list[str]) -> bool:
        body = "\n".join(names).encode("utf-8", errors="replace")
        # Too many names for one datagram: an empty list means that anything may have changed.
        data = head + (body if len(body) < _MAX_DATAGRAM else b"")
        try:
            if port not in self._sockets:
                self._sockets[port] = self._connect(port)
            self._sockets[port].send(data)
        except ConnectionRefusedError:
            # Connected sockets learn from the answer to an earlier datagram that the port is closed.
            self._sockets.pop(port).close()
            return False
        except OSError:  # a full buffer, no network: a lost ring
            return True
        return True

    @staticmethod
    def _connect(port: int) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.connect((_HOST, port))
        return sock

    def close(self) -> None:
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()
