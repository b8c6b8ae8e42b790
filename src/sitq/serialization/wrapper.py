"""What serializers that stand around another one share."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from sitq.errors import ValidationError
from sitq.serialization.about import About, CallParts, Serializer
from sitq.serialization.choose import make_serializer


class Wrapper(ABC):
    """A serializer that turns the bytes of another one into others.

    Args:
        inner: A serializer or the name of one.

    Attributes:
        inner: The serializer inside.
        verifies: Nothing inside is called for bytes that were not written with its keys.
    """

    name: ClassVar[str]
    verifies: ClassVar[bool] = False

    def __init__(self, inner: Serializer | str) -> None:
        self.inner = make_serializer(inner, "inner")
        if not self.verifies and is_verified(self.inner):
            mine, other = type(self).__name__, type(self.inner).__name__
            raise ValidationError(
                f"inner of {mine} is {other}, so bytes would be read before they are verified: put {other} around, "
                f"as in {other}({mine}(...))"
            )

    @abstractmethod
    def wrap(self, data: bytes, about: About, /) -> bytes:
        """Return other bytes for these."""

    @abstractmethod
    def unwrap(self, data: bytes, about: About, /) -> bytes:
        """Return what `wrap` was given. Raises `TaskSerializationError`."""

    def encode_call(self, parts: CallParts, about: About, /) -> bytes:
        return self.wrap(self.inner.encode_call(parts, about), about)

    def decode_call(self, data: bytes, about: About, /) -> CallParts:
        return self.inner.decode_call(self.unwrap(data, about), about)

    def encode_value(self, value: Any, about: About, /) -> bytes:
        return self.wrap(self.inner.encode_value(value, about), about)

    def decode_value(self, data: bytes, about: About, /) -> Any:
        return self.inner.decode_value(self.unwrap(data, about), about)

    def seal(self, data: bytes, about: About, /) -> bytes:
        return self.wrap(self.inner.seal(data, about), about)

    def unseal(self, data: bytes, about: About, /) -> bytes:
        return self.inner.unseal(self.unwrap(data, about), about)

    def rebind(self, data: bytes, old: About, new: About, /) -> bytes:
        """As the function `rebind`."""
        return self.wrap(rebind(self.inner, self.unwrap(data, old), old, new), new)

    def __repr__(self) -> str:
        return f"{type(self).__qualname__}({self.inner!r})"


def rebind(serializer: Serializer, data: bytes, old: About, new: About) -> bytes:
    """Return the bytes of a call for another task. Raises `PayloadRefusedError` if they are not what `old` says."""
    if isinstance(serializer, Wrapper):
        return serializer.rebind(data, old, new)
    return serializer.seal(serializer.unseal(data, old), new)


def is_verified(serializer: Serializer) -> bool:
    """Whether bytes for it are verified at some level, and so must not be touched before."""
    while isinstance(serializer, Wrapper):
        if serializer.verifies:
            return True
        serializer = serializer.inner
    return False
