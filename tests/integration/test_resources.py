"""The resources of a worker: there before its first task and until its last one has ended, set up once."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from sitq import Status, TaskQueue, Worker, WorkerError, resource
from tests.integration.support import Gate, drain
from tests.support import PATIENCE

gate: Gate


@pytest.fixture(autouse=True)
async def shared() -> None:
    global gate
    gate = Gate()


@dataclass
class Pool:
    """Notes what happens to it."""

    log: list[str] = field(default_factory=list)
    open: bool = False

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator["Pool"]:
        await asyncio.sleep(0)
        self.log.append("up")
        self.open = True
        yield self
        self.open = False
        self.log.append("down")

    @contextmanager
    def plain(self) -> Generator["Pool"]:
        self.log.append("up")
        self.open = True
        yield self
        self.open = False
        self.log.append("down")


async def in_a_coroutine() -> list[bool]:
    child = asyncio.create_task(read())
    return [await read(), await child, await asyncio.to_thread(lambda: resource(Pool).open)]


async def read() -> bool:
    return resource(Pool).open


def on_a_thread() -> list[bool]:
    return [resource(Pool).open, asyncio.run(asyncio.to_thread(lambda: resource(Pool).open))]


async def at_the_gate() -> bool:
    await gate.pass_through()
    return resource(Pool).open


@asynccontextmanager
async def working(worker: Worker) -> AsyncIterator["asyncio.Task[None]"]:
    running = asyncio.create_task(worker.run())
    yield running
    async with asyncio.timeout(PATIENCE):
        await worker.stop()


# -- The life of a worker --------------------------------------------------------------------------


@pytest.mark.parametrize("func", [in_a_coroutine, on_a_thread])
@pytest.mark.parametrize("kind", ["lifespan", "plain"])
async def test_tasks_get_them(queue: TaskQueue, func: Callable[..., Any], kind: str) -> None:
    pool = Pool()
    handles = [await queue.enqueue(func) for _ in range(20)]
    await drain(queue, concurrency=3, resources=getattr(pool, kind))
    for handle in handles:
        assert all(await handle.result(timeout=0))
    assert pool.log == ["up", "down"]


async def test_they_are_there_until_the_last_task_has_ended(queue: TaskQueue) -> None:
    pool = Pool()
    handle = await queue.enqueue(at_the_gate)
    worker = Worker(queue, resources=pool.lifespan)
    async with working(worker) as running:
        await gate.wait_reached()
        stopping = asyncio.create_task(worker.stop())
        await asyncio.sleep(0)
        assert pool.log == ["up"]
        gate.open()
        await stopping
        await running
    assert await handle.result(timeout=0) is True
    assert pool.log == ["up", "down"]


async def test_beside_an_application(queue: TaskQueue) -> None:
    pool = Pool()
    async with Worker(queue, resources=pool.lifespan):
        assert pool.open
        assert await (await queue.enqueue(read)).result(timeout=PATIENCE) is True
    assert pool.log == ["up", "down"]


async def test_an_application_that_fails(queue: TaskQueue) -> None:
    pool = Pool()
    with pytest.raises(KeyError):
        async with Worker(queue, resources=pool.lifespan):
            raise KeyError
    assert pool.log == ["up", "down"]


async def test_process_task_alone_and_beside(queue: TaskQueue) -> None:
    pool = Pool()
    worker = Worker(queue, resources=pool.lifespan)
    first, second = [await queue.enqueue(read) for _ in range(2)]
    assert (await worker.process_task(first)).value is True
    assert pool.log == ["up", "down"]
    await queue.pause("default")
    third = await queue.options(queue="other", delay=3600).enqueue(read)
    async with worker:
        assert pool.log == ["up", "down", "up"]
        assert (await queue.get_status(third)) is Status.PENDING
        await queue.resume("default")
        assert await second.result(timeout=PATIENCE) is True
    assert pool.log == ["up", "down", "up", "down"]


async def test_each_worker_has_its_own(queue: TaskQueue) -> None:
    one, other = Pool(), Pool()
    handles = [await queue.options(queue=name).enqueue(which) for name in ("a", "b")]
    async with (
        Worker(queue, queues=["a"], resources=one.lifespan),
        Worker(queue, queues=["b"], resources=other.lifespan),
    ):
        found = [await handle.result(timeout=PATIENCE) for handle in handles]
    assert found == [id(one), id(other)]


def which() -> int:
    return id(resource(Pool))


async def test_a_run_that_is_cancelled_takes_them_down(queue: TaskQueue) -> None:
    pool = Pool()
    handle = await queue.enqueue(at_the_gate)
    running = asyncio.create_task(Worker(queue, resources=pool.lifespan).run())
    await gate.wait_reached()
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
    assert pool.log == ["up", "down"]
    assert await queue.get_status(handle) is Status.PENDING


async def test_a_worker_without_any(queue: TaskQueue) -> None:
    handle = await queue.enqueue(read)
    await drain(queue)
    result = await queue.get_result(handle)
    assert (result.error_type, result.error) == (
        "sitq.errors.TaskError",
        "the worker that runs this task has no resources: give it some with Worker(queue, resources=...)",
    )


# -- What goes wrong -------------------------------------------------------------------------------


@asynccontextmanager
async def cannot_start() -> AsyncGenerator[None]:
    for _ in range(0):
        yield
    raise OSError("no database")


@asynccontextmanager
async def cannot_end() -> AsyncGenerator[Pool]:
    yield Pool(open=True)
    raise OSError("connection lost")


async def test_a_worker_whose_resources_fail_does_not_start(queue: TaskQueue) -> None:
    handle = await queue.enqueue(read)
    factory = asyncio.get_running_loop().get_task_factory()
    message = r"worker w1: its resources could not be set up, so it was not started: OSError: no database"
    worker = Worker(queue, id="w1", resources=cannot_start)
    with pytest.raises(WorkerError, match=message) as caught:
        await worker.run()
    assert isinstance(caught.value.__cause__, OSError)
    await worker.stop()
    with pytest.raises(WorkerError, match=message):
        async with Worker(queue, id="w1", resources=cannot_start):
            raise AssertionError
    with pytest.raises(WorkerError, match=message):
        await Worker(queue, id="w1", resources=cannot_start).process_task(handle)
    found = await queue.get(handle)
    assert (found.status, found.attempt) == (Status.PENDING, 0)
    assert await queue.workers() == []
    assert asyncio.get_running_loop().get_task_factory() is factory


async def test_an_end_that_fails_comes_after_everything_is_stored(queue: TaskQueue) -> None:
    message = r"worker w1: its resources could not be taken down: OSError: connection lost"
    handle = await queue.enqueue(read)
    with pytest.raises(WorkerError, match=message) as caught:
        await Worker(queue, id="w1", resources=cannot_end).run(until_idle=True)
    assert isinstance(caught.value.__cause__, OSError)
    assert await handle.result(timeout=0) is True
    assert await queue.workers() == []
    with pytest.raises(WorkerError, match=message):
        async with Worker(queue, id="w1", resources=cannot_end):
            pass
    other = await queue.enqueue(read)
    with pytest.raises(WorkerError, match=message):
        await Worker(queue, id="w1", resources=cannot_end).process_task(other)
    assert await other.result(timeout=0) is True


async def test_a_worker_whose_resources_end_stops_in_order(queue: TaskQueue) -> None:
    lost = asyncio.Event()

    @asynccontextmanager
    async def breaks() -> AsyncGenerator[Pool]:
        async def watch() -> None:
            await lost.wait()
            raise OSError("connection lost")

        async with asyncio.TaskGroup() as group:
            group.create_task(watch())
            yield Pool(open=True)

    handle = await queue.enqueue(at_the_gate)
    running = asyncio.create_task(Worker(queue, id="w1", resources=breaks).run())
    await gate.wait_reached()
    lost.set()
    gate.open()
    with pytest.raises(WorkerError, match="worker w1: its resources ended by themselves") as caught:
        async with asyncio.timeout(PATIENCE):
            await running
    assert isinstance(caught.value.__cause__, ExceptionGroup)
    assert await handle.result(timeout=0) is True


async def test_a_task_that_keeps_what_it_got_hurts_nobody(queue: TaskQueue) -> None:
    """A later run of the same thread gets those of its own worker, or none."""
    pool = Pool()
    first = await queue.enqueue(on_a_thread)
    await drain(queue, concurrency=1, resources=pool.lifespan)
    second = await queue.enqueue(on_a_thread)
    await drain(queue, concurrency=1)
    assert await queue.get_status(first) is Status.SUCCESS
    assert (await queue.get_result(second)).error_type == "sitq.errors.TaskError"
