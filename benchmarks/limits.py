"""The limits: straight-line programs over sqlite3 and aiosqlite that write what sitq writes, with no queue around it.

Each one writes the same rows to the same schema (sitq's own migration makes it) under the same pragmas, and pickles the
same calls and results. None is made slower than it needs to be: statements are prepared once and cached, a batch is
inserted with `executemany`, a transaction is one hop to the database thread, ids come from a counter, and nothing is
checked, looked up again or made safe. What they leave out is what a queue is for: groups that form by themselves,
fences, leases that are renewed, cancellation, priorities and wake-ups.

A batch can be inserted faster, by statements of a hundred rows (`store_by_hundreds`). That is a second limit beside the
first, with figures of its own.
"""

import asyncio
import itertools
import json
import pickle
import socket
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import aiosqlite

from benchmarks.measure import Durability
from sitq.backends.sqlite import schema

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

type Database = aiosqlite.Connection
type Arguments = tuple[Any, ...]
type Row = tuple[Any, ...]

PICKLE_PROTOCOL: Final = 5
_LEASE: Final = 30_000_000
_RESULT_TTL: Final = 7 * 86_400_000_000
_numbers: Final = itertools.count(time.time_ns())


def connect(path: Path, durability: Durability) -> sqlite3.Connection:
    """A connection with the pragmas of sitq's writer, to a file with sitq's schema."""
    db = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, cached_statements=256, timeout=30
    )
    schema.let_shrink(db)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute(f"PRAGMA journal_size_limit = {64 * 1024 * 1024}")
    db.execute("PRAGMA temp_store = MEMORY")
    db.execute("PRAGMA fullfsync = 1")
    db.execute("PRAGMA checkpoint_fullfsync = 1")
    db.execute(f"PRAGMA synchronous = {'FULL' if durability == 'full' else 'NORMAL'}")
    schema.migrate(db)
    return db


@asynccontextmanager
async def aconnect(path: Path, durability: Durability) -> AsyncIterator[Database]:
    """The same connection on aiosqlite's thread."""
    async with aiosqlite.Connection(lambda: connect(path, durability), iter_chunk_size=64) as db:
        yield db


# -- enqueue ---------------------------------------------------------------------------------------

_INSERT: Final = """
INSERT INTO sitq_tasks (id, name, queue, status, priority, due_at, max_crashes, result_ttl, enqueued_at, metadata)
VALUES (?, ?, ?, 'pending', ?, ?, ?, ?, ?, ?)
"""
_INSERT_AT: Final = """
INSERT INTO sitq_tasks (seq, id, name, queue, status, priority, due_at, max_crashes, result_ttl, enqueued_at, metadata)
VALUES (?, ?, ?, ?, 'pending', ?, ?, ?, ?, ?, ?)
"""
_INSERT_PAYLOAD: Final = "INSERT INTO sitq_payloads (seq, payload) VALUES (?, ?)"
_HUNDRED: Final = 100


def task_row(func: Callable[..., Any], now: int) -> Row:
    """What `sitq_tasks` holds of a new task. The id has the length of a UUID."""
    name = f"{func.__module__}.{func.__qualname__}"
    return f"{next(_numbers):036d}", name, "default", 0, now, 3, _RESULT_TTL, now, None


def _encode(func: Callable[..., Any], args: Arguments) -> bytes:
    return pickle.dumps((func, args, {}), PICKLE_PROTOCOL)


def _store_one(db: sqlite3.Connection, row: Row, payload: bytes) -> None:
    db.execute("BEGIN IMMEDIATE")
    cursor = db.execute(_INSERT, row)
    db.execute(_INSERT_PAYLOAD, (cursor.lastrowid, payload))
    db.execute("COMMIT")


type Store = Callable[[sqlite3.Connection, Sequence[Row], Sequence[bytes]], None]


def store_batch(db: sqlite3.Connection, rows: Sequence[Row], payloads: Sequence[bytes]) -> None:
    """Insert a batch in one transaction."""
    db.execute("BEGIN IMMEDIATE")
    first = _first_seq(db)
    db.executemany(_INSERT_AT, [(seq, *row) for seq, row in enumerate(rows, first)])
    db.executemany(_INSERT_PAYLOAD, list(enumerate(payloads, first)))
    db.execute("COMMIT")


def store_by_hundreds(db: sqlite3.Connection, rows: Sequence[Row], payloads: Sequence[bytes]) -> None:
    """As `store_batch`, with a hundred rows a statement: that takes half the time of one for each."""
    db.execute("BEGIN IMMEDIATE")
    first = _first_seq(db)
    _insert_many(db, _INSERT_AT, [(seq, *row) for seq, row in enumerate(rows, first)])
    _insert_many(db, _INSERT_PAYLOAD, list(enumerate(payloads, first)))
    db.execute("COMMIT")


def _first_seq(db: sqlite3.Connection) -> int:
    return (db.execute("SELECT max(seq) FROM sitq_tasks").fetchone()[0] or 0) + 1


def _insert_many(db: sqlite3.Connection, one: str, rows: Sequence[Row]) -> None:
    for part in itertools.batched(rows, _HUNDRED, strict=False):
        db.execute(_of_rows(one, len(part)), list(itertools.chain.from_iterable(part)))


@cache
def _of_rows(one: str, count: int) -> str:
    head, values, row = one.strip().rpartition("VALUES ")
    return head + values + ", ".join([row] * count)


async def enqueue_by_statement(db: Database, func: Callable[..., Any], calls: Iterable[Arguments]) -> None:
    """One call after another, over aiosqlite's public API: pickle, BEGIN, two inserts, COMMIT, a hop each."""
    for args in calls:
        payload = _encode(func, args)
        await db.execute("BEGIN IMMEDIATE")
        cursor = await db.execute(_INSERT, task_row(func, time.time_ns() // 1000))
        await db.execute(_INSERT_PAYLOAD, (cursor.lastrowid, payload))
        await db.execute("COMMIT")


async def enqueue_by_transaction(db: Database, func: Callable[..., Any], calls: Iterable[Arguments]) -> None:
    """One call after another: pickle, then the whole transaction of two inserts in one hop."""
    for args in calls:
        await db._execute(_store_one, db._conn, task_row(func, time.time_ns() // 1000), _encode(func, args))


async def enqueue_in_batches(
    db: Database, func: Callable[..., Any], calls: Iterable[Arguments], size: int, store: Store = store_batch
) -> None:
    """Pickle `size` calls, insert them as one transaction in one hop, and so on."""
    for batch in itertools.batched(calls, size, strict=False):
        now = time.time_ns() // 1000
        rows = [task_row(func, now) for _ in batch]
        payloads = [_encode(func, args) for args in batch]
        await db._execute(store, db._conn, rows, payloads)


def enqueue_in_this_thread(
    db: sqlite3.Connection,
    func: Callable[..., Any],
    calls: Iterable[Arguments],
    size: int,
    store: Store = store_batch,
) -> None:
    """As `enqueue_in_batches`, in plain sqlite3 without a hop."""
    for batch in itertools.batched(calls, size, strict=False):
        now = time.time_ns() // 1000
        store(db, [task_row(func, now) for _ in batch], [_encode(func, args) for args in batch])


# -- unique keys -----------------------------------------------------------------------------------

_INSERT_UNIQUE: Final = """
INSERT INTO sitq_tasks (
    id, name, queue, status, priority, due_at, max_crashes, result_ttl, enqueued_at, metadata,
    unique_key, unique_until, unique_replace)
VALUES (?, ?, ?, 'pending', ?, ?, ?, ?, ?, ?, ?, 'end', 0)
ON CONFLICT DO NOTHING
"""
_HOLDER: Final = f"""
SELECT id FROM sitq_tasks INDEXED BY sitq_unique WHERE unique_key = ? AND {schema.HOLDS_KEY}
"""


def store_unique(db: sqlite3.Connection, rows: Sequence[Row], payloads: Sequence[bytes]) -> list[str]:
    """Insert a batch of rows that end with a unique key in one transaction. Returns who holds each key."""
    holders: list[str] = []
    db.execute("BEGIN IMMEDIATE")
    for row, payload in zip(rows, payloads, strict=True):
        cursor = db.execute(_INSERT_UNIQUE, row)
        if cursor.rowcount:
            db.execute(_INSERT_PAYLOAD, (cursor.lastrowid, payload))
            holders.append(row[0])
        else:
            holders.append(db.execute(_HOLDER, row[-1:]).fetchone()[0])
    db.execute("COMMIT")
    return holders


async def enqueue_unique(
    db: Database, func: Callable[..., Any], calls: Iterable[tuple[str, Arguments]], size: int
) -> list[str]:
    """Pickle `size` calls, store them under their keys as one transaction in one hop, and so on."""
    holders: list[str] = []
    for batch in itertools.batched(calls, size, strict=False):
        now = time.time_ns() // 1000
        rows = [(*task_row(func, now), key) for key, _ in batch]
        payloads = [_encode(func, args) for _, args in batch]
        holders += await db._execute(store_unique, db._conn, rows, payloads)
    return holders


# -- drain -----------------------------------------------------------------------------------------

_FINISH: Final = """
UPDATE sitq_tasks SET
    status = 'success', due_at = NULL, finished_at = ?1, expires_at = ?1 + result_ttl, result = ?3
WHERE seq = ?2
"""
_DUE: Final = """
SELECT seq FROM sitq_tasks INDEXED BY sitq_due WHERE queue = 'default' AND due_at <= ?
ORDER BY priority, due_at, seq LIMIT ?
"""
_FENCE: Final = "UPDATE sitq_meta SET value = value + 1 WHERE key = 'fence' RETURNING value"
_TAKE: Final = """
UPDATE sitq_tasks SET
    status = 'running', attempt = attempt + 1, fence = ?1, worker = ?2, due_at = ?3, started_at = ?4
WHERE seq IN (SELECT value FROM json_each(?5))
"""
_PAYLOADS: Final = "SELECT seq, payload FROM sitq_payloads WHERE seq IN (SELECT value FROM json_each(?))"

type Payloads = list[tuple[int, bytes]]
type Results = list[tuple[int, bytes]]


def cycle(db: sqlite3.Connection, results: Results, limit: int, worker: str) -> Payloads:
    """Complete what has run and reserve what comes next, in one transaction.

    Synced as the connection says, but without results not at all: a reservation need not survive power loss.
    """
    now = time.time_ns() // 1000
    if not results:
        [[synchronous]] = db.execute("PRAGMA synchronous").fetchall()
        db.execute("PRAGMA synchronous = NORMAL")
    db.execute("BEGIN IMMEDIATE")
    if results:
        db.executemany(_FINISH, [(now, seq, result) for seq, result in results])
    due = [seq for (seq,) in db.execute(_DUE, (now, limit))]
    payloads: Payloads = []
    if due:
        seqs = json.dumps(due)
        [[fence]] = db.execute(_FENCE).fetchall()
        db.execute(_TAKE, (fence, worker, now + _LEASE, now, seqs))
        payloads = db.execute(_PAYLOADS, (seqs,)).fetchall()
    db.execute("COMMIT")
    if not results:
        db.execute(f"PRAGMA synchronous = {synchronous}")
    return payloads


def cycle_in_turn(lock: int, *arguments: Any) -> Payloads:
    """As `cycle`, while this process holds a lock on a file: SQLite's own waiting makes shares unfair and slow."""
    if fcntl is None:
        return cycle(*arguments)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        return cycle(*arguments)
    finally:
        fcntl.flock(lock, fcntl.LOCK_UN)


async def drain(db: Database, concurrency: int, worker: str = "limit", lock: int | None = None) -> int:
    """Run coroutine functions until nothing is due.

    A loop of: one hop and one transaction that completes the last batch and reserves the next one; then load each call,
    await it, and pickle what it returned. No asyncio task is made for a call. Returns how many have run.

    Args:
        lock: File descriptor of a side file by which several processes take turns.
    """
    run = cycle if lock is None else partial(cycle_in_turn, lock)
    results: Results = []
    count = 0
    while payloads := await db._execute(run, db._conn, results, concurrency, worker):
        results = []
        for seq, payload in payloads:
            func, args, kwargs = pickle.loads(payload)
            results.append((seq, pickle.dumps(await func(*args, **kwargs), PICKLE_PROTOCOL)))
        count += len(results)
    return count


async def drain_in_threads(db: Database, concurrency: int, worker: str = "limit") -> int:
    """As `drain`, for plain functions: each batch is loaded, run and pickled on a thread pool of that size."""
    loop = asyncio.get_running_loop()
    results: Results = []
    count = 0
    with ThreadPoolExecutor(concurrency) as pool:
        while payloads := await db._execute(cycle, db._conn, results, concurrency, worker):
            results = await loop.run_in_executor(None, partial(_run_all, pool, payloads))
            count += len(results)
    return count


def _run_all(pool: ThreadPoolExecutor, payloads: Payloads) -> Results:
    return list(pool.map(_run_one, payloads))


def _run_one(task: tuple[int, bytes]) -> tuple[int, bytes]:
    seq, payload = task
    func, args, kwargs = pickle.loads(payload)
    return seq, pickle.dumps(func(*args, **kwargs), PICKLE_PROTOCOL)


# -- wake-up ---------------------------------------------------------------------------------------


async def enqueue_and_ring(
    db: Database, func: Callable[..., Any], args: Arguments, sock: socket.socket
) -> None:
    """One call: pickle it, then insert it and send a datagram to the one who waits for it, in one hop."""

    def store_and_ring(connection: sqlite3.Connection, row: Row, payload: bytes) -> None:
        _store_one(connection, row, payload)
        sock.send(b"ring")

    await db._execute(store_and_ring, db._conn, task_row(func, time.time_ns() // 1000), _encode(func, args))


async def serve_here(db: Database, bell: asyncio.Event) -> None:
    """Sleep until somebody of this loop sets the event, then drain: one hop to reserve before the call runs."""
    while True:
        await bell.wait()
        bell.clear()
        await drain(db, 10)


async def serve(db: Database, ready: Callable[[int], None]) -> None:
    """Sleep until a datagram comes, then drain. Tells the port that it listens on."""
    bell = asyncio.Event()

    class Bell(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: object) -> None:
            bell.set()

    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        Bell, local_addr=("127.0.0.1", 0)
    )
    ready(transport.get_extra_info("sockname")[1])
    await serve_here(db, bell)


def results(path: Path) -> list[Any]:
    """What the calls returned, in the order in which they were stored. Not part of any measurement."""
    return [pickle.loads(data) for data in stored_results(path)]


def stored_results(path: Path) -> list[bytes]:
    """As `results`, encoded."""
    with closing(sqlite3.connect(path)) as db:
        return [data for (data,) in db.execute("SELECT result FROM sitq_tasks ORDER BY seq")]


def last_id(path: Path) -> str:
    """The id of the task that was stored last. Not part of any measurement."""
    with closing(sqlite3.connect(path)) as db:
        [[found]] = db.execute("SELECT id FROM sitq_tasks ORDER BY seq DESC LIMIT 1").fetchall()
        return str(found)


def put_off(path: Path, due_at: float) -> None:
    """Make all tasks of a file due at an instant (Unix time). Not part of any measurement."""
    with closing(connect(path, "fast")) as db:
        db.execute("UPDATE sitq_tasks SET due_at = ?", (int(due_at * 1e6),))
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


# -- filling a file --------------------------------------------------------------------------------


def fill(
    path: Path, func: Callable[..., Any], count: int, encode: Callable[[int], bytes] | None = None
) -> None:
    """Make a file with `count` due tasks, not synced, with an empty log. Not part of any measurement."""
    db = connect(path, "fast")
    db.execute("PRAGMA synchronous = OFF")
    now = time.time_ns() // 1000
    rows = [task_row(func, now) for _ in range(count)]
    encode = encode or (lambda number: _encode(func, (number,)))
    store_batch(db, rows, [encode(number) for number in range(count)])
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
