"""No attempt takes for ever, and none starts too late: what is stopped, what is waited for, and what is told."""

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sitq import (
    RetryPolicy,
    Status,
    TaskCancelledError,
    TaskFailedError,
    TaskQueue,
    TaskRetryExhaustedError,
    Worker,
    current_task,
)
from sitq.backends.base import Backend
from sitq.backends.memory import MemoryBackend
from sitq.events import (
    OutcomeRefused,
    TaskCancelled,
    TaskFailed,
    TaskLost,
    TaskReleased,
    TaskRetried,
    TaskStarted,
    TaskStuck,
    TaskSucceeded,
    WorkerStopped,
)
from sitq.model import Succeeded
from sitq.rules import DEFAULT_TIMEOUT
from sitq.worker import executor, heartbeat, services
from sitq.worker.run import Run
from tests.integration.support import Gate, Recorder, drain, recorded, spied_queue
from tests.support import PATIENCE, FakeClock

SOON = 0.02
AT_ONCE = RetryPolicy(max_attempts=2, base=0)
gate: Gate
seen: list[Any] = []
came = threading.Semaphore(0)
held_up = threading.Event()


@pytest.fixture(autouse=True)
async def _fresh(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    global gate
    gate = Gate()
    seen.clear()
    held_up.clear()
    while came.acquire(blocking=False):
        pass
    monkeypatch.setattr(executor, "_GRACE", SOON)
    yield
    held_up.set()


@asynccontextmanager
async def working(queue: TaskQueue, **options: Any) -> AsyncGenerator[tuple[Worker, Recorder]]:
    worker = Worker(queue, **options)
    recorder = recorded(worker)
    async with asyncio.timeout(2 * PATIENCE), worker:
        yield worker, recorder


async def reached(count: int = 1) -> None:
    for _ in range(count):
        assert await asyncio.to_thread(came.acquire, timeout=PATIENCE)


# -- Coroutines ------------------------------------------------------------------------------------


async def hang() -> None:
    try:
        await asyncio.Event().wait()
    finally:
        seen.append("cleaned up")


async def hang_once() -> str:
    if current_task().attempt == 1:
        await hang()
    return "in time"


async def fail_on_the_way_out() -> None:
    try:
        await hang()
    finally:
        raise ConnectionError("while cleaning up")


async def test_a_coroutine_that_takes_too_long_is_cancelled(queue: TaskQueue) -> None:
    handle = await queue.options(timeout=SOON).enqueue(hang)
    events = await drain(queue)
    assert seen == ["cleaned up"]
    with pytest.raises(TaskFailedError, match=r"did not finish within its timeout of 0\.02 s") as caught:
        await handle.result(timeout=0)
    assert caught.value.error_type == "TimeoutError"
    assert "in hang" in caught.value.traceback, "where the time went"
    assert not events.of(TaskStuck)
    assert [event.error_type for event in events.of(TaskFailed)] == ["TimeoutError"]


async def test_an_attempt_that_took_too_long_is_retried_like_any_that_failed(queue: TaskQueue) -> None:
    handle = await queue.options(timeout=SOON, retry=AT_ONCE).enqueue(hang_once)
    events = await drain(queue)
    assert await handle.result(timeout=0) == "in time"
    assert [event.error_type for event in events.of(TaskRetried)] == ["TimeoutError"]
    again = await queue.options(timeout=SOON, retry=AT_ONCE).enqueue(hang)
    await drain(queue)
    with pytest.raises(TaskRetryExhaustedError):
        await again.result(timeout=0)
    choosy = RetryPolicy(max_attempts=2, base=0, on=ConnectionError)
    other = await queue.options(timeout=SOON, retry=choosy).enqueue(hang)
    await drain(queue)
    assert (await queue.get_result(other)).attempts == 1


async def test_what_fails_while_it_is_stopped_is_a_timeout_that_tells_of_it(queue: TaskQueue) -> None:
    handle = await queue.options(timeout=SOON).enqueue(fail_on_the_way_out)
    await drain(queue)
    result = await queue.get_result(handle)
    assert (result.status, result.error_type) == (Status.FAILED, "TimeoutError")
    assert "while cleaning up" in (result.traceback or "")


async def swallow() -> str:
    try:
        await gate.pass_through()
    except asyncio.CancelledError:
        seen.append("swallowed")
    return "a value that is too late"


async def test_a_value_that_comes_after_the_limit_is_too_late(queue: TaskQueue) -> None:
    handle = await queue.options(timeout=SOON).enqueue(swallow)
    await drain(queue)
    assert seen == ["swallowed"]
    assert (await queue.get_result(handle)).error_type == "TimeoutError"


async def swallow_until_the_gate_opens() -> str:
    while True:
        try:
            await gate.pass_through()
        except asyncio.CancelledError:
            continue
        return "a value that is too late"


async def test_a_coroutine_that_does_not_stop_is_reported_without_it(queue: TaskQueue) -> None:
    async with working(queue, concurrency=1) as (worker, events):
        handle = await queue.options(timeout=SOON).enqueue(swallow_until_the_gate_opens)
        assert (await events.wait_for(TaskStuck)).task_id == handle
        with pytest.raises(TaskFailedError, match="it still runs"):
            await handle.result(timeout=PATIENCE)
        assert worker.running == 1, "its slot stays taken: it runs"
        other = await queue.enqueue(hang_once)
        assert await other.status() is Status.PENDING
        gate.open()
        await events.wait_for(TaskStarted, 2)
        await other.cancel()
        await events.wait_for(TaskCancelled)
        assert worker.running == 0
    assert not events.of(TaskSucceeded)
    assert not events.of(OutcomeRefused), "it did not even try"
    assert (await queue.get_result(handle)).error_type == "TimeoutError"


async def test_what_is_done_in_time_leaves_no_timer(
    queue: TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    timers: list[Any] = []
    loop = asyncio.get_running_loop()
    real = loop.call_later

    def call_later(delay: float, callback: Any, *args: Any, **more: Any) -> Any:
        timer = real(delay, callback, *args, **more)
        if getattr(callback, "__name__", "") == "_time_is_up":
            timers.append((delay, timer))
        return timer

    monkeypatch.setattr(loop, "call_later", call_later)
    await queue.enqueue(swallow)
    await queue.options(timeout=3600).enqueue(swallow)
    async with working(queue) as (_, events):
        await events.wait_for(TaskStarted, 2)
        # What passed between start and timer counts, however slow the machine is.
        assert [round(delay, -2) for delay, _ in timers] == [DEFAULT_TIMEOUT, 3600]
        gate.open()
        await events.wait_for(TaskSucceeded, 2)
        assert [timer.cancelled() for _, timer in timers] == [True, True]


def note_that_time_is_up(*_: Any) -> None:
    seen.append("time is up")


async def test_the_wait_for_the_storage_is_no_time_of_the_task(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # On its last chance it starts when the others are back in the storage: its limit counts from then.
    clock, back = FakeClock(), Gate()
    queue, spy = spied_queue(MemoryBackend(clock=clock))
    spy.before["complete"] = lambda *_, **__: back.pass_through()
    monkeypatch.setattr(executor.Executor, "_time_is_up", note_that_time_is_up)
    async with queue:
        for _ in range(2):
            await queue.options(max_crashes=2, timeout=0.001).enqueue(swallow)
        await spy.inner.reserve("a worker that dies", None, 2, timedelta(seconds=1))
        clock.advance(2)
        async with working(queue, concurrency=2) as (_, events):
            await back.wait_reached()
            await asyncio.sleep(SOON)
            assert seen == []
            back.open()
            await gate.wait_reached()
            gate.open()
            await events.wait_for(TaskSucceeded)


# -- Threads ---------------------------------------------------------------------------------------


def wait_in_a_thread() -> str:
    came.release()
    assert held_up.wait(PATIENCE)
    return "a value that is too late"


def wait_in_the_first_attempt() -> str:
    if current_task().attempt == 1:
        return wait_in_a_thread()
    return "in time"


def ask_whether_to_stop() -> str:
    came.release()
    while not current_task().cancelled:
        held_up.wait(0.001)
    seen.append("saw it")
    return "half of it"


def the_run(worker: Worker) -> Run:
    """What the worker runs."""
    [run] = worker._services.executor._runs.values()  # type: ignore[union-attr]
    return run


def let_time_be_up(worker: Worker) -> None:
    """Do to what the worker runs what its timer does."""
    run = the_run(worker)
    assert run.timer is not None
    run.timer.cancel()
    worker._services.executor._time_is_up(run)  # type: ignore[union-attr]


async def test_a_thread_is_reported_as_still_running_and_fenced_off(queue: TaskQueue) -> None:
    async with working(queue, concurrency=1) as (worker, events):
        handle = await queue.options(timeout=SOON).enqueue(wait_in_a_thread)
        await events.wait_for(TaskStuck)
        with pytest.raises(TaskFailedError, match="it still runs"):
            await handle.result(timeout=PATIENCE)
        assert worker.running == 1
        await queue.enqueue(swallow)
        held_up.set()
        await gate.wait_reached()
        assert worker.running == 1, "its slot went to the next one when it had ended"
        gate.open()
        await events.wait_for(TaskSucceeded)
    assert [event.task_id for event in events.of(TaskSucceeded)] != [handle]
    assert (await queue.get_result(handle)).error_type == "TimeoutError"
    assert (await queue.stats()).stale_outcomes == 0


async def test_a_thread_that_hangs_is_tried_again_beside_itself(queue: TaskQueue) -> None:
    async with working(queue, concurrency=2) as (worker, events):
        handle = await queue.options(timeout=3600, retry=AT_ONCE).enqueue(wait_in_the_first_attempt)
        await reached()
        let_time_be_up(worker)  # by hand: the second attempt has all the time that it needs
        assert await handle.result(timeout=PATIENCE) == "in time"
        assert worker.running == 1
        held_up.set()
    assert [event.attempt for event in events.of(TaskStuck)] == [1]
    assert await handle.result(timeout=0) == "in time"


async def test_a_late_value_of_a_thread_changes_nothing_even_when_it_comes_within_the_grace(
    queue: TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "_GRACE", 3600)
    stopped = asyncio.Event()
    stop = executor.Executor.stop

    def and_tell(self: Any, held: Any, why: Any) -> None:
        stop(self, held, why)
        stopped.set()

    monkeypatch.setattr(executor.Executor, "stop", and_tell)
    async with working(queue) as (_, events):
        handle = await queue.options(timeout=SOON).enqueue(wait_in_a_thread)
        await stopped.wait()
        held_up.set()
        await events.wait_for(TaskFailed)
    assert (await queue.get_result(handle)).error_type == "TimeoutError"


async def test_a_function_that_asks_ends_early(queue: TaskQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "_GRACE", 3600)
    handle = await queue.options(timeout=SOON).enqueue(ask_whether_to_stop)
    events = await drain(queue)
    assert seen == ["saw it"]
    result = await queue.get_result(handle)
    assert (result.status, result.error_type) == (Status.FAILED, "TimeoutError")
    assert len(events.of(TaskFailed)) == 1
    assert not events.of(TaskStuck)


async def test_a_lease_that_is_lost_after_the_limit_is_not_renewed_any_more(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "_GRACE", 3600)
    monkeypatch.setattr(heartbeat, "_RENEWALS_PER_LEASE", 300)
    queue, spy = spied_queue(backend)
    async with queue:
        async with working(queue) as (worker, events):
            handle = await queue.options(timeout=SOON).enqueue(wait_in_a_thread)
            await reached()
            run = the_run(worker)
            while run.stop is None:
                await asyncio.sleep(0)
            # Somebody else has it and is done with it.
            await backend.complete([Succeeded(run.held, b"")])
            assert (await events.wait_for(TaskLost)).task_id == handle
            assert worker._services.executor.held() == {}  # type: ignore[union-attr]
            held_up.set()
        assert not events.of(TaskFailed)
        assert spy.calls.get("complete", 0) == 0


# -- A stop for two reasons ------------------------------------------------------------------------


async def test_a_worker_that_stops_does_not_wait_for_what_does_not_count(
    queue: TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "_CANCEL_TIMEOUT", SOON)
    worker = Worker(queue, shutdown_timeout=3600)
    events = recorded(worker)
    async with asyncio.timeout(PATIENCE):
        async with worker:
            await queue.options(timeout=SOON).enqueue(wait_in_a_thread)
            await events.wait_for(TaskStuck)
        assert events.of(WorkerStopped)
    assert len(events.of(TaskStuck)) == 1


@pytest.mark.parametrize("how", [wait_in_a_thread, swallow_until_the_gate_opens])
async def test_a_limit_that_passes_before_the_worker_gives_up_is_told_as_such(
    queue: TaskQueue, monkeypatch: pytest.MonkeyPatch, how: Any
) -> None:
    monkeypatch.setattr(executor, "_GRACE", 3600)
    monkeypatch.setattr(services, "_CANCEL_TIMEOUT", SOON)
    async with working(queue, shutdown_timeout=SOON * 5) as (worker, events):
        handle = await queue.options(timeout=SOON).enqueue(how)
        await events.wait_for(TaskStarted)
        run = the_run(worker)
        while run.stop is None:
            await asyncio.sleep(0)
    result = await queue.get_result(handle)
    assert (result.status, result.error_type) == (Status.FAILED, "TimeoutError")
    assert len(events.of(TaskStuck)) == 1
    gate.open()


async def test_a_worker_that_stops_gives_back_what_has_time_left(queue: TaskQueue) -> None:
    async with working(queue, shutdown_timeout=0) as (_, events):
        handle = await queue.options(timeout=3600).enqueue(hang)
        await events.wait_for(TaskStarted)
    record = await queue.get(handle)
    assert (record.status, record.attempt) == (Status.PENDING, 0)
    assert [event.task_id for event in events.of(TaskReleased)] == [handle]


async def test_a_cancelled_thread_that_outlives_its_limit_is_cancelled(queue: TaskQueue) -> None:
    async with working(queue) as (worker, events):
        handle = await queue.options(timeout=3600).enqueue(wait_in_a_thread)
        await reached()
        await queue.cancel(handle)
        run = the_run(worker)
        while run.stop is None:
            await asyncio.sleep(0)
        let_time_be_up(worker)
        assert await queue.cancel(handle, timeout=PATIENCE) is Status.CANCELLED
        assert (await events.wait_for(TaskStuck)).task_id == handle
        assert run.reported
        held_up.set()


# -- Expiry ----------------------------------------------------------------------------------------


async def test_a_task_that_waited_too_long_is_never_started(queue: TaskQueue) -> None:
    handle = await queue.options(expires=0.001).enqueue(hang)
    fine = await queue.options(expires=3600).enqueue(hang_once)
    while datetime.now(UTC) <= (await queue.get(handle)).enqueued_at + timedelta(milliseconds=2):
        pass
    async with working(queue) as (_, events):
        with pytest.raises(TaskCancelledError, match="no attempt was to start after"):
            await handle.result(timeout=PATIENCE)
        assert [event.task_id for event in events.of(TaskCancelled)] == [handle]
        await fine.cancel()
    assert [event.task_id for event in events.of(TaskStarted)] == [fine]
    details = await queue.get(handle)
    assert details.last_error is not None
    assert (details.status, details.last_error.type) == (Status.CANCELLED, "expired")


def fail() -> None:
    raise ValueError("the reason")


async def test_a_retry_that_would_start_too_late_is_given_up_at_once(queue: TaskQueue) -> None:
    options: dict[str, Any] = {"max_retries": 5, "retry_delay": 3600, "expires": 60}
    handle = await queue.options(**options).enqueue(fail)
    await drain(queue)
    with pytest.raises(TaskFailedError, match="the reason"):
        await handle.result(timeout=0)


async def test_a_retry_that_nobody_had_time_for_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    clock.advance(datetime.now(UTC) - clock.now())
    monkeypatch.setattr(services, "SystemClock", lambda: clock)
    async with TaskQueue(MemoryBackend(clock=clock)) as queue:
        options: dict[str, Any] = {"max_retries": 5, "retry_delay": 30, "expires": 60}
        handle = await queue.options(**options).enqueue(fail)
        await drain(queue)
        assert await handle.status() is Status.PENDING
        clock.advance(3600)  # its `expires` counts from the real time of its enqueue
        await drain(queue)
        with pytest.raises(TaskCancelledError, match="attempt 2 would have"):
            await handle.result(timeout=0)
        log = (await queue.get(handle)).attempts_log
        assert [(each.error.type, each.last) for each in log] == [("ValueError", False), ("expired", True)]
