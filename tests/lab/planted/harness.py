"""Plant bugs, one at a time, and see that tests notice: `python -m tests.lab planted`."""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.lab.experiment import Batch, Experiment, Progress
from tests.lab.planted.bug import Bug, Verdict
from tests.lab.planted.bugs import BUGS

ROOT = Path(__file__).parents[3]
SOURCE = ROOT / "src"


class Trials:
    """Runs tests on copies of the source. One trial at a time."""

    def __enter__(self) -> Self:
        # What pytest tells its own children is not meant for tests of another run.
        given = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        self._zygote = subprocess.Popen(
            [sys.executable, "-m", "tests.lab.planted.zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**given, "PYTHONPATH": str(ROOT)},
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._zygote.communicate()

    def run(self, tests: tuple[str, ...], bug: Bug | None = None) -> Verdict:
        """Run these tests on the source with this bug in it, or on the source as it is."""
        assert self._zygote.stdin is not None
        assert self._zygote.stdout is not None
        with tempfile.TemporaryDirectory(prefix="sitq-planted-", ignore_cleanup_errors=True) as folder:
            copy = Path(folder) / "src"
            shutil.copytree(SOURCE, copy)
            if bug is not None:
                plant(bug, copy)
            self._zygote.stdin.write(json.dumps({"folder": folder, "tests": tests}) + "\n")
            self._zygote.stdin.flush()
            return Verdict(*json.loads(self._zygote.stdout.readline()))


def plant(bug: Bug, source: Path) -> None:
    """Write a bug into a copy of the source."""
    path = source / "sitq" / bug.file
    text = path.read_text()
    assert text.count(bug.old) == 1, (
        f"{bug.name}: {bug.old!r} stands {text.count(bug.old)} times in {bug.file}"
    )
    path.write_text(text.replace(bug.old, bug.new))


def all_tests(bugs: Iterable[Bug] = BUGS) -> tuple[str, ...]:
    """What these bugs together ask for."""
    return tuple(sorted({test for bug in bugs for test in bug.tests}))


def planted(seed: int, count: int, progress: Progress) -> Batch:
    """Run the tests of so many bugs, chosen by the seed if that is not all of them, and print a table."""
    places = random.Random(seed).sample(range(len(BUGS)), min(count, len(BUGS)))
    chosen = [BUGS[place] for place in sorted(places)]
    cpu, caught, broken = 0.0, 0, list[str]()
    print("| planted bug | file | caught by | s | s of CPU |\n|---|---|---|---|---|")
    with Trials() as trials:
        control = trials.run(all_tests(chosen))
        if control.failed is not None or not control.answered:
            broken.append(f"without a bug, too: {control.failed}: {control.reason}")
        for number, bug in enumerate(chosen):
            verdict = trials.run(bug.tests, bug)
            cpu += verdict.cpu
            if verdict.failed is None:
                broken.append(f"{bug.name} was not noticed: {verdict.reason}")
            else:
                caught += 1
            test = (verdict.failed or "NOTHING").replace("|", "\\|")
            print(
                f"| {bug.name} | {bug.file} | {test} | {verdict.seconds:.1f} | {verdict.cpu:.1f} |",
                flush=True,
            )
            progress(number + 1)
    figures = {
        "caught": caught,
        "seconds of CPU": round(cpu),
        "for the control": round(control.cpu),
    }
    return Batch(len(chosen), broken, figures)


PLANTED = Experiment(
    "planted",
    "planted bugs",
    "known mistakes, written into a copy of the source one at a time: a test has to fail for each",
    len(BUGS),
    planted,
)
