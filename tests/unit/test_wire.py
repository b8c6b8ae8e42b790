"""Messages arrive whole and in order, whatever their size, and an end that is gone is noticed."""

import socket
import threading
from collections.abc import Iterator

import pytest

from sitq.model import Held, NoteKind, ReservedTask, Succeeded
from sitq.worker.inputs import Input
from sitq.worker.run import Stop
from sitq.worker.spawn import describe_end
from sitq.worker.surroundings import SurroundingsSetup
from sitq.worker.wire import ChildSetup, Ended, Job, Message, Said, Sign, StopAsked, Wire
from tests.support import PATIENCE

HELD = Held("a", 7)
MESSAGES: list[Message] = [
    ChildSetup(("/a", "/b"), 1, b"serializer", SurroundingsSetup((("request", b"reference"),)), 10),
    Job(
        ReservedTask("a", 7, "work", "default", b"payload", metadata={"a": [1]}),
        {0: Input("b", "work", b"value")},
    ),
    StopAsked(HELD, Stop.TIMEOUT),
    Sign.READY,
    Said(NoteKind.LOG, b"a line"),
    Ended(Succeeded(HELD, b"result"), 5),
    None,
]


@pytest.fixture
def wires() -> Iterator[tuple[Wire, Wire]]:
    ours, theirs = map(Wire, socket.socketpair())
    yield ours, theirs
    ours.close()
    theirs.close()


def test_what_is_sent_arrives_in_order(wires: tuple[Wire, Wire]) -> None:
    ours, theirs = wires
    for message in MESSAGES:
        ours.send(message)
    assert [theirs.receive() for _ in MESSAGES] == MESSAGES


def test_large_messages_go_both_ways_at_once(wires: tuple[Wire, Wire]) -> None:
    large = Ended(Succeeded(HELD, bytes(8_000_000)))
    threads = [threading.Thread(target=wire.send, args=(large,), daemon=True) for wire in wires]
    for thread in threads:
        thread.start()
    assert [wire.receive(PATIENCE) for wire in wires] == [large, large]
    for thread in threads:
        thread.join(PATIENCE)


def test_half_a_message_waits_for_the_other_half() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        sent = Wire(ours)
        received = Wire(theirs)
        whole = _bytes_of(MESSAGES[1])
        ours.sendall(whole[:20])
        with pytest.raises(TimeoutError):
            received.receive(0.001)
        ours.sendall(whole[20:])
        sent.send(None)
        assert received.receive(PATIENCE) == MESSAGES[1]
        assert received.receive(PATIENCE) is None
        received.close()


def _bytes_of(message: Message) -> bytes:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        Wire(ours).send(message)
        return theirs.recv(10_000)


def test_an_end_that_is_gone_is_noticed(wires: tuple[Wire, Wire]) -> None:
    ours, theirs = wires
    ours.send(Sign.BEGAN)
    ours.close()
    assert theirs.receive() is Sign.BEGAN, "what was said before"
    with pytest.raises(EOFError):
        theirs.receive()
    with pytest.raises(OSError, match=r"pipe|connection"):
        theirs.send(Sign.READY)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (0, "ended with exit code 0"),
        (3, "ended with exit code 3"),
        (-9, "was ended by SIGKILL"),
        (-250, "was ended by signal 250"),
    ],
)
def test_how_a_process_ended_is_told(code: int, text: str) -> None:
    assert describe_end(code) == text
