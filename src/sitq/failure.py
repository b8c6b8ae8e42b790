"""Exceptions as data: a type, a message and a traceback in JSON, readable without running anything.

An exception is never rebuilt on the other side: its class may be missing there, and its constructor is somebody's code.
"""

import json
import traceback
from dataclasses import dataclass
from types import TracebackType
from typing import Final

from sitq.errors import TaskSerializationError

MAX_MESSAGE: Final = 8 * 1024
MAX_TRACEBACK: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """An exception as data.

    Attributes:
        type: Name of the class, with its module unless it is a builtin.
        message: `str()` of the exception, at most 8 KiB.
        traceback: As Python prints it, without locals, at most 64 KiB.
        exhausted: It ended the last of several attempts, and the task was given up for that.
    """

    type: str
    message: str
    traceback: str = ""
    exhausted: bool = False


def encode_error(error: BaseException | ErrorInfo, *, exhausted: bool = False) -> bytes:
    """Return an exception as JSON, whatever it is: nothing that it does can make this fail.

    Args:
        exhausted: As in `ErrorInfo`, for an exception.
    """
    if isinstance(error, ErrorInfo):
        info = error
    else:
        info = ErrorInfo(type_name(error), _message(error), _traceback(error), exhausted)
    fields: dict[str, str | bool] = {
        "type": _fit(info.type, MAX_MESSAGE),
        "message": _fit(info.message, MAX_MESSAGE),
        "traceback": _fit(info.traceback, MAX_TRACEBACK),
    }
    if info.exhausted:
        fields["exhausted"] = True
    return json.dumps(fields, ensure_ascii=False).encode()


def decode_error(data: bytes) -> ErrorInfo:
    """Return what `encode_error` was given.

    Raises:
        TaskSerializationError: Not written by `encode_error`.
    """
    try:
        fields = json.loads(data)
        texts = [fields[name] for name in ("type", "message", "traceback")]
        exhausted = fields.get("exhausted", False)
    except Exception as error:
        raise TaskSerializationError(
            f"these bytes are not an error written by sitq: {reason(error)}"
        ) from error
    if not all(isinstance(text, str) for text in texts) or not isinstance(exhausted, bool):
        raise TaskSerializationError("these bytes are not an error written by sitq")
    kind, message, trace = texts
    return ErrorInfo(kind, message, trace, exhausted)


def _traceback(error: BaseException) -> str:
    try:
        frames = _own_frames_off(error.__traceback__)
        return "".join(traceback.TracebackException(type(error), error, frames, compact=True).format())
    except BaseException as second:
        return f"<the traceback cannot be formatted: {type(second).__qualname__}>"


def _own_frames_off(frames: TracebackType | None) -> TracebackType | None:
    """Start behind the machinery: sitq's own frames, and those of the standard library between them."""
    start = rest = frames
    while rest is not None:
        package = str(rest.tb_frame.f_globals.get("__name__")).partition(".")[0]
        if package == "sitq":
            start = rest.tb_next
        elif package not in ("asyncio", "concurrent", "contextvars", "threading"):
            break
        rest = rest.tb_next
    return start or frames


def _fit(text: str, limit: int) -> str:
    """Return text that UTF-8 can hold in `limit` bytes; what is left out is in the middle."""
    data = str.encode(text, "utf-8", "backslashreplace")
    if len(data) > limit:
        mark = f"\n... {len(data) - limit:,} bytes left out ...\n".encode()
        half = (limit - len(mark)) // 2
        data = data[:half] + mark + data[-half:]
    return data.decode("utf-8", "ignore")


def type_name(value: object) -> str:
    """Return the name of the type, with its module unless it is a builtin."""
    kind = type(value)
    try:
        name = (
            kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        )
    except BaseException:  # a metaclass may answer with anything
        return "?"
    return _fit(name, MAX_MESSAGE)


def _message(error: BaseException) -> str:
    try:
        return _fit(str(error), MAX_MESSAGE)
    except BaseException as second:
        return f"<str() failed with {type_name(second)}>"


def reason(error: BaseException) -> str:
    message = _message(error)
    return f"{type_name(error)}: {message.rstrip('.')}" if message else type_name(error)
