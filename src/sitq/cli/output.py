"""What commands write on stdout: tables for people, JSON for programs."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sitq.model import TaskRecord
from sitq.result import Result

_BYTES: Final = frozenset({"payload", "result", "error"})
_NESTED: Final = ("unique", "concurrency", "rate")


def write(text: str) -> None:
    # A terminal that lacks a character (Windows code pages) shows its escape instead of ending the command.
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(f"{text}\n".encode(encoding, "backslashreplace").decode(encoding))


def write_json(value: Any) -> None:
    write(json.dumps(value, indent=2, default=_plain))


def write_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns as wide as their widest cell; numbers to the right."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    right = [bool(rows) and all(isinstance(row[i], int) for row in rows) for i in range(len(header))]
    for line in [list(header), *cells]:
        parts = [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ]
        write("  ".join(parts).rstrip())


def write_fields(data: Mapping[str, Any]) -> None:
    """One `name: value` a line, without what is not there."""
    width = max(map(len, data)) + 1
    for name, value in data.items():
        if value is not None:
            write(f"{name + ':':{width}} {_cell(value)}")


def record_data(record: TaskRecord) -> dict[str, Any]:
    """What is stored about a task, without its bytes."""
    data = {field.name: getattr(record, field.name) for field in fields(record) if field.name not in _BYTES}
    for name in _NESTED:
        data[name] = data[name] and data[name]._asdict()
    return data


def result_data(result: Result[Any]) -> dict[str, Any]:
    data = {field.name: getattr(result, field.name) for field in fields(result)}
    return data | {"value": _jsonable(result.value)}


def value_text(value: Any) -> str:
    """A value for a shell: a str as it is, plain data as JSON, anything else as Python shows it."""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return repr(value)


def _jsonable(value: Any) -> Any:
    try:
        return json.loads(json.dumps(value, allow_nan=False, default=_plain))
    except (TypeError, ValueError):
        return repr(value)


def _plain(value: Any) -> Any:
    match value:
        case datetime():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case _:
            return repr(value)


def _cell(value: object) -> str:
    match value:
        case None:
            return "-"
        case datetime():
            return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        case Mapping():
            return json.dumps(value, ensure_ascii=False, default=_plain)
        case _:
            return str(value)
