"""What a serializer is, and what it is told about the bytes."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

from sitq.model import TaskId
from sitq.rules import NO_RULES, RunRules
from sitq.task import Call


class Purpose(StrEnum):
    """What bytes are of a task."""

    CALL = "call"
    RESULT = "result"
    ERROR = "error"
    VALUE = "value"
    PROGRESS = "progress"
    LOG = "log"
    SCHEDULE = "schedule"


class About(NamedTuple):
    """Which bytes these are.

    Attributes:
        task: Id of the task. None for a call that may take the place of another one, as `debounce` lets it: who writes
            it does not know whose id it will have. For a call of a schedule `schedule/` and its name.
        name: What the task is called, where a result is read; empty elsewhere.
    """

    task: TaskId | None
    purpose: Purpose
    name: str = ""


class CallParts(NamedTuple):
    """What a payload holds: the call, what travels beside its arguments, and what the worker has to know besides."""

    call: Call[Any]
    context: Mapping[str, Any] = {}
    rules: RunRules = NO_RULES


type Loaded = tuple[Call[Any], Mapping[str, Any], RunRules]
"""`CallParts`, or a plain tuple of the same."""


class Serializer(Protocol):
    """How calls and values become bytes. Every method may be called from any thread.

    Reading raises `TaskSerializationError` for bytes that are damaged or that cannot be read here, and its subclass
    `PayloadRefusedError` for those that another serializer wrote. It must not follow what such bytes ask for.
    """

    @property
    def name(self) -> str:
        """What it is called in the bytes and in messages: at most 32 of `a-z`, `0-9`, `_`, `.` and `-`."""
        ...

    def encode_call(self, parts: CallParts, about: About, /) -> bytes:
        """Return a call as bytes. Raises `TaskSerializationError`, which names the part that cannot be written."""
        ...

    def decode_call(self, data: bytes, about: About, /) -> CallParts:
        """Return what `encode_call` was given."""
        ...

    def encode_value(self, value: Any, about: About, /) -> bytes:
        """Return a result or a published value as bytes. Raises `TaskSerializationError`."""
        ...

    def decode_value(self, data: bytes, about: About, /) -> Any:
        """Return what `encode_value` was given."""
        ...

    def seal(self, data: bytes, about: About, /) -> bytes:
        """Protect what is bytes already: an error, a progress, a line. What only encodes returns it as it is."""
        ...

    def unseal(self, data: bytes, about: About, /) -> bytes:
        """Return what `seal` was given."""
        ...
