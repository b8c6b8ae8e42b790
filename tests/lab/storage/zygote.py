"""Many runs of a workload under the shim, each in a process that is forked from one that has imported everything.

`python -m tests.lab.storage.zygote` reads jobs and answers with how they ended, as JSON. It never opens SQLite and
starts no threads, so its children start clean.
"""

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.lab.storage import shim

ROOT = Path(__file__).parents[3]
AT_ONCE = 6
HANGS = 120
"""Seconds after which a process that has not ended is taken to hang."""


class Job(NamedTuple):
    """One run: of which workload, in which folder, with what fault."""

    workload: str
    folder: str
    fault: shim.Fault

    @property
    def database(self) -> Path:
        return Path(self.folder, "store", "tasks.db")


class Ended(NamedTuple):
    """How it ended: its exit code, how many calls were counted and how many failed, and what it wrote to stderr."""

    code: int
    counted: int
    failed: int
    said: str


type Workload = Callable[[Job, shim.Shim], Awaitable[None]]


def run(library: Path, jobs: Sequence[Job]) -> list[Ended]:
    """Run all of them, and answer in their order."""
    environment = {
        **os.environ,
        "LD_PRELOAD": str(library),
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
    }
    said = subprocess.run(
        [sys.executable, "-m", "tests.lab.storage.zygote"],
        input=json.dumps([[job.workload, job.folder, job.fault] for job in jobs]),
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
    )
    assert said.returncode == 0, said.stderr
    return [_ended(job, code) for job, code in zip(jobs, json.loads(said.stdout), strict=True)]


def _ended(job: Job, code: int) -> Ended:
    counts = Path(job.folder, "counts")
    counted, failed = json.loads(counts.read_text()) if counts.exists() else (0, 0)
    return Ended(code, counted, failed, Path(job.folder, "stderr").read_text())


# -- Inside ----------------------------------------------------------------------------------------


def main() -> None:
    from tests.lab.storage.journeys import WORKLOADS  # those who only start it need none of them

    jobs = [Job(name, folder, shim.Fault(*fault)) for name, folder, fault in json.load(sys.stdin)]
    logging.basicConfig(level=logging.ERROR)
    running: dict[int, int] = {}
    codes = [0] * len(jobs)
    for number, job in enumerate(jobs):
        if len(running) == AT_ONCE:
            _wait(running, codes)
        running[_fork(job, WORKLOADS[job.workload])] = number
    while running:
        _wait(running, codes)
    print(json.dumps(codes))


def _wait(running: dict[int, int], codes: list[int]) -> None:
    pid, status = os.wait()
    codes[running.pop(pid)] = os.waitstatus_to_exitcode(status)


def _fork(job: Job, workload: Workload) -> int:
    if pid := os.fork():
        return pid
    code = 1
    try:
        signal.alarm(HANGS)
        job.database.parent.mkdir()
        os.dup2(os.open(Path(job.folder, "stderr"), os.O_WRONLY | os.O_CREAT), 2)
        controls = shim.Shim()
        asyncio.run(workload(job, controls))
        counts = controls.counted, controls.failed
        controls.arm(Path("/dev/null/nothing"), shim.Fault())
        Path(job.folder, "counts").write_text(json.dumps(counts))
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


if __name__ == "__main__":
    main()
