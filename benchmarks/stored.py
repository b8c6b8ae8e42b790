"""What a reservation costs when much is stored."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from datetime import timedelta
from pathlib import Path
from statistics import median

from benchmarks import limits
from benchmarks.drain import fill_for_sitq
from benchmarks.measure import Figure, Scale, Target
from benchmarks.tasks import noop
from sitq.backends.sqlite import SQLiteBackend
from sitq.model import Succeeded
from sitq.serialization import encode_value

BATCH = 10
WORKER = "bench"
LEASE = timedelta(seconds=30)
_YEAR = 365 * 86_400_000_000

# Counts from ?1 to ?2.
NUMBERS = "WITH RECURSIVE number (n) AS (SELECT ?1 UNION ALL SELECT n + 1 FROM number WHERE n < ?2)"
FINISHED = f"""
{NUMBERS} INSERT INTO sitq_tasks (
    seq, id, name, queue, status, priority, due_at, fence, attempt, max_crashes, worker, result_ttl, enqueued_at,
    started_at, finished_at, expires_at, result)
SELECT n, printf('%036d', n), 'benchmarks.tasks.noop', 'default', 'success', 0, NULL, n, 1, 3, 'bench', ?4, ?3,
    ?3, ?3, ?3 + ?4, zeroblob(20)
FROM number
"""
FAR_FUTURE = f"""
{NUMBERS} INSERT INTO sitq_tasks (seq, id, name, queue, status, priority, due_at, max_crashes, result_ttl, enqueued_at)
SELECT n, printf('%036d', n), 'benchmarks.tasks.noop', 'default', 'pending', -5, ?3 + ?4, 3, ?4, ?3 FROM number
"""
_PAYLOADS = f"{NUMBERS} INSERT INTO sitq_payloads (seq, payload) SELECT n, zeroblob(60) FROM number"


async def stored(scale: Scale) -> AsyncIterator[Figure]:
    """Reserve 10 and complete them with 1 k, 100 k and 1 M rows stored, beside an empty table."""
    sizes = (1_000, 100_000) if scale.quick else (1_000, 100_000, 1_000_000)
    for kind, script in (("finished", FINISHED), ("far-future", FAR_FUTURE)):
        for size in sizes:
            yield await _beside_empty(scale, kind, script, size)


async def _beside_empty(scale: Scale, kind: str, script: str, size: int) -> Figure:
    rounds = scale.count(300, 60)
    values: list[float] = []
    bounds: list[float] = []
    with scale.file() as path, scale.file() as other:
        for file in (path, other):
            fill_for_sitq(file, noop, (rounds + 1) * BATCH)
        add(path, script, size)
        async with opened(path) as ours, opened(other) as empty:
            for backend in (ours, empty):
                await reserve_and_complete(backend)
            for number in range(rounds):
                for backend, found in [(ours, values), (empty, bounds)][:: 1 if number % 2 == 0 else -1]:
                    found.append(await reserve_and_complete(backend))
    return Figure(
        f"reserve {BATCH} and complete, {size:,} {kind} stored",
        "ms",
        median(values) * 1e3,
        median(bounds) * 1e3,
        median(value / bound for value, bound in zip(values, bounds, strict=True)),
        Target("ratio", "<=", 1.5) if size >= 1_000_000 else None,
        rounds,
        "limit: the same with nothing else stored; fast"
        + ("; of a better priority" if kind != "finished" else ""),
    )


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[SQLiteBackend]:
    """A backend on a file, without syncs."""
    backend = SQLiteBackend(path, durability="fast")
    await backend.open()
    try:
        yield backend
    finally:
        await backend.close()


async def reserve_and_complete(backend: SQLiteBackend) -> float:
    """Take tasks and end them. Returns the seconds."""
    start = time.perf_counter()
    tasks, _ = await backend.reserve(WORKER, None, BATCH, LEASE)
    assert len(tasks) == BATCH
    await backend.complete([Succeeded(task.held, encode_value(1, max_payload=100)) for task in tasks])
    return time.perf_counter() - start


def add(path: Path, script: str, size: int) -> None:
    """Add rows by SQL, not synced. Not part of the measurement."""
    with closing(limits.connect(path, "fast")) as db:
        db.execute("PRAGMA synchronous = OFF")
        db.execute("BEGIN IMMEDIATE")
        first = db.execute("SELECT max(seq) + 1 FROM sitq_tasks").fetchone()[0]
        last, now = first + size - 1, time.time_ns() // 1000
        db.execute(script, (first, last, now, _YEAR))
        db.execute(_PAYLOADS, (first, last))
        db.execute("COMMIT")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
