"""Python values as trees of plain data, and back.

A tree is made of None, bool, int, finite float, str, list and dict with str keys, all of which every format knows. What
is something else is a dict with the key `$`, which says what it is:

    {"$": "tuple", "v": [1, 2]}        {"$": "object", "type": "app.Invoice", "v": {"number": 7}}

A dict of the user's that has the key `$`, or a key that is no str, is such a dict itself: so nothing is ambiguous.
"""
# What comes in here is of any type:
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownLambdaType=false

import enum
import math
import operator
import zoneinfo
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from functools import cache
from types import FunctionType, MappingProxyType
from typing import Any, Final, NamedTuple
from uuid import UUID

from sitq.checks import MAX_DEPTH
from sitq.errors import TaskSerializationError
from sitq.failure import type_name
from sitq.parents import Parent
from sitq.retry import RetryPolicy
from sitq.serialization.names import BUILTIN_ERRORS, Names, is_named_tuple

type Tree = Any

_TAG: Final = "$"
_VALUE: Final = "v"
_TYPE: Final = "type"
_SAFE_INT: Final = 2**63
_MOST_OF_A_HASH: Final = 100


# -- What has a tag of its own ---------------------------------------------------------------------


class Kind(NamedTuple):
    """A class whose values are written under a tag.

    Attributes:
        plain: Turns a value into others, which are written in its place.
        back: Turns those into the value. Whatever it raises counts as damage.
    """

    tag: str
    type: type
    plain: Callable[[Any], Any]
    back: Callable[[Any], Any]


def _moment(value: datetime | time) -> list[Any]:
    zone = value.tzinfo
    if zone is None or type(zone) is timezone:
        return [value.isoformat(), None, value.fold]
    key = zone.key if type(zone) is zoneinfo.ZoneInfo else None
    if key is None:
        raise TaskSerializationError(
            f"its tzinfo is a {type_name(zone)}: use datetime.UTC, datetime.timezone or a zoneinfo.ZoneInfo with a name"
        )
    return [value.replace(tzinfo=None).isoformat(), key, value.fold]


def _moment_back[T: (datetime, time)](read: Callable[[str], T]) -> Callable[[Any], T]:
    def back(parts: Any) -> T:
        text, key, fold = parts
        value = read(text)
        zone = value.tzinfo if key is None else _zone(key)
        return value.replace(tzinfo=zone, fold=fold)

    return back


def _zone(key: str) -> zoneinfo.ZoneInfo:
    # Not what the name might lead to: only what there is. So no file and no package is named by bytes.
    if key not in _zones():
        raise TaskSerializationError(f"there is no time zone {key!r} here: install tzdata")
    return zoneinfo.ZoneInfo(key)


@cache
def _zones() -> frozenset[str]:
    return frozenset(zoneinfo.available_timezones())


def _spread(keys: list[Any]) -> list[Any]:
    """Return keys that a table can hold in a time that grows with their number: numbers of one hash can be made up."""
    if len(keys) > _MOST_OF_A_HASH and max(Counter(map(hash, keys)).values()) > _MOST_OF_A_HASH:
        raise TaskSerializationError(f"more than {_MOST_OF_A_HASH} keys of it have one hash")
    return keys


def _policy(policy: RetryPolicy) -> dict[str, Any]:
    given: dict[str, Any] = policy.__reduce__()[1][0]
    return given


KINDS: Final = (
    Kind("tuple", tuple, list, tuple),
    Kind("set", set, list, lambda items: set(_spread(items))),
    Kind("frozenset", frozenset, list, lambda items: frozenset(_spread(items))),
    Kind("bytearray", bytearray, bytes, bytearray),
    Kind("complex", complex, lambda value: [value.real, value.imag], lambda parts: complex(*parts)),
    Kind("datetime", datetime, _moment, _moment_back(datetime.fromisoformat)),
    Kind("time", time, _moment, _moment_back(time.fromisoformat)),
    Kind("date", date, date.isoformat, date.fromisoformat),
    Kind(
        "timedelta",
        timedelta,
        lambda value: [value.days, value.seconds, value.microseconds],
        lambda parts: timedelta(*parts),
    ),
    Kind("decimal", Decimal, str, Decimal),
    Kind("uuid", UUID, str, UUID),
    # Values of sitq's own that travel in calls.
    Kind("parent", Parent, lambda marker: marker.number, lambda number: Parent(operator.index(number))),
    Kind("retry", RetryPolicy, _policy, lambda given: RetryPolicy(**given)),
)
_BY_TYPE: Final[Mapping[type, Kind]] = MappingProxyType({each.type: each for each in KINDS})
_BY_TAG: Final[Mapping[str, Kind]] = MappingProxyType({each.tag: each for each in KINDS})


# -- Into a tree -----------------------------------------------------------------------------------


class Writer:
    """Turns values into trees.

    Args:
        types: The classes of which there may be values.
        native_bytes: The format knows bytes.

    Attributes:
        objects: Values of these classes were among them, which code of the user's will make again.
    """

    def __init__(self, types: Names, *, native_bytes: bool) -> None:
        self._types = types
        self._native_bytes = native_bytes
        self.objects = False

    def tree(self, value: Any, depth: int = 0) -> Tree:
        """Return the tree of a value. Raises `TaskSerializationError`, which names the class that has none."""
        kind = type(value)
        if value is None or kind is bool:
            return value
        if kind is str:
            return value if value.isascii() or _is_text(value) else _hex_of(value)
        if kind is int:
            return value if -_SAFE_INT <= value < _SAFE_INT else _tagged("int", hex(value))
        if kind is float:
            return value if math.isfinite(value) else _tagged("float", repr(value))
        if kind is bytes:
            return value if self._native_bytes else _tagged("bytes", b64encode(value).decode())
        if depth > MAX_DEPTH:
            raise TaskSerializationError(
                f"it is nested more than {MAX_DEPTH} deep, or in itself: give flat data"
            )
        if kind is list:
            return [self.tree(item, depth + 1) for item in value]
        if kind is dict:
            return self._dict(value, depth)
        known = _BY_TYPE.get(kind)
        if known is not None:
            return _tagged(known.tag, self.tree(known.plain(value), depth + 1))
        return self._other(value, depth)

    def _dict(self, value: dict[Any, Any], depth: int) -> Tree:
        if all(type(key) is str and key != _TAG and (key.isascii() or _is_text(key)) for key in value):
            return {key: self.tree(item, depth + 1) for key, item in value.items()}
        pairs = [[self.tree(key, depth + 1), self.tree(item, depth + 1)] for key, item in value.items()]
        return _tagged("dict", pairs)

    def _other(self, value: Any, depth: int) -> Tree:
        name = self._types.name(type(value))
        if name is not None:
            parts = self.tree(_record(value), depth + 1)
            self.objects = True
            return {_TAG: "object", _TYPE: name, _VALUE: parts}
        if isinstance(value, type | FunctionType):
            return self._reference(value)
        return self.tree(_plain(value), depth)

    def _reference(self, value: Any) -> Tree:
        name = self._types.name(value)
        builtin = f"builtins.{value.__name__}"
        if name is None and BUILTIN_ERRORS.get(builtin) is value:
            name = builtin
        if name is None:
            raise TaskSerializationError(f"{value.__qualname__} is not in types of the serializer: add it")
        return _tagged("reference", name)


def _tagged(tag: str, value: Tree) -> Tree:
    return {_TAG: tag, _VALUE: value}


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _hex_of(value: str) -> Tree:
    """A str with lone surrogates, which no format carries as it is."""
    return _tagged("str", value.encode("utf-8", "surrogatepass").hex())


def _record(value: Any) -> Any:
    """What an object of the user's is made of."""
    if isinstance(value, enum.Enum):
        return value.value
    if is_dataclass(value):
        return {each.name: getattr(value, each.name) for each in fields(value)}
    return list(value)


def _plain(value: Any) -> Any:
    """What is written for a subclass of a plain class: the plain value, as json does it, such as an id for a handle."""
    if not isinstance(value, enum.Enum) and not is_dataclass(value):
        for kind in (str, int, float, bytes, list, dict):
            if isinstance(value, kind):
                return _PLAIN[kind](value)
    raise TaskSerializationError(
        f"there is no form for a {type_name(value)}: give plain data, or the class in types of the serializer if it is "
        "a dataclass, an enum or a named tuple"
    )


# Past whatever a subclass has made of its own conversions.
_PLAIN: Final[Mapping[type, Callable[[Any], Any]]] = MappingProxyType(
    {
        str: str.__str__,
        int: int.__int__,
        float: float.__float__,
        bytes: lambda value: bytes.__getitem__(value, slice(None)),
        list: lambda value: list.__getitem__(value, slice(None)),
        dict: lambda value: dict(dict.items(value)),
    }
)


# -- Back ------------------------------------------------------------------------------------------


class Reader:
    """Turns trees into values. Raises whatever comes of trees that a `Writer` has not made."""

    def __init__(self, types: Names) -> None:
        self._types = types

    def value(self, tree: Tree, depth: int = 0) -> Any:
        """Return the value of a tree."""
        kind = type(tree)
        if kind is str or kind is int or kind is float or kind is bool or kind is bytes or tree is None:
            return tree
        if depth > 3 * MAX_DEPTH:  # what is tagged takes two or three levels of the tree
            raise TaskSerializationError(f"it is nested more than {MAX_DEPTH} deep")
        if kind is list:
            return [self.value(item, depth + 1) for item in tree]
        if kind is not dict:
            raise TaskSerializationError(f"there is a {type_name(tree)} in it, which no value is written as")
        if _TAG in tree:
            return self._tagged(tree, depth)
        if not all(type(key) is str for key in tree):
            raise TaskSerializationError("a key of it is no str")
        return {key: self.value(item, depth + 1) for key, item in tree.items()}

    def _tagged(self, tree: dict[str, Tree], depth: int) -> Any:
        tag = tree[_TAG]
        if tree.keys() != ({_TAG, _TYPE, _VALUE} if tag == "object" else {_TAG, _VALUE}):
            raise TaskSerializationError("there is something in it that no value is written as")
        value = self.value(tree[_VALUE], depth + 1)
        if tag == "object":
            return _made(self._types.value(tree[_TYPE]), value)
        if tag == "reference":
            return BUILTIN_ERRORS.get(value) or self._types.value(value)
        back = _SMALL.get(tag)
        if back is None:
            if tag not in _BY_TAG:
                raise TaskSerializationError(
                    f"it has a value of the kind {tag!r}, which this sitq does not know"
                )
            back = _BY_TAG[tag].back
        return back(value)


def _made(kind: Any, parts: Any) -> Any:
    if issubclass(kind, enum.Enum):
        return kind(parts)
    if is_named_tuple(kind):
        return kind(*parts)
    if not is_dataclass(kind):
        raise TaskSerializationError("it names a class of which no values are written")
    new: Any = kind
    later = {each.name: parts.pop(each.name) for each in fields(new) if not each.init and each.name in parts}
    made = new(**parts)
    for name, value in later.items():
        object.__setattr__(made, name, value)
    return made


_SMALL: Final[Mapping[str, Callable[[Any], Any]]] = MappingProxyType(
    {
        "str": lambda text: bytes.fromhex(text).decode("utf-8", "surrogatepass"),
        "int": lambda text: int(text, 16),
        "float": float,
        "bytes": lambda text: b64decode(text, validate=True),
        "dict": lambda pairs: dict(
            zip(_spread([key for key, _ in pairs]), (item for _, item in pairs), strict=True)
        ),
    }
)
