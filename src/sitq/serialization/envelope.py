"""Bytes that say what they are.

Version 1 is that of pickles (`sitq.serialization.pickles`). Version 2 carries the name of a serializer:

    "sq" | 2 | length of the name | name | version of its format | Python major | Python minor | CRC-32 | body

The Python version is 0.0 unless there is code in the body. The checksum is of everything else.
"""

import re
import sys
from typing import Final
from zlib import crc32

from sitq.errors import PayloadRefusedError, TaskSerializationError, ValidationError

MAGIC: Final = b"sq"
PYTHON: Final = bytes(sys.version_info[:2])
_VERSION: Final = 2
_ANY_PYTHON: Final = b"\0\0"
_NAME: Final = re.compile(rb"[a-z][a-z0-9_.-]{0,31}")
_PICKLES: Final = "cloudpickle"


def check_name(name: object) -> str:
    """Return the name of a serializer. Raises `ValidationError`."""
    if isinstance(name, str) and name.isascii() and _NAME.fullmatch(name.encode()):
        return name
    raise ValidationError(
        "name of a serializer: give a str of 1 to 32 characters of a-z, 0-9, _, . and -, with a letter first"
    )


def pack(name: str, body: bytes, *, version: int = 1, by_value: bool = False) -> bytes:
    """Return a body in an envelope.

    Args:
        name: Of the serializer.
        version: Of its format, 1 to 255.
        by_value: There is code in the body, which only this version of Python can run.
    """
    head = MAGIC + bytes([_VERSION, len(name)]) + name.encode() + bytes([version])
    head += PYTHON if by_value else _ANY_PYTHON
    return head + crc32(body, crc32(head)).to_bytes(4) + body


def unpack(data: bytes, name: str, what: str, *, known: int = 1) -> bytes:
    """Return the body of an envelope.

    Args:
        name: Of the serializer that must have written it.
        what: What it is, for messages.
        known: The newest version of the format that can be read.

    Raises:
        PayloadRefusedError: Another serializer wrote it, or nobody did.
        TaskSerializationError: It is damaged, of a newer version, or holds code of another Python.
    """
    writer = name_of(data)
    if writer != name:
        raise foreign(what, writer, name)
    end = 4 + len(name)
    head, crc, body = data[: end + 3], data[end + 3 : end + 7], data[end + 7 :]
    if len(crc) < 4 or crc32(body, crc32(head)).to_bytes(4) != crc:
        raise TaskSerializationError(f"the bytes of this {what} are damaged: their checksum is wrong")
    version, major, minor = head[end:]
    if not 1 <= version <= known:
        raise TaskSerializationError(
            f"this {what} has version {version} of the format {name}, which this sitq does not know: use the sitq that "
            "wrote it, or a newer one"
        )
    if (major or minor) and bytes([major, minor]) != PYTHON:
        raise other_python(what, major, minor)
    return body


def name_of(data: bytes) -> str:
    """Return the name of the serializer that wrote these bytes, as far as they say; empty if they do not."""
    if data[:2] != MAGIC or len(data) < 4:
        return ""
    if data[2] == 1:
        return _PICKLES
    name = data[4 : 4 + data[3]]
    return name.decode() if data[2] == _VERSION and len(name) == data[3] and _NAME.fullmatch(name) else ""


def foreign(what: str, writer: str, reader: str) -> PayloadRefusedError:
    """The error for bytes that another serializer wrote."""
    wrote = f"was written by the serializer {writer}" if writer else "says of no serializer that it wrote it"
    return PayloadRefusedError(
        f"this {what} {wrote}, and here {reader} reads: give the queue the serializer of who wrote it, or name that in "
        "also_reads"
    )


def other_python(what: str, major: int, minor: int) -> TaskSerializationError:
    """The error for code of another Python."""
    return TaskSerializationError(
        f"this {what} carries code by value from Python {major}.{minor}, and this is Python {PYTHON[0]}."
        f"{PYTHON[1]}: bytecode does not cross versions. Move the code into a module that both can import, or "
        "run both on one version"
    )
