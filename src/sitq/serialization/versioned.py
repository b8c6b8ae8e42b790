"""Versions of an application's calls and results, and the functions that bring old ones up to date."""
# What comes in here is of any type:
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sitq.checks import integer, kind
from sitq.errors import TaskSerializationError, ValidationError
from sitq.failure import reason, type_name
from sitq.serialization.about import About, CallParts, Purpose, Serializer
from sitq.serialization.envelope import name_of, pack, unpack
from sitq.serialization.wrapper import Wrapper, rebind

_SIZE: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class OldPayload:
    """A call or a value as its version has it.

    Attributes:
        purpose: `call`; or `result`, or `value` for what a task has published.
        task: The name of the task.
        args, kwargs: Of a call.
        value: Of a result or a published value.
    """

    purpose: Purpose
    task: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    value: Any = None


type Upcaster = Callable[[OldPayload], OldPayload]


class Versioned(Wrapper):
    """Writes the version of your application's payloads, and lifts older ones step by step when they are read.

    Args:
        inner: A serializer or the name of one. What it has written before this was put around it counts as version 1.
        version: What is written now, from 1.
        upcasters: By version: the function that makes of a payload of this version one of the next. All from the oldest
            that you still read to the one before `version`.

    Raises:
        ValidationError: An argument is not usable, or a step is missing.
    """

    name = "versioned"

    def __init__(
        self, inner: Serializer | str, version: int, upcasters: Mapping[int, Upcaster] | None = None
    ) -> None:
        super().__init__(inner)
        self._version = integer(version, "version", minimum=1, maximum=2**31)
        self._upcasters = _checked({} if upcasters is None else upcasters, self._version)

    def wrap(self, data: bytes, about: About, /) -> bytes:
        return pack(self.name, self._version.to_bytes(_SIZE) + data)

    def unwrap(self, data: bytes, about: About, /) -> bytes:
        return self._opened(data, about)[1]

    def decode_call(self, data: bytes, about: About, /) -> CallParts:
        version, data = self._opened(data, about)
        parts = CallParts(*self.inner.decode_call(data, about))
        if version == self._version:
            return parts
        call = parts.call
        old = OldPayload(purpose=Purpose.CALL, task=call.name, args=call.args, kwargs=call.kwargs)
        new = self._lifted(version, old)
        call = call._replace(args=tuple(new.args), kwargs=dict(new.kwargs))
        return parts._replace(call=call)

    def decode_value(self, data: bytes, about: About, /) -> Any:
        version, data = self._opened(data, about)
        value = self.inner.decode_value(data, about)
        if version == self._version:
            return value
        return self._lifted(version, OldPayload(purpose=about.purpose, task=about.name, value=value)).value

    # What is no call and no value has no version.

    def seal(self, data: bytes, about: About, /) -> bytes:
        return self.inner.seal(data, about)

    def unseal(self, data: bytes, about: About, /) -> bytes:
        return self.inner.unseal(data, about)

    def rebind(self, data: bytes, old: About, new: About, /) -> bytes:
        version, inner = self._opened(data, old)
        return pack(self.name, version.to_bytes(_SIZE) + rebind(self.inner, inner, old, new))

    def _opened(self, data: bytes, about: About) -> tuple[int, bytes]:
        if name_of(data) != self.name:
            version = 1
        else:
            body = unpack(data, self.name, about.purpose)
            version, data = int.from_bytes(body[:_SIZE]), body[_SIZE:]
        oldest = min(self._upcasters, default=self._version)
        if not oldest <= version <= self._version:
            fix = "use the application that wrote it" if version > self._version else "add its upcaster"
            raise TaskSerializationError(
                f"this {about.purpose} has version {version}, and here {oldest} to {self._version} are read: {fix}"
            )
        return version, data

    def _lifted(self, version: int, old: OldPayload) -> OldPayload:
        for step in range(version, self._version):
            try:
                old = self._upcasters[step](old)
            except Exception as error:
                raise TaskSerializationError(
                    f"the upcaster from version {step} failed with a {old.purpose} of {old.task}: {reason(error)}"
                ) from error
            if not isinstance(old, OldPayload):
                raise TaskSerializationError(
                    f"the upcaster from version {step} returned a {type_name(old)}: return replace(old, ...)"
                )
        return old

    def __repr__(self) -> str:
        return f"Versioned({self.inner!r}, {self._version})"


def _checked(given: object, version: int) -> dict[int, Upcaster]:
    if not isinstance(given, Mapping):
        raise ValidationError(f"upcasters is {kind(given)}: give a mapping of versions to functions")
    for step, upcaster in given.items():
        integer(step, "a version in upcasters", minimum=1, maximum=version - 1, note=", below version")
        if not callable(upcaster):
            raise ValidationError(f"upcasters[{step}] is {kind(upcaster)}: give a function")
    missing = set(range(min(given, default=version), version)) - given.keys()
    if missing:
        raise ValidationError(
            f"upcasters lacks version {min(missing)}: give all from the oldest that is read"
        )
    return dict(given)
