"""What a task says while it runs, as bytes: progress and log lines. Published values are encoded as results are."""

import json
import math
from typing import Final, NamedTuple

from sitq.errors import TaskSerializationError, ValidationError

MAX_NOTE: Final = 1_000
MAX_LINE: Final = 8 * 1024
_CUT: Final = " [cut]"


class Progress(NamedTuple):
    """How far a task has come.

    Attributes:
        percent: 0 to 100.
        note: What it is at, for people.
    """

    percent: float
    note: str = ""


def encode_progress(percent: float, note: str) -> bytes:
    """Return a progress as JSON. A note of more than 1,000 characters is cut.

    Raises:
        ValidationError: `percent` is not a number from 0 to 100, or `note` is not a str.
    """
    fix = "give a number from 0 to 100"
    if not isinstance(percent, int | float) or isinstance(percent, bool):
        raise ValidationError(f"percent is of type {type(percent).__qualname__}: {fix}")
    if math.isnan(percent) or not 0 <= percent <= 100:
        raise ValidationError(f"percent is {percent}: {fix}")
    return json.dumps([percent, _text(note, "note", MAX_NOTE)]).encode()


def decode_progress(data: bytes) -> Progress:
    """Return what `encode_progress` was given. Raises `TaskSerializationError` for other bytes."""
    try:
        percent, note = json.loads(data)
    except (ValueError, TypeError) as error:
        raise TaskSerializationError(f"these bytes are not a progress written by sitq: {error}") from error
    if not isinstance(percent, int | float) or not isinstance(note, str):
        raise TaskSerializationError("these bytes are not a progress written by sitq")
    return Progress(percent, note)


def encode_line(text: str) -> bytes:
    """Return a log line as UTF-8. One of more than 8 KiB characters is cut.

    Raises:
        ValidationError: It is not a str.
    """
    return _text(text, "text", MAX_LINE).encode("utf-8", "backslashreplace")


def decode_line(data: bytes) -> str:
    """Return what `encode_line` was given; what is not UTF-8 is shown escaped."""
    return data.decode("utf-8", "backslashreplace")


def _text(value: str, name: str, limit: int) -> str:
    if not isinstance(value, str):
        raise ValidationError(f"{name} is of type {type(value).__qualname__}: give a str")
    return value if len(value) <= limit else value[: limit - len(_CUT)] + _CUT
