"""What a worker and its child processes say to each other: pickles of plain values, each behind its length.

A child gets one `ChildSetup`, then a `Job` for each attempt. Both grow by fields: what a child needs once goes into the
first, what an attempt needs into the second.
"""

import pickle
import selectors
import socket
import threading
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final, NamedTuple

from sitq.model import Held, NoteKind, Outcome, ReservedTask
from sitq.worker.inputs import Input
from sitq.worker.run import Stop
from sitq.worker.surroundings import SurroundingsSetup

_LENGTH: Final = 8
_CHUNK: Final = 1024 * 1024


# -- To the child ----------------------------------------------------------------------------------


class ChildSetup(NamedTuple):
    """What a child needs once, at its start.

    Attributes:
        paths: Its `sys.path`, so that it can import what the worker can.
        worker: The process that it dies with.
        serializer: Of the queue, with its keys; from `to_child`.
        surroundings: Of the worker: references to its context providers and resources.
        max_payload: Of the queue: the largest encoded result.
        memory_limit: Bytes that it may use; None for no limit.
    """

    paths: tuple[str, ...]
    worker: int
    serializer: bytes
    surroundings: SurroundingsSetup
    max_payload: int
    memory_limit: int | None = None


class Job(NamedTuple):
    """What a child needs for one attempt. Call and inputs stay as they were stored: nothing is pickled twice."""

    reserved: ReservedTask
    inputs: Mapping[int, Input]


class StopAsked(NamedTuple):
    """This attempt is to stop, and will be killed soon."""

    held: Held
    why: Stop


# -- To the worker ---------------------------------------------------------------------------------


class Sign(Enum):
    """What a child says of itself."""

    READY = "it can take jobs"
    BEGAN = "it has read the job, so what follows is the task's doing"


class Said(NamedTuple):
    """Something that a task said, as it is stored."""

    kind: NoteKind
    data: bytes


class Ended(NamedTuple):
    """An attempt ended, and this follows from it. `resident` is the size of the child, if it is known."""

    outcome: Outcome
    resident: int | None = None


type Message = ChildSetup | Job | StopAsked | Sign | Said | Ended | None
"""None tells a child to end."""


class Wire:
    """One end of a connection. Any thread may send; one receives."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._sending = threading.Lock()
        self._buffer = bytearray()

    def send(self, message: Message) -> None:
        """Send a message; waits while the other end is busy.

        Raises:
            OSError: Nobody is at the other end.
        """
        body = pickle.dumps(message, 5)
        with self._sending:
            self._socket.sendall(len(body).to_bytes(_LENGTH) + body)

    def receive(self, timeout: float | None = None) -> Any:
        """Return the next message. What has come of one is kept for the next call when there is no more in time.

        Raises:
            TimeoutError: Nothing came for `timeout` seconds.
            EOFError: Nobody is at the other end any more.
        """
        # Not by `settimeout`, which would count for those who send, too.
        while (length := self._length()) is None or len(self._buffer) < _LENGTH + length:
            self._wait(timeout)
            try:
                data = self._socket.recv(_CHUNK)
            except OSError as error:
                raise EOFError from error
            if not data:
                raise EOFError
            self._buffer += data
        end = _LENGTH + length
        with memoryview(self._buffer) as view:
            message = pickle.loads(view[_LENGTH:end])
        del self._buffer[:end]
        return message

    def _length(self) -> int | None:
        return int.from_bytes(self._buffer[:_LENGTH]) if len(self._buffer) >= _LENGTH else None

    def _wait(self, timeout: float | None) -> None:
        if timeout is not None and not _readable(self._socket, timeout):
            raise TimeoutError

    def close(self) -> None:
        """Let the other end see that nobody is here any more, at once and whoever else holds a copy of this end."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:  # it was the first to go
            pass
        self._socket.close()


def _readable(sock: socket.socket, timeout: float) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_READ)
        return bool(selector.select(timeout))
