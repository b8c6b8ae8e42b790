"""Short runs of the kill harness: real processes, one file, SIGKILL at random moments and at named points, SIGSTOP."""

import re
import sys

import pytest

from tests.integration.support import end_group, run_python, start_python
from tests.lab.experiment import SHORT_SEED

PARTS = 8
KILLS = 250
COMMANDS = 30

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="fork and SIGKILL"),
    pytest.mark.timeout(600),
]


def kill(experiment: str, count: int, seed: int = SHORT_SEED) -> dict[str, int]:
    """Run it in a fresh interpreter, which has no threads. Returns the figures that it prints."""
    arguments = ["tests.lab", experiment, "--count", str(count), "--seed", str(seed)]
    run = f"import runpy, sys; sys.argv = {arguments!r}; runpy.run_module('tests.lab', run_name='__main__')"
    with start_python(run) as process:
        try:
            out, err = process.communicate(timeout=580)
        finally:
            end_group(process)
    assert process.returncode == 0, f"{out}\n{err}"
    assert not err, err
    met = {name: int(number.replace(",", "")) for number, name in re.findall(r"(\d[\d,]*) ([a-z ]+)", out)}
    assert met["kills"] >= count
    assert met["runs"] >= met["acknowledged"] / 2 > 0
    return met


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_nothing_is_lost_by_killing_workers_and_producers(part: int) -> None:
    """Each part is another run, with another seed. It has met everything that can happen, and came by every point."""
    met = kill("kill", KILLS, SHORT_SEED + part)
    assert 0 not in met.values(), met


@pytest.mark.slow
def test_nothing_is_lost_by_killing_the_command() -> None:
    met = kill("kill-command", COMMANDS)
    assert met["workers killed"] > COMMANDS / 2


def test_a_point_that_nobody_comes_by_is_told() -> None:
    code = """if True:
        from tests.lab.kill import harness, strikes

        strikes.PATIENCE, strikes.MIGRATION = 0.5, ()
        strikes.POINTS = {"within_enqueue.never": "producer"}
        batch = harness.run(harness.FORKED, 1, harness.EACH_POINT, lambda done: None)
        print(batch.broken[0])
    """
    assert run_python(code).stdout == "a process did not come by within_enqueue.never within 0.5 s\n"


def test_a_point_at_a_function_that_has_another_name_now_is_told() -> None:
    code = """if True:
        from tests.lab.kill import harness, points, strikes

        points.VERBS["reserve"] = points.VERBS["reserve"]._replace(functions=("renamed",))
        strikes.POINTS = {"reserve.before_commit": "worker"}
        harness.run(harness.FORKED, 1, harness.EACH_POINT, lambda done: None)
    """
    done = run_python(code)
    assert "has no attribute 'renamed'" in done.stderr
    assert "RuntimeError: a process ended with 1 instead of -9" in done.stderr
