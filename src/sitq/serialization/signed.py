"""Signatures: who has no key cannot make a worker or a reader load anything."""

import hmac
from typing import Final

from sitq.serialization.about import About, Serializer
from sitq.serialization.envelope import pack, unpack
from sitq.serialization.keys import Keys, key_ring, label_for, read_label, refused
from sitq.serialization.wrapper import Wrapper

_NAME: Final = "signed"
_FORMAT: Final = f"{_NAME}/1"
_HASH: Final = "sha256"
_SIZE: Final = 32


class Signed(Wrapper):
    """Signs everything that is stored of a task with HMAC-SHA256, and reads nothing that is not signed.

    A signature holds for one task and for one part of it: the call of one task is refused as that of another, and a
    result as a call.

    Args:
        inner: A serializer or the name of one. It is called for verified bytes only.
        keys: Secrets of at least 16 bytes, by name. The first one signs, all verify. Names stand in the bytes.

    Raises:
        ValidationError: `inner` or `keys` is not usable; the message names it and holds no key.
    """

    name = _NAME
    verifies = True

    def __init__(self, inner: Serializer | str, keys: Keys) -> None:
        self._keys = key_ring(keys)
        super().__init__(inner)

    def wrap(self, data: bytes, about: About, /) -> bytes:
        name, key = self._keys.first
        label = label_for(name, about)
        mac = hmac.digest(key, label.authenticated(_FORMAT, about) + data, _HASH)
        return pack(self.name, label.data + mac + data)

    def unwrap(self, data: bytes, about: About, /) -> bytes:
        label, rest = read_label(unpack(data, self.name, about.purpose), about)
        key = self._keys.find(label.key, about.purpose)
        mac, inner = rest[:_SIZE], rest[_SIZE:]
        if not hmac.compare_digest(hmac.digest(key, label.authenticated(_FORMAT, about) + inner, _HASH), mac):
            raise refused(about)
        return inner

    def __repr__(self) -> str:
        return f"Signed({self.inner!r}, {self._keys!r})"
