"""The running total of the laboratory: one line for each batch of a long run, in a file that is only appended to."""

import json
import os
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

LEDGER = Path(__file__).parent / "ledger.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A batch: what was run on which code with which seed, how long it took, and what came out."""

    experiment: str
    unit: str
    count: int
    broken: int
    seed: int
    seconds: float
    day: str
    commit: str
    figures: dict[str, int] = field(default_factory=dict)


def append(path: Path, entry: Entry) -> None:
    """Add a batch. It is in the file for good when this returns; a line that an earlier run left torn stays apart."""
    torn = path.exists() and not path.read_bytes().endswith(b"\n") and path.stat().st_size > 0
    with path.open("a") as ledger:
        ledger.write("\n" * torn + json.dumps(asdict(entry)) + "\n")
        ledger.flush()
        os.fsync(ledger.fileno())


def entries(path: Path) -> Iterator[Entry]:
    """All batches. One whose line was cut off, since its run was killed while it wrote, does not count."""
    if path.exists():
        for line in path.read_text().splitlines():
            with suppress(json.JSONDecodeError):
                yield Entry(**json.loads(line))


def total(path: Path, experiment: str) -> int:
    """How many of an experiment the ledger has."""
    return sum(entry.count for entry in entries(path) if entry.experiment == experiment)


def table(path: Path) -> str:
    """The totals as a Markdown table, for RELIABILITY.md."""
    rows: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for entry in entries(path):
        rows[entry.experiment, entry.unit].append(entry)
    lines = ["| experiment | total | batches | broken | hours | days |", "|---|---|---|---|---|---|"]
    for (name, unit), of in sorted(rows.items()):
        days = sorted({entry.day for entry in of})
        span = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
        lines.append(
            f"| {name} | {sum(one.count for one in of):,} {unit} | {len(of)} | {sum(one.broken for one in of)} "
            f"| {sum(one.seconds for one in of) / 3600:.2f} | {span} |"
        )
    return "\n".join(lines)


def current_commit() -> str:
    """The code that is run, with a plus if it is not as committed."""
    said = subprocess.run(["git", "describe", "--always", "--dirty=+"], capture_output=True, text=True)
    return said.stdout.strip() or "unknown"
