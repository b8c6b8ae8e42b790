"""One serializer that writes, and others whose bytes are read, too: for as long as there are rows of theirs."""
# What comes in here is of any type:
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from collections.abc import Callable, Iterable
from typing import Any

from sitq.checks import kind
from sitq.errors import PayloadRefusedError, TaskSerializationError, ValidationError
from sitq.serialization.about import About, CallParts, Serializer
from sitq.serialization.choose import make_serializer
from sitq.serialization.envelope import name_of
from sitq.serialization.wrapper import rebind


class Several:
    """Writes with the first serializer and reads with all of them."""

    def __init__(self, main: Serializer, others: Iterable[Serializer]) -> None:
        self._main = main
        self._all = (main, *others)
        self.name = main.name

    def encode_call(self, parts: CallParts, about: About, /) -> bytes:
        return self._main.encode_call(parts, about)

    def decode_call(self, data: bytes, about: About, /) -> CallParts:
        return self._read(data, lambda one: one.decode_call(data, about))

    def encode_value(self, value: Any, about: About, /) -> bytes:
        return self._main.encode_value(value, about)

    def decode_value(self, data: bytes, about: About, /) -> Any:
        return self._read(data, lambda one: one.decode_value(data, about))

    def seal(self, data: bytes, about: About, /) -> bytes:
        return self._main.seal(data, about)

    def unseal(self, data: bytes, about: About, /) -> bytes:
        return self._read(data, lambda one: one.unseal(data, about))

    def rebind(self, data: bytes, old: About, new: About) -> bytes:
        """As `rebind`; by who can read it, so that nothing gets a signature by being read without one."""
        return self._read(data, lambda one: rebind(one, data, old, new))

    def _read[T](self, data: bytes, read: Callable[[Serializer], T]) -> T:
        writer = name_of(data)
        first: TaskSerializationError | None = None
        for one in sorted(self._all, key=lambda one: one.name != writer):
            try:
                return read(one)
            except PayloadRefusedError as error:
                first = first or error
            except TaskSerializationError as error:
                # Who can say more than that it is none of his knows it best.
                if first is None or isinstance(first, PayloadRefusedError):
                    first = error
        assert first is not None
        raise first

    def __repr__(self) -> str:
        main, *others = self._all
        return f"{main!r}, also reads {', '.join(map(repr, others))}"


def with_others(main: Serializer, also_reads: object) -> Serializer:
    """Return a serializer that reads the bytes of others, too. Raises `ValidationError`."""
    if isinstance(also_reads, str) or not isinstance(also_reads, Iterable):
        raise ValidationError(f"also_reads is {kind(also_reads)}: give a list of serializers")
    others = [make_serializer(one, "one of also_reads") for one in also_reads]
    return Several(main, others) if others else main
