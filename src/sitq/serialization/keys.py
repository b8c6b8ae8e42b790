"""Keys by name. The first one protects what is written, all of them read: so one is replaced without a gap.

Whoever holds one of these objects can use the keys; nobody gets to see them by accident.
"""
# What comes in here is of any type:
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from collections.abc import Collection, Mapping
from typing import Any, Final, Never

from sitq.checks import kind
from sitq.errors import PayloadRefusedError, ValidationError
from sitq.serialization.about import About, Purpose

type Keys = Mapping[str, bytes]

MIN_KEY: Final = 16
_MAX_ID: Final = 64
_FIX: Final = "make one with secrets.token_bytes(32)"


class KeyRing:
    """Keys by name. Not to be pickled or copied, and without its keys in its `repr`."""

    __slots__ = ("_first", "_keys")

    def __init__(self, keys: Keys) -> None:
        self._keys = dict(keys)
        self._first = next(iter(self._keys))

    @property
    def first(self) -> tuple[str, bytes]:
        """The key that protects what is written, with its name."""
        return self._first, self._keys[self._first]

    def find(self, name: str, what: str) -> bytes:
        """The key of this name. Raises `PayloadRefusedError`."""
        key = self._keys.get(name)
        if key is None:
            known = ", ".join(repr(each) for each in self._keys)
            raise PayloadRefusedError(
                f"this {what} is protected by the key {name!r}, and keys has {known}: if it was yours, add it behind "
                "those for as long as there are such rows"
            )
        return key

    def __repr__(self) -> str:
        return f"<keys {', '.join(self._keys)}>"

    def __reduce__(self) -> Never:
        raise TypeError(
            "keys cannot be pickled or copied: build the serializer where it is needed, from where the keys are kept"
        )


def open_ring(ring: KeyRing) -> tuple[Any, ...]:
    """How to make the same ring in a child process. For `sitq.serialization.child` only."""
    return KeyRing, (ring._keys,)  # pyright: ignore[reportPrivateUsage]


def key_ring(given: object, lengths: Collection[int] | None = None) -> KeyRing:
    """Return keys that can be used.

    Args:
        lengths: How many bytes a key may have; `MIN_KEY` or more if not given.

    Raises:
        ValidationError: Not a mapping, empty, or with a name or key that cannot be used. No key is in the message.
    """
    if not isinstance(given, Mapping):
        raise ValidationError(
            f"keys is {kind(given)}: give a mapping of names to bytes, as in {{'2026-11': key}}"
        )
    if not given:
        raise ValidationError(f"keys is empty: give the one that protects what is written, {_FIX}")
    for name, key in given.items():
        if (
            not isinstance(name, str)
            or not name.isascii()
            or not name.isprintable()
            or not 0 < len(name) <= _MAX_ID
        ):
            raise ValidationError(
                f"keys has a name that is {kind(name)}: give 1 to {_MAX_ID} printable ASCII characters"
            )
        if not isinstance(key, bytes):
            raise ValidationError(f"keys[{name!r}] is {kind(key)}: give bytes, {_FIX}")
        if lengths is not None and len(key) not in lengths:
            choices = ", ".join(map(str, lengths))
            raise ValidationError(f"keys[{name!r}] has {len(key)} bytes, and may have {choices}: {_FIX}")
        if len(key) < MIN_KEY:
            raise ValidationError(f"keys[{name!r}] has {len(key)} bytes, and needs {MIN_KEY}: {_FIX}")
    return KeyRing(given)


# -- What is protected, and for what ---------------------------------------------------------------

_BOUND: Final = 1
_FREE: Final = 0


class Label:
    """What stands in the clear before protected bytes: whether they belong to one task, and the name of the key."""

    __slots__ = ("_bound", "data", "key")

    def __init__(self, key: str, bound: bool) -> None:
        self.key = key
        self._bound = bound
        self.data = bytes([_BOUND if bound else _FREE, len(key)]) + key.encode()

    def authenticated(self, format: str, about: About) -> bytes:
        """What must not differ when the bytes are read: their format, this label, what they are for, and whose.

        Args:
            format: Name and version.
        """
        task = (about.task or "").encode("utf-8", "surrogatepass") if self._bound else b""
        parts = (format.encode(), self.data, about.purpose.encode(), task)
        return b"".join(len(part).to_bytes(4) + part for part in parts)


def label_for(key: str, about: About) -> Label:
    """The label to write. Only a call that may take the place of another one belongs to no task."""
    return Label(key, bound=about.task is not None)


def read_label(body: bytes, about: About) -> tuple[Label, bytes]:
    """The label of protected bytes, and what follows it. Raises `PayloadRefusedError`."""
    length = body[1] if len(body) > 1 else 0
    key = body[2 : 2 + length]
    if len(body) < 2 + length or body[0] not in (_BOUND, _FREE) or not key.isascii():
        raise refused(about)
    if body[0] == _FREE and about.purpose is not Purpose.CALL:
        raise refused(about)
    return Label(key.decode(), bound=body[0] == _BOUND), body[2 + length :]


def refused(about: About) -> PayloadRefusedError:
    """The error for bytes that the key does not verify."""
    return PayloadRefusedError(
        f"this {about.purpose} cannot be verified: it was changed, or it belongs to another task or to another part of "
        "this one. Nothing in it was read"
    )
