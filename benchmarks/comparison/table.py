"""The tables and the JSON."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, Final

from benchmarks.comparison.measures import BY_NAME, MEASURES, Row
from benchmarks.peers import LEFT_OUT
from benchmarks.report import number

TERMINAL: Final = (
    "enqueue",
    "enqueue 100",
    "enqueue many",
    "drain 1",
    "drain 100",
    "drain 2x100",
    "cpu one",
    "cpu two",
    "wake-up p50",
    "wake-up p99",
    "idle",
    "idle memory",
)
"""The columns that fit on a terminal."""

THROUGHPUT: Final = ("enqueue", "enqueue 100", "enqueue many", "drain 1", "drain 100", "drain 2x100")
COST: Final = (
    "cpu one",
    "cpu two",
    "wake-up p50",
    "wake-up p99",
    "idle",
    "idle server",
    "idle memory",
    "memory",
)
_NONE: Final = "-"
_WIDTH: Final = 12


def cell(row: Row, name: str) -> str:
    """A value as text; a dash where the peer has no such thing, a mark where it failed."""
    if name in row.values:
        return number(row.values[name])
    reason = row.reasons.get(name)
    return _NONE if reason in {None, "has none"} else "failed"


def head() -> str:
    """The first line on a terminal."""
    return f"{'':24}" + "".join(f"{name:>{_WIDTH}}" for name in TERMINAL)


def line(row: Row) -> str:
    """One line on a terminal."""
    if row.problem:
        return f"{row.name:24}  {row.problem}"
    return f"{row.name:24}" + "".join(f"{cell(row, name):>{_WIDTH}}" for name in TERMINAL)


def why(rows: Iterable[Row]) -> list[str]:
    """What could not be measured and why, one sentence for a reason of a row."""
    said = []
    for row in rows:
        if row.problem:
            said.append(f"{row.name}: {row.problem}")
            continue
        found: dict[str, list[str]] = {}
        for name, reason in row.reasons.items():
            if reason != "has none":
                found.setdefault(reason, []).append(BY_NAME[name].title)
        said += [f"{row.name}, {'; '.join(names)}: {reason}" for reason, names in found.items()]
    return said


def markdown(rows: list[Row]) -> str:
    """The tables for documentation: what was measured, with what, and what was not."""
    return "\n\n".join(
        [
            _table(rows, THROUGHPUT),
            _table(rows, COST),
            _settings(rows),
            _not_measured(rows),
        ]
    )


def _table(rows: list[Row], names: tuple[str, ...]) -> str:
    columns = [BY_NAME[name] for name in names]
    titles = [each.title + ("" if each.unit == "tasks/s" else f" ({each.unit})") for each in columns]
    said = [["", *titles], ["---", *["--:" for _ in columns]]]
    said += [[_bold(row), *(cell(row, name) for name in names)] for row in rows if not row.problem]
    return "\n".join(f"| {' | '.join(each)} |" for each in said)


def _bold(row: Row) -> str:
    return f"**{row.name}**" if row.peer == "sitq" else row.name


def _settings(rows: list[Row]) -> str:
    said = [["", "versions", "stores in", "durability", "results", "a dead worker's task", "side by side"]]
    said.append(["---"] * len(said[0]))
    said += [
        [
            _bold(row),
            ", ".join(f"{name} {version}" for name, version in row.versions.items()) or _NONE,
            row.storage,
            row.durability,
            "stored" if row.results else "not stored",
            row.crash,
            row.runs,
        ]
        for row in rows
    ]
    return "\n".join(f"| {' | '.join(each)} |" for each in said)


def _not_measured(rows: list[Row]) -> str:
    notes = {row.peer: row.note for row in rows if row.note}
    said = [f"- {name}: {note}." for name, note in notes.items()]
    said += [f"- Could not be measured. {each}." for each in why(rows)]
    said += [f"- Left out. {name}: {reason}." for name, reason in LEFT_OUT.items()]
    return "\n".join(said)


def as_json(rows: Iterable[Row], facts: dict[str, Any]) -> dict[str, Any]:
    """Everything, for programs."""
    return {
        **facts,
        "measures": {each.name: {"title": each.title, "unit": each.unit} for each in MEASURES},
        "left_out": LEFT_OUT,
        "rows": [asdict(row) for row in rows],
    }


def from_json(told: dict[str, Any]) -> list[Row]:
    """The rows of `as_json`."""
    return [Row(**each) for each in told["rows"]]
