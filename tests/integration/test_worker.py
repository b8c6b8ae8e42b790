"""The worker: how it starts and ends, what it takes and what it gives back, and what it does when things fail."""

import asyncio
import contextlib
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sitq import (
    BackendError,
    QueueEmptyError,
    Status,
    TaskNotFoundError,
    TaskQueue,
    ValidationError,
    Worker,
    WorkerBusyError,
    WorkerError,
    WorkerStoppedError,
    call,
    current_task,
)
from sitq.backends.base import Backend
from sitq.backends.memory import MemoryBackend
from sitq.backends.sqlite import SQLiteBackend
from sitq.events import (
    LoopBlocked,
    OutcomeRefused,
    StorageFailed,
    TaskLost,
    TaskReleased,
    TaskStarted,
    TaskStuck,
    TaskSucceeded,
    WorkerStarted,
    WorkerStopped,
    WorkerStopping,
)
from sitq.model import QueueTopic, Succeeded, TaskQuery
from sitq.serialization import encode_value
from sitq.worker import completer, fetcher, heartbeat, services
from tests.integration.support import Gate, Spied, drain, recorded, run_python, spied_queue, start_python
from tests.support import LEASE, PATIENCE, FakeClock, new_task

# What tasks share with the test that runs them: they are loaded by reference, in this process.
gate: Gate
seen: list[Any]
held_up = threading.Event()
came = threading.Semaphore(0)


@pytest.fixture(autouse=True)
async def shared() -> None:
    global gate, seen
    gate, seen = Gate(), []
    held_up.clear()
    while came.acquire(blocking=False):
        pass


@contextlib.asynccontextmanager
async def running(worker: Worker) -> AsyncIterator["asyncio.Task[None]"]:
    """Run a worker beside the test; stop it at the end."""
    task = asyncio.create_task(worker.run())
    try:
        yield task
    finally:
        async with asyncio.timeout(PATIENCE):
            await worker.stop()
            await task


def add(a: int, b: int) -> int:
    return a + b


async def note(value: Any) -> Any:
    seen.append(value)
    return value


async def wait_at_the_gate() -> str:
    seen.append("started")
    await gate.pass_through()
    return "through"


def wait_in_a_thread() -> str:
    came.release()
    assert held_up.wait(PATIENCE)
    return "through"


async def reached(count: int) -> None:
    """Until so many threads wait in `wait_in_a_thread`."""
    for _ in range(count):
        assert await asyncio.to_thread(came.acquire, timeout=PATIENCE)


# -- Start and end ---------------------------------------------------------------------------------


async def test_run_works_until_stop(queue: TaskQueue) -> None:
    worker = Worker(queue)
    recorder = recorded(worker)
    async with running(worker):
        handle = await queue.enqueue(add, 1, 2)
        assert await handle.result(timeout=PATIENCE) == 3
    # On a machine that stalls the loop may seem to be blocked.
    kinds = [type(event) for event in recorder.events if not isinstance(event, LoopBlocked)]
    assert kinds == [WorkerStarted, TaskStarted, TaskSucceeded, WorkerStopping, WorkerStopped]
    assert worker.running == 0


async def test_async_with_works_beside_the_application(queue: TaskQueue) -> None:
    async with Worker(queue) as worker:
        assert isinstance(worker, Worker)
        assert await (await queue.enqueue(note, 5)).result(timeout=PATIENCE) == 5
    await queue.enqueue(note, 6)
    assert seen == [5]


async def test_async_with_lets_what_runs_finish(queue: TaskQueue) -> None:
    async with Worker(queue):
        handle = await queue.enqueue(wait_at_the_gate)
        await gate.wait_reached()
        gate.open()
    assert (await queue.get_result(handle)).value == "through"


async def test_until_idle_runs_everything_that_is_due_and_nothing_else(queue: TaskQueue) -> None:
    handles = await queue.enqueue_many([call(add, number, 1) for number in range(50)])
    later = await queue.enqueue(add, 1, 1, eta=datetime.now(UTC) + timedelta(hours=1))
    await drain(queue, concurrency=7)
    assert [(await queue.get_result(handle)).value for handle in handles] == list(range(1, 51))
    assert await later.status() is Status.PENDING


async def test_until_idle_waits_for_what_runs(queue: TaskQueue) -> None:
    handle = await queue.enqueue(wait_at_the_gate)
    worker = Worker(queue)
    task = asyncio.create_task(worker.run(until_idle=True))
    await gate.wait_reached()
    assert not task.done()
    gate.open()
    async with asyncio.timeout(PATIENCE):
        await task
    assert await handle.status() is Status.SUCCESS


async def test_until_idle_ends_at_once_when_nothing_is_there(queue: TaskQueue) -> None:
    assert not (await drain(queue)).of(TaskStarted)


@pytest.mark.parametrize("duration", [0, 0.01, timedelta(milliseconds=10)])
async def test_duration_ends_the_run(queue: TaskQueue, duration: Any) -> None:
    worker = Worker(queue)
    recorder = recorded(worker)
    async with asyncio.timeout(PATIENCE):
        await worker.run(duration=duration)
    assert len(recorder.of(WorkerStopped)) == 1


@pytest.mark.parametrize("duration", [-1, float("nan"), "1", True])
async def test_a_bad_duration_is_refused_before_anything_happens(queue: TaskQueue, duration: Any) -> None:
    worker = Worker(queue)
    with pytest.raises(ValidationError, match="duration"):
        await worker.run(duration=duration)
    await worker.run(until_idle=True)  # it is as good as new


@pytest.mark.parametrize("max_tasks", [1, 3, 10])
async def test_max_tasks_takes_exactly_so_many(queue: TaskQueue, max_tasks: int) -> None:
    await queue.enqueue_many([call(note, number) for number in range(12)])
    async with asyncio.timeout(PATIENCE):
        await Worker(queue, max_tasks=max_tasks, concurrency=4).run()
    assert sorted(seen) == list(range(max_tasks))
    counts = (await queue.stats()).queues[0].counts
    assert counts == {Status.SUCCESS: max_tasks, Status.PENDING: 12 - max_tasks}


async def test_a_worker_runs_once(queue: TaskQueue) -> None:
    worker = Worker(queue)
    await worker.run(until_idle=True)
    with pytest.raises(WorkerStoppedError, match="make a new"):
        await worker.run()
    with pytest.raises(WorkerStoppedError, match="make a new"):
        async with worker:
            pass
    with pytest.raises(WorkerStoppedError, match="make a new"):
        await worker.process_task("x")
    await worker.stop()


async def test_stop_while_the_worker_is_starting_is_not_lost(queue: TaskQueue) -> None:
    worker = Worker(queue)
    task = asyncio.create_task(worker.run())
    await asyncio.sleep(0)  # it waits for its queue to open
    async with asyncio.timeout(PATIENCE):
        await worker.stop()
        assert task.done()
        await task


async def test_stop_before_run_is_not_lost(queue: TaskQueue) -> None:
    worker = Worker(queue)
    task = asyncio.create_task(worker.run())
    await worker.stop()
    async with asyncio.timeout(PATIENCE):
        await task
    with pytest.raises(WorkerStoppedError):
        await worker.run()


async def test_stop_twice_and_from_two_places(queue: TaskQueue) -> None:
    worker = Worker(queue)
    async with running(worker):
        handle = await queue.enqueue(wait_at_the_gate)
        await gate.wait_reached()
        stops = [asyncio.create_task(worker.stop()) for _ in range(3)]
        gate.open()
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*stops)
        assert worker.running == 0
    assert (await queue.get_result(handle)).value == "through"


async def test_a_closed_queue_is_opened_and_left_open(backend: Backend) -> None:
    queue = TaskQueue(backend)
    await Worker(queue).run(until_idle=True)
    assert await queue.find() == []
    await queue.close()


async def test_a_cancelled_run_gives_back_what_it_has(queue: TaskQueue) -> None:
    worker = Worker(queue, shutdown_timeout=0)
    task = asyncio.create_task(worker.run())
    handle = await queue.enqueue(wait_at_the_gate)
    await gate.wait_reached()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    record = await queue.get(handle)
    assert (record.status, record.attempt, record.crashes) == (Status.PENDING, 0, 0)


async def test_a_run_that_is_cancelled_twice_gives_back_what_it_has_at_once(queue: TaskQueue) -> None:
    worker = Worker(queue, shutdown_timeout=3600)
    recorder = recorded(worker)
    task = asyncio.create_task(worker.run())
    handle = await queue.enqueue(wait_at_the_gate)
    await gate.wait_reached()
    task.cancel()
    await recorder.wait_for(WorkerStopping)
    task.cancel()
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(asyncio.CancelledError):
            await task
    record = await queue.get(handle)
    assert (record.status, record.attempt) == (Status.PENDING, 0)
    assert worker.running == 0


CUT_SHORT = """
import asyncio, sys
from sitq import TaskQueue, Worker
from tests.integration import test_worker as tests

async def main(path):
    await tests.shared.__wrapped__()
    queue = TaskQueue(path)
    await queue.open()
    handle = await queue.enqueue(tests.wait_at_the_gate)
    worker = Worker(queue, shutdown_timeout=60)
    running = asyncio.create_task(worker.run())
    await tests.gate.wait_reached()
    print(handle)
    # Without a word to the worker: asyncio.run cancels everything.

asyncio.run(main(sys.argv[1]))
"""


async def test_a_loop_that_ends_gives_tasks_back_and_does_not_fail_them(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    ended = await asyncio.to_thread(run_python, CUT_SHORT, path)
    assert ended.returncode == 0, ended.stderr
    async with TaskQueue(path) as queue:
        record = await queue.get(ended.stdout.strip())
        assert (record.status, record.attempt) == (Status.PENDING, 0)


# -- Signals ---------------------------------------------------------------------------------------

SERVE = """
import asyncio, sys
from sitq import TaskQueue, Worker
from sitq.events import WorkerStopping
from tests.integration import test_worker as tests

async def main(path, workers, shutdown_timeout):
    await tests.shared.__wrapped__()
    async with TaskQueue(path) as queue:
        queue.on(WorkerStopping)(lambda _: print("stopping", flush=True))
        sent = [await queue.enqueue(tests.wait_at_the_gate) for _ in range(workers)]
        running = asyncio.gather(*(
            Worker(queue, shutdown_timeout=shutdown_timeout, concurrency=1).run() for _ in range(workers)
        ))
        while len(tests.seen) < workers:
            await tests.gate.wait_reached()
            await asyncio.sleep(0.01)
        print("ready", flush=True)
        await running
        print([str(await handle.status()) for handle in sent], flush=True)

asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
"""


def end_by_signals(path: Path, workers: int, shutdown_timeout: float, *numbers: int) -> tuple[int, str]:
    with start_python(SERVE, path, workers, shutdown_timeout) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            first, *others = numbers
            process.send_signal(first)
            for _ in range(workers):  # signals of one number do not queue up
                assert process.stdout.readline() == "stopping\n"
            for number in others:
                process.send_signal(number)
            out, err = process.communicate(timeout=PATIENCE)
        except BaseException:
            process.kill()
            raise
        assert "Traceback" not in err
        return process.returncode, out.strip()


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_worker_and_gives_back_what_overruns(tmp_path: Path, number: int) -> None:
    assert end_by_signals(tmp_path / "tasks.db", 1, 0.1, number) == (0, "['pending']")


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_second_signal_does_not_wait_for_the_shutdown_timeout(tmp_path: Path) -> None:
    assert end_by_signals(tmp_path / "tasks.db", 1, 3600, signal.SIGTERM, signal.SIGTERM) == (
        0,
        "['pending']",
    )


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_signal_reaches_every_worker_of_a_process(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    assert end_by_signals(path, 3, 0.1, signal.SIGTERM) == (0, "['pending', 'pending', 'pending']")


async def test_former_signal_handlers_come_back(queue: TaskQueue) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    await asyncio.gather(*(Worker(queue).run(until_idle=True) for _ in range(3)))
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


# -- Staged shutdown -------------------------------------------------------------------------------


async def cleans_up() -> None:
    try:
        await wait_at_the_gate()
    finally:
        seen.append("cleaned up")


async def test_what_overruns_is_cancelled_and_released_without_using_up_an_attempt(queue: TaskQueue) -> None:
    handle = await queue.enqueue(cleans_up)
    worker = Worker(queue, shutdown_timeout=0.01)
    recorder = recorded(worker)
    async with running(worker):
        await gate.wait_reached()
    assert seen == ["started", "cleaned up"]
    assert [event.task_id for event in recorder.of(TaskReleased)] == [handle]
    record = await queue.get(handle)
    assert (record.status, record.attempt, record.crashes, record.worker) == (Status.PENDING, 0, 0, None)
    gate.open()
    await drain(queue)
    assert (await queue.get_result(handle)).attempts == 1


async def fails_when_cancelled() -> None:
    try:
        await gate.pass_through()
    except asyncio.CancelledError:
        raise ConnectionError("cut off in the middle of it") from None


async def test_a_task_that_fails_because_it_was_cut_off_is_released_too(queue: TaskQueue) -> None:
    handle = await queue.enqueue(fails_when_cancelled)
    async with running(Worker(queue, shutdown_timeout=0)):
        await gate.wait_reached()
    record = await queue.get(handle)
    assert (record.status, record.attempt) == (Status.PENDING, 0)


async def test_a_thread_that_overruns_is_given_back_and_cannot_hold_up_the_end(
    queue: TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "_CANCEL_TIMEOUT", 0.05)
    handle = await queue.enqueue(wait_in_a_thread)
    worker = Worker(queue, shutdown_timeout=0.01)
    recorder = recorded(worker)
    async with running(worker):
        await reached(1)
    assert [event.task_id for event in recorder.of(TaskStuck)] == [handle]
    record = await queue.get(handle)
    assert (record.status, record.attempt) == (Status.PENDING, 0)
    held_up.set()
    await drain(queue)
    assert (await queue.get_result(handle)).value == "through"


async def test_a_thread_that_ends_in_time_keeps_its_result(
    queue: TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "_CANCEL_TIMEOUT", PATIENCE)
    handle = await queue.enqueue(wait_in_a_thread)
    worker = Worker(queue, shutdown_timeout=0.01)
    recorder = recorded(worker)
    async with running(worker):
        await reached(1)
        stopping = asyncio.create_task(worker.stop())
        await recorder.wait_for(WorkerStopping)
        held_up.set()
        await stopping
    assert (await queue.get_result(handle)).value == "through"


async def test_the_last_outcomes_are_stored_before_the_worker_ends(backend: Backend) -> None:
    queue, spy = spied_queue(backend)

    async def slowly(*_: Any, **__: Any) -> None:
        for _turn in range(1000):  # more than an end without waiting takes
            await asyncio.sleep(0)

    spy.before["complete"] = slowly
    async with queue:
        handle = await queue.enqueue(add, 1, 2)
        await drain(queue, max_tasks=1)
        assert (await queue.get_result(handle)).value == 3


async def test_cancellation_and_leases_go_on_while_the_worker_drains(
    queue: TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "_RENEWALS_PER_LEASE", 300)
    handle = await queue.enqueue(wait_at_the_gate)
    worker = Worker(queue, shutdown_timeout=3600)
    recorder = recorded(worker)
    async with running(worker):
        await gate.wait_reached()
        stopping = asyncio.create_task(worker.stop())
        await recorder.wait_for(WorkerStopping)
        lease_ends = (await queue.get(handle)).due_at
        assert lease_ends is not None
        async with asyncio.timeout(PATIENCE):
            while ((await queue.get(handle)).due_at or lease_ends) <= lease_ends:
                await asyncio.sleep(0.01)
        await handle.cancel()
        async with asyncio.timeout(PATIENCE):
            await stopping
    assert await handle.status() is Status.CANCELLED


async def test_a_storage_that_does_not_answer_cannot_hold_up_the_end(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "_FLUSH_TIMEOUT", 0.05)
    queue, spy = spied_queue(backend)
    stuck = Gate()
    async with queue:
        spy.before["reserve"] = lambda *a, **k: stuck.pass_through()
        worker = Worker(queue)
        task = asyncio.create_task(worker.run())
        await stuck.wait_reached()
        async with asyncio.timeout(PATIENCE):
            await worker.stop()
            await task
        assert worker.running == 0
        assert spy.calls["reserve"] == 1
        stuck.open()


# -- How much it takes, and when it looks ----------------------------------------------------------

most = 0
inside = 0


async def count_in_and_out() -> None:
    global most, inside
    inside += 1
    most = max(most, inside)
    for _ in range(3):
        await asyncio.sleep(0)
    inside -= 1


async def test_never_more_than_concurrency_run_or_are_reserved(backend: Backend) -> None:
    global most, inside
    most = inside = 0
    queue, spy = spied_queue(backend)
    reserved: list[int] = []

    async def look(_: Any) -> None:
        reserved.append(len(await backend_find(spy.inner)))

    async with queue:
        await queue.enqueue_many([call(count_in_and_out) for _ in range(300)])
        spy.after["reserve"] = look
        await drain(queue, concurrency=7)
        assert (await queue.stats()).queues[0].counts == {Status.SUCCESS: 300}
    assert most <= 7
    # Taken slots count until the outcome is handed to the completer; those rows may still say running.
    assert max(reserved) >= 7


async def backend_find(backend: Backend) -> list[Any]:
    return await backend.find(TaskQuery(statuses=[Status.RUNNING], limit=10_000))


async def test_what_is_reserved_can_start(backend: Backend) -> None:
    """While every slot waits, exactly so many rows are running; each free slot takes exactly one more."""
    queue, spy = spied_queue(backend)
    async with queue:
        await queue.enqueue_many([call(wait_in_a_thread) for _ in range(20)])
        async with running(Worker(queue, concurrency=3)):
            await reached(3)
            assert len(await backend_find(spy.inner)) == 3
            held_up.set()
            await reached(17)
    async with TaskQueue(backend) as again:
        if isinstance(backend, SQLiteBackend):
            assert (await again.stats()).queues[0].counts == {Status.SUCCESS: 20}


async def test_an_idle_worker_does_not_look_until_it_is_rung(backend: Backend) -> None:
    queue, spy = spied_queue(backend)
    async with queue:
        worker = Worker(queue, poll_interval=3600)
        recorder = recorded(worker)
        async with running(worker):
            await (await queue.enqueue(note, 0)).result(timeout=PATIENCE)
            for number in range(1, 20):
                await (await queue.enqueue(note, number)).result(timeout=PATIENCE)
            # A look before the first, and for each task one that finds it and at most one that finds nothing more.
            assert spy.calls["reserve"] <= 1 + 2 * 20 + 1
            before = spy.calls["reserve"]
            await asyncio.sleep(0)
            for _ in range(1000):
                await asyncio.sleep(0)
            assert spy.calls["reserve"] - before <= 1
        assert len(recorder.of(TaskSucceeded)) == 20


async def test_a_worker_of_other_queues_is_not_rung(backend: Backend) -> None:
    queue, spy = spied_queue(backend)
    async with queue, running(Worker(queue, queues=["mail"], poll_interval=3600)):
        first = await queue.options(queue="mail").enqueue(note, "mail")
        await first.result(timeout=PATIENCE)
        before = spy.calls["reserve"]
        for _ in range(20):
            await queue.enqueue(note, "default")
        second = await queue.options(queue="mail").enqueue(note, "mail again")
        await second.result(timeout=PATIENCE)
        assert spy.calls["reserve"] - before <= 4
    assert seen == ["mail", "mail again"]


async def test_an_idle_worker_stays_on_the_list_of_those_who_are_rung(tmp_path: Path) -> None:
    clock = FakeClock()
    idle, busy = (SQLiteBackend(tmp_path / "tasks.db", clock=clock) for _ in range(2))
    await idle.open()
    await busy.open()
    async with idle.listen([QueueTopic()]) as signal:
        for _ in range(
            30
        ):  # half an hour in which it looks now and then, and the other one drops who is not heard of
            clock.advance(60)
            assert not (await idle.reserve("idle", None, 1, LEASE)).tasks
            async with busy.listen([QueueTopic()]):
                await busy.heartbeat("busy", [], LEASE)
        await busy.enqueue([new_task()])
        assert await signal.wait(PATIENCE)
    await idle.close()
    await busy.close()


async def test_a_task_that_comes_due_is_not_left_to_the_poll_interval(queue: TaskQueue) -> None:
    async with running(Worker(queue, poll_interval=3600)):
        handle = await queue.options(delay=0.05).enqueue(note, "due")
        assert await handle.result(timeout=PATIENCE) == "due"


async def test_priorities_and_due_times_decide_the_order(queue: TaskQueue) -> None:
    for priority in (0, 9, -9, 3, -1):
        await queue.options(priority=priority).enqueue(note, priority)
    await drain(queue, concurrency=1)
    assert seen == [-9, -1, 0, 3, 9]


# -- One task by hand ------------------------------------------------------------------------------


async def test_process_task_runs_one_task_without_run(queue: TaskQueue) -> None:
    first, second = await queue.enqueue(add, 1, 2), await queue.enqueue(add, 3, 4)
    worker = Worker(queue)
    result = await worker.process_task(second)
    assert (result.status, result.value) == (Status.SUCCESS, 7)
    assert await first.status() is Status.PENDING
    assert (await worker.process_task(first)).value == 3
    assert (await worker.process_task(first)).value == 3, "finished: its result, and no second run"


async def test_process_task_says_what_is_wrong(queue: TaskQueue) -> None:
    worker = Worker(queue, concurrency=1)
    for nonsense in (None, 5, b"id", ["a"]):
        with pytest.raises(ValidationError, match="task_id"):
            await worker.process_task(nonsense)  # type: ignore[arg-type]
    with pytest.raises(TaskNotFoundError):
        await worker.process_task("nobody")
    later = await queue.options(delay=3600).enqueue(add, 1, 2)
    with pytest.raises(QueueEmptyError, match="not due yet"):
        await worker.process_task(later)
    handle = await queue.enqueue(wait_at_the_gate)
    async with running(worker):
        await gate.wait_reached()
        with pytest.raises(WorkerBusyError, match="slots"):
            await worker.process_task(later)
        with pytest.raises(QueueEmptyError, match="running"):
            await Worker(queue).process_task(handle)
        gate.open()


async def test_a_cancelled_process_task_gives_back_what_it_took(backend: Backend) -> None:
    queue, spy = spied_queue(backend)
    async with queue:
        handle = await queue.enqueue(add, 1, 2)
        taken = Gate()

        async def hold(_: Any) -> None:
            await taken.pass_through()

        spy.after["reserve"] = hold
        task = asyncio.create_task(Worker(queue).process_task(handle))
        await taken.wait_reached()
        task.cancel()
        await asyncio.sleep(0)
        taken.open()
        with pytest.raises(asyncio.CancelledError):
            await task
        record = await queue.get(handle)
        assert record.status in (Status.PENDING, Status.SUCCESS)


# -- Leases ----------------------------------------------------------------------------------------


async def test_a_lost_lease_stops_the_run_and_the_other_result_stands(queue: TaskQueue) -> None:
    handle = await queue.enqueue(wait_at_the_gate)
    # One slot, which is taken: it does not reserve the task again by itself.
    worker = Worker(queue, lease=0.1, concurrency=1)
    recorder = recorded(worker)
    async with running(worker):
        await gate.wait_reached()
        # Its renewals go astray, as those of a process that was paused do.
        worker._services._heartbeat.renew_once = never_renewed  # type: ignore[union-attr,method-assign]
        taken: list[Any] = []
        async with asyncio.timeout(PATIENCE):
            while not taken:
                taken, _ = await queue.backend.reserve("other", None, 1, timedelta(seconds=30), ids=[handle])
                await asyncio.sleep(0.01)
        assert (taken[0].attempt, taken[0].crashes) == (2, 1)
        await queue.backend.complete([Succeeded(taken[0].held, _encoded("other"))])
        gate.open()
        await recorder.wait_for(OutcomeRefused)
    assert (await queue.get_result(handle)).value == "other"
    assert (await queue.stats()).stale_outcomes == 1


async def never_renewed() -> None:
    pass


def _encoded(value: Any) -> bytes:
    return encode_value(value, max_payload=1000)


async def test_a_run_whose_lease_is_lost_is_cancelled_and_reports_nothing(
    queue: TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "_RENEWALS_PER_LEASE", 300)
    handle = await queue.enqueue(cleans_up)
    worker = Worker(queue)
    recorder = recorded(worker)
    async with running(worker):
        await gate.wait_reached()
        [record] = await queue.find(status=Status.RUNNING)
        # Somebody with a clock of his own takes it over.
        await _steal(queue, handle)
        lost = await recorder.wait_for(TaskLost)
        assert lost.task_id == handle
    assert seen == ["started", "cleaned up"]
    after = await queue.get(handle)
    assert (after.status, after.fence > record.fence) == (Status.RUNNING, True)
    assert not recorder.of(OutcomeRefused)


async def _steal(queue: TaskQueue, task_id: str) -> None:
    """Reserve a task as if its lease had run out."""
    backend = queue.backend
    clock = backend._clock  # type: ignore[attr-defined]

    class Ahead:
        def now(self) -> datetime:
            return clock.now() + timedelta(hours=1)

        def monotonic(self) -> float:
            return clock.monotonic()

    backend._clock = Ahead()  # type: ignore[attr-defined]
    try:
        tasks, _ = await backend.reserve("thief", None, 1, timedelta(hours=1), ids=[task_id])
    finally:
        backend._clock = clock  # type: ignore[attr-defined]
    assert len(tasks) == 1


async def block_the_loop() -> str:
    return wait_in_a_thread()


async def block_the_loop_in_a_child() -> str:
    return await asyncio.create_task(block_the_loop())


@pytest.mark.parametrize("how", [block_the_loop, block_the_loop_in_a_child])
async def test_a_blocked_loop_keeps_its_leases_and_is_named(
    tmp_path: Path, how: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "_RENEWALS_PER_LEASE", 300)
    thief = Thief(tmp_path / "tasks.db")
    queue, thief.spy = spied_queue(SQLiteBackend(thief.path, clock=thief.clock, durability="fast"))
    async with queue:
        handle = await queue.enqueue(how)
        worker = Worker(queue)
        recorder = recorded(worker)
        thief.goes_on = lambda: handle not in [event.task_id for event in recorder.of(LoopBlocked)]
        thief.start()
        async with running(worker):
            assert await handle.result(timeout=PATIENCE) == "through"
        assert thief.stop() == []
        [blocked] = [event for event in recorder.of(LoopBlocked) if event.task_id == handle]
        assert "wait_in_a_thread" in blocked.stack
        assert blocked.seconds >= 1
        result = await queue.get_result(handle)
        assert (result.attempts, (await queue.get(handle)).crashes) == (1, 0)
        assert not recorder.of(TaskLost)


class Thief(threading.Thread):
    """Another worker's fetcher, on a thread and a loop of its own: takes whatever lost its lease.

    Lets three leases pass on the storage's clock while somebody waits in `wait_in_a_thread`, never a whole one without
    a renewal, and longer if `goes_on` says so.
    """

    spy: Spied

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.path = path
        self.clock = FakeClock()
        self.goes_on: Callable[[], bool] = lambda: False
        self._taken: list[Any] = []

    def run(self) -> None:
        assert came.acquire(timeout=PATIENCE)
        try:
            asyncio.run(self._steal())
        finally:
            held_up.set()

    async def _steal(self) -> None:
        backend = SQLiteBackend(self.path, clock=self.clock)
        await backend.open()
        spans = iter([LEASE * 0.75] * 4)
        while (span := next(spans, None)) or self.goes_on():
            self.clock.advance(span or 0)
            renewals = self.spy.calls["heartbeat"]
            async with asyncio.timeout(PATIENCE):
                while self.spy.calls["heartbeat"] < renewals + 2:  # the first of them is done then
                    await asyncio.sleep(0.01)
            self._taken += (await backend.reserve("thief", ["default"], 10, timedelta(hours=1))).tasks
        await backend.close()

    def stop(self) -> list[Any]:
        self.join()
        return self._taken


class BlocksWhenLoaded:
    def __reduce__(self) -> Any:
        return (wait_in_a_thread, ())


async def test_leases_are_renewed_while_payloads_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "_RENEWALS_PER_LEASE", 300)
    thief = Thief(tmp_path / "tasks.db")
    queue, thief.spy = spied_queue(SQLiteBackend(thief.path, clock=thief.clock, durability="fast"))
    async with queue:
        slow = await queue.enqueue(note, BlocksWhenLoaded())
        others = [await queue.enqueue(note, number) for number in range(3)]
        thief.start()
        await drain(queue)
        assert thief.stop() == []
        for handle in (slow, *others):
            assert (await queue.get_result(handle)).attempts == 1
            assert (await queue.get(handle)).crashes == 0


async def test_a_renewal_that_hangs_gives_up_after_a_lease(backend: Backend) -> None:
    queue, spy = spied_queue(backend)
    stuck = Gate()

    async def hang(*_: Any) -> None:
        await asyncio.Event().wait()

    async with queue:
        spy.before["heartbeat"] = hang
        handle = await queue.enqueue(cleans_up)
        worker = Worker(queue, lease=0.2, shutdown_timeout=0)
        recorder = recorded(worker)
        async with running(worker):
            assert (await recorder.wait_for(TaskLost)).task_id == handle
    assert not stuck.reached.is_set()


@pytest.mark.parametrize("error", [BackendError("away"), RuntimeError("a bug"), OSError("no descriptors")])
async def test_a_renewal_that_fails_is_tried_again(
    backend: Backend, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "_RENEWALS_PER_LEASE", 300)
    queue, spy = spied_queue(backend)

    async def fail(*_: Any) -> None:
        if spy.calls["heartbeat"] <= 2:
            raise error

    async with queue:
        spy.before["heartbeat"] = fail
        handle = await queue.enqueue(wait_at_the_gate)
        worker = Worker(queue)
        recorder = recorded(worker)
        async with running(worker):
            await gate.wait_reached()
            await recorder.wait_for(StorageFailed, 2)
            async with asyncio.timeout(PATIENCE):
                while spy.calls["heartbeat"] < 3:
                    await asyncio.sleep(0.01)
            gate.open()
            assert await handle.result(timeout=PATIENCE) == "through"


# -- The storage fails -----------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["reserve", "complete"])
async def test_an_outage_of_the_storage_is_sat_out(
    backend: Backend, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetcher, "_PAUSE_AFTER_ERROR", 0.01)
    monkeypatch.setattr(completer, "_FIRST_PAUSE", 0.01)
    queue, spy = spied_queue(backend)

    async def fail(*_: Any, **__: Any) -> None:
        if spy.calls[verb] <= 3:
            raise BackendError("the storage is away")

    async with queue:
        spy.before[verb] = fail
        worker = Worker(queue)
        recorder = recorded(worker)
        async with running(worker):
            handle = await queue.enqueue(note, 1)
            assert await handle.result(timeout=PATIENCE) == 1
        assert len(recorder.of(StorageFailed)) == 3
        assert seen == [1], "an outcome that could not be stored at once is no reason to run again"


async def test_a_lost_reply_to_complete_is_repeated_and_accepted(backend: Backend, monkeypatch: Any) -> None:
    monkeypatch.setattr(completer, "_FIRST_PAUSE", 0.01)
    queue, spy = spied_queue(backend)

    async def lose(_: Any) -> None:
        if spy.calls["complete"] == 1:
            raise BackendError("the reply was lost")

    async with queue:
        spy.after["complete"] = lose
        handle = await queue.enqueue(note, 1)
        recorder = await drain(queue)
        assert (await queue.get_result(handle)).value == 1
        assert not recorder.of(OutcomeRefused)
        assert (await queue.stats()).stale_outcomes == 0


async def test_a_bug_in_a_service_ends_the_worker_with_an_error_that_says_so(backend: Backend) -> None:
    queue, spy = spied_queue(backend)

    async def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("a bug")

    async with queue:
        spy.before["reserve"] = fail
        with pytest.raises(WorkerError, match="unexpected error"):
            async with asyncio.timeout(PATIENCE):
                await Worker(queue).run()


async def test_a_storage_that_is_away_when_the_worker_starts_to_listen_is_sat_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetcher, "_PAUSE_AFTER_ERROR", 0.01)
    queue, spy = spied_queue(MemoryBackend())
    inner = spy.inner.listen
    failures = iter([BackendError("the storage is away")] * 2)

    def listen(topics: Any) -> Any:
        for failure in failures:
            raise failure
        return inner(topics)

    async with queue:
        spy.listen = listen  # type: ignore[attr-defined]
        handle = await queue.enqueue(note, 1)
        worker = Worker(queue)
        async with running(worker):
            async with asyncio.timeout(PATIENCE):
                while not (await handle.status()).finished:
                    await asyncio.sleep(0.01)
    assert seen == [1]


# -- Cancelling a running task ---------------------------------------------------------------------


async def test_a_running_coroutine_is_cancelled_on_request(queue: TaskQueue) -> None:
    handle = await queue.enqueue(cleans_up)
    async with running(Worker(queue)):
        await gate.wait_reached()
        assert await handle.cancel() is Status.RUNNING
        result = await queue.get_result(handle, timeout=PATIENCE)
    assert result.status is Status.CANCELLED
    assert seen == ["started", "cleaned up"]


async def test_a_task_that_fails_because_it_was_cancelled_is_cancelled(queue: TaskQueue) -> None:
    handle = await queue.enqueue(fails_when_cancelled)
    async with running(Worker(queue)):
        await gate.wait_reached()
        await handle.cancel()
        assert (await queue.get_result(handle, timeout=PATIENCE)).status is Status.CANCELLED


async def test_a_thread_that_is_asked_to_stop_keeps_its_slot_and_its_result(queue: TaskQueue) -> None:
    handle = await queue.enqueue(wait_in_a_thread)
    worker = Worker(queue, concurrency=1)
    async with running(worker):
        await reached(1)
        await handle.cancel()
        [run] = worker._services.executor._runs.values()  # type: ignore[union-attr]
        while run.stop is None:
            await asyncio.sleep(0)
        other = await queue.enqueue(note, 1)
        assert worker.running == 1
        held_up.set()
        assert (await queue.get_result(handle, timeout=PATIENCE)).value == "through"
        assert await other.result(timeout=PATIENCE) == 1


# -- Inside a task ---------------------------------------------------------------------------------


async def about() -> tuple[Any, ...]:
    task = current_task()
    return task.id, task.queue, task.attempt, dict(task.metadata), dict(task.context)


async def test_a_task_knows_itself(queue: TaskQueue) -> None:
    given = queue.options(queue="mail", metadata={"a": [1]}, context={"tenant": 7})
    handle = await given.enqueue(about)
    await drain(queue)
    assert (await queue.get_result(handle)).value == (handle, "mail", 1, {"a": [1]}, {"tenant": 7})


async def test_plain_functions_do_not_block_the_loop(queue: TaskQueue) -> None:
    handles = [await queue.enqueue(wait_in_a_thread) for _ in range(5)]
    async with running(Worker(queue, concurrency=5)):
        await reached(5)  # all five at once, each on a thread of its own
        held_up.set()
        for handle in handles:
            assert await handle.result(timeout=PATIENCE) == "through"
