"""Calls, values and errors as bytes.

Calls and values are pickles in an envelope; errors are JSON, readable without running anything.

    magic "sq" | version | codec | Python major | Python minor | CRC-32 of the body | body

What can be imported goes by reference through the C pickler. Only what cannot (from `__main__`, lambdas, local
functions, modules made by hand) goes by value through cloudpickle. Plain pickle would take most of those by reference
without complaint, and the worker could not load them: so the pickler looks at each function and class on its way.
"""

import json
import pickle
import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from io import BytesIO
from types import FunctionType, TracebackType
from typing import Any, Final
from uuid import UUID
from zlib import crc32

import cloudpickle  # type: ignore[import-untyped]

from sitq.errors import PayloadTooLargeError, TaskSerializationError
from sitq.task import MAIN, Call, importable, parameter_names

MAX_MESSAGE: Final = 8 * 1024
MAX_TRACEBACK: Final = 64 * 1024

_MAGIC: Final = b"sq"
_VERSION: Final = 1
_PICKLE: Final = 1
_CLOUDPICKLE: Final = 2
_PYTHON: Final = bytes(sys.version_info[:2])
_BY_REFERENCE: Final = _MAGIC + bytes([_VERSION, _PICKLE]) + _PYTHON
_BY_VALUE: Final = _MAGIC + bytes([_VERSION, _CLOUDPICKLE]) + _PYTHON
_HEADER: Final = len(_BY_REFERENCE)
_BODY: Final = _HEADER + 4

# Types whose pickles are known to load again.
_PROVEN: Final = frozenset({date, datetime, time, timedelta, timezone, Decimal, UUID, complex, range, slice})


# -- Calls -----------------------------------------------------------------------------------------


def encode_call(call: Call[Any], context: Mapping[str, Any] | None, *, max_payload: int) -> bytes:
    """Return the call and its context as bytes.

    Args:
        context: What travels beside the arguments.
        max_payload: The accepted size in bytes.

    Raises:
        TaskSerializationError: The function, an argument or the context cannot be pickled; the message names it.
        PayloadTooLargeError: The bytes are more than `max_payload`.
    """
    parts = (call.func, call.args, call.kwargs)
    try:
        data, _ = _encode((*parts, context) if context else parts)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise _blame(call, context or {}, error) from error
    if len(data) > max_payload:
        raise PayloadTooLargeError(
            f"the call of {call.name} is {len(data):,} bytes encoded, and max_payload is {max_payload:,}: store the "
            "data elsewhere and pass a path or a key, or raise max_payload"
        )
    return data


def decode_call(data: bytes) -> tuple[Call[Any], Mapping[str, Any]]:
    """Return the call and its context. Runs code that the call refers to; whatever goes wrong is an error of the task.

    Raises:
        TaskSerializationError: Not written by sitq, damaged, by another Python, or its code cannot be loaded here.
    """
    parts = _decode(data, "call")
    if type(parts) is not tuple or not 3 <= len(parts) <= 4 or not callable(parts[0]):
        raise TaskSerializationError("these bytes hold a value, not a call")
    return Call(*parts[:3]), parts[3] if len(parts) == 4 else {}


# -- Values ----------------------------------------------------------------------------------------


def encode_value(value: Any, *, max_payload: int) -> bytes:
    """Return what a task returned as bytes. What is more than plain data is loaded again once, as a proof.

    Raises:
        TaskSerializationError: The value cannot be pickled, or its pickle cannot be loaded.
        PayloadTooLargeError: The bytes are more than `max_payload`.
    """
    try:
        data, plain = _encode(value)
    except BaseException as error:
        raise TaskSerializationError(
            f"the result, {_type_name(type(value))}, cannot be pickled: {_reason(error)}. Return plain data"
        ) from error
    if len(data) > max_payload:
        raise PayloadTooLargeError(
            f"the result is {len(data):,} bytes encoded, and max_payload is {max_payload:,}: store it elsewhere and "
            "return a path or a key, or raise max_payload"
        )
    if not plain:
        try:
            pickle.loads(memoryview(data)[_BODY:])
        except BaseException as error:
            raise TaskSerializationError(
                f"the result, {_type_name(type(value))}, can be pickled but not loaded again: {_reason(error)}. "
                "Return plain data"
            ) from error
    return data


def decode_value(data: bytes) -> Any:
    """Return what `encode_value` was given.

    Raises:
        TaskSerializationError: Not written by sitq, damaged, by another Python, or its classes cannot be loaded here.
    """
    return _decode(data, "result")


# -- Pickling --------------------------------------------------------------------------------------


class _ByValueError(Exception):
    """Something on the way cannot go by reference. Never leaves this module."""


class _ReferencePickler(pickle.Pickler):
    """The C pickler, for what every process can import. It calls back for everything but plain data."""

    plain = True

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, type | FunctionType):
            if not importable(value):
                raise _ByValueError
            return NotImplemented
        kind = type(value)
        if kind not in _PROVEN:
            self.plain = False
            # An object whose __reduce__ returns a name is looked up in its module.
            if getattr(value, "__module__", None) in MAIN:
                raise _ByValueError
        return NotImplemented


class _ValuePickler(cloudpickle.Pickler):  # type: ignore[misc]
    """cloudpickle, which sends by value what it finds in `__main__`."""

    def reducer_override(self, value: Any) -> Any:
        reduced = super().reducer_override(value)
        if reduced is NotImplemented and getattr(value, "__module__", None) in MAIN:
            if type(value) in self.dispatch_table:
                return reduced
            reduced = value.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
            if isinstance(reduced, str):
                raise pickle.PicklingError(f"{reduced} is looked up by name in {value.__module__}")
        return reduced


def _encode(value: Any) -> tuple[bytes, bool]:
    """Return the envelope, and whether the value is made of plain data only."""
    buffer = BytesIO()
    pickler = _ReferencePickler(buffer, 5)
    try:
        pickler.dump(value)
    except RecursionError:
        raise
    except Exception:
        # By value, or unknown to plain pickle: cloudpickle takes more types, and has the last word.
        buffer = BytesIO()
        _ValuePickler(buffer, 5).dump(value)
        body = buffer.getvalue()
        return _BY_VALUE + crc32(body).to_bytes(4) + body, False
    body = buffer.getvalue()
    return _BY_REFERENCE + crc32(body).to_bytes(4) + body, pickler.plain


def _decode(data: bytes, what: str) -> Any:
    header = data[:_HEADER]
    if header != _BY_REFERENCE:
        _check_header(header, what)
    body = data[_BODY:]
    if crc32(body).to_bytes(4) != data[_HEADER:_BODY]:
        raise TaskSerializationError(f"the bytes of the {what} are damaged: their checksum is wrong")
    try:
        return pickle.loads(body)
    except BaseException as error:
        hint = ""
        if isinstance(error, ImportError | AttributeError):
            hint = ". This process must be able to import what the caller could: check its PYTHONPATH and version"
        raise TaskSerializationError(f"the {what} cannot be loaded: {_reason(error)}{hint}") from error


def _check_header(header: bytes, what: str) -> None:
    if len(header) < _HEADER or header[:2] != _MAGIC:
        raise TaskSerializationError(f"these bytes are not a {what} written by sitq")
    version, codec, major, minor = header[2:]
    if version != _VERSION or codec not in (_PICKLE, _CLOUDPICKLE):
        raise TaskSerializationError(
            f"the {what} has envelope version {version}, codec {codec}, and this sitq reads version {_VERSION}: "
            "use a newer sitq here"
        )
    if codec == _CLOUDPICKLE and header[4:] != _PYTHON:
        here = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise TaskSerializationError(
            f"the {what} carries code by value from Python {major}.{minor}, and this is {here}: bytecode does not "
            "cross versions. Move the function into a module that both can import, or use the same Python"
        )


# -- Whose fault it is -----------------------------------------------------------------------------


def _blame(call: Call[Any], context: Mapping[str, Any], error: BaseException) -> TaskSerializationError:
    """Pickle the parts one by one to name the one that fails."""
    for label, part in _parts(call, context):
        try:
            _encode(part)
        except BaseException as cause:
            return TaskSerializationError(
                f"{label} of {call.name} cannot be pickled: {_reason(cause)}. Pass plain data, such as a path or an "
                "id, and open or look up the rest inside the task"
            )
    return TaskSerializationError(f"the call of {call.name} cannot be pickled: {_reason(error)}")


def _parts(call: Call[Any], context: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "the function", call.func
    names = parameter_names(call.func)
    for index, value in enumerate(call.args):
        name = f"`{names[index]}`: " if index < len(names) else ""
        yield f"argument {index + 1} ({name}{_type_name(type(value))})", value
    for key, value in call.kwargs.items():
        yield f"argument `{key}` ({_type_name(type(value))})", value
    for key, value in context.items():
        yield f"context[{key!r}] ({_type_name(type(value))})", value


def _type_name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _reason(error: BaseException) -> str:
    info = _describe(error)
    return f"{info.type}: {info.message}" if info.message else info.type


# -- Errors ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """An exception as data.

    Attributes:
        type: Name of the class, with its module unless it is a builtin.
        message: `str()` of the exception, at most 8 KiB.
        traceback: As Python prints it, without locals, at most 64 KiB.
    """

    type: str
    message: str
    traceback: str = ""


def encode_error(error: BaseException | ErrorInfo) -> bytes:
    """Return an exception as JSON, whatever it is: nothing that it does can make this fail."""
    info = error if isinstance(error, ErrorInfo) else _describe(error, with_traceback=True)
    fields = {
        "type": _fit(info.type, MAX_MESSAGE),
        "message": _fit(info.message, MAX_MESSAGE),
        "traceback": _fit(info.traceback, MAX_TRACEBACK),
    }
    return json.dumps(fields, ensure_ascii=False).encode()


def decode_error(data: bytes) -> ErrorInfo:
    """Return what `encode_error` was given.

    Raises:
        TaskSerializationError: Not written by `encode_error`.
    """
    try:
        fields = json.loads(data)
        info = ErrorInfo(fields["type"], fields["message"], fields["traceback"])
    except Exception as error:
        raise TaskSerializationError(f"these bytes are not an error written by sitq: {error!r}") from error
    if not all(isinstance(text, str) for text in (info.type, info.message, info.traceback)):
        raise TaskSerializationError("these bytes are not an error written by sitq")
    return info


def _describe(error: BaseException, *, with_traceback: bool = False) -> ErrorInfo:
    try:
        message = str(error)
    except BaseException as second:
        message = f"<str() failed with {type(second).__qualname__}>"
    text = _traceback(error) if with_traceback else ""
    return ErrorInfo(_fit(_type_name(type(error)), MAX_MESSAGE), _fit(message, MAX_MESSAGE), text)


def _traceback(error: BaseException) -> str:
    try:
        frames = _own_frames_off(error.__traceback__)
        return "".join(traceback.TracebackException(type(error), error, frames).format())
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
    data = text.encode("utf-8", "backslashreplace")
    if len(data) > limit:
        mark = f"\n... {len(data) - limit:,} bytes left out ...\n".encode()
        half = (limit - len(mark)) // 2
        data = data[:half] + mark + data[-half:]
    return data.decode("utf-8", "ignore")
