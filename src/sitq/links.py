"""Calls that take the results of others: unfolded into tasks with edges, parents first."""
# What comes in here is of any type:
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from collections.abc import Collection, Iterator, Sequence
from itertools import count
from typing import Any, Final, NamedTuple, overload

from sitq.errors import ValidationError
from sitq.handle import SyncTaskHandle, TaskHandle
from sitq.ids import new_id
from sitq.model import FINISHED, ONLY_SUCCESS, Edge, TaskId
from sitq.options import TaskOptions
from sitq.parents import Parent, parts, replaced
from sitq.task import Call, Task

_LINKS: Final[frozenset[type]] = frozenset({TaskHandle, SyncTaskHandle, Call})
_SCALARS: Final[frozenset[type]] = frozenset({str, int, float, bool, bytes, type(None)})
_CONTAINERS: Final[frozenset[type]] = frozenset({list, tuple, dict})
_NO_OPTIONS: Final = TaskOptions()


@overload
def result_of[R](parent: TaskHandle[R], /) -> R: ...
@overload
def result_of[R](parent: SyncTaskHandle[R], /) -> R: ...
@overload
def result_of[R](parent: Call[R], /) -> R: ...
def result_of(parent: Any, /) -> Any:
    """Return the handle or call itself, which type checkers take for its result: for an argument of another call.

    `queue.enqueue(add, result_of(handle), 1)` is checked as if the value was there already.

    Raises:
        ValidationError: Neither a handle nor a call.
    """
    if type(parent) not in _LINKS:
        raise ValidationError(
            f"result_of got a value of type {type(parent).__qualname__}: give the handle of a task, or call(func, ...)"
        )
    return parent


def is_linked(call: Call[Any]) -> bool:
    """Return whether a handle or a call is among the arguments, or an element of a list, tuple or dict among them."""
    args, kwargs = call.args, call.kwargs
    if _SCALARS.issuperset(map(type, args)) and not kwargs:  # the usual case, on the way of every call
        return False
    kinds = {*map(type, args), *map(type, kwargs.values())}
    if not kinds.isdisjoint(_LINKS):
        return True
    return not kinds.isdisjoint(_CONTAINERS) and not _LINKS.isdisjoint(map(type, parts(call)))


class Step(NamedTuple):
    """One task of an unfolded batch: its call with markers for values, its options, and what it waits for."""

    call: Call[Any]
    options: TaskOptions
    id: TaskId
    edges: tuple[Edge, ...]


def unfold(calls: Sequence[Call[Any]], given: TaskOptions) -> tuple[list[Step], list[int]]:
    """Return the tasks that these calls come to, parents first, and which of them stand for the calls themselves.

    Calls among arguments become tasks of their own, one for each object, with the options of their `@task`, in the
    queue of the call itself if that names none. Nothing here recurses: calls may be nested a thousand deep.

    Args:
        given: The options of the calls themselves.

    Raises:
        ValidationError: A call depends on itself, or `on_parent_failure` was given to one that depends on nothing.
    """
    unfolding = _Unfolding(calls, given)
    places = [unfolding.place(call) for call in calls]
    return unfolding.steps, places


class _Unfolding:
    def __init__(self, calls: Sequence[Call[Any]], given: TaskOptions) -> None:
        self.steps: list[Step] = []
        self._given = given
        self._outer = {id(call) for call in calls}
        self._made: dict[int, int] = {}  # the place of each call, by the identity of the object
        self._placed: set[int] = set()
        self._numbers = count(1)

    def place(self, call: Call[Any]) -> int:
        """The place of a call of the batch; one that comes twice is two tasks."""
        if id(call) not in self._made:
            self._make(call)
        elif id(call) in self._placed:
            self._finish(call)
        self._placed.add(id(call))
        return self._made[id(call)]

    def _make(self, call: Call[Any]) -> None:
        begun = {id(call)}
        stack: list[tuple[Call[Any], Iterator[Any]]] = [(call, parts(call))]
        while stack:
            current, left = stack[-1]
            inner = next((part for part in left if type(part) is Call and id(part) not in self._made), None)
            if inner is None:
                stack.pop()
                self._finish(current)
            elif id(inner) in begun:
                raise ValidationError(
                    f"the call of {inner.name} depends on itself, by way of its arguments: leave one of them out"
                )
            else:
                begun.add(id(inner))
                stack.append((inner, parts(inner)))

    def _finish(self, call: Call[Any]) -> None:
        """Make the task of a call whose inner calls are made."""
        is_outer = id(call) in self._outer
        options = self._given if is_outer else self._inherited(call)
        numbers: dict[TaskId, int] = {}  # of the parents whose values are arguments

        def marker(link: Any) -> Parent:
            name = self.steps[self._made[id(link)]].id if type(link) is Call else str(link)
            return Parent(numbers.setdefault(name, len(numbers)))

        marked = replaced(call, _LINKS, marker)
        accepts = FINISHED if options.on_parent_failure == "run" else ONLY_SUCCESS
        names = dict.fromkeys([*numbers, *(options.depends_on or ())])
        if options.on_parent_failure is not None and not names:
            raise ValidationError(
                f"on_parent_failure was given, and the call of {call.name} depends on no task: give depends_on, or the "
                "handle of a task as an argument"
            )
        edges = tuple(Edge(name, accepts) for name in names)
        self._made[id(call)] = len(self.steps)
        self.steps.append(Step(marked, options, self._id(options, is_outer=is_outer), edges))

    def _inherited(self, call: Call[Any]) -> TaskOptions:
        """The options of an inner call: it goes to the queue of the outer one, if its `@task` names none."""
        func: Any = call.func
        if self._given.queue is None or (isinstance(func, Task) and func.options.queue is not None):
            return _NO_OPTIONS
        return TaskOptions(queue=self._given.queue)

    def _id(self, options: TaskOptions, *, is_outer: bool) -> TaskId:
        if is_outer:
            return new_id() if options.id is None else options.id
        # So that the same batch under the same id changes nothing when it is stored again.
        return new_id() if self._given.id is None else f"{self._given.id}.{next(self._numbers)}"


def depends(options: TaskOptions, calls: Collection[Call[Any]]) -> bool:
    """Return whether any of these calls, with these options, depends on another task."""
    if options is not _NO_OPTIONS and (
        options.depends_on is not None or options.on_parent_failure is not None
    ):
        return True
    return any(map(is_linked, calls))
