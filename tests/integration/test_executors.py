"""Where a call runs: what the task says, else what its function and its worker say."""

import asyncio
import threading
from collections.abc import Awaitable
from typing import Any

import pytest

from sitq import Call, Status, TaskQueue, Worker, current_task
from sitq.events import TaskParked, TaskStuck
from tests.integration.support import Gate, drain, recorded
from tests.support import PATIENCE

gate: Gate
cleaned_up = threading.Event()
went_in = threading.Event()


def where() -> tuple[str, str, bool]:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        has_loop = False
    else:
        has_loop = True
    return threading.current_thread().name.partition("-")[0], current_task().name.rpartition(".")[2], has_loop


async def where_async() -> tuple[str, str, bool]:
    await asyncio.sleep(0)
    return where()


def returns_a_coroutine() -> Any:
    return where_async()


async def exits() -> None:
    raise SystemExit(3)


async def hang() -> None:
    went_in.set()
    try:
        await asyncio.sleep(3600)
    finally:
        cleaned_up.set()


MAIN, THREAD = "MainThread", "sitq"


@pytest.mark.parametrize(
    ("func", "said", "default", "thread", "has_loop"),
    [
        (where, None, None, THREAD, False),
        (where, "thread", None, THREAD, False),
        (where, "async", None, MAIN, True),
        (where, None, "async", MAIN, True),
        (where, None, "thread", THREAD, False),
        (where, "thread", "async", THREAD, False),
        (where_async, None, None, MAIN, True),
        (where_async, "async", None, MAIN, True),
        (where_async, "thread", None, THREAD, True),
        (where_async, None, "thread", MAIN, True),
        (returns_a_coroutine, "async", None, MAIN, True),
    ],
)
async def test_odd_pairs_run_too(func: Any, said: Any, default: Any, thread: str, has_loop: bool) -> None:
    async with TaskQueue("memory://") as queue:
        options = queue.options(executor=said) if said else queue
        handle = await options.enqueue(func)
        await drain(queue, executor=default)
        name = "where" if func is where else func.__name__
        assert await handle.result(timeout=0) == (thread, name, has_loop)


@pytest.mark.parametrize("why", ["cancel", "timeout", "stop"])
async def test_a_coroutine_on_a_thread_is_cancelled_there(why: str) -> None:
    cleaned_up.clear()
    went_in.clear()
    async with TaskQueue("memory://") as queue:
        worker = Worker(queue, shutdown_timeout=0)
        events = recorded(worker)
        async with asyncio.timeout(2 * PATIENCE), worker:
            limit = 0.05 if why == "timeout" else None
            handle = await queue.options(executor="thread", timeout=limit).enqueue(hang)
            if why == "timeout":
                assert (await queue.get_result(handle, timeout=PATIENCE)).error_type == "TimeoutError"
            else:
                await asyncio.to_thread(went_in.wait, PATIENCE)
            if why == "cancel":
                assert await handle.cancel(timeout=PATIENCE) is Status.CANCELLED
        if went_in.is_set():
            assert cleaned_up.is_set()
        expected = {"cancel": Status.CANCELLED, "timeout": Status.FAILED, "stop": Status.PENDING}
        assert await handle.status() is expected[why]
        assert not events.of(TaskStuck)


async def test_an_exit_on_a_loop_of_its_own_is_an_error_like_any_other() -> None:
    async with TaskQueue("memory://") as queue:
        handle = await queue.options(executor="thread").enqueue(exits)
        await drain(queue)
        assert (await queue.get_result(handle)).error_type == "SystemExit"


# -- Runners of a queue ----------------------------------------------------------------------------


class Noting:
    """Runs calls on the loop, and notes what happened to it."""

    made: "list[Noting]" = []  # noqa: RUF012

    def __init__(self, concurrency: int) -> None:
        self.concurrency = concurrency
        self.seen: list[str] = []
        Noting.made.append(self)

    def run(self, call: Call[Any]) -> Awaitable[Any]:
        self.seen.append(call.name.rpartition(".")[2])
        return self._run(call)

    async def _run(self, call: Call[Any]) -> Any:
        value = call.func(*call.args, **call.kwargs)
        return await value if asyncio.iscoroutine(value) else value

    def close(self) -> None:
        self.seen.append("closed")


async def test_a_runner_of_the_queue_runs_what_names_it() -> None:
    Noting.made.clear()
    async with TaskQueue("memory://", runners={"noting": Noting}) as queue:
        named = await queue.options(executor="noting").enqueue(where_async)
        plain = await queue.enqueue(where)
        other = await queue.enqueue(where_async)
        await drain(queue, concurrency=7, executor="noting")
        for handle in (named, plain, other):
            assert (await handle.result(timeout=0))[0] == MAIN
    [runner] = Noting.made
    assert (runner.concurrency, runner.seen) == (7, ["where_async", "where", "closed"])


async def test_a_worker_that_lacks_the_runner_leaves_the_task_to_others(tmp_path: Any) -> None:
    async with TaskQueue(tmp_path / "tasks.db", runners={"noting": Noting}) as queue:
        handle = await queue.options(executor="noting").enqueue(where)
    async with TaskQueue(tmp_path / "tasks.db") as queue:
        events = await drain(queue)
        [parked] = events.of(TaskParked)
        assert parked.task_id == handle
        assert parked.error.startswith("executor is 'noting', which nobody knows here")
        record = await queue.get(handle)
        assert (record.status, record.attempt) == (Status.PENDING, 0)


async def test_a_runner_that_cannot_be_made_keeps_the_worker_from_starting() -> None:
    def broken(concurrency: int) -> Any:
        raise ConnectionError("no such engine")

    async with TaskQueue("memory://", runners={"broken": broken}) as queue:
        with pytest.raises(ConnectionError, match="no such engine"):
            await Worker(queue).run(until_idle=True)
        loop = asyncio.get_running_loop()
        assert loop.get_task_factory() is None
