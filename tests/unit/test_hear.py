"""What a task says in another process is stored, and told to those who want to know."""

import time
from typing import Any

import pytest

from sitq.emitter import Emitter
from sitq.events import TaskLogged, TaskProgressed, TaskPublished
from sitq.model import NewNote, NoteKind, ReservedTask
from sitq.progress import encode_line, encode_progress
from sitq.rules import NO_RULES
from sitq.serialization import encode_value, make_codec
from sitq.worker.hear import hear
from sitq.worker.run import Run

RESERVED = ReservedTask("a", 7, "work", "default", b"", attempt=2)


class Listener:
    def __init__(self, *kinds: type[Any]) -> None:
        self.notes: list[NewNote] = []
        self.events: list[Any] = []
        emit = Emitter()
        for kind in kinds:
            emit.on(kind, self.events.append)
        self.run = Run(
            RESERVED, RESERVED.held, NO_RULES, time.monotonic(), self.notes.append, emit, make_codec()
        )


SAID = [
    (NoteKind.PROGRESS, encode_progress(50, "half"), TaskProgressed("a", "work", "default", 2, 50, "half")),
    (NoteKind.LOG, encode_line("a line"), TaskLogged("a", "work", "default", 2, "a line")),
    (NoteKind.VALUE, encode_value([1], max_payload=99), TaskPublished("a", "work", "default", 2, [1])),
]


@pytest.mark.parametrize(("kind", "data", "event"), SAID)
def test_it_is_stored_and_told(kind: NoteKind, data: bytes, event: Any) -> None:
    listener = Listener(type(event))
    hear(listener.run, kind, data)
    assert listener.notes == [NewNote(RESERVED.held, kind, data)]
    assert listener.events == [event]


def test_what_nobody_wants_to_know_is_not_read() -> None:
    listener = Listener()
    hear(listener.run, NoteKind.VALUE, b"not read")
    assert listener.notes == [NewNote(RESERVED.held, NoteKind.VALUE, b"not read")]


def test_what_cannot_be_read_here_is_stored_for_those_who_can() -> None:
    listener = Listener(TaskPublished)
    hear(listener.run, NoteKind.VALUE, b"of a class that only the child knows")
    assert len(listener.notes) == 1
    assert listener.events == []


@pytest.mark.parametrize("data", [encode_value([1], max_payload=99), b"unreadable"])
def test_a_run_that_does_not_count_any_more_is_not_heard(data: bytes) -> None:
    listener = Listener(TaskPublished)
    listener.run.reported = True
    hear(listener.run, NoteKind.VALUE, data)
    assert listener.notes == listener.events == []
