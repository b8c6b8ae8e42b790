"""Tasks that complete themselves: what goes along, what is taken back, and what the worker makes of it."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from sitq.backends.base import Backend, Within
from sitq.errors import BackendError, TaskStaleError
from sitq.events import ErrorAfterCompletion, StorageFailed
from sitq.failure import encode_error
from sitq.model import (
    Failed,
    Held,
    NewNote,
    NoteKind,
    Outcome,
    Released,
    Retried,
    Status,
    Succeeded,
    TaskQuery,
    TaskRecord,
)
from sitq.worker import completion as module
from sitq.worker.completion import Completion
from sitq.worker.outbox import Outbox
from sitq.worker.run import Run
from tests.support import FakeClock
from tests.unit.test_judge import a_run

LINE = NewNote(Held("t1", 7), NoteKind.LOG, b"before")


class Storage(Within):
    """A backend and its part of a transaction: it takes the success, refuses it or fails, and says what is stored."""

    blocking = False

    def __init__(self) -> None:
        self.takes: bool | Exception = True
        self.said: list[NewNote] = []
        self.away = 0
        self.stored: list[TaskRecord] | None = []

    def within(self, connection: object) -> Within:
        return self

    async def enqueue(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("nobody enqueues here")

    async def complete(self, outcome: Succeeded, *, notes: Callable[[], Sequence[NewNote]] = list) -> bool:
        self.said = list(notes())
        if isinstance(self.takes, Exception):
            raise self.takes
        return self.takes

    async def find(self, query: TaskQuery) -> list[TaskRecord]:
        assert query.ids == ["t1"]
        if self.away:
            self.away -= 1
            raise BackendError("the storage is away")
        if self.stored is None:
            await asyncio.Event().wait()
        return self.stored or []


def a_record(status: Status, fence: int = 7) -> TaskRecord:
    clock = FakeClock()
    return TaskRecord(
        seq=1,
        id="t1",
        name="work",
        queue="default",
        status=status,
        priority=0,
        attempt=1,
        crashes=0,
        max_crashes=3,
        fence=fence,
        worker="w1",
        enqueued_at=clock.now(),
        due_at=None,
        started_at=clock.now(),
        finished_at=clock.now(),
        cancel_requested=False,
    )


class Bench:
    """A completion on that storage, a run, and what it told."""

    def __init__(self) -> None:
        self.storage = Storage()
        self.clock = FakeClock()
        self.events: list[Any] = []
        backend = cast("Backend", self.storage)
        self.outbox = Outbox("w1", backend, self.events.append)
        self.completion = Completion("w1", backend, self.outbox, self.clock, self.events.append)
        self.run: Run = a_run()

    async def complete(self) -> None:
        work = self.completion.begin(self.run, object(), b"value")
        assert work is not None
        await work

    def settle(self, outcome: Outcome | None = None) -> Any:
        return self.completion.settle(self.run, outcome or Succeeded(self.run.held, b"returned"))

    def waiting(self) -> list[NewNote]:
        return list(self.outbox.withdraw(self.run.held))


@pytest.fixture
async def bench() -> Bench:
    return Bench()


async def test_a_run_that_was_reported_completes_nothing(bench: Bench) -> None:
    bench.run.reported = True
    with pytest.raises(TaskStaleError):
        await bench.complete()
    assert bench.run.completed is None
    assert bench.storage.said == []


async def test_what_was_said_before_goes_along(bench: Bench) -> None:
    bench.outbox.put(LINE)
    await bench.complete()
    assert bench.storage.said == [LINE]
    assert bench.waiting() == []
    assert bench.run.completed == b"value"


@pytest.mark.parametrize("takes", [False, BackendError("away")], ids=["refused", "failed"])
async def test_what_was_not_written_is_as_if_it_was_never_tried(
    bench: Bench, takes: bool | Exception
) -> None:
    bench.outbox.put(LINE)
    bench.storage.takes = takes
    with pytest.raises(BackendError if isinstance(takes, Exception) else TaskStaleError):
        await bench.complete()
    assert bench.run.completed is None
    assert bench.run.said == ()
    assert bench.waiting() == [LINE]


async def test_a_success_that_was_committed_stands_whatever_came_after_it(bench: Bench) -> None:
    await bench.complete()
    bench.storage.stored = [a_record(Status.SUCCESS)]
    assert await bench.settle() == Succeeded(bench.run.held, b"value")
    assert bench.events == []
    error = encode_error(ValueError("too late"))
    for outcome in (
        Failed(bench.run.held, error),
        Retried(bench.run.held, bench.clock.now(), error),
    ):
        bench.events.clear()
        assert await bench.settle(outcome) == Succeeded(bench.run.held, b"value")
        [event] = bench.events
        assert isinstance(event, ErrorAfterCompletion)
        assert (event.task_id, event.error_type, event.error) == ("t1", "ValueError", "too late")


async def test_one_that_is_gone_has_been_committed(bench: Bench) -> None:
    """Only what has ended is ever removed."""
    await bench.complete()
    bench.storage.stored = []
    assert await bench.settle() == Succeeded(bench.run.held, b"value")


@pytest.mark.parametrize(
    "stored", [a_record(Status.RUNNING), a_record(Status.SUCCESS, 8)], ids=["still running", "another run"]
)
async def test_a_success_that_was_not_committed_is_none(bench: Bench, stored: TaskRecord) -> None:
    bench.outbox.put(LINE)
    await bench.complete()
    bench.storage.stored = [stored]
    outcome = await bench.settle()
    assert isinstance(outcome, Retried)
    assert b"its transaction was not committed" in outcome.error
    assert bench.waiting() == [LINE]


async def test_an_error_instead_of_the_commit_is_the_outcome(bench: Bench) -> None:
    await bench.complete()
    bench.storage.stored = [a_record(Status.RUNNING)]
    failed = Failed(bench.run.held, encode_error(ValueError("rolled back")))
    assert await bench.settle(failed) == failed


async def test_a_storage_that_is_away_is_asked_until_it_answers(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    async def sleep(span: float) -> None:
        pauses.append(span)

    await bench.complete()
    bench.storage.stored, bench.storage.away = [a_record(Status.SUCCESS)], 8
    monkeypatch.setattr(module.asyncio, "sleep", sleep)
    assert await bench.settle() == Succeeded(bench.run.held, b"value")
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert [type(event) for event in bench.events] == [StorageFailed] * 8


async def test_a_loop_that_ends_while_it_asks_gives_the_task_back(bench: Bench) -> None:
    """Whoever takes it next finds out whether it was committed."""
    await bench.complete()
    bench.storage.stored = None
    settling = asyncio.ensure_future(bench.settle())
    await asyncio.sleep(0)
    settling.cancel()
    assert await settling == Released(bench.run.held)
