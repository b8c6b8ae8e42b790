"""Checks what `make coverage` has measured against the floors of branch coverage.

Prints what was not reached, file by file. Ends with 1 if the whole of `src/sitq` is below its floor, or if anything was
not reached in a file that must be reached whole.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SOURCE = Path("src/sitq")
FLOOR = 97.0
"""Percent of the branches of everything, and of its lines."""
WHOLE = (
    # what a task is, and what its states lead to
    "model.py",
    "backends/base.py",
    # what follows from an attempt, and its way to the storage
    "worker/judge.py",
    "worker/completion.py",
    "worker/completer.py",
    "retry.py",
    # when tasks are due
    "cron.py",
    "schedule.py",
    "schedules.py",
    # the storage
    "backends/sqlite/*.py",
)
"""Where every line and every branch must be reached."""


def measured() -> dict[str, Any]:
    """The report of coverage.py, of data that is combined already."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        command = [sys.executable, "-m", "coverage", "json", "--quiet", "-o", str(path)]
        subprocess.run(command, cwd=ROOT, check=True)
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found


def whole() -> set[str]:
    """The files of `WHOLE`. Ends with an error for a pattern that finds none: a floor must not get lost by a move."""
    files: set[str] = set()
    for pattern in WHOLE:
        found = {path.relative_to(ROOT).as_posix() for path in (ROOT / SOURCE).glob(pattern)}
        if not found:
            raise SystemExit(f"scripts/floors.py: there is no {SOURCE / pattern}")
        files |= found
    return files


def missing(file: dict[str, Any]) -> str:
    """Lines and branches that were not reached."""
    lines = set(file["missing_lines"])
    # A branch to or from a line that is named already says nothing more.
    arrows = [
        f"{start}->{'exit' if end < 0 else end}"
        for start, end in file["missing_branches"]
        if start not in lines and end not in lines
    ]
    return ", ".join([*map(str, sorted(lines)), *arrows])


def percents(numbers: dict[str, Any]) -> tuple[float, float]:
    """Of the branches and of the lines."""
    return (
        100 * numbers["covered_branches"] / max(1, numbers["num_branches"]),
        100 * numbers["covered_lines"] / max(1, numbers["num_statements"]),
    )


def main() -> int:
    report = measured()
    files: dict[str, dict[str, Any]] = {Path(name).as_posix(): file for name, file in report["files"].items()}
    strict = whole()
    broken = [f"{name} was not measured" for name in sorted(strict - files.keys())]
    for name, file in sorted(files.items()):
        branches, lines = percents(file["summary"])
        if file["missing_lines"] or file["missing_branches"]:
            print(f"{name}: {branches:.1f} % of branches, {lines:.1f} % of lines; not {missing(file)}")
            if name in strict:
                broken.append(f"{name} must be reached whole")
    branches, lines = percents(report["totals"])
    print(f"{SOURCE}: {branches:.2f} % of branches, {lines:.2f} % of lines, {len(strict)} files whole")
    if min(branches, lines) < FLOOR:
        broken.append(f"{SOURCE} is below {FLOOR:g} %")
    for problem in broken:
        print("BROKEN:", problem)
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
