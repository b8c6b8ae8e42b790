"""A task that this worker cannot load, as after a deploy: not lost, not counted, not asked for all the time."""

import importlib
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sitq import Status, TaskCancelledError, TaskHandle, TaskQueue, Worker
from sitq.backends.memory import MemoryBackend
from sitq.backends.sqlite import SQLiteBackend
from sitq.events import TaskParked, TaskStarted, TaskSucceeded
from sitq.model import NewTask
from sitq.worker import services
from sitq.worker.judge import PARKED_FOR
from tests.integration.support import drain, recorded
from tests.support import PATIENCE, FakeClock

MODULE = "deployed_code"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    clock = FakeClock()
    clock.advance(datetime.now(UTC) - clock.now())  # what is enqueued counts from now
    monkeypatch.setattr(services, "SystemClock", lambda: clock)
    return clock


@pytest.fixture(params=["memory", "sqlite"])
async def queue(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> AsyncIterator[TaskQueue]:
    path = tmp_path / "tasks.db"
    backend = (
        MemoryBackend(clock=clock)
        if request.param == "memory"
        else SQLiteBackend(path, durability="fast", clock=clock)
    )
    async with TaskQueue(backend) as queue:
        yield queue


class Deployed:
    """A module whose code changes, as it does for a worker that is started anew after a deploy."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / f"{MODULE}.py"

    def change(self, code: str | None) -> None:
        self._path.unlink(missing_ok=True)
        if code is not None:
            self._path.write_text(code)
        sys.modules.pop(MODULE, None)
        importlib.invalidate_caches()

    def load(self) -> Any:
        self.change(GOOD)
        return importlib.import_module(MODULE)


@pytest.fixture
def deployed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployed]:
    # Two versions may be of one second and one size.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield Deployed(tmp_path)
    sys.modules.pop(MODULE, None)


GOOD = "def work(number):\n    return number + 1\n"
ODD = """
class Odd:
    __call__ = abs

    @property
    def __signature__(self):
        raise ZeroDivisionError("odd")

work = Odd()
"""
CHANGES = {
    "the module is gone": (None, "deployed_code"),
    "the module does not load": ("raise RuntimeError('half a deploy')", "half a deploy"),
    "the function is gone": ("", "work"),
    "the function is no function": ("work = 5", "cannot call a value of type int"),
    "the function is None": ("work = None", "cannot call a value of type NoneType"),
    "the function yields": ("def work(number):\n    yield number", "generator"),
    "another parameter": ("def work(number, more):\n    return 0", "does not take these arguments"),
    "no parameter": ("def work():\n    return 0", "does not take these arguments"),
    "a signature that raises": (
        ODD,
        "odd",
    ),
}


@pytest.mark.parametrize(("code", "words"), CHANGES.values(), ids=CHANGES)
async def test_what_cannot_be_loaded_waits_for_a_worker_that_can(
    queue: TaskQueue, clock: FakeClock, deployed: Deployed, code: str | None, words: str
) -> None:
    handle: TaskHandle[int] = await queue.options(retry=3, timeout=60).enqueue(deployed.load().work, 1)
    deployed.change(code)
    for times in range(1, 4):
        events = await drain(queue)
        [parked] = events.of(TaskParked)
        assert (parked.task_id, parked.attempt) == (handle, 1)
        assert not events.of(TaskStarted)
        details = await queue.get(handle)
        assert (details.status, details.attempt, details.crashes) == (Status.PENDING, 0, 0), times
        assert details.last_error is not None
        assert words in details.last_error.message
        assert words in str((await queue.get_result(handle)).error)
        assert [task.id for task in await queue.find(status=Status.PENDING)] == [handle]
        assert details.due_at is not None
        assert clock.now() + PARKED_FOR <= details.due_at <= clock.now() + 2 * PARKED_FOR
        assert not (await drain(queue)).of(TaskParked), "it is not asked for all the time"
        clock.advance(2 * PARKED_FOR)
    deployed.change(GOOD)
    await drain(queue)
    assert await handle.result(timeout=0) == 2
    details = await queue.get(handle)
    assert (details.attempt, details.last_error, details.attempts_log) == (1, None, ())


async def test_a_worker_that_knows_it_runs_it_and_one_that_does_not_goes_on(
    queue: TaskQueue, clock: FakeClock, deployed: Deployed
) -> None:
    module = deployed.load()
    handle: TaskHandle[int] = await queue.enqueue(module.work, 1)
    deployed.change(None)
    worker = Worker(queue)
    recorder = recorded(worker)
    async with worker:
        await recorder.wait_for(TaskParked)
        other = await queue.enqueue(abs, -1)
        assert await other.result(timeout=PATIENCE) == 1
    deployed.change(GOOD)
    clock.advance(2 * PARKED_FOR)
    assert len((await drain(queue)).of(TaskSucceeded)) == 1
    assert await handle.result(timeout=0) == 2


async def test_garbage_is_parked_and_can_be_cancelled_and_discarded(
    queue: TaskQueue, clock: FakeClock
) -> None:
    await queue.backend.enqueue([NewTask("garbage", "work", b"\x00garbage")])
    await drain(queue)
    assert await queue.get_status("garbage") is Status.PENDING
    assert await queue.cancel("garbage") is Status.CANCELLED
    clock.advance(2 * PARKED_FOR)
    assert not (await drain(queue)).of(TaskParked)
    details = await queue.get("garbage")
    assert [(each.error.type, each.last) for each in details.attempts_log] == [
        ("sitq.errors.TaskSerializationError", True)
    ]
    assert await queue.discard("garbage") == 1


async def test_what_is_parked_expires_all_the_same(
    queue: TaskQueue, clock: FakeClock, deployed: Deployed
) -> None:
    handle: TaskHandle[int] = await queue.options(expires=30).enqueue(deployed.load().work, 1)
    deployed.change("def work():\n    return 0")
    await drain(queue)
    assert await handle.status() is Status.PENDING
    clock.advance(timedelta(minutes=5))
    await drain(queue)
    with pytest.raises(TaskCancelledError, match="no attempt was to start after"):
        await handle.result(timeout=0)


async def test_one_that_kills_its_workers_while_it_is_loaded_is_given_up_and_not_parked(
    queue: TaskQueue, clock: FakeClock
) -> None:
    await queue.backend.enqueue([NewTask("killer", "work", b"\x00garbage", max_crashes=2)])
    for _ in range(2):
        await queue.backend.reserve("a worker that dies", None, 1, timedelta(seconds=1))
        clock.advance(2)
    assert not (await drain(queue)).of(TaskParked)
    assert (await queue.get_result("killer")).error_type == "worker_lost"
