"""What a reservation costs when limits bound who may start."""

import time
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from statistics import median

from benchmarks import limits
from benchmarks.measure import Figure, Scale, stopwatch
from benchmarks.stored import BATCH, NUMBERS, opened, reserve_and_complete
from benchmarks.tasks import noop
from sitq.backends.sqlite import SQLiteBackend
from sitq.ids import new_id
from sitq.model import Concurrency, NewTask, ReservedTask, Succeeded
from sitq.serialization import encode_call
from sitq.task import Call

KEYS = 1_000
HELD_UP = 100_000
_SATURATED = Concurrency("saturated", 1)
_FIRST_PRIORITY = -5
_DAY = timedelta(days=1)

_TASKS = f"""
{NUMBERS} INSERT INTO sitq_tasks (
    seq, id, name, queue, status, priority, due_at, max_crashes, result_ttl, enqueued_at, limited)
SELECT n, printf('%036d', n), 'benchmarks.tasks.noop', 'default', 'pending', ?4, ?3, 3, ?5, ?3, 1 FROM number
"""
_PAYLOADS = f"{NUMBERS} INSERT INTO sitq_payloads (seq, payload) SELECT n, ?3 FROM number"
_LIMITS = f"""
{NUMBERS} INSERT INTO sitq_limits (seq, concurrency_key, concurrency_limit) SELECT n, ?3, ?4 FROM number
"""


async def limited(scale: Scale) -> AsyncIterator[Figure]:
    """Reserve 10 of 1,000 keys with limits and complete them, with 100,000 of a full key in front, beside no limits."""
    held_up, rounds = scale.count(HELD_UP), scale.count(300, 60)
    values: list[float] = []
    bounds: list[float] = []
    with scale.file() as path, scale.file() as other:
        async with opened(path) as ours, opened(other) as free:
            await _saturate(ours)
            put_in_front(path, held_up)
            await ours.enqueue(_tasks((rounds + 1) * BATCH, keys=KEYS))
            await free.enqueue(_tasks((rounds + 1) * BATCH, keys=0))
            with stopwatch() as walked:
                await _walk(ours)
            await reserve_and_complete(free)
            for number in range(rounds):
                for backend, found in [(ours, values), (free, bounds)][:: 1 if number % 2 == 0 else -1]:
                    found.append(await reserve_and_complete(backend))
    yield Figure(
        f"reserve {BATCH} and complete, {KEYS:,} keys with limits",
        "ms",
        median(values) * 1e3,
        median(bounds) * 1e3,
        median(value / bound for value, bound in zip(values, bounds, strict=True)),
        samples=rounds,
        note=f"{held_up:,} of a full key in front; limit: the same without limits and without those; fast",
    )
    yield Figure(
        f"put {held_up:,} of a full key in line, once",
        "ms",
        walked() * 1e3,
        note="what they cost the calls of reserve that find them first, in all; fast",
    )


def _tasks(count: int, *, keys: int) -> list[NewTask]:
    payload = encode_call(Call(noop, (1,), {}), None, max_payload=1024)
    return [
        NewTask(
            new_id(),
            "benchmarks.tasks.noop",
            payload,
            concurrency=Concurrency(f"key-{number % keys}", 2) if keys else None,
        )
        for number in range(count)
    ]


async def _saturate(backend: SQLiteBackend) -> None:
    """Let one task run that fills its key."""
    [task] = _tasks(1, keys=0)
    await backend.enqueue([task._replace(concurrency=_SATURATED)])
    tasks, _ = await backend.reserve("other", None, 1, _DAY)
    assert [each.id for each in tasks] == [task.id]


async def _walk(backend: SQLiteBackend) -> None:
    """Reserve until something is found behind those that are held up."""
    tasks: list[ReservedTask] = []
    while not tasks:
        tasks, _ = await backend.reserve("bench", None, BATCH, _DAY)
    await backend.complete([Succeeded(task.held, b"") for task in tasks])


def put_in_front(path: Path, count: int) -> None:
    """Add tasks of the full key, of a better priority, as sitq stores them; by SQL, not synced. Not measured."""
    with closing(limits.connect(path, "fast")) as db:
        db.execute("PRAGMA synchronous = OFF")
        db.execute("BEGIN IMMEDIATE")
        first = db.execute("SELECT max(seq) + 1 FROM sitq_tasks").fetchone()[0]
        span = first, first + count - 1
        now = time.time_ns() // 1000
        db.execute(_TASKS, (*span, now, _FIRST_PRIORITY, 7 * 86_400_000_000))
        db.execute(_PAYLOADS, (*span, encode_call(Call(noop, (1,), {}), None, max_payload=1024)))
        db.execute(_LIMITS, (*span, *_SATURATED))
        db.execute("COMMIT")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
