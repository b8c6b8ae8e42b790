"""Everything that is done to a database, step by step, and what each step makes of it.

The state of a database is what a reader sees of each subject, as text. A step says what it changes, so the states that
may follow from a run with faults can be told: those that were acknowledged took place, those that were refused with
"nothing was written" did not, and of the others nobody knows, but each took place as a whole or not at all.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, NamedTuple

from sitq import TaskQueue, call
from sitq.backends.sqlite import SQLiteBackend
from sitq.model import (
    Edge,
    Failed,
    Held,
    NewNote,
    NewTask,
    NoteKind,
    Outcome,
    Retried,
    Status,
    Succeeded,
    TaskRecord,
    Unique,
)
from tests.support import LEASE, FakeClock, everything

type State = Mapping[str, str]

BIG = 20_000
GONE = ""


class Stage(NamedTuple):
    """Where the steps are taken."""

    backend: SQLiteBackend
    clock: FakeClock
    held: dict[str, Held]


class Step(NamedTuple):
    """One call.

    Attributes:
        changes: What it makes of its subjects.
        run: Does it. False if it found that there was nothing to do.
        needs: The name of the step without which it is not taken.
        creates: Its subjects need not be there before it.
    """

    name: str
    changes: State
    run: Callable[[Stage], Awaitable[bool]]
    needs: str | None = None
    creates: bool = False

    def applied(self, state: State) -> State:
        """The state that it leads to from this one."""
        changes = {name: text for name, text in self.changes.items() if self.creates or name in state}
        return {name: text for name, text in {**state, **changes}.items() if text != GONE}


# -- How a state reads -----------------------------------------------------------------------------


def task(
    status: Status,
    attempt: int = 0,
    *,
    size: int = 100,
    result: bytes | None = None,
    error: bytes | None = None,
    notes: Iterable[tuple[NoteKind, bytes]] = (),
) -> str:
    said = [f"{kind}:{data.decode()}" for kind, data in notes]
    return (
        f"{status.value}, attempt {attempt}, {size} bytes, result {result!r}, error {error!r}, notes {said}"
    )


async def read(backend: SQLiteBackend) -> State:
    """The state of a database that is open."""
    state = {name: _document(name, data) for name, data in (await backend.load("")).items()}
    return state | {record.id: await _task(backend, record) for record in await everything(backend)}


def _document(name: str, data: bytes) -> str:
    return "there" if name.startswith("schedule") else f"{len(data)} bytes"


async def _task(backend: SQLiteBackend, record: TaskRecord) -> str:
    notes = [(note.kind, note.data) for note in await backend.notes(record.id)]
    assert record.payload is not None
    size, own = len(record.payload), payload(record.id, len(record.payload))
    assert record.payload == own, f"the payload of {record.id} is another one"
    return task(
        record.status, record.attempt, size=size, result=record.result, error=record.error, notes=notes
    )


def payload(task_id: str, size: int) -> bytes:
    return (task_id.encode() * size)[:size]


# -- The steps -------------------------------------------------------------------------------------


def enqueue(*ids: str, size: int = 100, status: Status = Status.PENDING, **fields: Any) -> Step:
    async def run(stage: Stage) -> bool:
        tasks = [NewTask(id=one, name="work", payload=payload(one, size), **fields) for one in ids]
        return [one.id for one in await stage.backend.enqueue(tasks)] == [*ids]

    parents = [f"enqueue {edge.parent}" for edge in fields.get("edges", ())]
    after = dict.fromkeys(ids, task(status, size=size))
    return Step(f"enqueue {' '.join(ids)}", after, run, parents[0] if parents else None, creates=True)


def reserve(task_id: str, needs: str, *, attempt: int = 1, size: int = 100, **seen: Any) -> Step:
    async def run(stage: Stage) -> bool:
        found = await stage.backend.reserve("w1", None, 10, LEASE, ids=[task_id])
        stage.held.update({one.id: one.held for one in found.tasks})
        return task_id in stage.held

    after = {task_id: task(Status.RUNNING, attempt, size=size, **seen)}
    return Step(f"reserve {task_id}", after, run, needs)


def complete(
    task_id: str,
    make: Callable[[Stage, Held], Outcome],
    after: State,
    note: tuple[NoteKind, bytes] | None = None,
) -> Step:
    async def run(stage: Stage) -> bool:
        held = stage.held[task_id]
        notes = [] if note is None else [NewNote(held, *note)]
        return (await stage.backend.complete([make(stage, held)], notes=notes)).accepted == 1

    return Step(f"complete {task_id}", after, run, f"reserve {task_id}")


async def heartbeat(stage: Stage) -> bool:
    held = stage.held["plain"]
    return not (await stage.backend.heartbeat("w1", [held], LEASE, notes=[NewNote(held, *PROGRESS)])).lost


async def cancel(stage: Stage) -> bool:
    return (await stage.backend.cancel(["cancelled"]))["cancelled"] is Status.CANCELLED


async def requeue(stage: Stage) -> bool:
    return await stage.backend.requeue(["failed"]) == ["failed"]


async def prune(stage: Stage) -> bool:
    return await stage.backend.prune(10, ids=["pruned"]) == 1


async def save(stage: Stage) -> bool:
    await stage.backend.save({"settings": b"x" * 100, "more settings": b"y" * 50})
    return True


async def schedule(stage: Stage) -> bool:
    await TaskQueue(stage.backend).schedule("tick", call(print), every=3600)
    return True


async def checkpoint(stage: Stage) -> bool:
    sql = "PRAGMA wal_checkpoint(TRUNCATE)"
    await stage.backend._writer.aside(lambda db: db.execute(sql).fetchall())
    return True


async def look(stage: Stage) -> bool:
    await stage.backend.stats()
    await stage.backend.workers()
    return True


PROGRESS = (NoteKind.PROGRESS, b"half")
LINE = (NoteKind.LOG, b"done")
BATCH = "enqueue retried failed cancelled pruned"

STEPS = (
    enqueue("plain"),
    enqueue("big", size=BIG),
    enqueue("retried", "failed", "cancelled", "pruned"),
    enqueue("parent"),
    enqueue("child", status=Status.WAITING, edges=(Edge("parent"),)),
    enqueue("alone", unique=Unique("key")),
    reserve("plain", "enqueue plain"),
    Step("heartbeat", {"plain": task(Status.RUNNING, 1, notes=[PROGRESS])}, heartbeat, "reserve plain"),
    complete(
        "plain",
        lambda stage, held: Succeeded(held, b"value"),
        {"plain": task(Status.SUCCESS, 1, result=b"value", notes=[PROGRESS, LINE])},
        LINE,
    ),
    reserve("big", "enqueue big", size=BIG),
    complete(
        "big",
        lambda stage, held: Succeeded(held, b"v" * 50),
        {"big": task(Status.SUCCESS, 1, size=BIG, result=b"v" * 50)},
    ),
    Step("checkpoint", {}, checkpoint),
    reserve("retried", BATCH),
    complete(
        "retried",
        lambda stage, held: Retried(held, stage.clock.now(), b"no"),
        {"retried": task(Status.PENDING, 1, error=b"no", notes=[(NoteKind.ATTEMPT, b"no")])},
    ),
    reserve("failed", BATCH),
    complete(
        "failed", lambda stage, held: Failed(held, b"bad"), {"failed": task(Status.FAILED, 1, error=b"bad")}
    ),
    Step(
        "requeue",
        {"failed": task(Status.PENDING, notes=[(NoteKind.REQUEUED, b"bad")])},
        requeue,
        "complete failed",
    ),
    Step("cancel", {"cancelled": task(Status.CANCELLED)}, cancel, BATCH),
    reserve("pruned", BATCH),
    complete(
        "pruned", lambda stage, held: Succeeded(held, b""), {"pruned": task(Status.SUCCESS, 1, result=b"")}
    ),
    Step("prune", {"pruned": GONE}, prune, "complete pruned"),
    Step("save", {"settings": "100 bytes", "more settings": "50 bytes"}, save, creates=True),
    reserve("parent", "enqueue parent"),
    complete(
        "parent",
        lambda stage, held: Succeeded(held, b"p"),
        {"parent": task(Status.SUCCESS, 1, result=b"p"), "child": task(Status.PENDING)},
    ),
    Step("schedule", {"schedule/tick": "there"}, schedule, creates=True),
    Step("look", {}, look),
)
