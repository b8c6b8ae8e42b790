"""Which functions and classes bytes may mean, by which names. Nothing is ever looked up anywhere else."""
# What comes in here is of any type:
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

import builtins
import difflib
import enum
from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass
from types import MappingProxyType
from typing import Any, Final

from sitq.checks import MAX_NAME_LENGTH, kind, label
from sitq.errors import SitqError, TaskSerializationError, ValidationError
from sitq.parents import gathered
from sitq.task import check_callable, function_name

BUILTIN_ERRORS: Final[Mapping[str, type[BaseException]]] = MappingProxyType(
    {
        f"builtins.{name}": value
        for name, value in vars(builtins).items()
        if isinstance(value, type) and issubclass(value, BaseException) and value.__name__ == name
    }
)
"""Exceptions that a retry policy may name without more ado."""


class Names:
    """A table of names and what they mean, both ways.

    Args:
        field: What the caller calls it, for messages.
        values: What there is, by name. If one thing has several names it is written under the first.
    """

    def __init__(self, field: str, values: Mapping[str, Any]) -> None:
        self._field = field
        self._values = dict(values)
        # By identity: equal is not the same, and a callable need not have a hash. The table keeps them alive.
        self._names = {id(value): name for name, value in reversed(self._values.items())}

    def name(self, value: Any) -> str | None:
        """The name of a thing; None if it has none."""
        return self._names.get(id(value))

    def value(self, name: Any) -> Any:
        """What a name means. Raises `TaskSerializationError` for a name that is not in the table."""
        try:
            return self._values[name]
        except (KeyError, TypeError):
            pass
        if not isinstance(name, str) or len(name) > MAX_NAME_LENGTH:
            raise TaskSerializationError(f"what should be a name of {self._field} is none")
        near = difflib.get_close_matches(name, self._values, n=1)
        hint = f", where {near[0]!r} is" if near else ""
        raise TaskSerializationError(
            f"{name!r} is not in {self._field} of the serializer{hint}: add it there, under this name"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return Names, (self._field, self._values)  # identities are those of one process


def task_names(given: object) -> Names:
    """Return the table of functions. Raises `ValidationError` for one that cannot be a task, or a name with two."""
    table: dict[str, Any] = {function_name(gathered): gathered}
    for name, func in _entries(given, "tasks", "functions"):
        try:
            check_callable(func)
            own = function_name(func) if name is None else label(name, "a name in tasks")
        except SitqError as error:
            raise ValidationError(f"tasks has {kind(func)} in it that cannot be a task: {error}") from error
        _add(table, "tasks", own, func)
    return Names("tasks", table)


def type_names(given: object) -> Names:
    """Return the table of classes, and of functions for `RetryPolicy.backoff`. Raises `ValidationError`."""
    table: dict[str, Any] = {}
    for name, value in _entries(given, "types", "classes"):
        if not (_is_record(value) or (callable(value) and not isinstance(value, type))):
            what = value.__qualname__ if isinstance(value, type) else kind(value)
            raise ValidationError(
                f"types has {what} in it: give dataclasses, enums, named tuples and exceptions, and for "
                "RetryPolicy.backoff functions"
            )
        _add(table, "types", function_name(value) if name is None else label(name, "a name in types"), value)
    return Names("types", table)


def _is_record(value: Any) -> bool:
    return isinstance(value, type) and (
        is_dataclass(value) or issubclass(value, enum.Enum | BaseException) or is_named_tuple(value)
    )


def is_named_tuple(value: type) -> bool:
    """Whether a class is a named tuple."""
    return issubclass(value, tuple) and hasattr(value, "_fields") and hasattr(value, "_make")


def _entries(given: object, field: str, what: str) -> Iterable[tuple[str | None, Any]]:
    if isinstance(given, Mapping):
        return given.items()
    if isinstance(given, Iterable) and not isinstance(given, str | bytes | type):
        return ((None, value) for value in given)
    raise ValidationError(f"{field} is {kind(given)}: give a list of {what}, or a mapping of names to them")


def _add(table: dict[str, Any], field: str, name: str, value: Any) -> None:
    if table.setdefault(name, value) is not value:
        raise ValidationError(
            f"{field} has two things named {name!r}: give a mapping of names to them, as in {field}={{'a': one}}"
        )
