"""What a child process gets from its worker at its start: objects as pickles that only refer to modules.

Nothing goes by value: a child that ran copies of a function would not share its module's globals, such as the context
variables that tasks read.
"""

import pickle
from io import BytesIO
from types import FunctionType
from typing import Any

from sitq.errors import ValidationError, WorkerError
from sitq.failure import reason, type_name
from sitq.task import importable


class _Pickler(pickle.Pickler):
    def reducer_override(self, obj: Any, /) -> Any:
        if isinstance(obj, FunctionType | type) and not importable(obj):
            raise pickle.PicklingError(
                f"{obj.__module__}.{obj.__qualname__} cannot be imported under this name"
            )
        return NotImplemented


def encode_reference(value: Any, field: str) -> bytes:
    """Return an object as bytes for `decode_reference` in a process with the same modules.

    Args:
        field: What the user calls it, for the message.

    Raises:
        ValidationError: It cannot be pickled, or refers to what a child cannot import.
    """
    buffer = BytesIO()
    try:
        _Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(value)
    except ValidationError:
        raise
    except Exception as error:
        raise ValidationError(
            f"{field} ({type_name(value)}) cannot be sent to a child process: {reason(error)}. Define it, and what it "
            "is made of, at the top level of a module other than __main__"
        ) from error
    return buffer.getvalue()


def decode_reference(data: bytes, field: str) -> Any:
    """Return the object that `encode_reference` was given, as the modules of this process have it.

    Raises:
        WorkerError: It cannot be loaded here.
    """
    try:
        return pickle.loads(data)
    except Exception as error:
        raise WorkerError(
            f"{field} cannot be loaded in the child process, which must be able to import what the worker can: "
            f"{reason(error)}"
        ) from error
