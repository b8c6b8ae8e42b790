"""A run that is written down call by call, for `power.py` to lose parts of. Everything is drawn from a seed."""

import hashlib
import json
import os
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from sitq.backends.sqlite import SQLiteBackend
from sitq.model import Edge, Failed, NewNote, NewTask, NoteKind, Outcome, ReservedTask, Retried, Succeeded
from tests.lab.storage.shim import Fault, Shim
from tests.lab.storage.zygote import Job
from tests.support import LEASE, FakeClock

ACTS = 60
NOTHING = "no tables"
SEED = "seed"
TRACE = "trace"


def digest(db: sqlite3.Connection) -> str:
    """All that the tables hold, as one word."""
    names = [
        name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
    ]
    if "sitq_meta" not in names:
        return NOTHING
    rows = [(name, sorted(map(repr, db.execute(f"SELECT * FROM {name}")))) for name in names]
    return hashlib.blake2b(repr(rows).encode(), digest_size=12).hexdigest()


async def record(job: Job, shim: Shim) -> None:
    """Do all kinds of things, and mark in the trace when each was acknowledged, and what there is to see then."""
    rng = random.Random(int(Path(job.folder, SEED).read_text()))
    shim.arm(job.database, Fault())
    shim.trace(os.open(Path(job.folder, TRACE), os.O_WRONLY | os.O_CREAT))
    actor = Actor(job.database, rng)
    await actor.backend.open()
    pages = rng.choice([4, 20, 100])
    await actor.backend._writer.aside(
        lambda db: db.execute(f"PRAGMA wal_autocheckpoint = {pages}").fetchall()
    )
    with closing(sqlite3.connect(job.database)) as reader:
        for _ in range(ACTS):
            durable = await actor.act()
            actor.look(reader)
            shim.mark(json.dumps([durable, digest(reader)]))
    await actor.backend.close()


class Actor:
    """Does something, and knows what must be there then."""

    def __init__(self, database: Path, rng: random.Random) -> None:
        self._clock = FakeClock()
        self.backend = SQLiteBackend(database, clock=self._clock)
        self._rng = rng
        self._expected: dict[str, tuple[str, bytes | None]] = {}
        self._held: list[ReservedTask] = []
        self._made = 0

    async def act(self) -> bool:
        """One act. Whether it is promised to survive a power loss."""
        self._clock.advance(self._rng.random())
        acts: list[tuple[int, Callable[[], Any]]] = [
            (6, self._enqueue), (4, self._reserve), (5, self._complete), (1, self._prune),
            (1, self._save), (1, self._cancel), (2, self._checkpoint), (1, self._beat),
        ]  # fmt: skip
        [chosen] = self._rng.choices([act for _, act in acts], [weight for weight, _ in acts])
        return bool(await chosen())

    def look(self, reader: sqlite3.Connection) -> None:
        """What was acknowledged is there at once, with its result."""
        found = {name: rest for name, *rest in reader.execute("SELECT id, status, result FROM sitq_tasks")}
        wrong = {one: found.get(one) for one, state in self._expected.items() if found.get(one) != [*state]}
        assert not wrong, f"{wrong} instead of {self._expected}"

    def _size(self) -> int:
        return self._rng.choice([10, 100, 100, 3_000, 12_000])

    async def _enqueue(self) -> bool:
        tasks: list[NewTask] = []
        for _ in range(self._rng.randint(1, 4)):
            self._made += 1
            waits = bool(tasks) and self._rng.random() < 0.3
            edges = (Edge(tasks[-1].id),) if waits else ()
            name = f"task-{self._made}"
            tasks.append(NewTask(name, "work", name.encode() * (self._size() // 6), edges=edges))
            self._expected[name] = ("waiting" if waits else "pending", None)
        await self.backend.enqueue(tasks)
        return True

    async def _reserve(self) -> bool:
        found = await self.backend.reserve("w1", None, self._rng.randint(1, 3), 100 * LEASE)
        self._held += found.tasks
        self._expected.update({task.id: ("running", None) for task in found.tasks})
        return False

    async def _complete(self) -> bool:
        taken, self._held = self._held[:2], self._held[2:]
        outcomes = [self._outcome(task) for task in taken]
        notes = [NewNote(task.held, NoteKind.LOG, b"line" * 20) for task in taken]
        assert (await self.backend.complete(outcomes, notes=notes)).accepted == len(taken)
        self._forget_children()
        return bool(taken)

    def _forget_children(self) -> None:
        """What an end did to them is for the digest to tell."""
        self._expected = {one: state for one, state in self._expected.items() if state[0] != "waiting"}

    def _outcome(self, task: ReservedTask) -> Outcome:
        match self._rng.randrange(4):
            case 0:
                self._expected[task.id] = ("pending", None)
                return Retried(task.held, self._clock.now(), b"again")
            case 1:
                self._expected[task.id] = ("failed", None)
                return Failed(task.held, b"bad")
            case _:
                result = task.id.encode() * (self._size() // 6)
                self._expected[task.id] = ("success", result)
                return Succeeded(task.held, result)

    async def _cancel(self) -> bool:
        pending = [one for one, (status, _) in self._expected.items() if status == "pending"]
        chosen = pending[:1]
        await self.backend.cancel(chosen)
        self._expected.update(dict.fromkeys(chosen, ("cancelled", None)))
        self._forget_children()
        return bool(chosen)

    async def _prune(self) -> bool:
        ended = [one for one, (status, _) in self._expected.items() if status == "success"]
        await self.backend.prune(2, ids=ended[:4])
        self._expected = {one: state for one, state in self._expected.items() if one not in ended}
        return False

    async def _save(self) -> bool:
        await self.backend.save({f"document-{self._rng.randrange(3)}": self._rng.randbytes(self._size())})
        return True

    async def _beat(self) -> bool:
        await self.backend.heartbeat("w1", [task.held for task in self._held], 100 * LEASE)
        return False

    async def _checkpoint(self) -> bool:
        sql = f"PRAGMA wal_checkpoint({self._rng.choice(['PASSIVE', 'FULL', 'RESTART', 'TRUNCATE'])})"
        await self.backend._writer.aside(lambda db: db.execute(sql).fetchall())
        return False
