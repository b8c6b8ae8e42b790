"""Faults of the disk, one after another: `python -m tests.lab faults` runs what CI has no time for."""

import errno
import random
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.lab.experiment import Batch, Experiment, Progress
from tests.lab.storage import shim, zygote
from tests.lab.storage.judge import broken, diary_of
from tests.lab.storage.shim import EVER, Call, Fault
from tests.lab.storage.zygote import Job

SHARED_MEMORY = Path("/dev/shm")
ERRORS = (errno.EIO, errno.ENOSPC)
CALLS = (shim.ALL, shim.ALL, Call.SYNC, Call.WRITE, Call.OPEN, Call.TRUNCATE | Call.UNLINK)
AT_A_TIME = 60


def scratch(prefix: str) -> Path:
    """A folder that no disk is waited for in, if there is such a place."""
    parent = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
    return Path(tempfile.mkdtemp(prefix=prefix, dir=parent))


def run(workload: str, faults: Iterable[Fault], library: Path) -> tuple[list[str], dict[str, int]]:
    """Let the workload meet each of these faults. What was broken, and what was met."""
    folder = scratch("sitq-faults-")
    jobs: list[Job] = []
    for number, fault in enumerate(faults):
        own = folder / str(number)
        own.mkdir()
        jobs.append(Job(workload, str(own), fault))
    ended = zygote.run(library, jobs)
    problems = [problem for job, one in zip(jobs, ended, strict=True) for problem in broken(job, one)]
    words = [entry[0] for job in jobs for entry in diary_of(job)]
    met = {
        "calls failed": sum(one.failed for one in ended),
        "processes ended": sum(one.code == 77 for one in ended),
        "answers": words.count("acked"),
        "refusals": words.count("refused"),
    }
    shutil.rmtree(folder)
    return problems, met


def calls_of(workload: str, library: Path, calls: Call = shim.ALL) -> int:
    """How many of these calls the workload makes when nothing fails."""
    folder = scratch("sitq-faults-")
    job = Job(workload, str(folder), Fault(calls))
    [ended] = zygote.run(library, [job])
    assert broken(job, ended) == []
    shutil.rmtree(folder)
    return ended.counted


def drawn(rng: random.Random, most: int) -> Fault:
    """Any fault, somewhere in the first `most` calls."""
    return Fault(
        rng.choice(CALLS),
        rng.randint(1, 1 + int(most * rng.random())),
        rng.choice([1, 1, 2, 5, 20, EVER]),
        rng.choice(ERRORS),
        rng.choice([-1, -1, 0, 1, 2, 3, 5, 10]),
    )


def faults(seed: int, count: int, progress: Progress) -> Batch:
    """So many runs with faults that are drawn, by a client and by a worker."""
    rng = random.Random(seed)
    folder = scratch("sitq-shim-")
    library = shim.build(folder)
    most = {workload: calls_of(workload, library) for workload in ("steps", "work")}
    problems: list[str] = []
    figures: dict[str, int] = {}
    for first in range(0, count, AT_A_TIME):
        workload = rng.choice(["steps", "steps", "work"])
        number = min(AT_A_TIME, count - first)
        chosen = [drawn(rng, most[workload]) for _ in range(number)]
        found, met = run(workload, chosen, library)
        problems += found
        figures = {name: figures.get(name, 0) + value for name, value in met.items()}
        progress(first + number)
    shutil.rmtree(folder)
    return Batch(count, problems, figures)


FAULTS = Experiment(
    "faults",
    "faulty runs",
    "calls to the disk that fail, once or for ever, and processes that end there",
    1200,
    faults,
)


def parts[T](items: Sequence[T], number: int) -> list[Sequence[T]]:
    """Every `number`th of them, from the first, from the second, and so on."""
    return [items[first::number] for first in range(number)]
