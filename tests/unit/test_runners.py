"""A runner returns what a call returned and raises what it raised: coroutines on the loop, the rest on threads."""

import asyncio
import contextvars
import functools
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from sitq import task
from sitq.context import CurrentTask, bind
from sitq.task import Call
from sitq.worker.runners import AsyncRunner, ThreadRunner, is_coroutine_function
from tests.support import PATIENCE

label: contextvars.ContextVar[str] = contextvars.ContextVar("label", default="unset")


def call(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Call[Any]:
    return Call(func, args, kwargs)


@pytest.fixture
def threads() -> Iterator[Callable[[int], ThreadRunner]]:
    """Makes thread runners, and closes them."""
    made: list[ThreadRunner] = []

    def make(size: int) -> ThreadRunner:
        made.append(ThreadRunner(size))
        return made[-1]

    yield make
    for runner in made:
        runner.close()


@pytest.fixture
async def coroutines() -> AsyncIterator[AsyncRunner]:
    runner = AsyncRunner()
    yield runner
    runner.close()


class Held:
    """A function that a test holds up on its thread."""

    def __init__(self) -> None:
        self.came = threading.Semaphore(0)
        self.open = threading.Event()
        self.threads: list[str] = []

    def __call__(self, value: Any = None) -> Any:
        self.threads.append(threading.current_thread().name)
        self.came.release()
        assert self.open.wait(PATIENCE)
        return value

    async def reached(self, count: int = 1) -> None:
        for _ in range(count):
            assert await asyncio.to_thread(self.came.acquire, timeout=PATIENCE)


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# -- Which runner -----------------------------------------------------------------------------------


async def coroutine_function() -> None: ...


def plain_function() -> None: ...


def wraps_a_coroutine_function() -> Any:
    return coroutine_function()


class Methods:
    async def coroutine(self) -> None: ...
    def plain(self) -> None: ...
    @staticmethod
    async def static() -> None: ...
    @classmethod
    async def of_class(cls) -> None: ...


class AsyncCallable:
    async def __call__(self) -> None: ...


class PlainCallable:
    def __call__(self) -> None: ...


@pytest.mark.parametrize(
    ("func", "expected"),
    [
        (coroutine_function, True),
        (task(coroutine_function), True),
        (task(name="other")(coroutine_function), True),
        (functools.partial(coroutine_function), True),
        (functools.partial(functools.partial(coroutine_function)), True),
        (functools.partial(task(coroutine_function)), True),
        (Methods().coroutine, True),
        (Methods.static, True),
        (Methods.of_class, True),
        (AsyncCallable(), True),
        (AsyncCallable().__call__, True),
        (task(AsyncCallable()), True),
        (plain_function, False),
        (task(plain_function), False),
        (functools.partial(plain_function), False),
        (Methods().plain, False),
        (PlainCallable(), False),
        (wraps_a_coroutine_function, False),
        (lambda: coroutine_function(), False),
        (len, False),
        (dict, False),
        (AsyncCallable, False),
        (Methods, False),
    ],
)
def test_what_gives_a_coroutine_is_known_before_it_is_called(func: Any, expected: bool) -> None:
    assert is_coroutine_function(func) is expected


# -- Threads ----------------------------------------------------------------------------------------


async def test_a_thread_runner_runs_on_a_thread_and_returns_the_value(threads: Any) -> None:
    runner = threads(1)
    name, value = await runner.run(call(lambda a, *, b: (threading.current_thread().name, a + b), 1, b=2))
    assert name.startswith("sitq-task-")
    assert value == 3


async def test_one_thread_serves_one_call_after_the_other(threads: Any) -> None:
    runner = threads(8)
    used = {await runner.run(call(threading.get_ident)) for _ in range(20)}
    assert len(used) == 1
    assert threading.get_ident() not in used


async def test_no_more_threads_than_its_size(threads: Any) -> None:
    runner, held = threads(2), Held()
    runs = [asyncio.create_task(runner.run(call(held, number))) for number in range(6)]
    await held.reached(2)
    assert len(held.threads) == 2
    assert not held.came.acquire(blocking=False)
    held.open.set()
    assert await asyncio.gather(*runs) == list(range(6))
    assert len(held.threads) == 6
    assert len(set(held.threads)) == 2


async def test_it_sees_the_context_of_whoever_runs_it_and_changes_nothing_there(threads: Any) -> None:
    def look_and_set() -> str:
        found = label.get()
        label.set("from the thread")
        return found

    runner = threads(1)
    label.set("from the caller")
    assert await runner.run(call(look_and_set)) == "from the caller"
    assert label.get() == "from the caller"
    label.set("something else")
    assert await runner.run(call(look_and_set)) == "something else"  # nothing stays on the thread


@pytest.mark.parametrize("kind", [ValueError, KeyError, SystemExit, KeyboardInterrupt, GeneratorExit])
async def test_what_a_function_raises_is_raised_and_the_thread_goes_on(
    threads: Any, kind: type[BaseException]
) -> None:
    error = kind("reason")

    def fail() -> None:
        raise error

    runner = threads(1)
    before = await runner.run(call(threading.get_ident))
    with pytest.raises(kind) as caught:
        await runner.run(call(fail))
    assert caught.value is error
    assert await runner.run(call(threading.get_ident)) == before


async def test_a_stop_iteration_arrives_as_every_coroutine_raises_it(threads: Any) -> None:
    error = StopIteration("reason")

    def fail() -> None:
        raise error

    runner = threads(1)
    with pytest.raises(RuntimeError, match="StopIteration") as caught:
        await runner.run(call(fail))
    assert caught.value.__cause__ is error
    assert await runner.run(call(int, "5")) == 5


async def test_a_returned_awaitable_is_awaited_on_the_loop(threads: Any) -> None:
    async def double(number: int) -> tuple[int, int]:
        await asyncio.sleep(0)
        return number * 2, threading.get_ident()

    assert await threads(1).run(call(lambda: double(4))) == (8, threading.get_ident())


async def test_the_first_cancel_waits_for_the_thread(threads: Any) -> None:
    runner, held = threads(1), Held()
    run = asyncio.create_task(runner.run(call(held, "value")))
    await held.reached()
    run.cancel()
    await turns()
    assert not run.done()
    held.open.set()
    assert await asyncio.wait_for(run, PATIENCE) == "value"


async def test_the_second_cancel_leaves_the_thread_behind(threads: Any) -> None:
    runner, held = threads(1), Held()
    run = asyncio.create_task(runner.run(call(held)))
    await held.reached()
    run.cancel()
    await turns()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert not held.open.is_set()
    held.open.set()
    # The late answer hurts nobody, and the thread takes the next call.
    assert await asyncio.wait_for(runner.run(call(int, "5")), PATIENCE) == 5


async def test_close_ends_idle_threads() -> None:
    runner = ThreadRunner(1)
    thread = await runner.run(call(threading.current_thread))
    assert thread.daemon
    runner.close()
    await asyncio.to_thread(thread.join, PATIENCE)
    assert not thread.is_alive()


async def test_close_does_not_wait_for_what_runs() -> None:
    runner, held = ThreadRunner(1), Held()
    run = asyncio.create_task(runner.run(call(held, "value")))
    await held.reached()
    runner.close()
    assert not run.done()
    held.open.set()
    assert await asyncio.wait_for(run, PATIENCE) == "value"


async def test_an_idle_thread_keeps_nothing_of_the_last_call(threads: Any) -> None:
    class Argument: ...

    runner = threads(1)
    argument = Argument()
    gone = asyncio.Event()
    loop = asyncio.get_running_loop()
    weakref.finalize(argument, loop.call_soon_threadsafe, gone.set)
    assert await runner.run(call(lambda given: given is not None, argument))
    del argument
    gc.collect()
    async with asyncio.timeout(PATIENCE):
        await gone.wait()
    assert gone.is_set()


# -- Coroutines -------------------------------------------------------------------------------------


async def test_a_coroutine_runs_on_the_loop(coroutines: AsyncRunner) -> None:
    async def work(a: int, *, b: int) -> tuple[int, int]:
        return threading.get_ident(), a + b

    assert await coroutines.run(call(work, 1, b=2)) == (threading.get_ident(), 3)


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt, asyncio.CancelledError])
async def test_what_a_coroutine_raises_is_raised(coroutines: AsyncRunner, kind: type[BaseException]) -> None:
    async def fail() -> None:
        raise kind("reason")

    with pytest.raises(kind, match="reason"):
        await coroutines.run(call(fail))


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
async def test_an_asyncio_task_of_a_run_cannot_end_the_loop(
    coroutines: AsyncRunner, kind: type[BaseException]
) -> None:
    async def fail() -> None:
        raise kind("reason")

    async def work() -> None:
        await asyncio.create_task(fail())

    run = asyncio.get_running_loop().create_task(
        coroutines.run(call(work)), context=bind(CurrentTask("id-1", "work", "default", 1))
    )
    with pytest.raises(RuntimeError, match=kind.__name__) as caught:
        await run
    assert isinstance(caught.value.__cause__, kind)


async def test_the_former_task_factory_is_used_and_comes_back() -> None:
    loop = asyncio.get_running_loop()
    names: list[str] = []

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:
        names.append(coro.__name__)
        return asyncio.Task(coro, loop=loop, **options)

    loop.set_task_factory(factory)
    try:
        runner = AsyncRunner()
        await loop.create_task(coroutine_function())
        runner.close()
        assert names == ["coroutine_function"]
        assert loop.get_task_factory() is factory
    finally:
        loop.set_task_factory(None)


async def test_a_task_factory_of_somebody_else_stays() -> None:
    loop = asyncio.get_running_loop()

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:
        return asyncio.Task(coro, loop=loop, **options)

    runner = AsyncRunner()
    loop.set_task_factory(factory)
    try:
        runner.close()
        assert loop.get_task_factory() is factory
    finally:
        loop.set_task_factory(None)
