"""Kill processes, at random moments and at named points of the code, and check that nothing is lost."""

import shutil
import tempfile
from functools import partial
from pathlib import Path

from tests.lab.experiment import Batch, Experiment, Progress
from tests.lab.history.checker import check
from tests.lab.history.collect import collect
from tests.lab.history.entries import History
from tests.lab.kill import tasks
from tests.lab.kill.strikes import COMMAND, EACH_POINT, FORKED, Harness, Plan


def run(plan: Plan, seed: int, count: int, progress: Progress) -> Batch:
    """Let real processes work, kill so many, and hear the judge. A folder with the journal stays if he finds fault."""
    folder = Path(tempfile.mkdtemp(prefix="sitq-kill-"))
    (folder / tasks.PROCESSES).mkdir()
    (folder / "journal").touch()
    harness = Harness(folder, seed, plan)
    broken: list[str] = []
    try:
        harness.begin()
        progress(min(harness.kills, count))
        # Each point is struck at least once for so many kills, and so on, however long that takes.
        rounds = count // EACH_POINT
        while not broken and (harness.kills < count or harness.least() < rounds or harness.told() < rounds):
            broken += harness.strike()
            progress(min(harness.kills, count))
        harness.finish()
    finally:
        harness.nursery.close()
    history = collect(folder / "tasks.db", folder)
    broken += check(history)
    if broken:
        broken.append(f"the journal is in {folder}")
    else:
        shutil.rmtree(folder)
    done = {name: number for name, number in harness.done.items() if name != "kills"}
    of_plan = {
        "kills at points": sum(harness.struck.values()),
        "of each act or point at least": harness.least(),
    }
    return Batch(harness.kills, broken, done | (of_plan if plan.aimed else {}) | figures(history))


def figures(history: History) -> dict[str, int]:
    """What the run met. A run that met little proves little."""
    return {
        "acknowledged": len(history.acknowledged),
        "refused": len(history.refused),
        "runs": len(history.ran),
        "stale outcomes refused": sum(not entry.accepted for entry in history.reported),
        "given up": sum(task.status == "failed" for task in history.final),
        "requeued": len(history.requeued),
        "removed": len(history.forgone - {task.id for task in history.final}),
        "cancelled": len(history.stopped),
        "retries": sum(one.kind == "Retried" for one in history.sent),
        "crashes told": sum(one.kind == "Crashed" for one in history.sent),
        "lines": len(history.noted),
        "ticks": sum("tick" in task.meta for task in history.final),
        "followed": sum(bool(task.parents) and task.status == "success" for task in history.final),
        "cancelled with others": sum(task.cancelled_by is not None for task in history.final),
        "committed with others": len(history.beside or ()),
    }


def _experiment(name: str, about: str, batch: int, plan: Plan) -> Experiment:
    return Experiment(name, "kills", about, batch, partial(run, plan))


KILL = _experiment(
    "kill",
    "SIGKILL at random moments and at named points of the code, and SIGSTOP, for forked workers and producers",
    500,
    FORKED,
)
KILL_COMMAND = _experiment(
    "kill-command", "SIGKILL for `sitq worker` in fresh interpreters, and for producers", 50, COMMAND
)
