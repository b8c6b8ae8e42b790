"""A lifespan is entered and left in one asyncio task, whatever happens there; tasks get what it gives, by its class."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager
from contextvars import Context
from dataclasses import dataclass
from io import StringIO
from typing import Any

import pytest

from sitq import CurrentTask, TaskError, ValidationError, WorkerError, resource, resources
from sitq.context import bind
from sitq.resources import Lifespan, check_resources, provide
from tests.support import PATIENCE


@dataclass(frozen=True)
class Pool:
    size: int


class BigPool(Pool):
    pass


def own_context() -> Context:
    return bind(CurrentTask("id-1", "app.work", "mail", 1))


# -- In a task -------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [Pool(1), BigPool(2)])
def test_by_class(value: Pool) -> None:
    own = own_context()
    own.run(provide, value)
    assert own.run(resource, Pool) is value
    assert own.run(resource, object) is value


def test_in_threads_that_copy_the_context() -> None:
    own = own_context()
    own.run(provide, Pool(1))
    assert own.run(lambda: asyncio.run(asyncio.to_thread(resource, Pool))) == Pool(1)


def test_another_class() -> None:
    own = own_context()
    own.run(provide, Pool(1))
    with pytest.raises(
        TaskError, match=r"of type .*Pool, not BigPool: ask for what Worker\(resources=\.\.\.\) gives"
    ):
        own.run(resource, BigPool)


def test_a_lifespan_that_gives_nothing() -> None:
    own = own_context()
    own.run(provide, None)
    with pytest.raises(TaskError, match="of type NoneType, not Pool"):
        own.run(resource, Pool)


def test_a_worker_without_any() -> None:
    with pytest.raises(TaskError, match=r"has no resources: give it some with Worker\(queue, resources"):
        own_context().run(resource, Pool)


def test_outside_a_task() -> None:
    with pytest.raises(TaskError, match=r"resource\(\) was called outside a task"):
        resource(Pool)


@pytest.mark.parametrize("kind", [5, "Pool", dict[str, int]])
def test_what_is_no_class(kind: Any) -> None:
    own = own_context()
    own.run(provide, Pool(1))
    with pytest.raises(ValidationError, match=r"kind is a.*: give the class of the resources"):
        own.run(resource, kind)


# -- What makes them -------------------------------------------------------------------------------


@asynccontextmanager
async def lifespan() -> AsyncGenerator[Pool]:
    yield Pool(1)


async def bare_async_generator() -> AsyncGenerator[Pool]:
    yield Pool(1)


def bare_generator() -> Generator[Pool]:
    yield Pool(1)


async def coroutine() -> Pool:
    return Pool(1)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (5, "resources is an int: give a function that returns a context manager"),
        (Pool(1), "resources is a Pool: give a function"),
        (lifespan(), "resources is a context manager already: give the function, without calling it"),
        (AsyncExitStack(), "resources is a context manager already"),
        (StringIO(), "resources is a context manager already"),
        (bare_async_generator, "resources is a generator function: decorate it with @asynccontextmanager"),
        (bare_generator, "resources is a generator function: decorate it with @contextmanager"),
        (coroutine, "resources is a coroutine function: give a function that returns a context manager"),
    ],
)
def test_what_is_not_usable_is_refused(given: Any, words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        check_resources(given)
    assert words in str(caught.value)


def test_what_is_usable() -> None:
    for given in (None, lifespan, StringIO, lambda: closing(StringIO())):
        assert check_resources(given) is given


# -- The lifespan ----------------------------------------------------------------------------------


@contextmanager
def plain(log: list[str]) -> Generator[Pool]:
    log.append("up")
    yield Pool(1)
    log.append("down")


@asynccontextmanager
async def grown(log: list[str]) -> AsyncGenerator[Pool]:
    async with (
        asyncio.timeout(None),
        asyncio.TaskGroup() as group,
    ):  # both know in which task they were entered
        beside = group.create_task(asyncio.Event().wait())
        log.append("up")
        yield Pool(1)
        log.append("down")
        beside.cancel()


@pytest.mark.parametrize("make", [plain, grown])
async def test_from_start_to_close_in_whatever_task(make: Callable[[list[str]], Any]) -> None:
    log: list[str] = []
    one = Lifespan(lambda: make(log))
    assert (log, one.value) == ([], None)
    await asyncio.create_task(one.start())
    assert (log, one.value) == (["up"], Pool(1))
    await asyncio.create_task(one.close())
    await one.close()
    assert log == ["up", "down"]


async def test_one_that_was_never_started_is_closed() -> None:
    await Lifespan(lifespan).close()


@asynccontextmanager
async def fails_to_start(error: BaseException) -> AsyncGenerator[None]:
    for _ in range(0):
        yield
    raise error


@pytest.mark.parametrize("error", [OSError("no database"), SystemExit(3), KeyboardInterrupt()])
async def test_a_start_that_fails(error: BaseException) -> None:
    with pytest.raises(WorkerError, match="its resources could not be set up") as caught:
        await Lifespan(lambda: fails_to_start(error)).start()
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("make", [lambda: 5, bare_async_generator, coroutine])
async def test_what_makes_no_context_manager(make: Any) -> None:
    made = make()
    with pytest.raises(WorkerError, match=r"TypeError: resources returned a.*give a function that returns"):
        await Lifespan(lambda: made).start()
    if hasattr(made, "close"):
        made.close()


async def test_a_function_that_raises() -> None:
    with pytest.raises(WorkerError, match="could not be set up, so it was not started: ZeroDivisionError"):
        await Lifespan(lambda: 1 / 0).start()  # type: ignore[arg-type, return-value]


async def test_a_start_that_is_cancelled_undoes_what_was_done() -> None:
    begun, undone = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def waits() -> AsyncGenerator[None]:
        try:
            begun.set()
            await asyncio.Event().wait()
            yield
        finally:
            undone.set()

    starting = asyncio.create_task(Lifespan(waits).start())
    await begun.wait()
    starting.cancel()
    await asyncio.wait([starting])
    assert starting.cancelled()
    assert undone.is_set()


@pytest.mark.parametrize("error", [OSError("lost"), SystemExit(3)])
async def test_an_end_that_fails(error: BaseException) -> None:
    @asynccontextmanager
    async def fails() -> AsyncGenerator[None]:
        yield
        raise error

    one = Lifespan(fails)
    await one.start()
    with pytest.raises(WorkerError, match="its resources could not be taken down") as caught:
        await one.close()
    assert caught.value.__cause__ is error


async def test_an_end_that_takes_too_long_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "TAKE_DOWN_TIMEOUT", 0.01)
    cancelled = asyncio.Event()

    @asynccontextmanager
    async def hangs() -> AsyncGenerator[None]:
        yield
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    one = Lifespan(hangs)
    await one.start()
    with pytest.raises(WorkerError, match=r"not taken down within 0\.01 s"):
        await one.close()
    assert cancelled.is_set()


@asynccontextmanager
async def breaks(when: asyncio.Event) -> AsyncGenerator[None]:
    async def beside() -> None:
        await when.wait()
        raise OSError("connection lost")

    async with asyncio.TaskGroup() as group:
        group.create_task(beside())
        yield


async def test_one_that_ends_by_itself_says_so_once() -> None:
    when, told = asyncio.Event(), asyncio.Event()
    errors: list[WorkerError] = []
    one = Lifespan(lambda: breaks(when))

    def on_end(error: WorkerError) -> None:
        errors.append(error)
        told.set()

    one.on_end = on_end
    await one.start()
    when.set()
    async with asyncio.timeout(PATIENCE):
        await told.wait()
    await one.close()
    [error] = errors
    assert "its resources ended by themselves" in str(error)
    assert isinstance(error.__cause__, ExceptionGroup)


async def test_a_plain_one_runs_on_the_thread_of_the_loop() -> None:
    threads: list[int] = []

    @contextmanager
    def notes() -> Generator[None]:
        threads.append(threading.get_ident())
        yield
        threads.append(threading.get_ident())

    one = Lifespan(notes)
    await one.start()
    await one.close()
    assert threads == [threading.get_ident()] * 2
