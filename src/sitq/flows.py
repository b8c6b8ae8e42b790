"""Tasks that follow each other, and tasks side by side: thin functions over calls as arguments of calls."""
# What comes in here is of any type:
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, overload

from sitq.errors import ValidationError
from sitq.handle import SyncTaskHandle, TaskHandle
from sitq.parents import gathered
from sitq.task import Call, call


@overload
def chain[R](first: Call[R], /) -> Call[R]: ...
@overload
def chain[A, R](first: Call[A], then: Callable[[A], Awaitable[R]], /) -> Call[R]: ...
@overload
def chain[A, R](first: Call[A], then: Callable[[A], R], /) -> Call[R]: ...
@overload
def chain(
    first: Call[Any], then: Callable[..., Any], after: Callable[..., Any], /, *more: Callable[..., Any]
) -> Call[Any]: ...
def chain(first: Call[Any], /, *then: Callable[..., Any]) -> Call[Any]:
    """Return a call for each function in turn: `chain(call(fetch, url), parse, partial(save, table="pages"))`.

    Each is a task of its own, and gets the value of the one before as its first argument. The value of the last one is
    that of the chain. What fails cancels what comes after it.

    Raises:
        ValidationError: Not a call first, not functions after it, or one does not take these arguments.
    """
    if not isinstance(first, Call):
        raise ValidationError(
            f"chain begins with a value of type {type(first).__qualname__}: begin with call(func, ...)"
        )
    last: Call[Any] = first
    for func in then:
        if isinstance(func, Call):
            raise ValidationError(
                f"chain goes on with a call of {func.name}: give the function, or partial(func, ...) with its other "
                "arguments; the first one is the value before"
            )
        last = call(func, last)
    return last


def group[R](calls: Iterable[Call[R] | TaskHandle[R] | SyncTaskHandle[R]], /) -> Call[list[R]]:
    """Return a call that gives the values of all these calls, or tasks by their handles, as a list in their order.

    The calls are tasks of their own, side by side; the list is the result of one more, and so no larger than
    `max_payload`. A function that takes a list can have the calls themselves: `call(merge, [call(count, part) for
    part in parts])` saves that task. If one of them fails, the group is cancelled.

    Raises:
        ValidationError: Something is neither a call nor a handle.
    """
    if not isinstance(calls, Iterable) or isinstance(calls, str | Call):
        raise ValidationError(
            f"calls is a {type(calls).__qualname__}: give calls, as in [call(func, 1), call(func, 2)]"
        )
    members: list[Any] = list(calls)
    for member in members:
        if not isinstance(member, Call | TaskHandle | SyncTaskHandle):
            raise ValidationError(
                f"group got a value of type {type(member).__qualname__}: give calls, as in "
                "group([call(func, 1), call(func, 2)]), or handles"
            )
    made: Call[list[R]] = call(gathered, members)
    return made
