# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
"""What type checkers say about `@task` and `call`.

Nothing here runs: mypy (strict) and pyright read it. Each line with an ignore is a mistake that both must reject,
because both report an ignore that is not needed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, assert_type

from sitq.options import TaskOptions
from sitq.rates import RateLimit
from sitq.retry import RetryPolicy
from sitq.task import Call, Task, call, task
from sitq.verbs import Cancel, Retry, Snooze


def resize(key: str, width: int = 100, *, crop: bool = False) -> bytes:
    return b""


async def fetch(key: str, retries: int = 0) -> int:
    return 1


def soon(key: str) -> asyncio.Future[float]:
    raise NotImplementedError


def generic[T](value: T) -> list[T]:
    return [value]


class Point:
    def __init__(self, x: int) -> None: ...

    def moved(self, by: int) -> "Point":
        return self

    async def saved(self, path: str) -> str:
        return path


# -- Definitions -----------------------------------------------------------------------------------


@task
def plain(key: str, width: int = 100) -> bytes:
    return b""


@task(queue="images", priority=1, result_ttl=60, metadata={"a": 1}, max_crashes=2, name="shrink")
def configured(key: str) -> bytes:
    return b""


@task(result_ttl=None)
async def coroutine(key: str) -> int:
    return 1


@task(
    retry=RetryPolicy(max_attempts=5, on=(ConnectionError, TimeoutError), jitter="equal"),
    timeout=timedelta(minutes=5),
    expires=3600,
    unique_key="import",
    unique_until="start",
    concurrency_limit=2,
    rate_limit="100/minute",
)
def limited(key: str) -> bytes:
    return b""


@task(max_retries=3, retry_delay=1.5, throttle=60)
def retried(key: str) -> bytes:
    return b""


def definitions() -> None:
    assert_type(plain("a", width=3), bytes)
    assert_type(configured("a"), bytes)
    unawaited: Coroutine[Any, Any, int] = coroutine("a")
    assert_type(plain.name, str)
    assert_type(plain.options, TaskOptions)

    function: Callable[[str], bytes] = configured
    typed: Task[[str], bytes] = configured
    print(function, typed, unawaited)

    plain(1)  # type: ignore[arg-type]
    plain("a", height=1)  # type: ignore[call-arg]
    plain.name = "b"  # type: ignore[misc]
    task(queue=5)  # type: ignore[call-overload]
    task(eta=None)  # type: ignore[call-overload]
    task(id="a")  # type: ignore[call-overload]
    task(prioritee=1)  # type: ignore[call-overload]
    task(retry="often")  # type: ignore[call-overload]
    task(rate_limit=5)  # type: ignore[call-overload]
    task(unique_until="never")  # type: ignore[call-overload]


async def await_them() -> None:
    assert_type(await coroutine("a"), int)
    await plain("a")  # type: ignore[misc]


# -- Calls -----------------------------------------------------------------------------------------


def calls(anything: Any, unknown: Callable[..., Any]) -> None:
    assert_type(call(resize, "a"), Call[bytes])
    assert_type(call(resize, "a", 3, crop=True), Call[bytes])
    assert_type(call(resize, key="a", width=3), Call[bytes])
    assert_type(call(fetch, "a", retries=2), Call[int])
    assert_type(call(soon, "a"), Call[float])
    assert_type(call(plain, "a"), Call[bytes])
    assert_type(call(configured, key="a"), Call[bytes])
    assert_type(call(coroutine, "a"), Call[int])
    assert_type(call(Point, 1), Call[Point])
    assert_type(call(Point(1).moved, by=2), Call[Point])
    assert_type(call(Point(1).saved, "a"), Call[str])
    assert_type(call(partial(resize, "a"), width=3), Call[bytes])
    assert_type(call(len, "a"), Call[int])
    assert_type(call(generic, "a"), Call[list[str]])
    assert_type(call(lambda: 1), Call[int])
    print(call(anything, 1, a=2), call(unknown, 1, a=2))

    wider: Call[object] = call(fetch, "a")
    print(wider, wider.func, wider.args, wider.kwargs, wider.name)


def mistakes() -> None:
    call(resize)  # type: ignore[call-overload]
    call(resize, 1)  # type: ignore[call-overload]
    call(resize, "a", "b")  # type: ignore[call-overload]
    call(resize, "a", 1, True)  # type: ignore[call-overload]
    call(resize, "a", height=1)  # type: ignore[call-arg, arg-type]
    call(fetch, 1)  # type: ignore[call-overload]
    call(plain, 1)  # type: ignore[call-overload]
    call(coroutine)  # type: ignore[call-overload]
    call(Point, "a")  # type: ignore[call-overload]
    call(fetch("a"))  # type: ignore[call-overload]
    call("app.resize", "a")  # type: ignore[call-overload]

    other: Call[str] = call(fetch, "a")  # type: ignore[call-overload]
    print(other)


def awaitables(func: Callable[[int], Awaitable[str]]) -> None:
    assert_type(call(func, 1), Call[str])


# -- Options ---------------------------------------------------------------------------------------


def options() -> None:
    TaskOptions(priority=1, delay=5, result_ttl=None, context={"a": object()})
    TaskOptions(priority="high")  # type: ignore[arg-type]
    TaskOptions(prioritee=1)  # type: ignore[call-arg]
    TaskOptions(1)  # type: ignore[call-arg, arg-type]
    TaskOptions().priority = 2  # type: ignore[misc]
    TaskOptions(retry=3, timeout=5, expires=datetime.now(UTC), unique_until=timedelta(hours=1))
    TaskOptions(retry=RetryPolicy(), debounce=5, rate_limit=RateLimit(5, timedelta(seconds=1)), rate_key="a")
    TaskOptions(retry="3")  # type: ignore[arg-type]
    TaskOptions(retries=3)  # type: ignore[call-arg]
    TaskOptions(timeout="1h")  # type: ignore[arg-type]
    TaskOptions(unique_until="done")  # type: ignore[arg-type]
    TaskOptions(rate_limit=100)  # type: ignore[arg-type]
    TaskOptions(concurrency_limit="2")  # type: ignore[arg-type]


# -- The life of a task ----------------------------------------------------------------------------


def slower(attempt: int) -> float:
    return attempt * 1.5


def policies() -> None:
    policy = RetryPolicy(backoff=slower, base=timedelta(seconds=1), max_delay=60, give_up_on=KeyError)
    assert_type(policy.max_attempts, int)
    assert_type(policy.base, float)
    assert_type(policy.on, tuple[type[BaseException], ...])
    RetryPolicy(backoff=lambda attempt: timedelta(minutes=attempt), jitter=False, on=[ValueError, OSError])
    RetryPolicy(3)  # type: ignore[call-arg]
    RetryPolicy(attempts=3)  # type: ignore[call-arg]
    RetryPolicy(max_attempts="3")  # type: ignore[arg-type]
    RetryPolicy(backoff="fibonacci")  # type: ignore[arg-type]
    RetryPolicy(backoff=resize)  # type: ignore[arg-type]
    RetryPolicy(on="ValueError")  # type: ignore[arg-type]
    RetryPolicy(on=int)  # type: ignore[arg-type]
    RetryPolicy(jitter="some")  # type: ignore[arg-type]
    policy.base = 5  # type: ignore[misc]


def verbs() -> None:
    assert_type(Snooze(5).delay, timedelta)
    assert_type(Retry().delay, timedelta | None)
    assert_type(Cancel("enough").reason, str)
    error: Exception = Retry(timedelta(minutes=1))
    print(error)
    Snooze()  # type: ignore[call-arg]
    Snooze("1h")  # type: ignore[arg-type]
    Retry("soon")  # type: ignore[arg-type]
    Cancel(5)  # type: ignore[arg-type]
