"""`python -m benchmarks peers`: measure sitq and other task queues, print the table, write JSON, chart and page."""

import argparse
import json
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from benchmarks import report
from benchmarks.comparison import environments, page, table
from benchmarks.comparison.measures import Row, merged
from benchmarks.comparison.runner import Runner
from benchmarks.peers import NAMES
from benchmarks.peers.interface import Peer, load

PAGE: Final = environments.ROOT / "docs" / "explanation" / "comparison.md"


def main(arguments: list[str]) -> int:
    """The command line. Exit code 0 whatever the figures are, 2 for wrong usage."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.list:
        for name in NAMES:
            peer = load(name).PEER
            print(f"{name:14} {peer.storage:11} {'; '.join(each.durability for each in peer.settings)}")
        return 0
    if unknown := [name for name in given.names if name not in NAMES]:
        parser.error(f"unknown: {', '.join(unknown)}; choose from {', '.join(NAMES)}")
    if given.figures:
        told = json.loads(given.figures.read_text(encoding="utf-8"))
    else:
        told = _measured(given)
    told["growth"] = _growth(given)
    _write(given, told)
    return 0


def _growth(given: argparse.Namespace) -> list[dict[str, Any]]:
    """The figures of `python -m benchmarks growth`: those given, else those that were given before."""
    path, key = (
        (given.growth, "figures") if given.growth else (given.figures or PAGE.with_suffix(".json"), "growth")
    )
    if not path.exists():
        return []
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")).get(key, [])
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks peers",
        description="Measure sitq and other task queues at the same work. `make bench-peers` sets up their packages.",
    )
    parser.add_argument("names", nargs="*", metavar="PEER", help="what to measure; everything by default")
    parser.add_argument("--list", action="store_true", help="name what can be measured and stop")
    parser.add_argument("--seconds", type=float, default=1.0, help="how long a part of the work takes")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds after which a peer is given up")
    parser.add_argument("--rounds", type=int, default=1, help="how often; the median counts")
    parser.add_argument(
        "--dir", type=Path, default=Path(tempfile.gettempdir()), help="where databases are made"
    )
    parser.add_argument(
        "--environment",
        type=Path,
        action="append",
        metavar="DIR",
        help="a virtual environment with peers' packages",
    )
    parser.add_argument(
        "--figures", type=Path, metavar="FILE", help="measure nothing, take the JSON of a run"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there as JSON")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there as Markdown")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="write the chart there as SVG")
    parser.add_argument(
        "--growth", type=Path, metavar="FILE", help="the JSON of `python -m benchmarks growth`"
    )
    parser.add_argument(
        "--publish", action="store_true", help="write JSON, chart and tables into the documentation"
    )
    return parser


def _measured(given: argparse.Namespace) -> dict[str, Any]:
    folders = given.environment or [environments.ROOT / name for name in environments.FOLDERS]
    chosen = [
        (peer, setting)
        for name in given.names or NAMES
        for peer in [_peer(name)]
        for setting in peer.settings
    ]
    start, facts = time.perf_counter(), report.facts(given.dir)
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    print(table.head())
    rounds: list[list[Row]] = [[] for _ in chosen]
    again: dict[str, float] = {}
    with ExitStack() as stack:
        # Servers and workers have sessions of their own: without this they would outlive a run that is ended.
        before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        stack.callback(signal.signal, signal.SIGTERM, before)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sitq-peers-", dir=given.dir)))
        folder.chmod(0o755)  # PostgreSQL does not run as root
        runner = Runner(folder, folders, given.seconds, stack, given.limit)
        for _ in range(given.rounds):
            for found, (peer, setting) in zip(rounds, chosen, strict=True):
                found.append(runner.measure(peer, setting))
                print(table.line(found[-1]), flush=True)
        if len(chosen) > 1 and chosen[0][0].name == "sitq":
            last = runner.measure(*chosen[0])
            again = last.values
            print(table.line(last).replace(last.name, f"{last.name}, again", 1))
        servers = {
            kind: f"{each.version}, {each.settings}"
            for kind, each in runner.started.items()
            if not isinstance(each, Exception)
        }
    rows = [merged(found) for found in rounds]
    for text in table.why(rows):
        print(text)
    return table.as_json(
        rows,
        {
            "machine": facts,
            "servers": servers,
            "seconds": given.seconds,
            "rounds": given.rounds,
            "took": round(time.perf_counter() - start),
            "again": again,
        },
    )


def _peer(name: str) -> Peer:
    return load(name).PEER


def _write(given: argparse.Namespace, told: dict[str, Any]) -> None:
    rows = table.from_json(told)
    if given.json:
        given.json.write_text(page.as_text(told), encoding="utf-8")
    if given.markdown:
        given.markdown.write_text(table.markdown(rows) + "\n", encoding="utf-8")
    if given.chart:
        given.chart.write_text(page.drawn(told), encoding="utf-8")
    if given.publish:
        page.publish(told, PAGE)
    elif given.figures and not (given.json or given.markdown or given.chart):
        sys.stdout.write(table.markdown(rows) + "\n")
