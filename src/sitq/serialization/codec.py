"""What a queue and its workers turn everything into bytes with: a serializer and a limit, and no other error."""

import sys
from collections.abc import Mapping
from typing import Any

from sitq.errors import TaskSerializationError
from sitq.failure import reason
from sitq.model import TaskId
from sitq.rules import RunRules
from sitq.serialization.about import About, CallParts, Loaded, Purpose, Serializer
from sitq.serialization.choose import make_serializer
from sitq.serialization.pickles import (
    CloudpickleSerializer,
    call_too_large,
    decode_call,
    decode_value,
    encode_call,
    encode_value,
    result_too_large,
)
from sitq.serialization.several import Several, with_others
from sitq.serialization.wrapper import rebind
from sitq.task import Call


class Codec:
    """A serializer with a size limit. Whatever it raises becomes a `TaskSerializationError`.

    Attributes:
        seals: Errors, progress and lines are to be given to `seal` before they are stored.
    """

    seals = True

    def __init__(self, serializer: Serializer, max_payload: int) -> None:
        self.serializer = serializer
        self.max_payload = max_payload

    def encode_call(
        self,
        call: Call[Any],
        context: Mapping[str, Any] | None,
        rules: RunRules,
        task: TaskId | None,
        purpose: Purpose = Purpose.CALL,
    ) -> bytes:
        """Return a call as bytes; `task` as in `About`. Raises `TaskSerializationError`, `PayloadTooLargeError`."""
        try:
            data = self.serializer.encode_call(CallParts(call, context or {}, rules), About(task, purpose))
        except (TaskSerializationError, KeyboardInterrupt):
            raise
        except BaseException as error:
            raise TaskSerializationError(
                f"the call of {call.name} cannot be written: {reason(error)}"
            ) from error
        if len(data) > self.max_payload:
            raise call_too_large(call, len(data), self.max_payload)
        return data

    def decode_call(self, data: bytes, task: TaskId) -> Loaded:
        """Return what `encode_call` was given. Raises `TaskSerializationError` and nothing else."""
        try:
            return self.serializer.decode_call(data, About(task, Purpose.CALL))
        except TaskSerializationError:
            raise
        except BaseException as error:
            raise _unreadable(Purpose.CALL, error) from error

    def encode_value(self, value: Any, task: TaskId, purpose: Purpose) -> bytes:
        """Return a value as bytes. Raises `TaskSerializationError`, `PayloadTooLargeError` and nothing else."""
        try:
            data = self.serializer.encode_value(value, About(task, purpose))
        except TaskSerializationError:
            raise
        except BaseException as error:
            raise TaskSerializationError(f"the {purpose} cannot be written: {reason(error)}") from error
        if len(data) > self.max_payload:
            raise result_too_large(len(data), self.max_payload)
        return data

    def decode_value(self, data: bytes, task: TaskId, purpose: Purpose, name: str) -> Any:
        """Return what `encode_value` was given; `name` is that of the task. Raises `TaskSerializationError`."""
        try:
            return self.serializer.decode_value(data, About(task, purpose, name))
        except (TaskSerializationError, KeyboardInterrupt):
            raise
        except BaseException as error:
            raise _unreadable(purpose, error) from error

    def seal(self, data: bytes, task: TaskId, purpose: Purpose) -> bytes:
        """Return bytes as they are stored. Empty ones, which nobody can read, if the serializer fails."""
        try:
            return self.serializer.seal(data, About(task, purpose))
        except Exception:
            # Not as they are: it was asked for that they are protected. And what has happened has to be stored.
            return b""

    def unseal(self, data: bytes, task: TaskId, purpose: Purpose) -> bytes:
        """Return what `seal` was given. Raises `TaskSerializationError` and nothing else."""
        try:
            return self.serializer.unseal(data, About(task, purpose))
        except TaskSerializationError:
            raise
        except Exception as error:
            raise _unreadable(purpose, error) from error

    def rebind(self, data: bytes, schedule: str, task: TaskId) -> bytes:
        """Return the call of a schedule as that of a task. Raises `TaskSerializationError` and nothing else."""
        try:
            old, new = About(schedule, Purpose.SCHEDULE), About(task, Purpose.CALL)
            if isinstance(self.serializer, Several):
                return self.serializer.rebind(data, old, new)
            return rebind(self.serializer, data, old, new)
        except TaskSerializationError:
            raise
        except Exception as error:
            raise _unreadable(Purpose.SCHEDULE, error) from error

    def __repr__(self) -> str:
        return f"<Codec {self.serializer!r}>"


class _PickleCodec(Codec):
    """The usual one, without the detour over a serializer."""

    seals = False

    def encode_call(
        self,
        call: Call[Any],
        context: Mapping[str, Any] | None,
        rules: RunRules,
        task: TaskId | None,
        purpose: Purpose = Purpose.CALL,
    ) -> bytes:
        return encode_call(call, context, max_payload=self.max_payload, rules=rules)

    def decode_call(self, data: bytes, task: TaskId) -> Loaded:
        return decode_call(data)

    def encode_value(self, value: Any, task: TaskId, purpose: Purpose) -> bytes:
        return encode_value(value, max_payload=self.max_payload)

    def decode_value(self, data: bytes, task: TaskId, purpose: Purpose, name: str) -> Any:
        return decode_value(data)


def make_codec(
    serializer: object = "cloudpickle", also_reads: object = (), max_payload: int = sys.maxsize
) -> Codec:
    """Return the codec of a queue. Raises `ValidationError` for a serializer that is none, or that is not known."""
    made = with_others(make_serializer(serializer), also_reads)
    return (_PickleCodec if type(made) is CloudpickleSerializer else Codec)(made, max_payload)


def _unreadable(purpose: Purpose, error: BaseException) -> TaskSerializationError:
    return TaskSerializationError(f"the {purpose} cannot be read: {reason(error)}")
