"""Formats for plain data: JSON, msgpack, and whatever else two functions make of a tree.

They run nothing and import nothing when they read: a function or class is one that the serializer was given.
"""
# What comes in here is of any type:
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportMissingTypeStubs=false

import json
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Final, NoReturn

from sitq.checks import instant, label, seconds, str_keyed
from sitq.errors import PayloadRefusedError, TaskSerializationError, ValidationError
from sitq.failure import reason, type_name
from sitq.retry import RetryPolicy
from sitq.rules import MAX_TIMEOUT, MIN_TIMEOUT, NO_RULES, RunRules
from sitq.serialization.about import About, CallParts
from sitq.serialization.blame import blame
from sitq.serialization.envelope import check_name, pack, unpack
from sitq.serialization.names import task_names, type_names
from sitq.serialization.pickles import unsealed
from sitq.serialization.tree import Reader, Tree, Writer
from sitq.task import Call, function_name

type Functions = Iterable[Callable[..., Any]] | Mapping[str, Callable[..., Any]]
type Classes = Iterable[Any] | Mapping[str, Any]

_CALL: Final = frozenset({"task", "args", "kwargs"})
_MORE: Final = frozenset({"context", "rules"})


class TreeSerializer:
    """Calls of listed functions, with plain data and listed classes, in a format of your own.

    Besides None, bool, int, float, str, list and dict with any keys it carries bytes, tuple, set, frozenset, datetime,
    date, time, timedelta, UUID, Decimal and complex as what they are. Values of subclasses of plain classes arrive as
    plain ones. Nested at most 100 deep.

    Args:
        name: Of the format; it stands in the bytes.
        dumps: Turns a tree of None, bool, int of 64 bits, finite float, str, list and dict with str keys into bytes.
        loads: Turns them back. It must not make anything else of what it reads.
        tasks: The functions that may be called; a mapping gives them names of their own, which stay when code moves.
        types: Dataclasses, enums and named tuples of which there may be values; exceptions and functions that a
            `RetryPolicy` may name. Builtin exceptions need not be listed.
        native_bytes: The format knows bytes.

    Raises:
        ValidationError: An argument is not usable; the message names it.
    """

    def __init__(
        self,
        name: str,
        dumps: Callable[[Tree], bytes],
        loads: Callable[[bytes], Tree],
        *,
        tasks: Functions = (),
        types: Classes = (),
        native_bytes: bool = False,
    ) -> None:
        for field, given in (("dumps", dumps), ("loads", loads)):
            if not callable(given):
                raise ValidationError(f"{field} is a {type_name(given)}: give a function")
        self.name: Final = check_name(name)
        self._dumps = dumps
        self._loads = loads
        self._tasks = task_names(tasks)
        self._types = type_names(types)
        self._native_bytes = native_bytes

    def encode_call(self, parts: CallParts, about: About, /) -> bytes:
        call, context, rules = parts
        task = self._tasks.name(call.func)
        if task is None:
            raise TaskSerializationError(
                f"{function_name(call.func)} is not in tasks of the serializer {self.name}, which sends no other "
                "functions: add it there, in the producer and in the worker"
            )
        body: dict[str, Any] = {"task": task, "args": list(call.args), "kwargs": call.kwargs}
        if context:
            body["context"] = dict(context)
        if rules != NO_RULES:
            body["rules"] = {name: value for name, value in rules._asdict().items() if value is not None}
        try:
            return self._pack(body)
        except KeyboardInterrupt:
            raise  # of the caller, who waits for this
        except BaseException as error:
            raise blame(call, context, rules, error, self._pack, f"written as {self.name}") from error

    def decode_call(self, data: bytes, about: About, /) -> CallParts:
        body = self._unpack(data, about)
        try:
            return self._call(body)
        except BaseException as error:
            raise _unreadable(about, error) from error

    def encode_value(self, value: Any, about: About, /) -> bytes:
        fault = f"written as {self.name}"
        try:
            writer = Writer(self._types, native_bytes=self._native_bytes)
            data = self._dumps(writer.tree(value))
            if writer.objects:
                fault = "read again"
                Reader(self._types).value(self._loads(data))
            return pack(self.name, data)
        except BaseException as error:
            raise TaskSerializationError(
                f"the result ({type_name(value)}) cannot be {fault}: {reason(error)}. Return plain data"
            ) from error

    def decode_value(self, data: bytes, about: About, /) -> Any:
        return self._unpack(data, about)

    def seal(self, data: bytes, about: About, /) -> bytes:
        return data

    def unseal(self, data: bytes, about: About, /) -> bytes:
        return unsealed(data, about, self.name)

    def __repr__(self) -> str:
        return f"{type(self).__qualname__}({self.name!r})"

    def _pack(self, value: Any) -> bytes:
        return pack(self.name, self._dumps(Writer(self._types, native_bytes=self._native_bytes).tree(value)))

    def _unpack(self, data: bytes, about: About) -> Any:
        body = unpack(data, self.name, about.purpose)
        try:
            return Reader(self._types).value(self._loads(body))
        except KeyboardInterrupt:
            raise  # of the caller, who waits for this
        except BaseException as error:
            raise _unreadable(about, error) from error

    def _call(self, body: Any) -> CallParts:
        if type(body) is not dict or not body.keys() >= _CALL:  # pyright: ignore[reportUnknownMemberType]
            raise TaskSerializationError("it is a value, not a call")
        if not body.keys() <= _CALL | _MORE:
            raise TaskSerializationError(
                "it has parts that this sitq does not know: use the sitq that wrote it"
            )
        args, kwargs, context, rules = (
            body["args"],
            body["kwargs"],
            body.get("context", {}),
            body.get("rules", {}),
        )
        if type(args) is not list or any(type(part) is not dict for part in (kwargs, context, rules)):
            raise TaskSerializationError("a part of it is of another kind than it should be")
        if not all(type(key) is str for key in kwargs):
            raise TaskSerializationError("a keyword of it is no str")
        if not rules.keys() <= RULES.keys():
            raise TaskSerializationError(
                "it has rules that this sitq does not know: use the sitq that wrote it"
            )
        call: Call[Any] = Call(self._tasks.value(body["task"]), tuple(args), kwargs)
        return CallParts(
            call,
            str_keyed(context, "context"),
            RunRules(**{name: RULES[name](value) for name, value in rules.items()}),
        )


def _retry(value: Any) -> RetryPolicy:
    if type(value) is not RetryPolicy:
        raise TaskSerializationError(f"its retry is a {type_name(value)}")
    return value


RULES: Final[Mapping[str, Callable[[Any], Any]]] = MappingProxyType(
    {
        "retry": _retry,
        "timeout": lambda value: seconds(value, "timeout", minimum=MIN_TIMEOUT, maximum=MAX_TIMEOUT),
        "expires_at": lambda value: instant(value, "expires_at", "leave it out"),
        "keep_failed": lambda value: seconds(value, "keep_failed"),
        "carried": lambda value: str_keyed(value, "carried"),
        "executor": partial(label, name="executor"),
    }
)
"""What each field of `RunRules` has to be: the worker relies on it, whoever wrote the bytes."""


def _unreadable(about: About, error: BaseException) -> TaskSerializationError:
    if isinstance(error, PayloadRefusedError):
        return error
    why = str(error) if isinstance(error, TaskSerializationError) else reason(error)
    return TaskSerializationError(f"the {about.purpose} cannot be read: {why}")


class JSONSerializer(TreeSerializer):
    """Calls of listed functions as JSON; see `TreeSerializer` for what it carries and for `tasks` and `types`."""

    def __init__(self, *, tasks: Functions = (), types: Classes = ()) -> None:
        super().__init__("json", _to_json, _from_json, tasks=tasks, types=types)


def _to_json(tree: Tree) -> bytes:
    return json.dumps(tree, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()


def _from_json(body: bytes) -> Tree:
    return json.loads(body.decode(), parse_constant=_refuse)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


class MsgpackSerializer(TreeSerializer):
    """As `JSONSerializer`, smaller and faster. Needs the extra `msgpack`.

    Raises:
        ValidationError: As `TreeSerializer`, and if the extra is missing.
    """

    def __init__(self, *, tasks: Functions = (), types: Classes = ()) -> None:
        try:
            import msgpack  # type: ignore[import-untyped]  # noqa: F401, PLC0415
        except ImportError as error:
            raise ValidationError(
                "serializer is msgpack, and the package msgpack is missing: pip install 'sitq[msgpack]'"
            ) from error
        super().__init__("msgpack", _to_msgpack, _from_msgpack, tasks=tasks, types=types, native_bytes=True)


def _to_msgpack(tree: Tree) -> bytes:
    import msgpack  # noqa: PLC0415

    data: Any = msgpack.packb(tree)
    return bytes(data)


def _from_msgpack(body: bytes) -> Tree:
    import msgpack  # noqa: PLC0415

    tree: Tree = msgpack.unpackb(body, ext_hook=_refuse_extension)
    return tree


def _refuse_extension(code: int, data: bytes) -> NoReturn:
    raise ValueError(f"extension {code} is nothing that sitq writes")
