"""Kill workers at random moments and check that nothing is lost: `python -m tests.lab kill`."""

import asyncio
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from tests.lab.experiment import Batch, Experiment, Progress
from tests.lab.history.checker import check
from tests.lab.history.entries import History
from tests.lab.history.journal import collect
from tests.lab.kill import crew

WORKERS = 3
PRODUCERS = 2
PAUSED = (2 * crew.LEASE, 4 * crew.LEASE)
LET_LIVE = 0.3


class Harness:
    """Forks, kills, pauses. It never opens SQLite and starts no threads while it forks, so its children start clean."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder = folder
        self._rng = random.Random(seed)
        self._workers: set[int] = set()
        self._paused: dict[int, float] = {}
        self._producers: set[int] = set()
        self._parent = 0
        self._steward = 0
        self.kills = self.pauses = self.producer_kills = self.child_kills = 0

    def start(self) -> None:
        while len(self._workers) < WORKERS:
            self._workers.add(fork(lambda: crew.work(self._folder, queues=["default"])))
        if not self._parent:
            self._parent = fork(lambda: crew.work(self._folder, queues=[crew.PROCESSES]))
        while len(self._producers) < PRODUCERS:
            seed = self._rng.randrange(2**32)
            self._producers.add(fork(lambda seed=seed: crew.produce(self._folder, seed)))  # type: ignore[misc]
        if not self._steward:
            steward = self._rng.randrange(2**32)
            self._steward = fork(lambda: crew.govern(self._folder, steward))

    def strike(self) -> None:
        """One act of violence, after a random pause."""
        time.sleep(self._rng.expovariate(1 / 0.03))
        for pid, until in list(self._paused.items()):
            if time.monotonic() >= until:
                os.kill(pid, signal.SIGCONT)
            if time.monotonic() >= until + LET_LIVE:
                del self._paused[pid]
        fate = self._rng.random()
        victim = self._rng.choice(sorted(self._workers))
        if fate < 0.05:
            producer = self._rng.choice(sorted(self._producers))
            self._producers.discard(producer)
            end(producer)
            self.producer_kills += 1
        elif fate < 0.2:
            self.child_kills += self._kill_a_child()
        elif fate < 0.205:
            end(self._parent)
            self._parent = 0
            self.kills += 1
        elif victim in self._paused:
            pass  # it is to live and to say what it did: the stale worker is the harder case
        elif fate < 0.3 and len(self._paused) < WORKERS - 1:
            os.kill(victim, signal.SIGSTOP)
            self._paused[victim] = time.monotonic() + self._rng.uniform(*PAUSED)
            self.pauses += 1
        else:
            self._workers.discard(victim)
            end(victim)
            self.kills += 1
        self.start()

    def _kill_a_child(self) -> bool:
        """Kill a process that has run a task, if there is one."""
        processes = self._folder / crew.PROCESSES
        children = [
            child
            for child in psutil.Process(self._parent).children()
            if (processes / f"{child.pid}").exists()
        ]
        if children:
            self._rng.choice(children).kill()
        return bool(children)

    def done(self) -> dict[str, int]:
        return {
            "pauses beyond the lease": self.pauses,
            "producers killed": self.producer_kills,
            "child processes killed": self.child_kills,
        }

    def finish(self) -> None:
        """End everybody, then let healthy workers do what is left."""
        for pid in self._paused:
            os.kill(pid, signal.SIGCONT)
        time.sleep(self._rng.random() * 0.1)
        for pid in [*self._workers, *self._producers, self._parent, self._steward]:
            end(pid)
        self._workers.clear()
        healthy = [fork(lambda: crew.work(self._folder, until_done=True)) for _ in range(2)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in healthy]
        if any(codes):
            raise SystemExit(f"a healthy worker ended with {codes}")


def fork(main: Callable[[], Coroutine[Any, Any, None]]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        asyncio.run(main())
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code != -signal.SIGKILL:
        raise SystemExit(f"a process ended by itself, with {code}")


def kill(seed: int, count: int, progress: Progress) -> Batch:
    """Let real processes work, kill so many, and hear the judge. A folder with the journal stays if he finds fault."""
    folder = Path(tempfile.mkdtemp(prefix="sitq-kill-"))
    (folder / crew.PROCESSES).mkdir()
    harness = Harness(folder, seed)
    harness.start()
    while harness.kills < count:
        harness.strike()
        progress(harness.kills)
    harness.finish()
    history = collect(folder / "tasks.db", folder)
    broken = check(history)
    if broken:
        broken.append(f"the journal is in {folder}")
    else:
        shutil.rmtree(folder)
    return Batch(harness.kills, broken, harness.done() | figures(history))


def figures(history: History) -> dict[str, int]:
    """What the run met. A run that met little proves little."""
    return {
        "acknowledged": len(history.acknowledged),
        "runs": len(history.ran),
        "stale outcomes refused": sum(not entry.accepted for entry in history.reported),
        "given up": sum(task.status == "failed" for task in history.final),
        "requeued": len(history.requeued),
        "retries": sum(one.kind == "Retried" for one in history.sent),
        "crashes told": sum(one.kind == "Crashed" for one in history.sent),
        "lines": len(history.noted),
        "ticks": sum("tick" in task.meta for task in history.final),
        "followed": sum(bool(task.parents) and task.status == "success" for task in history.final),
        "cancelled with others": sum(task.cancelled_by is not None for task in history.final),
    }


KILL = Experiment(
    "kill",
    "kills",
    "SIGKILL and SIGSTOP for workers, producers and child processes at random moments",
    5000,
    kill,
)
