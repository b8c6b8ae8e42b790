"""Arguments that are results of other tasks: what stands for them in a payload, and how they get their places."""
# What comes in here is of any type:
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from sitq.task import Call


class Parent(NamedTuple):
    """Stands in the arguments of a stored call for the value of the parent with this number, in the order of edges."""

    number: int


def parts(call: Call[Any]) -> Iterator[Any]:
    """The arguments of a call, and the elements of those that are a list, a tuple or a dict."""
    for value in (*call.args, *call.kwargs.values()):
        yield value
        if type(value) is dict:
            yield from value.values()
        elif type(value) is list or type(value) is tuple:
            yield from value


def replaced(call: Call[Any], kinds: frozenset[type], replace: Callable[[Any], Any]) -> Call[Any]:
    """The call with `replace(part)` for each of its `parts` that is of one of these types."""

    def all_of(values: Iterable[Any]) -> list[Any]:
        return [replace(value) if type(value) in kinds else value for value in values]

    def inside(value: Any) -> Any:
        if type(value) in kinds:
            return replace(value)
        if type(value) is dict:
            return dict(zip(value, all_of(value.values()), strict=True))
        if type(value) is list:
            return all_of(value)
        return tuple(all_of(value)) if type(value) is tuple else value

    args = tuple(map(inside, call.args))
    return Call(call.func, args, {name: inside(value) for name, value in call.kwargs.items()})


_MARKERS = frozenset({Parent})


def wanted(call: Call[Any]) -> list[int]:
    """The numbers of the parents whose values the call takes."""
    return sorted({part.number for part in parts(call) if type(part) is Parent})


def filled(call: Call[Any], values: Mapping[int, Any]) -> Call[Any]:
    """The call with the values of its parents."""
    return replaced(call, _MARKERS, lambda marker: values[marker.number])


async def gathered(values: list[Any]) -> list[Any]:
    """What the task of a `group` runs. Every serializer knows it."""
    return values
