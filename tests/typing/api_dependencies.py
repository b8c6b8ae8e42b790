# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
"""What type checkers say about tasks that depend on others.

Nothing here runs: mypy (strict) and pyright read it. Each line with an ignore is a mistake that both must reject,
because both report an ignore that is not needed.
"""

from datetime import UTC, datetime
from functools import partial
from typing import Any, assert_type

from sitq import (
    Call,
    SyncTaskHandle,
    SyncTaskQueue,
    TaskHandle,
    TaskQueue,
    call,
    chain,
    group,
    result_of,
    task,
)


def add(a: int, b: int = 0) -> int:
    return a + b


async def double(number: int) -> float:
    return 2.0 * number


def total(numbers: list[int]) -> int:
    return sum(numbers)


@task
def text(number: float) -> str:
    return str(number)


async def results(queue: TaskQueue, handle: TaskHandle[int]) -> None:
    assert_type(result_of(handle), int)
    assert_type(result_of(call(double, 1)), float)
    assert_type(await queue.enqueue(add, result_of(handle), 1), TaskHandle[int])
    assert_type(await queue.enqueue(total, [result_of(handle), 2]), TaskHandle[int])
    assert_type(call(text, result_of(call(double, result_of(handle)))), Call[str])
    await queue.enqueue(total, result_of(handle))  # type: ignore[call-overload]
    result_of("id")  # type: ignore[call-overload]


async def calls(queue: TaskQueue) -> None:
    assert_type(await queue.enqueue(call(add, 1)), TaskHandle[int])
    assert_type(await queue.enqueue(call(double, 1), eta=datetime.now(UTC)), TaskHandle[float])
    assert_type(await queue.options(queue="images").enqueue(call(text, 1.0)), TaskHandle[str])
    await queue.enqueue(call(add, 1), 2)  # type: ignore[call-overload]


def steps(anything: Any, handle: TaskHandle[int]) -> None:
    assert_type(chain(call(add, 1)), Call[int])
    assert_type(chain(call(add, 1), double), Call[float])
    assert_type(chain(call(add, 1), add), Call[int])
    assert_type(chain(call(double, 1), text), Call[str])
    assert_type(chain(call(add, 1), double, text, partial(print, end="")), Call[Any])
    assert_type(group([call(add, 1), call(add, 2)]), Call[list[int]])
    assert_type(group(call(double, number) for number in range(3)), Call[list[float]])
    assert_type(group([handle, handle]), Call[list[int]])
    assert_type(chain(group([call(add, 1)]), total), Call[int])
    chain(add, double)  # type: ignore[call-overload]


async def options(queue: TaskQueue, handle: TaskHandle[int]) -> None:
    queue.options(depends_on=handle)
    queue.options(depends_on=[handle, "id"], on_parent_failure="run")
    queue.options(on_parent_failure="skip")  # type: ignore[arg-type]
    queue.options(depends_on=5)  # type: ignore[arg-type]
    assert_type((await queue.get(handle)).parents, tuple[str, ...])
    assert_type((await queue.get_result(handle)).cancelled_by, str | None)


def synchronous(queue: SyncTaskQueue, handle: SyncTaskHandle[int]) -> None:
    assert_type(queue.enqueue(call(add, 1)), SyncTaskHandle[int])
    assert_type(queue.enqueue(add, result_of(handle)), SyncTaskHandle[int])
    assert_type(queue.options(depends_on=handle).enqueue(call(add, 1)), SyncTaskHandle[int])
    assert_type(queue.enqueue(group([handle])), SyncTaskHandle[list[int]])
