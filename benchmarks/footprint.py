"""What processes cost: an idle worker's processor time and memory, and the memory of a busy one."""

import asyncio
import math
from collections.abc import AsyncIterator
from pathlib import Path

from benchmarks import limits
from benchmarks.drain import fill_for_sitq
from benchmarks.measure import Figure, Scale, Target
from benchmarks.process import child
from benchmarks.tasks import noop

MIB = 1024 * 1024
_SETTLE = 1.5


async def idle(scale: Scale) -> AsyncIterator[Figure]:
    """Processor time and memory of an idle `sitq worker`, beside an interpreter that sleeps."""
    seconds = scale.count(20, 3)
    with scale.file() as path:
        limits.connect(path, "full").close()
        async with (
            child("sitq", "worker", path, "--log-level", "error") as worker,
            child("benchmarks.children.interpreter", path) as interpreter,
        ):
            await interpreter.answer()
            await asyncio.sleep(_SETTLE)
            before = processor_time(worker.pid), processor_time(interpreter.pid)
            await asyncio.sleep(seconds)
            after = processor_time(worker.pid), processor_time(interpreter.pid)
            share, bound = [(b - a) / seconds * 100 for a, b in zip(before, after, strict=True)]
            sizes = resident(worker.pid)[0] / MIB, resident(interpreter.pid)[0] / MIB
    yield Figure(
        "idle worker, processor time",
        "% core",
        share,
        bound,
        target=Target("value", "<=", 0.3),
        note=f"over {seconds} s; limit: an interpreter with the same libraries and a connection, asleep",
    )
    yield Figure(
        "idle worker, resident memory",
        "MiB",
        sizes[0],
        sizes[1],
        sizes[0] / sizes[1],
        Target("value", "<=", 35.0),
        note="limit: an interpreter with the same libraries and a connection, asleep",
    )


async def memory(scale: Scale) -> AsyncIterator[Figure]:
    """How much a worker process grows while it drains 100,000 tasks."""
    count = scale.count(100_000)
    sizes: list[float] = []
    for who in ("sitq", "limit"):
        with scale.file() as path:
            if who == "sitq":
                fill_for_sitq(path, noop, count)
            else:
                limits.fill(path, noop, count)
            async with child("benchmarks.children.drainer") as one:
                one.tell("open", who, path, "fast", 100)
                before = (await one.answer())["before"]
                one.tell("go")
                sizes.append(((await one.answer())["peak"] - before) / MIB)
    yield Figure(
        f"memory, growth over {count:,} drained",
        "MiB",
        sizes[0],
        sizes[1],
        sizes[0] / sizes[1],
        note="peak of the process minus what it had before it began; concurrency 100, fast",
    )


def resident(pid: int | str = "self") -> tuple[float, float]:
    """Resident memory of a process and its peak in bytes; NaN where the system does not tell (Linux does)."""
    found = {"VmRSS": math.nan, "VmHWM": math.nan}
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, _, rest = line.partition(":")
        if name in found:
            found[name] = int(rest.split()[0]) * 1024.0
    return found["VmRSS"], found["VmHWM"]


def processor_time(pid: int) -> float:
    """Seconds that the threads of a process have run; NaN where the system does not tell (Linux does)."""
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9
    except OSError:
        return math.nan
