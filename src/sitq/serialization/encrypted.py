"""Encryption: who has no key can neither read nor forge what is stored of a task."""

import os
from typing import TYPE_CHECKING, Final

from sitq.errors import ValidationError
from sitq.serialization.about import About, Serializer
from sitq.serialization.envelope import pack, unpack
from sitq.serialization.keys import Keys, key_ring, label_for, read_label, refused
from sitq.serialization.wrapper import Wrapper

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_NAME: Final = "aes-gcm"
_FORMAT: Final = f"{_NAME}/1"
_NONCE: Final = 12
_LENGTHS: Final = (16, 24, 32)


class Encrypted(Wrapper):
    """Encrypts everything that is stored of a task with AES-GCM, and reads nothing that is not.

    Needs the extra `crypto`. Encrypted are calls with their context, results, errors, progress, lines and published
    values; not names, ids, queues, times, metadata, keys of limits. What is bound to what is as with `Signed`. Each
    message gets a random nonce of 96 bits: replace a key before it has written 4,000 million of them.

    Args:
        inner: A serializer or the name of one. It is called for verified bytes only.
        keys: Secrets of 16, 24 or 32 bytes, by name. The first one encrypts, all decrypt. Names stand in the bytes.

    Raises:
        ValidationError: `inner` or `keys` is not usable, or the extra is missing; the message holds no key.
    """

    name = _NAME
    verifies = True

    def __init__(self, inner: Serializer | str, keys: Keys) -> None:
        self._keys = key_ring(keys, _LENGTHS)
        _cipher(self._keys.first[1])
        super().__init__(inner)

    def wrap(self, data: bytes, about: About, /) -> bytes:
        name, key = self._keys.first
        label, nonce = label_for(name, about), os.urandom(_NONCE)
        secret = _cipher(key).encrypt(nonce, data, label.authenticated(_FORMAT, about))
        return pack(self.name, label.data + nonce + secret)

    def unwrap(self, data: bytes, about: About, /) -> bytes:
        label, rest = read_label(unpack(data, self.name, about.purpose), about)
        key = self._keys.find(label.key, about.purpose)
        try:
            return _cipher(key).decrypt(rest[:_NONCE], rest[_NONCE:], label.authenticated(_FORMAT, about))
        except Exception:  # a bad tag, or too short for one: neither tells more
            raise refused(about) from None

    def __repr__(self) -> str:
        return f"Encrypted({self.inner!r}, {self._keys!r})"


def _cipher(key: bytes) -> "AESGCM":
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415
    except ImportError as error:
        raise ValidationError(
            "Encrypted needs the package cryptography, which is missing: pip install 'sitq[crypto]'"
        ) from error
    return AESGCM(key)
