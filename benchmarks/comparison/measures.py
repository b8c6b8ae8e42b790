"""What is measured, and what is known of a peer after it was measured."""

from dataclasses import dataclass, field
from typing import Any, Final, Self

from benchmarks.peers.interface import Peer, Setting


@dataclass(frozen=True, slots=True)
class Measure:
    """One column.

    Attributes:
        name: As the driver says it.
        title: In the table.
        unit: Of its values.
        more: Whether more is better.
        part: The part of the driver's work that finds it.
    """

    name: str
    title: str
    unit: str
    more: bool
    part: str


MEASURES: Final = (
    Measure("enqueue", "enqueue, one caller", "tasks/s", True, "enqueue_and_drain"),
    Measure("enqueue 100", "enqueue, 100 callers", "tasks/s", True, "enqueue_and_drain"),
    Measure("enqueue many", "enqueue, in bulk", "tasks/s", True, "enqueue_and_drain"),
    Measure("drain 1", "drain, 1 at a time", "tasks/s", True, "drain_one"),
    Measure("drain 100", "drain, 100 at a time", "tasks/s", True, "enqueue_and_drain"),
    Measure("drain 2x100", "drain, two workers", "tasks/s", True, "drain_two"),
    Measure("cpu one", "CPU tasks, one worker", "tasks/s", True, "burn"),
    Measure("cpu two", "CPU tasks, two workers", "tasks/s", True, "burn"),
    Measure("wake-up p50", "wake-up p50", "ms", False, "wait"),
    Measure("wake-up p99", "wake-up p99", "ms", False, "wait"),
    Measure("idle", "idle worker", "% core", False, "wait"),
    Measure("idle server", "its server", "% core", False, "wait"),
    Measure("idle memory", "idle memory", "MiB", False, "wait"),
    Measure("memory", "memory, after a drain", "MiB", False, "enqueue_and_drain"),
)
BY_NAME: Final = {each.name: each for each in MEASURES}


@dataclass(slots=True)
class Row:
    """One peer in one setting, measured.

    Attributes:
        versions: Of its packages.
        values: By the name of the measure.
        reasons: Why there is no value, by the name of the measure.
        problem: Why there is nothing at all.
    """

    peer: str
    setting: str
    storage: str
    durability: str
    results: bool
    crash: str
    runs: str
    note: str
    versions: dict[str, str] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    problem: str | None = None

    @classmethod
    def of(cls, peer: Peer, setting: Setting) -> Self:
        """A row with nothing measured yet."""
        return cls(
            peer.name,
            setting.name,
            peer.storage,
            setting.durability,
            setting.results,
            setting.crash,
            peer.runs,
            peer.note,
        )

    @property
    def name(self) -> str:
        """What the row is called."""
        return f"{self.peer}, {self.setting}" if self.setting else self.peer

    def hear(self, answer: dict[str, Any]) -> None:
        """Take in a line of the driver: one value, or the failure of a measure or of a whole part."""
        name, value = answer["measure"], answer["value"]
        if value is not None:
            self.values[name] = value
            return
        wanted = [name] if name in BY_NAME else [each.name for each in MEASURES if each.part == name]
        for each in wanted:
            if each not in self.values and not (each == "idle server" and self.storage == "SQLite"):
                self.reasons.setdefault(each, answer["reason"])

    def lack(self, reason: str) -> None:
        """Say of everything that has neither value nor reason why that is so."""
        for each in MEASURES:
            self.hear({"measure": each.name, "value": None, "reason": reason})


def merged(rows: list[Row]) -> Row:
    """Several measurements of the same thing as one: the median of each value."""
    first = rows[0]
    for name in BY_NAME:
        values = sorted(row.values[name] for row in rows if name in row.values)
        if values:
            middle = len(values) // 2
            first.values[name] = (
                values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2
            )
            first.reasons.pop(name, None)
    return first
