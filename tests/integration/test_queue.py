"""`TaskQueue` against memory and SQLite: what goes in, what comes out, and what is refused without a trace."""

import asyncio
import builtins
import functools
import math
import pickle
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from sitq import (
    PayloadTooLargeError,
    QueueClosedError,
    SitqError,
    Status,
    TaskError,
    TaskFailedError,
    TaskHandle,
    TaskNotFoundError,
    TaskQueue,
    TaskSerializationError,
    TaskTimeoutError,
    ValidationError,
    Worker,
    call,
    task,
)
from sitq.backends.base import Backend
from sitq.backends.memory import MemoryBackend
from sitq.model import TaskRecord
from tests.integration.support import drain
from tests.support import PATIENCE, everything


def add(a: int, b: int = 0) -> int:
    return a + b


async def add_async(a: int, b: int = 0) -> int:
    return a + b


@task(name="adding", priority=5, metadata={"by": "definition"})
def defined(a: int, b: int = 0) -> int:
    return a + b


class Adder:
    def __init__(self, a: int, b: int = 0) -> None:
        self.a = a
        self.total = a + b

    def __eq__(self, other: object) -> bool:
        return self.total == (other.total if isinstance(other, Adder) else other)

    __hash__ = None  # type: ignore[assignment]

    def method(self, b: int) -> int:
        return self.a + b

    async def method_async(self, b: int) -> int:
        return self.a + b

    @classmethod
    def of_class(cls, a: int, b: int) -> int:
        return a + b

    @staticmethod
    def static(a: int, b: int) -> int:
        return a + b

    def __call__(self, b: int) -> int:
        return self.a + b


def eta_of_its_own(eta: str) -> str:
    return f"eta {eta}"


def fail(message: str) -> None:
    raise ValueError(message)


# -- What can be enqueued --------------------------------------------------------------------------


async def stored(queue: TaskQueue) -> list[TaskRecord]:
    return await everything(queue.backend)


CALLS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "def": (add, (1, 2)),
    "async def": (add_async, (1, 2)),
    "@task": (defined, (1, 2)),
    "lambda": (lambda a, b: a + b, (1, 2)),
    "lambda around a coroutine function": (lambda a, b: add_async(a, b), (1, 2)),
    "partial": (functools.partial(add, 1), (2,)),
    "partial of async": (functools.partial(add_async, b=2), (1,)),
    "bound method": (Adder(1).method, (2,)),
    "bound async method": (Adder(1).method_async, (2,)),
    "class method": (Adder.of_class, (1, 2)),
    "static method": (Adder.static, (1, 2)),
    "class": (Adder, (1, 2)),
    "callable object": (Adder(1), (2,)),
    "builtin": (builtins.sum, ([1, 2],)),
    "method of a builtin": ("x".join, (["1", "2"],)),
    "math": (math.hypot, (3, 4)),
}


@pytest.mark.parametrize("name", CALLS)
async def test_any_callable_is_a_task(queue: TaskQueue, name: str) -> None:
    func, args = CALLS[name]
    handle = await queue.enqueue(func, *args)
    await drain(queue)
    result = await queue.get_result(handle)
    assert (result.status, result.error) == (Status.SUCCESS, None)
    assert result.value == {"method of a builtin": "1x2", "math": 5.0}.get(name, 3)


async def test_a_local_function_takes_its_surroundings_along(queue: TaskQueue) -> None:
    offset = 10

    def with_closure(a: int) -> int:
        return a + offset

    handle = await queue.enqueue(with_closure, 5)
    await drain(queue)
    assert (await queue.get_result(handle)).value == 15


# -- Options ---------------------------------------------------------------------------------------


async def test_options_are_stored(queue: TaskQueue) -> None:
    eta = datetime.now(UTC) + timedelta(hours=2)
    given = queue.options(
        eta=eta, queue="mail", priority=-3, id="my-id", metadata={"a": 1}, max_crashes=7, result_ttl=60
    )
    handle = await given.enqueue(add, 1)
    assert handle == "my-id"
    record = await queue.get("my-id")
    assert (record.queue, record.priority, record.max_crashes, record.metadata, record.due_at, record.name) == (
        "mail", -3, 7, {"a": 1}, eta, f"{__name__}.add",
    )  # fmt: skip


async def test_options_of_the_definition_give_way_to_those_of_the_call(queue: TaskQueue) -> None:
    own = await queue.get(await queue.enqueue(defined, 1))
    assert (own.name, own.priority, own.metadata) == ("adding", 5, {"by": "definition"})
    given = await queue.get(await queue.options(priority=0).enqueue(defined, 1))
    assert (given.priority, given.metadata) == (0, {"by": "definition"})


async def test_an_aware_eta_is_stored_as_the_same_instant(queue: TaskQueue) -> None:
    eta = datetime(2031, 5, 6, 7, 8, 9, 123456, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    for handle in (await queue.enqueue(add, 1, eta=eta), await queue.options(eta=eta).enqueue(add, 1)):
        due_at = (await queue.get(handle)).due_at
        assert due_at == eta
        assert due_at.utcoffset() == timedelta(0)


async def test_what_is_overdue_runs_at_once_and_what_is_not_due_waits(queue: TaskQueue) -> None:
    past = await queue.enqueue(add, 1, eta=datetime(2001, 1, 1, tzinfo=UTC))
    future = await queue.options(delay=timedelta(hours=1)).enqueue(add, 1)
    await drain(queue)
    assert await past.status() is Status.SUCCESS
    assert await future.status() is Status.PENDING


async def test_eta_none_is_now(queue: TaskQueue) -> None:
    handle = await queue.enqueue(add, 1, eta=None)
    await drain(queue)
    assert (await queue.get_result(handle)).value == 1


async def test_a_function_with_an_eta_of_its_own_gets_it_through_options(queue: TaskQueue) -> None:
    with pytest.raises(ValidationError, match=r"queue\.options"):
        await queue.enqueue(eta_of_its_own, "x")
    handle = await queue.options().enqueue(eta_of_its_own, eta="mine")
    await drain(queue)
    assert (await queue.get_result(handle)).value == "eta mine"


async def test_enqueueing_an_id_again_changes_nothing(queue: TaskQueue) -> None:
    first = await queue.options(id="one").enqueue(add, 1)
    before = await queue.get("one")
    second = await queue.options(id="one", priority=9).enqueue(add, 2)
    assert first == second == "one"
    assert await queue.get("one") == before
    await drain(queue)
    await queue.options(id="one").enqueue(add, 3)
    assert (await queue.get_result("one")).value == 1


# -- Batches ---------------------------------------------------------------------------------------


async def test_a_batch_is_stored_in_order(queue: TaskQueue) -> None:
    handles = await queue.enqueue_many(call(add, number, 1) for number in range(100))
    assert [record.id for record in reversed(await stored(queue))] == handles
    await drain(queue)
    assert [(await queue.get_result(handle)).value for handle in handles] == list(range(1, 101))
    assert await queue.enqueue_many([]) == []


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (add, ValidationError),
        (None, ValidationError),
        (lambda: call(add, 1, 2, 3), ValidationError),
        (lambda: call(add, (one for one in ())), TaskSerializationError),
        (lambda: call(add, b"x" * 2_000_000), PayloadTooLargeError),
        (lambda: 1 // 0, ZeroDivisionError),
    ],
)
async def test_a_batch_with_a_bad_call_is_not_stored_at_all(
    queue: TaskQueue, bad: Any, error: type[Exception]
) -> None:
    def calls() -> Any:
        yield call(add, 1)
        yield bad() if callable(bad) and bad is not add else bad
        yield call(add, 2)

    with pytest.raises(error):
        await queue.enqueue_many(calls())
    assert await stored(queue) == []


# -- Bad input -------------------------------------------------------------------------------------


class Opaque:
    def __reduce__(self) -> Any:
        raise TypeError("not me")


def generator() -> Any:
    yield 1


naive = datetime(2030, 1, 1)
BAD_CALLS: dict[str, Callable[[TaskQueue], Any]] = {
    "not callable": lambda queue: queue.enqueue(5),  # type: ignore[call-overload]
    "None": lambda queue: queue.enqueue(None),  # type: ignore[call-overload]
    "a name": lambda queue: queue.enqueue("add"),  # type: ignore[call-overload]
    "already called": lambda queue: queue.enqueue(add_async(1)),  # type: ignore[call-overload]
    "a call with arguments": lambda queue: queue.enqueue(call(add, 1), 2),  # type: ignore[call-overload]
    "a generator function": lambda queue: queue.enqueue(generator),
    "too many arguments": lambda queue: queue.enqueue(add, 1, 2, 3),
    "an unknown argument": lambda queue: queue.enqueue(add, 1, c=2),
    "a missing argument": lambda queue: queue.enqueue(add),
    "an option as an argument": lambda queue: queue.enqueue(add, 1, priority=2),
    "a naive eta": lambda queue: queue.enqueue(add, 1, eta=naive),
    "an eta that is no datetime": lambda queue: queue.enqueue(add, 1, eta="tomorrow"),
    "an argument that cannot travel": lambda queue: queue.enqueue(add, Opaque()),
    "too large": lambda queue: queue.enqueue(add, "x" * 1_100_000),
    "a lambda around what cannot travel": lambda queue: queue.enqueue(_lambda_around(Opaque())),
    "no calls": lambda queue: queue.enqueue_many(5),
    "a dict": lambda queue: queue.enqueue_many({"a": 1}),
    "a string": lambda queue: queue.enqueue_many("abc"),
    "one id for two": lambda queue: queue.options(id="x").enqueue_many([call(add, 1), call(add, 2)]),
}


def _lambda_around(value: Any) -> Any:
    return lambda: value


@pytest.mark.parametrize("name", BAD_CALLS)
async def test_a_bad_call_is_refused_and_nothing_is_stored(queue: TaskQueue, name: str) -> None:
    with pytest.raises((ValidationError, TaskSerializationError)) as caught:
        await BAD_CALLS[name](queue)
    assert str(caught.value)
    assert await stored(queue) == []


BAD_OPTIONS: list[dict[str, Any]] = [
    {"priority": 10}, {"priority": -10}, {"priority": 1.5}, {"priority": True}, {"priority": "1"},
    {"queue": ""}, {"queue": "x" * 201}, {"queue": "a\nb"}, {"queue": 5}, {"queue": "\ud800"},
    {"id": ""}, {"id": 7}, {"id": "a\0b"},
    {"delay": -1}, {"delay": math.nan}, {"delay": math.inf}, {"delay": "1"}, {"delay": 10**400},
    {"eta": naive}, {"eta": 5}, {"eta": datetime.now(UTC), "delay": 1},
    {"metadata": [1]}, {"metadata": {1: 2}}, {"metadata": {"a": math.nan}}, {"metadata": {"a": object()}},
    {"metadata": {"a": "x" * 20_000}}, {"metadata": {"a": "\ud800"}},
    {"max_crashes": 0}, {"max_crashes": 1001}, {"max_crashes": 1.0},
    {"result_ttl": -1}, {"result_ttl": "1d"},
    {"context": 5}, {"context": {1: 2}},
    {"retries": 3}, {"prioritty": 3},
]  # fmt: skip


@pytest.mark.parametrize("given", BAD_OPTIONS, ids="-".join)
async def test_a_bad_option_is_refused_where_it_is_given(queue: TaskQueue, given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        queue.options(**given)
    assert any(name in str(caught.value) for name in given)


BAD_QUERIES: list[dict[str, Any]] = [
    {"status": "done"}, {"status": 5}, {"status": [None]},
    {"queue": 5}, {"queue": b"mail"}, {"name": 5}, {"name": object()},
    {"since": naive}, {"until": naive}, {"since": "yesterday"}, {"until": 5},
    {"before": "x"}, {"before": 1.5}, {"before": 2**70}, {"before": True},
    {"limit": 0}, {"limit": -1}, {"limit": 10_001}, {"limit": "5"}, {"limit": True}, {"limit": None},
]  # fmt: skip


@pytest.mark.parametrize("given", BAD_QUERIES, ids="-".join)
async def test_a_bad_query_is_refused_by_name(queue: TaskQueue, given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        await queue.find(**given)
    assert next(iter(given)) in str(caught.value) or "status" in given


BAD_IDS: list[Any] = [None, 5, b"id", ["a"], {"a": 1}, object()]


@pytest.mark.parametrize("verb", ["get", "get_status", "get_result", "cancel"])
@pytest.mark.parametrize("task_id", BAD_IDS, ids=lambda value: type(value).__name__)
async def test_an_id_that_is_no_str_is_refused(queue: TaskQueue, verb: str, task_id: Any) -> None:
    with pytest.raises(ValidationError, match="task_id"):
        await getattr(queue, verb)(task_id)


@pytest.mark.parametrize("verb", ["get", "get_status", "get_result", "cancel"])
@pytest.mark.parametrize(
    "task_id", ["nobody", "", "\0", "\ud800", "x" * 100_000, "'; DROP TABLE sitq_tasks; --"]
)
async def test_an_unknown_id_is_not_found(queue: TaskQueue, verb: str, task_id: str) -> None:
    with pytest.raises(TaskNotFoundError):
        await getattr(queue, verb)(task_id)
    with pytest.raises(TaskNotFoundError):
        await queue.get_result(task_id, timeout=0)


@pytest.mark.parametrize("timeout", [-1, math.nan, math.inf, "1", True, [1]])
async def test_a_bad_timeout_is_refused(queue: TaskQueue, timeout: Any) -> None:
    handle = await queue.enqueue(add, 1)
    with pytest.raises(ValidationError, match="timeout"):
        await queue.get_result(handle, timeout=timeout)


@pytest.mark.parametrize("backend", [None, 5, b"tasks.db", object(), "", "mysql://x"])
def test_a_bad_backend_is_refused_where_it_is_given(backend: Any) -> None:
    with pytest.raises(ValidationError):
        TaskQueue(backend)


@pytest.mark.parametrize("max_payload", [0, -1, 1.5, "1", None, True])
def test_a_bad_max_payload_is_refused(max_payload: Any) -> None:
    with pytest.raises(ValidationError, match="max_payload"):
        TaskQueue(MemoryBackend(), max_payload=max_payload)


# -- Sizes -----------------------------------------------------------------------------------------


def returns(size: int) -> bytes:
    return bytes(size)


async def test_max_payload_is_exact_to_the_byte(backend: Backend) -> None:
    async with TaskQueue(backend, max_payload=10_000) as queue:
        handle = await queue.enqueue(add, b"")
        overhead = len((await stored(queue))[0].payload or b"")
        sizes = range(10_000 - overhead - 20, 10_000 - overhead + 1)
        accepted = []
        for size in sizes:
            try:
                accepted.append((size, await queue.enqueue(add, bytes(size))))
            except PayloadTooLargeError as error:
                assert "10,000" in str(error)  # noqa: PT017
        lengths = {record.id: len(record.payload or b"") for record in await stored(queue)}
        assert handle in lengths
        assert max(lengths.values()) == 10_000
        largest, _ = accepted[-1]
        with pytest.raises(PayloadTooLargeError):
            await queue.enqueue(add, bytes(largest + 1))
        assert len(await stored(queue)) == 1 + len(accepted)


async def test_a_result_of_max_payload_is_kept_and_one_byte_more_is_a_recorded_failure(
    backend: Backend,
) -> None:
    async with TaskQueue(backend, max_payload=10_000) as queue:
        sizes = range(9_950, 10_001)
        handles = [await queue.enqueue(returns, size) for size in sizes]
        await drain(queue)
        results = [await queue.get_result(handle) for handle in handles]
        kept = [size for size, result in zip(sizes, results, strict=True) if result.status is Status.SUCCESS]
        refused = [
            size for size, result in zip(sizes, results, strict=True) if result.status is Status.FAILED
        ]
        assert kept + refused == list(sizes)
        assert kept
        assert refused
        assert {result.error_type for result in results[len(kept) :]} == {"sitq.errors.PayloadTooLargeError"}
        lengths = [len(record.result) for record in await stored(queue) if record.result is not None]
        assert max(lengths) == 10_000


# -- Results ---------------------------------------------------------------------------------------


async def test_get_result_without_a_timeout_tells_how_it_stands(queue: TaskQueue) -> None:
    handle = await queue.enqueue(add, 1, 2)
    result = await queue.get_result(handle)
    assert (result.id, result.status, result.value, result.attempts) == (handle, Status.PENDING, None, 0)
    with pytest.raises(TaskError, match="pending"):
        result.unwrap()
    await drain(queue)
    done = await queue.get_result(handle)
    assert (done.status, done.value, done.attempts, done.unwrap()) == (Status.SUCCESS, 3, 1, 3)
    assert done.enqueued_at <= done.started_at <= done.finished_at  # type: ignore[operator]


async def test_get_result_with_a_timeout_waits_for_the_end(queue: TaskQueue) -> None:
    handle = await queue.enqueue(add, 1, 2)
    waiting = asyncio.create_task(queue.get_result(handle, timeout=timedelta(seconds=PATIENCE)))
    await asyncio.sleep(0)
    await drain(queue)
    assert (await waiting).value == 3


async def test_get_result_that_waits_in_vain_raises_and_the_task_goes_on(queue: TaskQueue) -> None:
    handle = await queue.enqueue(add, 1, 2)
    for timeout in (0, 0.01, timedelta(milliseconds=1)):
        with pytest.raises(TaskTimeoutError, match="pending"):
            await queue.get_result(handle, timeout=timeout)
    assert issubclass(TaskTimeoutError, TimeoutError)
    await drain(queue)
    assert (await queue.get_result(handle, timeout=0)).value == 3


async def test_a_hundred_waiters_are_all_served(queue: TaskQueue) -> None:
    handles = await queue.enqueue_many([call(add, number) for number in range(100)])
    waiting = [asyncio.create_task(handle.result(timeout=PATIENCE)) for handle in handles]
    await drain(queue)
    assert await asyncio.gather(*waiting) == list(range(100))


async def test_a_failure_carries_what_happened_in_the_worker(queue: TaskQueue) -> None:
    handle = await queue.enqueue(fail, "of all things")
    await drain(queue)
    result = await queue.get_result(handle)
    assert (result.status, result.error_type, result.error) == (Status.FAILED, "ValueError", "of all things")
    assert "in fail" in (result.traceback or "")
    with pytest.raises(TaskFailedError, match="of all things") as caught:
        await handle.result(timeout=0)
    assert caught.value.task_id == handle
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


async def test_a_handle_is_its_id(queue: TaskQueue) -> None:
    handle = await queue.enqueue(add, 1)
    assert isinstance(handle, TaskHandle)
    assert isinstance(handle, str)
    again = pickle.loads(pickle.dumps(handle))
    assert (type(again), again) == (str, handle)
    assert {handle: 1}[again] == 1


# -- Looking and cancelling ------------------------------------------------------------------------


async def test_find_filters_and_pages(queue: TaskQueue) -> None:
    mail = await queue.options(queue="mail").enqueue_many([call(add, number) for number in range(25)])
    await queue.enqueue(defined, 1)
    pages, before = [], None
    while page := await queue.find(queue="mail", limit=10, before=before):
        pages.append([record.id for record in page])
        before = page[-1].seq
    assert [len(page) for page in pages] == [10, 10, 5]
    assert [one for page in pages for one in page] == mail[::-1]
    assert [record.name for record in await queue.find(name="adding")] == ["adding"]
    assert len(await queue.find(status=Status.PENDING)) == 26
    assert await queue.find(status=[]) == []
    assert len(await queue.find(status=["pending", Status.FAILED])) == 26
    now = datetime.now(UTC)
    assert await queue.find(since=now + timedelta(hours=1)) == []
    assert len(await queue.find(since=now - timedelta(hours=1), until=now + timedelta(hours=1))) == 26


async def test_stats_count(queue: TaskQueue) -> None:
    await queue.options(queue="mail").enqueue(fail, "x")
    await queue.enqueue(add, 1)
    await drain(queue)
    await queue.options(queue="mail").enqueue(add, 1)
    counts = {one.queue: dict(one.counts) for one in (await queue.stats()).queues}
    assert counts == {"default": {Status.SUCCESS: 1}, "mail": {Status.FAILED: 1, Status.PENDING: 1}}


async def test_a_cancelled_task_never_starts(queue: TaskQueue) -> None:
    handle = await queue.enqueue(add, 1)
    assert await handle.cancel() is Status.CANCELLED
    assert await queue.cancel(handle) is Status.CANCELLED
    await drain(queue)
    result = await queue.get_result(handle, timeout=0)
    assert (result.status, result.attempts) == (Status.CANCELLED, 0)
    with pytest.raises(TaskError, match="cancelled"):
        await handle.result(timeout=0)


async def test_a_finished_task_stays_finished(queue: TaskQueue) -> None:
    handle = await queue.enqueue(add, 1)
    await drain(queue)
    assert await queue.cancel(handle) is Status.SUCCESS
    assert (await queue.get_result(handle)).value == 1


# -- Open and closed -------------------------------------------------------------------------------

VERBS: dict[str, Callable[[TaskQueue], Any]] = {
    "enqueue": lambda queue: queue.enqueue(add, 1),
    "enqueue_many": lambda queue: queue.enqueue_many([call(add, 1)]),
    "options": lambda queue: queue.options(priority=1).enqueue(add, 1),
    "get_result": lambda queue: queue.get_result("x"),
    "get_result, waiting": lambda queue: queue.get_result("x", timeout=1),
    "get_status": lambda queue: queue.get_status("x"),
    "get": lambda queue: queue.get("x"),
    "find": lambda queue: queue.find(),
    "stats": lambda queue: queue.stats(),
    "cancel": lambda queue: queue.cancel("x"),
}


@pytest.mark.parametrize("verb", VERBS)
async def test_a_closed_queue_says_so(backend: Backend, verb: str) -> None:
    queue = TaskQueue(backend)
    await queue.open()
    await queue.close()
    await queue.close()
    with pytest.raises(QueueClosedError, match=r"open\(\)"):
        await VERBS[verb](queue)


@pytest.mark.parametrize("verb", VERBS)
async def test_a_queue_opens_itself(backend: Backend, verb: str) -> None:
    queue = TaskQueue(backend)
    try:
        await VERBS[verb](queue)
    except TaskNotFoundError:
        pass
    assert isinstance(await queue.find(), list)
    await queue.close()


async def test_a_closed_queue_can_be_opened_again(backend: Backend) -> None:
    queue = TaskQueue(backend)
    async with queue:
        handle = await queue.enqueue(add, 1)
    async with queue:
        await queue.open()
        assert await queue.get_status(handle) is Status.PENDING


async def test_who_waits_is_told_of_a_close(backend: Backend) -> None:
    queue = TaskQueue(backend)
    handle = await queue.enqueue(add, 1)
    waiting = asyncio.create_task(queue.get_result(handle, timeout=3600))
    async with asyncio.timeout(PATIENCE):
        while not backend._bells._tasks:  # type: ignore[attr-defined]
            await asyncio.sleep(0)
    await queue.close()
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(SitqError):
            await waiting


async def test_a_first_use_from_many_places_opens_once(backend: Backend) -> None:
    queue = TaskQueue(backend)
    await asyncio.gather(*(queue.enqueue(add, number) for number in range(50)))
    assert len(await stored(queue)) == 50
    await queue.close()


async def test_two_queues_and_a_worker_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    async with TaskQueue(path) as ours, TaskQueue(path) as theirs:
        handle = await ours.enqueue(add, 20, 22)
        await Worker(theirs).run(until_idle=True)
        assert await handle.result(timeout=PATIENCE) == 42
