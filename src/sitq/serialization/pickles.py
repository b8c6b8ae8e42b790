"""Calls and values as bytes.

Both are pickles in an envelope:

    magic "sq" | version | codec | Python major | Python minor | CRC-32 of the body | body

What can be imported goes by reference through the C pickler. Only what cannot (from `__main__`, lambdas, local
functions, modules made by hand) goes by value through cloudpickle. Plain pickle would take most of those by reference
without complaint, and the worker could not load them: so the pickler looks at each function and class on its way.
"""
# cloudpickle is not typed:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import pickle
import sys
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from io import BytesIO
from types import FunctionType, ModuleType
from typing import Any, Final
from uuid import UUID
from zlib import crc32

import cloudpickle  # type: ignore[import-untyped]

from sitq.errors import PayloadTooLargeError, TaskSerializationError
from sitq.failure import reason, type_name
from sitq.model import make
from sitq.rules import NO_RULES, RunRules
from sitq.serialization.about import About, CallParts, Loaded, Purpose
from sitq.serialization.blame import blame
from sitq.serialization.envelope import MAGIC, PYTHON, foreign, name_of, other_python
from sitq.task import MAIN, Call, importable

NAME: Final = "cloudpickle"
_VERSION: Final = 1
_PICKLE: Final = 1
_CLOUDPICKLE: Final = 2
_BY_REFERENCE: Final = MAGIC + bytes([_VERSION, _PICKLE]) + PYTHON
_BY_VALUE: Final = MAGIC + bytes([_VERSION, _CLOUDPICKLE]) + PYTHON
_HEADER: Final = len(_BY_REFERENCE)
_BODY: Final = _HEADER + 4
_PROTOCOL: Final = 5

# Neither refer to anything nor call back.
_SCALARS: Final = frozenset({str, int, float, bool, bytes, type(None)})
_STRINGS: Final = frozenset({str})
# Have a reducer, of which it is known that it loads again.
_PROVEN: Final = frozenset({date, datetime, time, timedelta, timezone, Decimal, UUID, complex, range, slice})


# -- Calls -----------------------------------------------------------------------------------------


def encode_call(
    call: Call[Any], context: Mapping[str, Any] | None, *, max_payload: int, rules: RunRules = NO_RULES
) -> bytes:
    """Return the call, its context and its rules as bytes.

    Args:
        context: What travels beside the arguments.
        max_payload: The accepted size in bytes.
        rules: What the worker has to know besides.

    Raises:
        TaskSerializationError: The function, an argument, the context, what a context provider captured, or `retry`
            cannot be pickled; it is named.
        PayloadTooLargeError: More than `max_payload` bytes.
    """
    func, args, kwargs = call
    try:
        named = type(func) is FunctionType and importable(func)
        target = f"{func.__module__}\n{func.__qualname__}" if named else func
        if rules is not NO_RULES and rules != NO_RULES:
            # As a plain tuple: it can grow, and without these two there is nothing in it for the pickler to look at.
            plain = not context and rules.retry is None and rules.carried is None
            flat = named and plain and _is_flat(args, kwargs)
            data, _ = _encode((target, args, kwargs, context or {}, tuple(rules)), flat)
        elif context:
            data, _ = _encode((target, args, kwargs, context))
        elif named and _is_flat(args, kwargs):
            body = pickle.dumps((target, args, kwargs), _PROTOCOL)
            data = _BY_REFERENCE + crc32(body).to_bytes(4) + body
        else:
            data, _ = _encode((target, args, kwargs))
    except KeyboardInterrupt:
        raise  # of the caller, who waits for this
    except BaseException as error:
        raise blame(call, context or {}, rules, error, _encode, "pickled", by_value=True) from error
    if len(data) > max_payload:
        raise call_too_large(call, len(data), max_payload)
    return data


def call_too_large(call: Call[Any], size: int, max_payload: int) -> PayloadTooLargeError:
    """The error for a call over the limit."""
    return PayloadTooLargeError(
        f"the call of {call.name} is {size:,} bytes encoded, and max_payload is {max_payload:,}: store the "
        "data elsewhere and pass a path or a key, or raise max_payload"
    )


def decode_call(data: bytes) -> Loaded:
    """Return the call, its context and its rules. This runs code that the call refers to; no error of it gets through.

    Raises:
        TaskSerializationError: Not written by sitq, damaged, by another Python, or its code cannot be loaded here.
    """
    body = _body(data, "call")
    try:
        parts = pickle.loads(body)
        if type(parts) is tuple and 3 <= (count := len(parts)) <= 5:
            target, args, kwargs, *others = parts
            call = make(Call, (_function(target) if type(target) is str else target, args, kwargs))
            if count == 3:
                return call, {}, NO_RULES
            if count == 4:
                return call, others[0], NO_RULES
            if type(others[1]) is tuple:
                return call, others[0], _rules(others[1])
    except BaseException as error:
        raise _unloadable("call", error) from error
    raise TaskSerializationError("these bytes are a result, not a call")


# -- Values ----------------------------------------------------------------------------------------


def encode_value(value: Any, *, max_payload: int) -> bytes:
    """Return what a task returned as bytes. What is more than plain data is loaded again once, as a proof.

    Raises:
        TaskSerializationError: It cannot be pickled, or its pickle cannot be loaded. No other error gets through.
        PayloadTooLargeError: More than `max_payload` bytes.
    """
    fault = "pickled"
    try:
        if type(value) in _SCALARS:  # most of them
            body = pickle.dumps(value, _PROTOCOL)
            data = _BY_REFERENCE + crc32(body).to_bytes(4) + body
        else:
            data, plain = _encode(value)
            if not plain and len(data) <= max_payload:
                fault = "loaded again"
                pickle.loads(memoryview(data)[_BODY:])
    except BaseException as error:
        raise TaskSerializationError(
            f"the result ({type_name(value)}) cannot be {fault}: {reason(error)}. Return plain data"
        ) from error
    if len(data) > max_payload:
        raise result_too_large(len(data), max_payload)
    return data


def result_too_large(size: int, max_payload: int) -> PayloadTooLargeError:
    """The error for a value over the limit."""
    return PayloadTooLargeError(
        f"the result is {size:,} bytes encoded, and max_payload is {max_payload:,}: store it elsewhere and "
        "return a path or a key, or raise max_payload"
    )


def decode_value(data: bytes) -> Any:
    """Return what `encode_value` was given.

    Raises:
        TaskSerializationError: Not written by sitq, damaged, by another Python, or its classes cannot be loaded here.
    """
    body = _body(data, "result")
    try:
        return pickle.loads(body)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise _unloadable("result", error) from error


# -- The serializer --------------------------------------------------------------------------------


class CloudpickleSerializer:
    """Any Python object, as a pickle: by reference where possible, by value through cloudpickle where not.

    Reading runs the code that the bytes refer to: only for stores that nobody writes whom you would not let run code,
    or inside `Signed` or `Encrypted`.
    """

    name = NAME

    def encode_call(self, parts: CallParts, about: About, /) -> bytes:
        call, context, rules = parts
        return encode_call(call, context, max_payload=sys.maxsize, rules=rules)

    def decode_call(self, data: bytes, about: About, /) -> CallParts:
        return CallParts(*decode_call(data))

    def encode_value(self, value: Any, about: About, /) -> bytes:
        return encode_value(value, max_payload=sys.maxsize)

    def decode_value(self, data: bytes, about: About, /) -> Any:
        return decode_value(data)

    def seal(self, data: bytes, about: About, /) -> bytes:
        return data

    def unseal(self, data: bytes, about: About, /) -> bytes:
        return unsealed(data, about, NAME)

    def __repr__(self) -> str:
        return "CloudpickleSerializer()"


def unsealed(data: bytes, about: About, reader: str) -> bytes:
    """Return what nobody has sealed. Raises `PayloadRefusedError` for what says that another serializer wrote it."""
    match about.purpose:
        case Purpose.LOG:
            return data  # any text may stand there
        case Purpose.ERROR | Purpose.PROGRESS:
            mine = data[:2] != MAGIC
        case _:
            mine = name_of(data) == reader
    if not mine:
        raise foreign(about.purpose, name_of(data), reader)
    return data


# -- Pickling --------------------------------------------------------------------------------------


class _ByValueError(Exception):
    """Something cannot go by reference. Never leaves this module."""


class _ReferencePickler(pickle.Pickler):
    """The C pickler, for what every process can import. It calls back for everything but plain data."""

    plain = True

    def reducer_override(self, obj: Any, /) -> Any:
        kind = type(obj)
        if kind is FunctionType or issubclass(kind, type):
            if not importable(obj):
                raise _ByValueError
        elif kind not in _PROVEN:
            self.plain = False
            # If its reducer returns a name, that is looked up in its module.
            if getattr(obj, "__module__", None) in MAIN:
                raise _ByValueError
        return NotImplemented


class _ValuePickler(cloudpickle.Pickler):  # type: ignore[misc]
    """cloudpickle, which takes by value what lives in `__main__`, and here also what lives in modules made by hand."""

    def reducer_override(self, obj: Any) -> Any:
        name = getattr(obj, "__module__", None)
        home: Any = obj if isinstance(obj, ModuleType) else sys.modules.get(name or "")
        if isinstance(home, ModuleType) and _made_by_hand(home):
            # cloudpickle would look no further than sys.modules. That no other process can import it is a fact
            # about the module, so it may as well stay registered.
            cloudpickle.register_pickle_by_value(home)
        reduced = super().reducer_override(obj)
        if reduced is NotImplemented and name in MAIN:
            reduced = self._not_by_name(obj)
        return reduced

    def _not_by_name(self, value: Any) -> Any:
        """Refuse an object that reduces to a name in `__main__`: the worker has another `__main__`."""
        if type(value) in self.dispatch_table:
            return NotImplemented
        reduced = value.__reduce_ex__(_PROTOCOL)
        if isinstance(reduced, str):
            raise pickle.PicklingError(
                f"it is pickled as the name {reduced!r} in __main__, which a worker lacks"
            )
        return reduced


def _made_by_hand(module: ModuleType) -> bool:
    name = module.__name__
    return module.__spec__ is None and name != "__main__" and sys.modules.get(name) is module


def _is_flat(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return whether nothing in arguments needs a look by the pickler: then no pickler has to be made, which is a third
    of the cost of a small call.
    """
    if kwargs and not (
        _STRINGS.issuperset(map(type, kwargs)) and _SCALARS.issuperset(map(type, kwargs.values()))
    ):
        return False
    return _SCALARS.issuperset(map(type, args))


def _encode(value: Any, flat: bool = False) -> tuple[bytes, bool]:
    """Return the bytes, and whether they are plain data only; `flat` if that is known."""
    try:
        if flat:
            return _seal(_BY_REFERENCE, pickle.dumps(value, _PROTOCOL)), True
        buffer = BytesIO()
        pickler = _ReferencePickler(buffer, _PROTOCOL)
        pickler.dump(value)
        return _seal(_BY_REFERENCE, buffer.getvalue()), pickler.plain
    except RecursionError:
        raise
    except Exception:
        # By value, or of a type that only cloudpickle knows: it has the last word.
        buffer = BytesIO()
        _ValuePickler(buffer, _PROTOCOL).dump(value)
        return _seal(_BY_VALUE, buffer.getvalue()), False


def _seal(header: bytes, body: bytes) -> bytes:
    return header + crc32(body).to_bytes(4) + body


def _rules(fields: tuple[Any, ...]) -> RunRules:
    known = len(RunRules._fields)
    if any(each is not None for each in fields[known:]):
        raise TaskSerializationError(
            "this call has rules that this sitq does not know: use the sitq that wrote it"
        )
    return RunRules(*fields[:known])


def _function(path: str) -> Any:
    """Return what the pickled reference gives, in a tenth of the time if its module is there already."""
    name, _, attribute = path.partition("\n")
    module = sys.modules.get(name)
    # One that another thread is importing right now is not to be looked into yet.
    if module is not None and not getattr(module.__spec__, "_initializing", True):
        found = getattr(module, attribute, None)
        if found is not None:
            return found
    return pickle.loads(b"\x80\x05c%b\n." % path.encode())


def _body(data: bytes, what: str) -> bytes:
    """Return the pickle in an envelope. Raises `TaskSerializationError` if it is not to be loaded here."""
    if data[:_HEADER] != _BY_REFERENCE:
        _check_header(data[:_HEADER], data, what)
    body = data[_BODY:]
    if crc32(body).to_bytes(4) != data[_HEADER:_BODY]:
        raise TaskSerializationError(f"the bytes of this {what} are damaged: their checksum is wrong")
    return body


def _unloadable(what: str, error: BaseException) -> TaskSerializationError:
    hint = ""
    if isinstance(error, ImportError | AttributeError):
        hint = (
            ". This process must be able to import what the sender could: compare their code and PYTHONPATH"
        )
    return TaskSerializationError(f"the {what} cannot be loaded: {reason(error)}{hint}")


def _check_header(header: bytes, data: bytes, what: str) -> None:
    if len(header) < _HEADER or header[:2] != MAGIC:
        raise TaskSerializationError(f"these bytes are not a {what} written by sitq")
    version, codec, major, minor = header[2:]
    if version != _VERSION or codec not in (_PICKLE, _CLOUDPICKLE):
        writer = name_of(data)
        if writer not in ("", NAME):
            raise foreign(what, writer, NAME)
        raise TaskSerializationError(
            f"this {what} has envelope version {version} and codec {codec}, which this sitq does not know: use the "
            "sitq that wrote it, or a newer one"
        )
    if codec == _CLOUDPICKLE and header[4:] != PYTHON:
        raise other_python(what, major, minor)
