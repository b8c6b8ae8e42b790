"""The Spin models: what they promise holds in every state, and each planted bug breaks it."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

HERE = Path(__file__).parent
MISSING = [tool for tool in ("spin", "cc") if shutil.which(tool) is None]
pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        bool(MISSING), reason=f"needs {' and '.join(MISSING)}: sh scripts/spin.sh says how to get it"
    ),
]


class Model(NamedTuple):
    """A model with some of its switches.

    Attributes:
        states: How many it has at least, if it holds: a model that goes nowhere breaks no promise.
    """

    name: str
    switches: str = ""
    states: int = 0

    @property
    def live(self) -> bool:
        """Whether it is checked that something happens in the end, and not only that nothing bad does."""
        return self.name == "wakeup" or "LIVE" in self.switches


class Found(NamedTuple):
    """What Spin says of a model."""

    errors: int
    states: int
    said: str


HOLD = [
    Model("lease", states=2_000_000),
    Model("lease", "RUNS=0", states=90_000),
    Model("lease", "LIVE RUNS=0", states=300_000),
    Model("join", states=10_000),
    Model("join", "LIVE RUNS=2", states=30_000),
    Model("wakeup", states=8_000),
    Model("wakeup", "RELIABLE", states=6_000),
    Model("ticks", states=50_000),
    Model("ticks", "LIVE", states=50_000),
]
BREAK = [
    *[
        Model("lease", bug)
        for bug in (
            "NOFENCE",
            "NAMEFENCE",
            "ATTEMPTFENCE",
            "ROWFENCE",
            "OVERWRITE",
            "CRASHFREE",
            "CANCELLOST",
            "CANCELPENDING",
            "STARTCANCELLED",
            "HEARTBEATFREE",
        )
    ],
    Model("lease", "LIVE RUNS=0 UNBOUNDED"),
    *[Model("join", bug) for bug in ("COUNTER", "SPLIT", "NOREOPEN", "NOCASCADE", "ANYEND", "NORELEASE")],
    Model("wakeup", "NOBOUND"),
    *[Model("wakeup", f"RELIABLE {bug}") for bug in ("LOOKFIRST", "RESETLATE", "RINGFIRST")],
    *[Model("ticks", bug) for bug in ("RANDOMID", "PRUNEEARLY", "LOSTPAUSE", "CACHED")],
    Model("ticks", "LIVE NOTEFIRST"),
]


def name_of(model: Model) -> str:
    return " ".join([model.name, *model.switches.split()]).replace(" ", "-")


def explore(model: Model, folder: Path, *, optimize: str) -> Found:
    """Generate the checker of a model, compile and run it."""

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    run("spin", "-a", *[f"-D{switch}" for switch in model.switches.split()], str(HERE / f"{model.name}.pml"))
    kind = "-DNFAIR=3" if model.live else "-DSAFETY"
    run("cc", optimize, "-w", kind, "-o", "pan", "pan.c")
    said = run("./pan", "-m200000", *(["-a", "-f"] if model.live else []))
    return parsed(said)


def parsed(said: str) -> Found:
    errors = re.search(r"errors: (\d+)", said)
    states = re.search(r"^\s*(\S+) states, stored", said, re.MULTILINE)
    assert errors is not None, said
    assert states is not None, said
    assert "too small" not in said, said  # then it has not seen everything
    return Found(int(errors[1]), int(float(states[1])), said)


@pytest.mark.parametrize("model", HOLD, ids=name_of)
def test_the_model_keeps_its_promises_in_every_state(model: Model, tmp_path: Path) -> None:
    found = explore(model, tmp_path, optimize="-O2")
    assert found.errors == 0, found.said
    assert found.states >= model.states, found.said
    assert "Search not completed" not in found.said


@pytest.mark.parametrize("model", BREAK, ids=name_of)
def test_a_planted_bug_breaks_a_promise(model: Model, tmp_path: Path) -> None:
    found = explore(model, tmp_path, optimize="-O0")
    assert found.errors == 1, found.said
    # And not by a lack of steps, which would say nothing.
    kind = "acceptance cycle" if model.live else "assertion violated"
    assert re.search(rf"^pan:1: {kind}", found.said, re.MULTILINE), found.said


def test_every_switch_is_tried() -> None:
    """What the models can be told to do wrong is what the tests tell them."""
    tried = {switch.partition("=")[0] for model in HOLD + BREAK for switch in model.switches.split()}
    known: set[str] = set()
    for file in HERE.glob("*.pml"):
        known.update(re.findall(r"^#if(?:def|ndef)? *(\w+)$", file.read_text(), re.MULTILINE))
    sizes = {"SLOTS", "ATTEMPTS", "CRASHES", "RELEASES", "BEATS", "TASKS", "WORKERS", "TICKERS", "INSTANTS"}
    assert known - tried - sizes - {"NAMEFENCE", "NOFENCE", "DEATHS", "EXPIRIES", "RUNS"} == set()
