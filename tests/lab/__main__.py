"""The laboratory: looks for broken promises for as long as it is told to. `python -m tests.lab` lists what it can do.

A failure prints the seed and the command that repeats it. What was run is written into a ledger, batch by batch, so a
long run may be stopped at any moment and goes on from there.
"""

import argparse
import random
import signal
import sys
import time
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

from tests.lab import ledger
from tests.lab.experiment import Batch, Experiment

EXPERIMENTS = {
    "kill": "tests.lab.kill.harness:KILL",
    "kill-command": "tests.lab.kill.harness:KILL_COMMAND",
    "simulate": "tests.lab.sim.simulate:SIMULATE",
    "storage": "tests.lab.storage.power:STORAGE",
    "faults": "tests.lab.storage.sweep:FAULTS",
    "model": "tests.lab.model.harness:MODEL",
    "fuzz": "tests.lab.fuzz.harness:FUZZ",
    "planted": "tests.lab.planted.harness:PLANTED",
}
"""Where they are, by name: to import all of them takes longer than some runs."""


class Bar:
    """A line that is drawn again, on a terminal; elsewhere nothing."""

    def __init__(self, before: int, of: int) -> None:
        self._before, self._of = before, of
        self._began = time.monotonic()

    def __call__(self, done: int) -> None:
        if sys.stderr.isatty():
            done += self._before
            bar = "#" * min(40, 40 * done // self._of)
            passed = time.monotonic() - self._began
            print(f"\r[{bar:40}] {done:,}/{self._of:,} {passed:.0f} s ", end="", file=sys.stderr, flush=True)

    def erase(self) -> None:
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def once(experiment: Experiment, seed: int, count: int, bar: Bar) -> tuple[Batch, float]:
    began = time.monotonic()
    try:
        batch = experiment.run(seed, count, bar)
    finally:
        bar.erase()
    seconds = time.monotonic() - began
    figures = ", ".join(f"{number:,} {name}" for name, number in batch.figures.items())
    print(f"{batch.count:,} {experiment.unit}, {figures}, seed {seed}, {seconds:.0f} s")
    for problem in batch.broken[:50]:
        print("BROKEN:", problem)
    if batch.broken:
        print(f"{len(batch.broken)} promises broken. Again:")
        print(f"    python -m tests.lab {experiment.name} --count {count} --seed {seed}")
    return batch, seconds


def until(experiment: Experiment, wanted: int, size: int, path: Path) -> int:
    """Batch after batch of this size, until the ledger has that many."""
    while (have := ledger.total(path, experiment.name)) < wanted:
        seed = random.SystemRandom().randrange(2**32)
        count = min(size, wanted - have)
        commit = ledger.current_commit()
        batch, seconds = once(experiment, seed, count, Bar(have, wanted))
        entry = ledger.Entry(
            experiment=experiment.name,
            unit=experiment.unit,
            count=batch.count,
            broken=len(batch.broken),
            seed=seed,
            seconds=round(seconds, 1),
            day=datetime.now(UTC).date().isoformat(),
            commit=commit,
            figures=batch.figures,
        )
        ledger.append(path, entry)
        if batch.broken:
            return 1
    print(f"{have:,} {experiment.unit} in {path}")
    return 0


def experiments(arguments: list[str]) -> list[Experiment]:
    """The one that is asked for; all of them if somebody only looks."""
    places = [EXPERIMENTS[word] for word in arguments[:1] if word in EXPERIMENTS] or EXPERIMENTS.values()
    parts = [place.split(":") for place in places]
    return [getattr(import_module(module), name) for module, name in parts]


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.lab", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for one in experiments(sys.argv[1:]):
        command = commands.add_parser(one.name, help=one.about, description=one.about)
        command.add_argument("--count", type=int, help=f"how many {one.unit} at once ({one.batch:,})")
        command.add_argument("--seed", type=int, help="repeat the choices of another run")
        command.add_argument(
            "--until",
            type=int,
            help=f"go on until the ledger has so many {one.unit}; nothing else is recorded",
        )
        command.add_argument("--ledger", type=Path, default=ledger.LEDGER, help="where the total is kept")
        command.set_defaults(experiment=one)
    totals = commands.add_parser("totals", help="the running totals, as a table")
    totals.add_argument("--ledger", type=Path, default=ledger.LEDGER)
    return parser.parse_args()


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    # Not Python's own handler: asyncio replaces that, and forgets an interrupt that comes while a loop is ending.
    signal.signal(signal.SIGINT, interrupt)
    options = parsed()
    if options.command == "totals":
        print(ledger.table(options.ledger))
        return 0
    experiment: Experiment = options.experiment
    count = experiment.batch if options.count is None else options.count
    if options.until is not None:
        return until(experiment, options.until, count, options.ledger)
    seed = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
    batch, _ = once(experiment, seed, count, Bar(0, count))
    return 1 if batch.broken else 0


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        print("stopped; batches that were done are in the ledger", file=sys.stderr)
        raise SystemExit(130) from None
