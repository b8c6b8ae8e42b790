"""Command lines: any arguments end in an exit code that is documented, and never in a traceback."""

import contextlib
import io
import os
import random
import sqlite3
import tempfile
from pathlib import Path
from typing import Final
from unittest import mock

from sitq.cli import main
from tests.lab.experiment import Progress

# `worker` runs until it is stopped, and `result --timeout` waits: neither ends by itself.
WORDS: Final = (
    "status",
    "tasks",
    "list",
    "show",
    "cancel",
    "requeue",
    "discard",
    "result",
    "queues",
    "pause",
    "resume",
    "schedules",
    "remove",
    "workers",
    "doctor",
    "version",
    "enqueue",
    "--json",
    "--db",
    "--status",
    "--queue",
    "--name",
    "--since",
    "--until",
    "--before",
    "--limit",
    "--log-level",
    "--full",
    "--all",
    "--help",
    "--version",
    "--",
    "-",
    "-h",
    "--x",
    "",
    "failed",
    "failed,x",
    "pending,waiting",
    "5",
    "-5",
    "0",
    "99999999999999999999",
    "1e9",
    "nan",
    "inf",
    "7d",
    "9" * 400 + "d",
    "2026-01-31T12:00Z",
    "2026-01-31",
    "0001-01-01T00:00+14:00",
    "a=b",
    "x" * 5_000,
    "\udcff",
    "é",
    "\x00",
    "../..",
    ":memory:",
    "postgres://x/y",
    "sqlite://",
    "file:x",
    "math:sqrt",
    "a.b:c",
    "json:loads",
    "[1",
    "{}",
    "\n",
    "%s",
    "good",
    "default",
)
VERBS: Final = (
    ["status"],
    ["tasks", "list"],
    ["tasks", "show"],
    ["tasks", "cancel"],
    ["tasks", "requeue"],
    ["tasks", "discard"],
    ["result"],
    ["pause"],
    ["resume"],
    ["schedules", "list"],
    ["schedules", "remove"],
    ["workers"],
    ["doctor"],
    ["version"],
    ["enqueue"],
    [],
)
CODES: Final = frozenset({0, 1, 2, 3, 4})


def run(seed: int, count: int, progress: Progress, source: Path) -> tuple[list[str], dict[str, int]]:
    """So many command lines, on the store at `source` and on none."""
    rng = random.Random(seed)
    broken: list[str] = []
    figures = {f"exit {code}": 0 for code in sorted(CODES)}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for number in range(count):
            Path("tasks.db").write_bytes(source.read_bytes())
            words = [*rng.choice(VERBS), *(rng.choice(WORDS) for _ in range(rng.randint(0, 4)))]
            if rng.random() < 0.8:
                words += ["--db", rng.choice(["tasks.db"] * 8 + list(WORDS))]
            problem = _one(words, figures)
            if problem is not None:
                broken.append(f"sitq {words!r:.300}: {problem}")
            progress(number + 1)
    return broken, figures


def _one(words: list[str], figures: dict[str, int]) -> str | None:
    out, err = io.StringIO(), io.StringIO()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SITQ_")}
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            mock.patch.dict(os.environ, environment, clear=True),
        ):
            code = main(words)
    except SystemExit as end:  # --help
        code = end.code if isinstance(end.code, int) else 0
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    if code not in CODES:
        return f"exit code {code}"
    figures[f"exit {code}"] += 1
    said = err.getvalue()
    if "Traceback" in said:
        return said
    # An error that nobody thought of is told by its class.
    if code == 1 and said.startswith("sitq: ") and "Error: " in said.partition("sitq: ")[2][:40]:
        return said
    return None


def checkpointed(path: Path) -> Path:
    """The store as one file."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path
