"""Long runs go on where they were stopped, however they were, and leave nobody behind."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from tests.integration.support import end_group, run_python, start_python
from tests.lab import ledger
from tests.lab.__main__ import EXPERIMENTS, experiments

PATIENCE = 120.0
ENTRY = ledger.Entry(
    experiment="kill", unit="kills", count=10, broken=0, seed=1, seconds=2.5, day="2026-03-01", commit="abc"
)
posix = pytest.mark.skipif(sys.platform == "win32", reason="fork and SIGKILL")


# -- The ledger ------------------------------------------------------------------------------------


def test_a_ledger_that_is_not_there_yet_is_empty(tmp_path: Path) -> None:
    assert ledger.total(tmp_path / "ledger", "kill") == 0


@pytest.mark.parametrize("cut", [1, 20, 2])
def test_a_torn_line_hides_nothing(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "ledger"
    ledger.append(path, ENTRY)
    ledger.append(path, ENTRY)
    path.write_bytes(path.read_bytes()[:-cut])
    left = 2 if cut == 1 else 1  # without its end of line only, it is whole
    assert ledger.total(path, "kill") == 10 * left
    ledger.append(path, ENTRY)
    assert list(ledger.entries(path)) == [ENTRY] * (left + 1)


def test_totals_are_told_by_experiment(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    for _ in range(2):
        ledger.append(path, ENTRY)
    assert ledger.total(path, "another") == 0
    assert "| kill | 20 kills | 2 | 0 | 0.00 | 2026-03-01 |" in ledger.table(path)


# -- What it can do --------------------------------------------------------------------------------


def test_experiments_are_found_by_their_names_and_only_one_is_loaded() -> None:
    assert [one.name for one in experiments([])] == [*EXPERIMENTS]
    assert [one.name for one in experiments(["simulate", "--count", "kill"])] == ["simulate"]


@posix
@pytest.mark.parametrize(
    ("experiment", "count", "unit"),
    [
        ("kill", 5, "kills"),
        ("kill-command", 2, "kills"),
        ("simulate", 3, "schedules"),
        ("storage", 10, "crash points"),
        ("faults", 3, "faulty runs"),
        ("model", 50, "steps"),
        ("fuzz", 10, "cases"),
        ("planted", 1, "planted bugs"),
    ],
)
def test_each_experiment_can_be_run_and_is_entered(
    experiment: str, count: int, unit: str, tmp_path: Path
) -> None:
    path = tmp_path / "ledger"
    done = run_python(
        laboratory(experiment, "--until", count, "--count", count, "--ledger", path), timeout=PATIENCE
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(f" {unit} in {path}\n")
    assert ledger.total(path, experiment) >= count


# -- A run that is stopped -------------------------------------------------------------------------


def laboratory(*arguments: object) -> str:
    argv = ["tests.lab", *map(str, arguments)]
    return f"import runpy, sys; sys.argv = {argv!r}; runpy.run_module('tests.lab', run_name='__main__')"


def wait_until(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def stop(process: "subprocess.Popen[str]", how: signal.Signals) -> None:
    """Stop it while it has children, and see that they end as well."""
    running = psutil.Process(process.pid)
    wait_until(running.children)
    children = running.children(recursive=True)
    process.send_signal(how)
    process.wait(PATIENCE)
    _, left = psutil.wait_procs(children, timeout=PATIENCE)
    assert not left


@posix
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_long_run_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    run = laboratory("kill", "--until", 40, "--count", 10, "--ledger", path)
    for batches, how, code in ((1, signal.SIGINT, 130), (2, signal.SIGKILL, -signal.SIGKILL)):
        with start_python(run) as process:
            try:
                wait_until(lambda batches=batches: len(list(ledger.entries(path))) >= batches)  # type: ignore[misc]
                stop(process, how)
            finally:
                end_group(process)
        assert process.returncode == code
    done = run_python(run, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    found = list(ledger.entries(path))
    assert 3 <= len(found) <= 4
    assert ledger.total(path, "kill") >= 40
    assert len({entry.seed for entry in found}) == len(found)
    again = run_python(run)
    assert re.fullmatch(r"4\d kills in .*\n", again.stdout)


@posix
@pytest.mark.timeout(300)
def test_a_terminal_shows_how_far_it_is() -> None:
    terminal, side = os.openpty()
    try:
        with start_python(laboratory("kill", "--count", 12), stderr=side) as process:
            try:
                out, _ = process.communicate(timeout=PATIENCE)
            finally:
                end_group(process)
        shown = os.read(terminal, 100_000).decode()
    finally:
        os.close(terminal)
        os.close(side)
    assert re.match(r"\d+ kills, ", out)
    assert re.search(r"\r\[#+ *\] \d+/12 \d+ s ", shown)
