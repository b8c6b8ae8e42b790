"""Schedules from their definition to their tasks: each tick makes one task, whoever is there, and however often."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sitq import (
    QueueClosedError,
    ScheduleNotFoundError,
    Status,
    SyncTaskQueue,
    TaskQueue,
    ValidationError,
    call,
    current_task,
    task,
)
from sitq.backends.base import Backend
from sitq.backends.memory import MemoryBackend
from sitq.backends.sqlite import SQLiteBackend
from sitq.clock import SystemClock
from sitq.errors import BackendError
from sitq.events import ScheduleFailed, StorageFailed, TaskEnqueued, TickDropped, TicksMissed
from sitq.model import Concurrency, Enqueued, NewTask, Rate, Succeeded, Unique
from sitq.schedule import make_schedule
from sitq.schedules import list_schedules, remove_schedule, save_schedules, set_schedule_paused
from sitq.worker.ticker import TICK_INTERVAL, Round, Ticker
from tests.integration.support import Recorder, drain, end_group, start_python
from tests.support import HOUR, FakeClock, everything, new_task, record, reserve_one

MINUTE = timedelta(minutes=1)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)  # just before a FakeClock begins


class Watched(MemoryBackend):
    """Says what was saved, and fails when it is told to."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock=clock)
        self.saved: list[set[str]] = []
        self.before_enqueue: list[Exception] = []
        self.before_save: list[Exception] = []

    async def enqueue(
        self, tasks: Sequence[NewTask], *, max_pending: Mapping[str, int] | None = None
    ) -> list[Enqueued]:
        if self.before_enqueue:
            raise self.before_enqueue.pop()
        return await super().enqueue(tasks, max_pending=max_pending)

    async def save(self, documents: Mapping[str, bytes | None]) -> None:
        if self.before_save:
            raise self.before_save.pop()
        self.saved.append(set(documents))
        await super().save(documents)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def backend(clock: FakeClock) -> Watched:
    made = Watched(clock)
    await made.open()
    return made


async def define(backend: Backend, clock: FakeClock, name: str = "one", **fields: Any) -> None:
    pattern = fields.pop("task", None) or new_task()
    await save_schedules(backend, [(make_schedule(name, **fields), pattern)], clock.now())


def ticker(backend: Backend, clock: FakeClock, emit: Any = lambda event: None) -> Ticker:
    return Ticker("w1", backend, clock, emit)


async def ids(backend: Backend) -> list[str]:
    return [task.id for task in reversed(await everything(backend))]


async def finish(backend: Backend) -> str:
    one = await reserve_one(backend)
    await backend.complete([Succeeded(one.held, b"")])
    return one.id


# -- One task a tick -------------------------------------------------------------------------------


async def test_a_tick_makes_a_task(backend: Watched, clock: FakeClock) -> None:
    pattern = new_task(
        name="clean", queue="low", priority=3, max_crashes=7, metadata={"by": "me"}, result_ttl=2 * HOUR
    )
    await define(backend, clock, every=HOUR, task=pattern)
    made = ticker(backend, clock)
    assert await made.run_once() == Round(0, NOON + HOUR)
    clock.advance(HOUR)
    assert await made.run_once() == Round(1, NOON + 2 * HOUR)
    found = await record(backend, "one@2026-03-01T13:00:00Z")
    assert (found.name, found.queue, found.priority, found.max_crashes) == ("clean", "low", 3, 7)
    assert found.metadata == {"by": "me", "schedule": "one", "tick": "2026-03-01T13:00:00Z"}
    assert (found.due_at, found.payload) == (NOON + HOUR, pattern.payload)
    assert await made.run_once() == Round(0, NOON + 2 * HOUR)


async def test_a_tick_keeps_the_rate_of_its_schedule(backend: Watched, clock: FakeClock) -> None:
    rate = Rate("api", 5, MINUTE)
    await define(backend, clock, every=HOUR, task=new_task(rate=rate))
    clock.advance(HOUR)
    await ticker(backend, clock).run_once()
    assert (await record(backend, "one@2026-03-01T13:00:00Z")).rate == rate


async def test_any_number_of_workers_make_one_task_a_tick(backend: Watched, clock: FakeClock) -> None:
    await define(backend, clock, "a", every=MINUTE, misfire="all")
    await define(backend, clock, "b", cron="*/2 * * * *", overlap="allow")
    recorder = Recorder()
    tickers = [ticker(backend, clock, recorder) for _ in range(10)]
    for _ in range(20):
        clock.advance(MINUTE)
        await asyncio.gather(*(one.run_once() for one in tickers))
    found = await ids(backend)
    assert len(found) == len(set(found)) == 20 + 10
    assert sorted(event.task_id for event in recorder.of(TaskEnqueued)) == sorted(found)


async def test_a_worker_that_dies_before_it_enqueues_leaves_the_tick_to_others(
    backend: Watched, clock: FakeClock
) -> None:
    await define(backend, clock, every=HOUR)
    clock.advance(HOUR)
    backend.before_enqueue = [BackendError("gone")]
    with pytest.raises(BackendError):
        await ticker(backend, clock).run_once()
    assert (await ticker(backend, clock).run_once()).enqueued == 1


async def test_a_worker_that_dies_after_it_enqueued_is_repeated_without_effect(
    backend: Watched, clock: FakeClock
) -> None:
    await define(backend, clock, every=HOUR)
    clock.advance(HOUR)
    backend.before_save = [BackendError("gone")]
    with pytest.raises(BackendError):
        await ticker(backend, clock).run_once()
    assert await finish(backend) == "one@2026-03-01T13:00:00Z"
    assert (await ticker(backend, clock).run_once()).enqueued == 0
    assert len(await ids(backend)) == 1


@pytest.mark.parametrize("where", ["before_enqueue", "before_save"])
async def test_the_same_worker_tries_again_what_failed(
    backend: Watched, clock: FakeClock, where: str
) -> None:
    await define(backend, clock, every=HOUR)
    made = ticker(backend, clock)
    await made.run_once()
    clock.advance(HOUR)
    setattr(backend, where, [BackendError("gone")])
    with pytest.raises(BackendError):
        await made.run_once()
    await made.run_once()
    [one] = await list_schedules(backend, clock.now())
    assert one.last == NOON + HOUR
    assert await ids(backend) == ["one@2026-03-01T13:00:00Z"]


async def test_a_late_worker_with_an_old_mark_repeats_nothing(backend: Watched, clock: FakeClock) -> None:
    """The mark goes back when a worker that stood still writes its own; the ids of the tasks stay."""
    await define(backend, clock, every=HOUR, misfire="all", task=new_task(result_ttl=timedelta(0)))
    for _ in range(3):
        clock.advance(HOUR)
        await ticker(backend, clock).run_once()
    await finish_all(backend)
    await backend.prune(100)
    await backend.save({"schedule-last/one": (NOON + 2 * HOUR).isoformat().encode()})
    assert (await ticker(backend, clock).run_once()).enqueued == 0
    assert len(await ids(backend)) == 3


async def finish_all(backend: Backend) -> None:
    while reserved := (await backend.reserve("w1", None, 100, HOUR)).tasks:
        await backend.complete([Succeeded(one.held, b"") for one in reserved])


async def test_the_task_of_a_tick_is_kept_for_an_hour_at_least(backend: Watched, clock: FakeClock) -> None:
    await define(backend, clock, "short", every=HOUR, task=new_task(result_ttl=timedelta(0)))
    await define(backend, clock, "ever", every=HOUR, task=new_task(result_ttl=None))
    clock.advance(HOUR)
    await ticker(backend, clock).run_once()
    await finish_all(backend)
    clock.advance(HOUR - timedelta(microseconds=1))
    assert await backend.prune(100) == 0
    clock.advance(timedelta(microseconds=1))
    assert await backend.prune(100) == 1
    assert await ids(backend) == ["ever@2026-03-01T13:00:00Z"]


# -- Policies --------------------------------------------------------------------------------------


async def test_overlap_skip_drops_ticks_until_the_task_ends(backend: Watched, clock: FakeClock) -> None:
    await define(backend, clock, every=MINUTE)
    recorder = Recorder()
    made = ticker(backend, clock, recorder)
    for _ in range(3):
        clock.advance(MINUTE)
        await made.run_once()
    assert await ids(backend) == ["one@2026-03-01T12:01:00Z"]
    holder = "one@2026-03-01T12:01:00Z"
    assert recorder.of(TickDropped) == [
        TickDropped("w1", "one", NOON + number * MINUTE, holder) for number in (2, 3)
    ]
    await finish(backend)
    clock.advance(MINUTE)
    await made.run_once()
    assert await ids(backend) == [holder, "one@2026-03-01T12:04:00Z"]


async def test_overlap_wait_runs_one_at_a_time(backend: Watched, clock: FakeClock) -> None:
    await define(backend, clock, every=MINUTE, overlap="wait")
    made = ticker(backend, clock)
    for _ in range(3):
        clock.advance(MINUTE)
        await made.run_once()
    assert len(await ids(backend)) == 3
    running = await reserve_one(backend)
    assert (await backend.reserve("w2", None, 10, HOUR)).tasks == []
    await backend.complete([Succeeded(running.held, b"")])
    assert (await reserve_one(backend)).id == "one@2026-03-01T12:02:00Z"


async def test_overlap_allow_runs_side_by_side(backend: Watched, clock: FakeClock) -> None:
    await define(backend, clock, every=MINUTE, overlap="allow")
    made = ticker(backend, clock)
    for _ in range(3):
        clock.advance(MINUTE)
        await made.run_once()
    assert len((await backend.reserve("w1", None, 10, HOUR)).tasks) == 3


@pytest.mark.parametrize(
    ("misfire", "expected", "missed"),
    [("latest", ["15:00"], [1]), ("all", ["13:00", "14:00", "15:00"], []), ("skip", [], [0])],
)
async def test_misfires(
    backend: Watched, clock: FakeClock, misfire: str, expected: list[str], missed: list[int]
) -> None:
    await define(backend, clock, every=HOUR, misfire=misfire)
    begin = clock.now()
    clock.advance(3 * HOUR + 2 * MINUTE)
    recorder = Recorder()
    await ticker(backend, clock, recorder).run_once()
    assert await ids(backend) == [f"one@2026-03-01T{at}:00Z" for at in expected]
    assert recorder.of(TicksMissed) == [TicksMissed("w1", "one", begin, misfire, run) for run in missed]
    # Settled, whatever became of them.
    assert await ticker(backend, clock).run_once() == Round(0, NOON + 4 * HOUR)


# -- Definitions that change -----------------------------------------------------------------------


async def test_paused_ticks_do_not_count_as_missed(backend: Watched, clock: FakeClock) -> None:
    await define(backend, clock, every=HOUR, misfire="all")
    made = ticker(backend, clock)
    await set_schedule_paused(backend, "one", True, clock.now())
    clock.advance(3 * HOUR)
    assert await made.run_once() == Round(0, None)
    [one] = await list_schedules(backend, clock.now())
    assert (one.paused, one.next) == (True, None)
    await set_schedule_paused(backend, "one", False, clock.now())
    assert await made.run_once() == Round(0, NOON + 4 * HOUR)
    clock.advance(HOUR)
    assert (await made.run_once()).enqueued == 1


async def test_pausing_and_resuming_twice_changes_nothing(backend: Watched, clock: FakeClock) -> None:
    await define(backend, clock, every=HOUR)
    await set_schedule_paused(backend, "one", False, clock.now())
    await set_schedule_paused(backend, "one", True, clock.now())
    await set_schedule_paused(backend, "one", False, clock.now())
    clock.advance(HOUR)
    await set_schedule_paused(backend, "one", False, clock.now())
    assert (await ticker(backend, clock).run_once()).enqueued == 1


async def test_what_is_removed_makes_no_more_tasks(backend: Watched, clock: FakeClock) -> None:
    await define(backend, clock, every=HOUR, overlap="allow")
    await define(backend, clock, "other", every=2 * HOUR)
    made = ticker(backend, clock)
    clock.advance(HOUR)
    await made.run_once()
    await remove_schedule(backend, "one")
    clock.advance(HOUR)
    await made.run_once()
    assert await ids(backend) == ["one@2026-03-01T13:00:00Z", "other@2026-03-01T14:00:00Z"]
    assert all(name.endswith("/other") for name in await backend.load("schedule"))


async def test_one_that_repeats_as_before_goes_on(backend: Watched, clock: FakeClock) -> None:
    """A program that was down at the time of a tick runs it when it starts again."""
    pattern = new_task()
    await define(backend, clock, every=HOUR, task=pattern)
    writes = len(backend.saved)
    clock.advance(HOUR)
    await define(backend, clock, every=HOUR, task=pattern)
    assert len(backend.saved) == writes
    await define(backend, clock, every=HOUR, overlap="allow", task=new_task(queue="other"))
    assert (await ticker(backend, clock).run_once()).enqueued == 1
    assert (await record(backend, "one@2026-03-01T13:00:00Z")).queue == "other"


async def test_one_that_repeats_otherwise_begins_anew(backend: Watched, clock: FakeClock) -> None:
    await define(backend, clock, every=24 * HOUR)
    clock.advance(3 * HOUR)
    await define(backend, clock, every=HOUR)
    assert await ticker(backend, clock).run_once() == Round(0, NOON + 4 * HOUR)


async def test_a_schedule_that_cannot_be_read_is_its_own_trouble(backend: Watched, clock: FakeClock) -> None:
    for name in ("damaged", "good", "newer", "paused", "zone"):
        await define(backend, clock, name, every=HOUR)
    documents = await backend.load("schedule/")
    newer = json.loads(documents["schedule/newer"]) | {"version": 2}
    zone = json.loads(documents["schedule/zone"]) | {"cron": "0 3 * * *", "every": None, "tz": "Mars/Base"}
    await backend.save(
        {
            "schedule/damaged": b"\xff{",
            "schedule/newer": json.dumps(newer).encode(),
            "schedule/zone": json.dumps(zone).encode(),
            "schedule-paused/paused": b"[]",
        }
    )
    recorder = Recorder()
    made = ticker(backend, clock, recorder)
    for _ in range(2):
        clock.advance(HOUR)
        await made.run_once()
        await finish_all(backend)
    assert [one.partition("@")[0] for one in await ids(backend)] == ["good", "good"]
    failed = {event.schedule: event.error for event in recorder.of(ScheduleFailed)}
    assert len(recorder.of(ScheduleFailed)) == 4  # once each
    assert failed["damaged"] == "schedule 'damaged' is damaged: define it again, or remove it"
    assert "a newer one" in failed["newer"]
    assert "Mars/Base" in failed["zone"]
    assert "whether it is paused" in failed["paused"]
    with pytest.raises(ValidationError, match="schedule 'damaged' is damaged"):
        await list_schedules(backend, clock.now())
    await define(backend, clock, "damaged", every=HOUR)
    for name in ("newer", "paused", "zone"):
        await remove_schedule(backend, name)
    assert [one.name for one in await list_schedules(backend, clock.now())] == ["damaged", "good"]


@pytest.mark.parametrize(
    "change",
    [
        {"every": "x"},
        {"task": None},
        {"since": 5},
        {"misfire": []},
        {"task": {"payload": "?"}},
        {"version": "1"},
    ],
)
async def test_no_document_gets_an_error_of_another_kind_through(
    backend: Watched, clock: FakeClock, change: dict[str, Any]
) -> None:
    await define(backend, clock, every=HOUR)
    data = json.loads((await backend.load("schedule/"))["schedule/one"])
    await backend.save({"schedule/one": json.dumps(data | change).encode()})
    recorder = Recorder()
    assert await ticker(backend, clock, recorder).run_once() == Round(0, None)
    assert len(recorder.of(ScheduleFailed)) == 1


async def test_a_worker_without_cronsim_says_so_and_does_the_rest(
    backend: Watched, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await define(backend, clock, "cron", cron="0 * * * *")
    await define(backend, clock, "every", every=HOUR)
    monkeypatch.setitem(sys.modules, "cronsim", None)
    clock.advance(HOUR)
    recorder = Recorder()
    assert (await ticker(backend, clock, recorder).run_once()).enqueued == 1
    [failed] = recorder.of(ScheduleFailed)
    assert "needs the package cronsim" in failed.error


async def test_the_pattern_of_the_tasks_is_kept(backend: Watched, clock: FakeClock) -> None:
    limit = Concurrency("database", 2)
    await define(backend, clock, every=HOUR, overlap="allow", task=new_task(concurrency=limit))
    clock.advance(HOUR)
    await ticker(backend, clock).run_once()
    [one] = await everything(backend)
    assert one.concurrency == limit
    with pytest.raises(ValidationError, match="give one of them"):
        await define(backend, clock, every=HOUR, overlap="wait", task=new_task(concurrency=limit))
    with pytest.raises(ValidationError, match="unique is not for a schedule"):
        await define(backend, clock, every=HOUR, task=new_task(unique=Unique("key")))


# -- The loop --------------------------------------------------------------------------------------


async def test_it_wakes_up_for_the_next_tick(
    backend: Watched, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await define(backend, clock, every=timedelta(seconds=12), overlap="allow")
    pauses: list[float] = []

    async def sleep(delay: float) -> None:
        pauses.append(delay)
        clock.advance(delay)
        if clock.now() > NOON + MINUTE:
            raise asyncio.CancelledError

    monkeypatch.setattr(asyncio, "sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await ticker(backend, clock).run()
    assert len(await ids(backend)) == 4
    assert max(pauses) <= TICK_INTERVAL + 0.1
    assert len(set(pauses)) == len(pauses)


async def test_it_goes_on_after_a_storage_that_failed(
    backend: Watched, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await define(backend, clock, every=HOUR)
    clock.advance(HOUR)
    backend.before_enqueue = [BackendError("still away"), BackendError("away")]
    recorder = Recorder()
    made = Ticker("w1", backend, clock, recorder, interval=0.0)
    running = asyncio.create_task(made.run())
    await recorder.wait_for(TaskEnqueued)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert recorder.of(StorageFailed) == [
        StorageFailed("w1", "enqueue what is scheduled", "away", 0.0),
        StorageFailed("w1", "enqueue what is scheduled", "still away", 0.0),
    ]


# -- The queue -------------------------------------------------------------------------------------


@pytest.fixture(params=["memory", "sqlite"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    if request.param == "memory":
        return MemoryBackend()
    return SQLiteBackend(tmp_path / "tasks.db", durability="fast")


@pytest.fixture
async def queue(storage: Backend) -> AsyncIterator[TaskQueue]:
    async with TaskQueue(storage) as queue:
        yield queue


def add(a: int, b: int = 0) -> int:
    return a + b


def tick_of_this_task() -> Any:
    return (current_task().metadata or {})["tick"]


async def tick_as_if_defined_earlier(queue: TaskQueue, span: timedelta) -> None:
    """Let a worker look once, at schedules that were defined so much earlier than they were."""
    documents = {name: json.loads(data) for name, data in (await queue.backend.load("schedule/")).items()}
    for data in documents.values():
        data["since"] = (datetime.fromisoformat(data["since"]) - span).isoformat()
    await queue.backend.save({name: json.dumps(data).encode() for name, data in documents.items()})
    await Ticker("w1", queue.backend, SystemClock(), lambda event: None).run_once()


async def test_a_scheduled_call_runs(queue: TaskQueue) -> None:
    made = await queue.schedule("sum", call(add, 1, b=2), every=HOUR, queue="sums", metadata={"a": 1})
    assert (made.name, made.every, made.cron, made.queue) == ("sum", HOUR, None, "sums")
    assert (made.tz, made.misfire, made.overlap, made.paused) == ("UTC", "latest", "skip", False)
    assert made.last is None
    assert made.next is not None
    assert timedelta(0) < made.next - datetime.now(UTC) <= HOUR
    await tick_as_if_defined_earlier(queue, HOUR)
    [one] = await queue.find(queue="sums")
    [after] = await queue.schedules()
    assert after.last is not None
    assert (one.due_at, one.id) == (after.last, f"sum@{after.last:%Y-%m-%dT%H:%M:%S}Z")
    await drain(queue)
    assert (await queue.get_result(one.id)).unwrap() == 3


async def test_a_task_can_tell_its_tick(queue: TaskQueue) -> None:
    await queue.schedule("which", call(tick_of_this_task), every=60)
    await tick_as_if_defined_earlier(queue, HOUR)
    [one] = await queue.find()
    await drain(queue)
    assert one.id == f"which@{(await queue.get_result(one.id)).unwrap()}"


async def test_what_is_there_is_listed_by_name(queue: TaskQueue) -> None:
    assert await queue.schedules() == []
    await queue.schedule("b", call(add, 1), cron="0 3 * * *", tz="Europe/Berlin")
    await queue.schedule("a", call(add, 1), every=60)
    assert [(one.name, one.cron, one.tz) for one in await queue.schedules()] == [
        ("a", None, "UTC"),
        ("b", "0 3 * * *", "Europe/Berlin"),
    ]
    await queue.pause_schedule("a")
    assert [one.paused for one in await queue.schedules()] == [True, False]
    await queue.resume_schedule("a")
    assert [one.paused for one in await queue.schedules()] == [False, False]
    await queue.remove_schedule("a")
    assert [one.name for one in await queue.schedules()] == ["b"]


@pytest.mark.parametrize("verb", ["pause_schedule", "resume_schedule", "remove_schedule"])
async def test_an_unknown_name_is_said(queue: TaskQueue, verb: str) -> None:
    await queue.schedule("nightly", call(add, 1), every=60)
    with pytest.raises(ScheduleNotFoundError, match="did you mean 'nightly'"):
        await getattr(queue, verb)("nightli")
    with pytest.raises(ScheduleNotFoundError, match="never defined in this store"):
        await getattr(queue, verb)("x")
    with pytest.raises(ValidationError, match="name is a int"):
        await getattr(queue, verb)(5)


@pytest.mark.parametrize(
    ("arguments", "fields", "message"),
    [
        ((add,), {"every": 60}, "call is a function: give call"),
        (
            (call(add, 1),),
            {"every": 60, "delay": 5},
            "delay is no option of a schedule: the schedule says when",
        ),
        ((call(add, 1),), {"every": 60, "id": "x"}, "id is no option of a schedule"),
        ((call(add, 1),), {"every": 60, "quue": "x"}, "did you mean 'queue'?"),
        ((call(add, 1),), {}, "cron and every are neither given"),
    ],
)
async def test_what_cannot_be_scheduled(
    queue: TaskQueue, arguments: tuple[Any, ...], fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        await queue.schedule("one", *arguments, **fields)
    assert message in str(caught.value)
    assert await queue.schedules() == []


async def test_a_closed_queue_schedules_nothing(storage: Backend) -> None:
    async with TaskQueue(storage) as queue:
        pass
    with pytest.raises(QueueClosedError):
        await queue.schedule("one", call(add, 1), every=60)


# -- The decorator ---------------------------------------------------------------------------------


async def test_a_declaration_is_stored_when_the_queue_opens(storage: Backend) -> None:
    queue = TaskQueue(storage)

    @queue.cron("0 3 * * *", tz="Europe/Berlin", name="nightly", priority=4)
    def clean() -> str:
        return "clean"

    @queue.cron("@hourly")
    async def look() -> str:
        return "looked"

    @queue.cron("*/5 * * * *", overlap="allow")
    @task(name="check", queue="checks")
    def check() -> None: ...

    assert clean() == "clean"
    assert await look() == "looked"
    async with queue:
        found = {one.name: one for one in await queue.schedules()}
        assert set(found) == {"nightly", f"{look.__module__}.{look.__qualname__}", "check"}
        assert (found["nightly"].cron, found["nightly"].tz) == ("0 3 * * *", "Europe/Berlin")
        assert (found["check"].queue, found["check"].overlap) == ("checks", "allow")
        await tick_as_if_defined_earlier(queue, 24 * HOUR)
        await drain(queue)
        results = {
            one.name: (await queue.get_result(one.id)).unwrap()
            for one in await queue.find(status=Status.SUCCESS)
        }
        assert results["check"] is None
        assert set(results.values()) == {"clean", "looked", None}


async def test_a_declaration_after_the_opening_is_stored_at_the_next_one(queue: TaskQueue) -> None:
    @queue.cron("@daily", name="late")
    def late() -> None: ...

    await queue.open()
    assert [one.name for one in await queue.schedules()] == ["late"]


def test_the_decorator_refuses() -> None:
    queue = TaskQueue(MemoryBackend())

    def other() -> None: ...

    def needs(argument: int) -> None: ...

    queue.cron("@daily", name="one")(other)
    queue.cron("@hourly", name="one")(other)  # run again, it takes the place of the first
    with pytest.raises(ValidationError, match=r"the name of the schedule of .*other"):
        queue.cron("@daily", name="one")(lambda: None)
    with pytest.raises(ValidationError, match="does not take these arguments"):
        queue.cron("@daily")(needs)  # type: ignore[type-var]
    with pytest.raises(ValidationError, match="bad minute"):
        queue.cron("99 * * * *")(other)
    with pytest.raises(ValidationError, match="cannot call a value of type int"):
        queue.cron("@daily")(5)  # type: ignore[type-var]


async def test_a_declaration_that_cannot_be_stored_closes_what_was_opened(storage: Backend) -> None:
    queue = TaskQueue(storage, max_payload=10)
    queue.cron("@daily", name="big")(tick_of_this_task)
    with pytest.raises(Exception, match="max_payload"):
        await queue.open()
    with pytest.raises(QueueClosedError):
        await queue.schedules()


def test_a_synchronous_queue_has_schedules(tmp_path: Path) -> None:
    queue = SyncTaskQueue(tmp_path / "tasks.db")
    queue.cron("@daily", name="daily")(tick_of_this_task)
    with queue:
        queue.schedule("hourly", call(add, 1), every=3600)
        queue.pause_schedule("daily")
        assert [(one.name, one.paused) for one in queue.schedules()] == [("daily", True), ("hourly", False)]
        queue.resume_schedule("daily")
        queue.remove_schedule("hourly")
        assert [(one.name, one.paused) for one in queue.schedules()] == [("daily", False)]


# -- Processes -------------------------------------------------------------------------------------

PROCESSES, STEPS = 20, 40
TICKING = """
import asyncio, sys
from datetime import datetime, timezone
from sitq.backends.sqlite import SQLiteBackend
from sitq.worker.ticker import Ticker
from tests.support import FakeClock

async def main():
    backend = SQLiteBackend(sys.argv[1], durability="fast", busy_timeout=60)
    await backend.open()
    clock = FakeClock()
    clock.advance(datetime.fromisoformat(sys.argv[2]) - clock.now())
    made = Ticker(sys.argv[3], backend, clock, lambda event: None)
    print("ready", flush=True)
    sys.stdin.readline()
    enqueued = 0
    for _ in range(int(sys.argv[4])):
        clock.advance(30)
        enqueued += (await made.run_once()).enqueued
    await backend.close()
    print(enqueued, flush=True)

asyncio.run(main())
"""


async def test_twenty_processes_make_one_task_a_tick(tmp_path: Path) -> None:
    """Each has its own clock, and they drift apart: nobody waits for the others. Berlin's go forward at 01:00."""
    path = tmp_path / "tasks.db"
    begin = datetime(2026, 3, 29, 0, 50, tzinfo=UTC)
    end = begin + STEPS * timedelta(seconds=30)
    specs = {
        "often": {"every": 30},
        "minutes": {"cron": "*/5 * * * *", "tz": "Europe/Berlin"},
        "once": {"cron": "30 2 * * *", "tz": "Europe/Berlin"},
    }
    backend = SQLiteBackend(path, durability="fast")
    await backend.open()
    made = [
        (make_schedule(name, misfire="all", overlap="allow", **fields), new_task(name=name))  # type: ignore[arg-type]
        for name, fields in specs.items()
    ]
    await save_schedules(backend, made, begin)
    with ExitStack() as stack:
        crew: list[subprocess.Popen[str]] = []
        for number in range(PROCESSES):
            process = stack.enter_context(
                start_python(TICKING, path, begin.isoformat(), f"w{number}", STEPS, stderr=None)
            )
            stack.callback(end_group, process)
            crew.append(process)
        for process in crew:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in crew:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        counts = [int(process.communicate(timeout=60)[0]) for process in crew]
    found = await everything(backend)
    by_name = {name: sorted(one.due_at for one in found if one.name == name and one.due_at) for name in specs}
    assert by_name["once"] == [datetime(2026, 3, 29, 1, tzinfo=UTC)]
    assert by_name["minutes"] == [begin + number * 5 * MINUTE for number in range(1, 5)]
    assert by_name["often"] == [begin + number * timedelta(seconds=30) for number in range(1, STEPS + 1)]
    assert end == by_name["often"][-1]
    assert sum(counts) == len(found) == 1 + 4 + STEPS
    await backend.close()
