"""Compression, with a bound on what comes out."""

import zlib
from importlib import import_module
from types import ModuleType
from typing import Final, Literal, get_args

from sitq.checks import integer, kind
from sitq.errors import PayloadTooLargeError, TaskSerializationError, ValidationError
from sitq.serialization.about import About, Serializer
from sitq.serialization.envelope import pack, unpack
from sitq.serialization.wrapper import Wrapper

type Method = Literal["zlib", "zstd"]

DEFAULT_ABOVE: Final = 1024
DEFAULT_MAX_SIZE: Final = 64 * 1024 * 1024
_METHODS: Final[tuple[Method, ...]] = get_args(Method.__value__)
_AS_IT_IS, _ZLIB, _ZSTD = b"\0", b"\1", b"\2"
_MAX_WINDOW: Final = 23
"""The memory that reading a frame may take: 2 to this, 8 MiB, which no frame of ours needs."""


class Compressed(Wrapper):
    """Compresses what is larger than `above`. `max_payload` counts what is stored, so after this.

    Signatures and encryption go around it: `Signed(Compressed("json"), keys)`.

    Args:
        inner: A serializer or the name of one.
        method: `zlib`, or `zstd`, which is faster and needs Python 3.14 or the extra `zstd`. Both are read.
        above: Bytes; what is smaller stays as it is.
        max_size: Bytes; what would be larger is neither written nor read, however small it is when compressed.

    Raises:
        ValidationError: An argument is not usable, or the extra is missing.
    """

    name = "compressed"

    def __init__(
        self,
        inner: Serializer | str,
        method: Method = "zlib",
        *,
        above: int = DEFAULT_ABOVE,
        max_size: int = DEFAULT_MAX_SIZE,
    ) -> None:
        super().__init__(inner)
        if method not in _METHODS:
            given = repr(method[:20]) if isinstance(method, str) else kind(method)
            raise ValidationError(f"method is {given}: give {' or '.join(map(repr, _METHODS))}")
        self._method = method
        self._above = integer(above, "above", minimum=0, maximum=2**31)
        self._max_size = integer(max_size, "max_size", minimum=1, maximum=2**31)
        if method == "zstd":
            _zstd()

    def wrap(self, data: bytes, about: About, /) -> bytes:
        if len(data) > self._max_size:
            raise PayloadTooLargeError(
                f"the {about.purpose} is {len(data):,} bytes before it is compressed, and max_size is "
                f"{self._max_size:,}: store it elsewhere and pass a path or a key, or raise max_size"
            )
        if len(data) <= self._above:
            return pack(self.name, _AS_IT_IS + data)
        if self._method == "zstd":
            return pack(self.name, _ZSTD + _zstd().compress(data))
        return pack(self.name, _ZLIB + zlib.compress(data))

    def unwrap(self, data: bytes, about: About, /) -> bytes:
        body = unpack(data, self.name, about.purpose)
        method, rest = body[:1], body[1:]
        try:
            if method == _AS_IT_IS:
                found, ended = rest, True
            elif method == _ZLIB:
                found, ended = self._inflated(rest)
            elif method == _ZSTD:
                found, ended = self._expanded(rest)
            else:
                raise TaskSerializationError("it was compressed by a method that this sitq does not know")
        except ValidationError as error:
            raise TaskSerializationError(f"this {about.purpose} cannot be read: {error}") from error
        except Exception as error:
            raise TaskSerializationError(f"the {about.purpose} cannot be decompressed: {error}") from error
        if len(found) > self._max_size:
            raise TaskSerializationError(
                f"the {about.purpose} is more than max_size ({self._max_size:,}) bytes when it is decompressed"
            )
        if not ended:
            raise TaskSerializationError(f"the {about.purpose} cannot be decompressed: it is cut or padded")
        return found

    def _inflated(self, data: bytes) -> tuple[bytes, bool]:
        stream = zlib.decompressobj()
        found = stream.decompress(data, self._max_size + 1)
        return found, stream.eof and not stream.unused_data

    def _expanded(self, data: bytes) -> tuple[bytes, bool]:
        zstd = _zstd()
        stream = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _MAX_WINDOW})
        found: bytes = stream.decompress(data, self._max_size + 1)
        return found, stream.eof and not stream.unused_data


def _zstd() -> ModuleType:
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return import_module(name)
        except ImportError:
            pass
    raise ValidationError(
        "method is 'zstd', which needs Python 3.14 or a package: pip install 'sitq[zstd]', or give 'zlib'"
    )
