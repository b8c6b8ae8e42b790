"""From what a user gives to a serializer."""

import difflib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, get_protocol_members

from sitq.checks import kind
from sitq.errors import ValidationError
from sitq.serialization.about import Serializer
from sitq.serialization.envelope import check_name
from sitq.serialization.formats import JSONSerializer, MsgpackSerializer
from sitq.serialization.pickles import CloudpickleSerializer

BY_NAME: Final[Mapping[str, Callable[[], Serializer]]] = MappingProxyType(
    {"cloudpickle": CloudpickleSerializer, "json": JSONSerializer, "msgpack": MsgpackSerializer}
)
_METHODS: Final = tuple(sorted(get_protocol_members(Serializer)))


def make_serializer(given: object, field: str = "serializer") -> Serializer:
    """Return the serializer that is meant by a name, or one that was given.

    Args:
        field: What the caller calls it, for the message.

    Raises:
        ValidationError: There is none of this name, or it lacks something that a serializer has.
    """
    known = ", ".join(BY_NAME)
    if isinstance(given, str):
        if given in BY_NAME:
            return BY_NAME[given]()
        near = difflib.get_close_matches(given[:50], BY_NAME, n=1)
        hint = f"did you mean {near[0]!r}? Known are {known}" if near else f"known are {known}"
        raise ValidationError(f"{field} is {given[:50]!r}: {hint}; or give a Serializer")
    if isinstance(given, type):
        raise ValidationError(f"{field} is the class {given.__qualname__}: give an object of it")
    for name in _METHODS:
        if not hasattr(given, name):
            raise ValidationError(
                f"{field} is {kind(given)}, which has no {name}: give {known} or a Serializer"
            )
    serializer: Serializer = given  # type: ignore[assignment]
    check_name(serializer.name)
    return serializer
