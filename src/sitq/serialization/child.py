"""A serializer on its way into a child process.

The bytes hold its keys. They go through a pipe that only the child reads, once, at its start; never into an
environment, an argument, a file or a log.
"""
# cloudpickle is not typed:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import pickle
from io import BytesIO
from typing import Any

import cloudpickle  # type: ignore[import-untyped]

from sitq.errors import TaskSerializationError
from sitq.failure import reason
from sitq.serialization.about import Serializer
from sitq.serialization.keys import KeyRing, open_ring


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """The one place where keys may be pickled."""

    def reducer_override(self, obj: Any) -> Any:
        return open_ring(obj) if type(obj) is KeyRing else super().reducer_override(obj)


def to_child(serializer: Serializer) -> bytes:
    """Return a serializer, with its keys, for `from_parent` in a child process.

    Raises:
        TaskSerializationError: It cannot be pickled.
    """
    buffer = BytesIO()
    try:
        _Pickler(buffer, protocol=5).dump(serializer)
    except Exception as error:
        raise TaskSerializationError(
            f"the serializer {serializer.name} cannot be sent to a child process: {reason(error)}"
        ) from error
    return buffer.getvalue()


def from_parent(data: bytes) -> Serializer:
    """Return what `to_child` was given. The bytes must come from the parent: they are a pickle.

    Raises:
        TaskSerializationError: It cannot be loaded here.
    """
    try:
        serializer: Serializer = pickle.loads(data)
    except Exception as error:
        raise TaskSerializationError(
            f"the serializer cannot be loaded in this process: {reason(error)}"
        ) from error
    return serializer
