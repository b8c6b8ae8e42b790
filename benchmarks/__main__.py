"""`python -m benchmarks`: measure, print a table, write JSON."""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final, TextIO

from benchmarks import report
from benchmarks.comparison.cli import main as peers
from benchmarks.dependent import dependent
from benchmarks.drain import drain
from benchmarks.due import due
from benchmarks.enqueue import enqueue
from benchmarks.footprint import idle, memory
from benchmarks.growth import growth
from benchmarks.limited import limited
from benchmarks.measure import Figure, Scale
from benchmarks.processes import processes
from benchmarks.progress import progress
from benchmarks.serializers import serializers
from benchmarks.stored import stored
from benchmarks.unique import unique
from benchmarks.wakeup import wakeup

BENCHMARKS: dict[str, Callable[[Scale], AsyncIterator[Figure]]] = {
    "enqueue": enqueue,
    "drain": drain,
    "wakeup": wakeup,
    "idle": idle,
    "memory": memory,
    "stored": stored,
    "unique": unique,
    "limited": limited,
    "progress": progress,
    "due": due,
    "processes": processes,
    "dependent": dependent,
    "serializers": serializers,
    "growth": growth,
}

ONLY_WHEN_NAMED: Final = ("growth",)
"""Takes minutes to fill its file."""


async def measure(names: list[str], scale: Scale, out: TextIO) -> list[Figure]:
    """Run benchmarks by name and print each line as soon as it is known."""
    figures: list[Figure] = []
    for line in report.lines([]):
        print(line, file=out)
    for name in names:
        async for figure in BENCHMARKS[name](scale):
            figures.append(figure)
            print(list(report.lines([figure]))[-1], file=out, flush=True)
    return figures


def main(arguments: list[str] | None = None) -> int:
    """The command line; `peers` has one of its own. Exit code 0 whatever the figures are, 2 for wrong usage."""
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["peers"]:
        return peers(words[1:])
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure sitq beside the limit of the machine. Rates: ratio 1 means as fast as a straight-line "
        "program that writes the same rows; times and sizes: ratio 1 means as little.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="what to measure; everything by default")
    parser.add_argument("--quick", action="store_true", help="a look in seconds; too few rounds to quote")
    parser.add_argument(
        "--json", metavar="FILE", help="write everything there as JSON; - for standard output"
    )
    parser.add_argument("--markdown", metavar="FILE", help="write the table there as Markdown")
    parser.add_argument(
        "--dir", type=Path, default=Path(tempfile.gettempdir()), help="where the databases are made"
    )
    parser.add_argument("--list", action="store_true", help="name what can be measured and stop")
    given = parser.parse_args(words)
    if given.list:
        for name, benchmark in BENCHMARKS.items():
            print(f"{name:10} {(benchmark.__doc__ or '').splitlines()[0]}")
        return 0
    unknown = [name for name in given.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; choose from {', '.join(BENCHMARKS)}")
    by_default = [name for name in BENCHMARKS if name not in ONLY_WHEN_NAMED]
    start = time.perf_counter()
    machine = report.facts(given.dir)
    out = sys.stderr if given.json == "-" else sys.stdout
    print(", ".join(f"{key} {value}" for key, value in machine.items()), file=out)
    figures = asyncio.run(measure(given.names or by_default, Scale(given.quick, given.dir), out))
    seconds = time.perf_counter() - start
    if given.json:
        text = json.dumps(report.as_json(figures, machine, quick=given.quick, seconds=seconds), indent=2)
        if given.json == "-":
            print(text)
        else:
            Path(given.json).write_text(text + "\n", encoding="utf-8")
    if given.markdown:
        Path(given.markdown).write_text(report.markdown(figures) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
