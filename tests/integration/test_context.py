"""What whoever enqueues has around him is around the run: in coroutines, threads and what they start; and never around
another run, whatever the runs before did.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from contextvars import Context, ContextVar, copy_context
from pathlib import Path
from typing import Any

import pytest
import structlog
from opentelemetry import context as otel
from opentelemetry import trace

from sitq import (
    ContextProviderError,
    ContextVars,
    Status,
    StructlogContext,
    SyncTaskQueue,
    TaskQueue,
    TaskSerializationError,
    TraceContext,
    ValidationError,
    Worker,
    call,
    current_task,
)
from sitq.backends.base import Backend
from sitq.events import ContextIgnored, ContextNotLeft, TaskParked
from sitq.rules import NO_RULES, RunRules
from sitq.schedules import decode, load_schedules
from sitq.serialization import decode_call
from tests.integration.support import Gate, drain
from tests.support import PATIENCE, everything, record

request_id: ContextVar[str] = ContextVar("request_id")
tenant: ContextVar[Any] = ContextVar("tenant")
ALL = [ContextVars(request_id), StructlogContext(), TraceContext()]

gate: Gate
seen: dict[int, list[Any]]
runs: int
came = threading.Semaphore(0)


@pytest.fixture(autouse=True)
async def shared() -> None:
    global gate, seen, runs
    gate, seen, runs = Gate(), {}, 0
    while came.acquire(blocking=False):
        pass


@asynccontextmanager
async def carrying(backend: Backend, *providers: Any) -> AsyncIterator[TaskQueue]:
    async with TaskQueue(backend, context_providers=providers or [ContextVars(request_id, tenant)]) as queue:
        yield queue


async def rules(queue: TaskQueue, task_id: str) -> RunRules:
    payload = (await record(queue.backend, task_id)).payload
    assert payload is not None
    return decode_call(payload)[2]


def surroundings() -> tuple[str | None, str | None, int]:
    """What is around the caller: of the variable, of structlog, of OpenTelemetry."""
    bound = structlog.contextvars.get_contextvars().get("request")
    return request_id.get(None), bound, trace.get_current_span().get_span_context().trace_id


CLEAN = (None, None, 0)


def surround(number: int) -> tuple[str | None, str | None, int]:
    """Surround the caller with values of its own."""
    request_id.set(f"r{number}")
    structlog.contextvars.bind_contextvars(request=f"s{number}")
    span = trace.NonRecordingSpan(trace.SpanContext(number, number, True, trace.TraceFlags(1)))
    otel.attach(trace.set_span_in_context(span))
    return surroundings()


# -- Where it holds --------------------------------------------------------------------------------


async def in_a_coroutine() -> list[Any]:
    async def inner() -> Any:
        await asyncio.sleep(0)
        return surroundings()

    async with asyncio.TaskGroup() as group:
        child = group.create_task(inner())
    return [
        surroundings(),
        child.result(),
        await asyncio.to_thread(surroundings),
        copy_context().run(surroundings),
        await asyncio.to_thread(lambda: asyncio.run(inner())),
    ]


def on_a_thread() -> list[Any]:
    found: list[Any] = [surroundings(), copy_context().run(surroundings)]
    own = copy_context()
    thread = threading.Thread(target=lambda: found.append(own.run(surroundings)))
    thread.start()
    thread.join()
    return [*found, asyncio.run(asyncio.to_thread(surroundings))]


@pytest.mark.parametrize("func", [in_a_coroutine, on_a_thread])
async def test_it_holds_in_the_run_and_in_what_the_run_starts(
    backend: Backend, func: Callable[..., list[Any]]
) -> None:
    async with carrying(backend, *ALL) as queue:
        given = surround(7)
        assert given == ("r7", "s7", 7)
        handle = await queue.enqueue(func)
        await drain(queue)
        assert set(await handle.result(timeout=0)) == {given}


async def test_a_value_that_is_set_later_is_that_of_later_tasks(backend: Backend) -> None:
    async with carrying(backend) as queue:
        first = await queue.enqueue(ask)
        request_id.set("r1")
        second = await queue.enqueue(ask)
        request_id.set("r2")
        await drain(queue)
        assert [await one.result(timeout=0) for one in (first, second)] == [(None, None), ("r1", None)]


def ask() -> Any:
    return request_id.get(None), tenant.get(None)


async def test_a_batch_and_a_view_carry_too_and_ask_once(backend: Backend) -> None:
    asked = Counting()
    async with carrying(backend, ContextVars(request_id, tenant), asked) as queue:
        request_id.set("r1")
        handles = await queue.enqueue_many([call(ask)] * 3)
        handles += await queue.options(priority=1).enqueue_many([call(ask)] * 3)
        handles.append(await queue.options(id="one").enqueue(ask))
        assert asked.count == 3
        await drain(queue)
        assert {(await one.result(timeout=0))[0] for one in handles} == {"r1"}


class Counting:
    name = "counting"
    count = 0

    def capture(self) -> None:
        self.count += 1

    def restore(self, data: Any) -> Any:
        raise AssertionError("nothing was captured")


async def test_it_travels_beside_other_rules_and_costs_nothing_if_there_is_none(backend: Backend) -> None:
    async with carrying(backend) as queue:
        assert await rules(queue, await queue.enqueue(ask)) is NO_RULES
        request_id.set("r1")
        found = await rules(queue, await queue.options(timeout=5).enqueue(ask))
        assert found == RunRules(timeout=5.0, carried={"contextvars": {"request_id": "r1"}})


async def try_twice() -> str:
    global runs
    runs += 1
    if runs < 3:
        request_id.set("of a run that failed")
        raise ConnectionError
    return request_id.get()


async def test_each_attempt_and_each_new_run_has_it(backend: Backend) -> None:
    async with carrying(backend) as queue:
        request_id.set("r1")
        handle = await queue.options(max_retries=1, retry_delay=0).enqueue(try_twice)
        request_id.set("r2")
        await drain(queue)
        assert (await queue.get_status(handle), runs) == (Status.FAILED, 2)
        await queue.requeue(handle)
        await drain(queue)
        assert await handle.result(timeout=0) == "r1"


queue_of_tasks: TaskQueue


async def enqueue_another() -> str:
    return await queue_of_tasks.enqueue(ask)


async def test_what_a_task_enqueues_carries_it_on(backend: Backend) -> None:
    global queue_of_tasks
    async with carrying(backend) as queue:
        queue_of_tasks = queue
        request_id.set("r1")
        handle = await queue.enqueue(enqueue_another)
        await drain(queue)
        assert (await queue.get_result(await handle.result(timeout=0))).value == ("r1", None)


def test_synchronous_code_carries_the_context_of_its_thread(tmp_path: Path) -> None:
    providers = [ContextVars(request_id)]

    def produce() -> str:
        request_id.set("of this thread")
        with SyncTaskQueue(tmp_path / "tasks.db", context_providers=providers) as queue:
            return queue.enqueue(ask)

    async def work(task_id: str) -> Any:
        async with TaskQueue(tmp_path / "tasks.db", context_providers=providers) as queue:
            await drain(queue)
            return (await queue.get_result(task_id)).value

    task_id = Context().run(produce)
    assert Context().run(lambda: asyncio.run(work(task_id))) == ("of this thread", None)


async def test_schedules_carry_nothing(backend: Backend) -> None:
    async with carrying(backend) as queue:
        request_id.set("of who defines it")
        await queue.schedule("s", call(ask), every=60)
        [stored] = await load_schedules(queue.backend)
        assert decode_call(decode(stored).task.payload)[2] is NO_RULES


# -- No leak ---------------------------------------------------------------------------------------

ENDS = ("return", "fail", "exit", "cancel", "leave", "hang")


async def look(number: int, end: str) -> None:
    found = seen.setdefault(number, [])
    found.append(surroundings())  # before the first wait, which a time limit may end
    await asyncio.sleep(0)
    found.append(await asyncio.create_task(inner_look()))
    if number % 10 == 0:
        found.append(await asyncio.to_thread(surroundings))
    found.append(copy_context().run(surroundings))
    surround(10**6 + number)  # what nobody may find
    if end == "leave":
        asyncio.create_task(asyncio.sleep(3600))  # noqa: RUF006
    if end == "hang":
        await asyncio.Event().wait()
    finish(end)


async def inner_look() -> Any:
    await asyncio.sleep(0)
    return surroundings()


def look_on_a_thread(number: int, end: str) -> None:
    seen.setdefault(number, []).extend([surroundings(), copy_context().run(surroundings)])
    surround(10**6 + number)
    while end == "hang" and not current_task().cancelled:
        time.sleep(0.001)
    finish(end)


def finish(end: str) -> None:
    match end:
        case "fail":
            raise ValueError
        case "exit":
            raise SystemExit(3)
        case "cancel":
            raise asyncio.CancelledError
        case _:
            pass


async def test_thousands_of_interleaved_runs_find_their_own_and_nothing_else(backend: Backend) -> None:
    expected: dict[int, Any] = {}

    async def enqueue(number: int, queue: TaskQueue) -> None:
        expected[number] = surround(number) if number % 3 else surroundings()
        end = ENDS[number % 7] if number % 7 < 5 else "return"
        view, func = queue, look if number % 2 else look_on_a_thread
        if number % 101 == 0:
            await view.options(timeout=0.02).enqueue(func, number, "hang")
        else:
            await view.enqueue(func, number, end)

    async with carrying(backend, *ALL) as queue:
        async with asyncio.TaskGroup() as group:  # each in a context of its own
            for number in range(1, 2001):
                group.create_task(enqueue(number, queue), context=Context())
        await drain(queue, concurrency=20)
    assert len(seen) == 2000
    wrong = {number: found for number, found in seen.items() if set(found) != {expected[number]}}
    assert wrong == {}
    assert expected[3] == expected[6] == CLEAN
    assert surroundings() == CLEAN


async def hold(number: int) -> None:
    surround(number)
    came.release()
    await asyncio.Event().wait()


def hold_a_thread(number: int) -> None:
    surround(number)
    came.release()
    while not current_task().cancelled:
        time.sleep(0.001)


@pytest.mark.parametrize("func", [hold, hold_a_thread])
async def test_runs_after_cancelled_ones_find_nothing(backend: Backend, func: Callable[[int], Any]) -> None:
    async with carrying(backend, *ALL) as queue, Worker(queue, concurrency=8):
        surround(1)
        held = [await queue.enqueue(func, 10**6 + number) for number in range(8)]
        for _ in held:
            assert await asyncio.to_thread(came.acquire, timeout=PATIENCE)
        for one in held:
            assert await one.cancel(timeout=PATIENCE) is Status.CANCELLED
        after = asyncio.create_task(enqueue_clean(queue), context=Context())
        for handle in await after:
            assert await handle.result(timeout=PATIENCE) == CLEAN


async def enqueue_clean(queue: TaskQueue) -> Any:
    return await queue.enqueue_many([call(surroundings)] * 40)


# -- What goes wrong -------------------------------------------------------------------------------


class Custom:
    """A provider that does what its hooks say."""

    def __init__(self, name: str = "custom", **hooks: Callable[..., Any]) -> None:
        self.name = name
        self.hooks = hooks

    def capture(self) -> Any:
        return self.hooks["capture"]() if "capture" in self.hooks else "data"

    @contextmanager
    def restore(self, data: Any) -> Generator[None]:
        if "enter" in self.hooks:
            self.hooks["enter"]()
        try:
            yield
        finally:
            if "leave" in self.hooks:
                self.hooks["leave"]()


def divide() -> None:
    raise ZeroDivisionError("by zero")


async def test_a_provider_that_cannot_capture_fails_the_enqueue(backend: Backend) -> None:
    async with carrying(backend, Custom("tenant", capture=divide)) as queue:
        for enqueueing in (
            queue.enqueue(ask),
            queue.enqueue_many([call(ask)]),
            queue.options(priority=1).enqueue(ask),
        ):
            with pytest.raises(
                ContextProviderError, match="'tenant' failed to capture, so nothing was stored"
            ):
                await enqueueing
        assert await everything(backend) == []


async def test_what_cannot_be_stored_is_named_and_nothing_is(backend: Backend) -> None:
    async with carrying(backend) as queue:
        tenant.set(threading.Lock())
        with pytest.raises(
            TaskSerializationError, match=r"'tenant' \(_thread\.lock\), captured by context provider"
        ):
            await queue.enqueue(ask)
        assert await everything(backend) == []


async def test_a_provider_that_cannot_restore_parks_the_task(backend: Backend) -> None:
    broken = Custom("tenant", enter=divide)
    async with carrying(backend, ContextVars(request_id), broken) as queue:
        request_id.set("r1")
        handle = await queue.enqueue(try_twice)
        recorder = await drain(queue)
        [parked] = recorder.of(TaskParked)
        assert parked.error_type == "sitq.errors.ContextProviderError"
        found = await queue.get(handle)
        assert (found.status, found.attempt, runs) == (Status.PENDING, 0, 0)
        assert found.last_error is not None
        assert "context provider 'tenant' failed to restore" in found.last_error.message
        assert "ZeroDivisionError: by zero" in found.last_error.traceback


async def test_a_provider_that_cannot_be_left_changes_nothing(backend: Backend) -> None:
    async with carrying(backend, Custom(leave=divide)) as queue:
        good, bad = await queue.enqueue(ask), await queue.enqueue(look, 1, "fail")
        recorder = await drain(queue)
        assert await queue.get_status(good) is Status.SUCCESS
        assert (await queue.get_result(bad)).error_type == "ValueError"
        told = recorder.of(ContextNotLeft)
        assert {(one.task_id, one.provider, one.error_type) for one in told} == {
            (good, "custom", "ZeroDivisionError"),
            (bad, "custom", "ZeroDivisionError"),
        }


async def test_data_of_a_provider_that_the_worker_lacks_is_ignored_and_told_once(backend: Backend) -> None:
    async with carrying(backend, Custom("old"), ContextVars(request_id)) as producer:
        request_id.set("r1")
        handles = [await producer.enqueue(ask) for _ in range(3)]
        recorder = await drain(TaskQueue(backend, context_providers=[ContextVars(request_id)]), id="w1")
        assert [await one.result(timeout=0) for one in handles] == [("r1", None)] * 3
        [told] = recorder.of(ContextIgnored)
        assert (told.worker, told.provider, told.task_id in handles) == ("w1", "old", True)


async def test_a_provider_without_data_restores_nothing(backend: Backend) -> None:
    async with TaskQueue(backend) as producer:
        handle = await producer.enqueue(ask)
        await drain(TaskQueue(backend, context_providers=[Custom(enter=divide)]))
        assert await handle.result(timeout=0) == (None, None)


async def test_a_worker_without_providers(backend: Backend) -> None:
    async with carrying(backend) as producer:
        request_id.set("r1")
        handle = await producer.enqueue(ask)
        recorder = await drain(TaskQueue(backend))
        assert await handle.result(timeout=0) == (None, None)
        assert [one.provider for one in recorder.of(ContextIgnored)] == ["contextvars"]


async def test_providers_are_checked_when_the_queue_is_made() -> None:
    with pytest.raises(ValidationError, match="has two with the name 'contextvars'"):
        TaskQueue("memory://", context_providers=[ContextVars(request_id), ContextVars(tenant)])
    with pytest.raises(ValidationError, match="context_providers is a ContextVars: give a list"):
        SyncTaskQueue("memory://", context_providers=ContextVars(request_id))  # type: ignore[arg-type]


# -- What was given with the task ------------------------------------------------------------------


async def given_in_a_coroutine() -> list[Any]:
    child = asyncio.create_task(read_given())
    return [await read_given(), await child, await asyncio.to_thread(lambda: dict(current_task().context))]


async def read_given() -> dict[str, Any]:
    return dict(current_task().context)


def given_on_a_thread() -> list[Any]:
    return [dict(current_task().context), copy_context().run(lambda: dict(current_task().context))]


@pytest.mark.parametrize("func", [given_in_a_coroutine, given_on_a_thread])
async def test_the_option_context_is_in_current_task(
    backend: Backend, func: Callable[..., list[Any]]
) -> None:
    async with carrying(backend) as queue:
        given = {"tenant": 7, "flags": ["beta"]}
        for carried in (None, "r1"):  # alone, and beside what providers carry
            if carried is not None:
                request_id.set(carried)
            handle = await queue.options(context=given).enqueue(func)
            bare = await queue.enqueue(func)
            await drain(queue)
            assert all(one == given for one in await handle.result(timeout=0))
            assert not any(await bare.result(timeout=0))
