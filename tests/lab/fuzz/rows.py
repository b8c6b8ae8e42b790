"""Hostile rows: whatever stands in the tables, a verb answers or raises a typed error, and the other tasks go on."""

import asyncio
import random
import tempfile
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from sitq import SitqError, TaskQueue
from sitq.backends.sqlite import SQLiteBackend
from sitq.model import (
    Crashed,
    Edge,
    Held,
    NewNote,
    NewTask,
    NoteKind,
    Released,
    Retried,
    Status,
    Succeeded,
    TaskQuery,
    Unique,
)
from tests.lab.experiment import Progress
from tests.lab.fuzz import store
from tests.lab.fuzz.store import LEASE, Damage

PATIENCE: Final = 60.0
type Verb = Callable[[SQLiteBackend, Path], Awaitable[Any]]
KINDS: Final = (
    "held", "failed", "retried", "done", "plain", "late", "parent", "child", "grandchild", "key", "until",
    "bounded-0", "bounded-1", "bounded-2", "paced-0", "paced-1", "paced-2",
)  # fmt: skip
ALL: Final = [f"bad-{kind}" for kind in KINDS]


def _task(name: str, **fields: Any) -> NewTask:
    return NewTask(id=name, name="work", payload=b"", queue="new", **fields)


def _held(path: Path) -> list[Held]:
    return [store.current(path, name) for name in ALL]


async def _reports(backend: SQLiteBackend, path: Path) -> None:
    held = _held(path)
    kinds = [
        lambda one: Succeeded(one, b""),
        lambda one: Retried(one, datetime.now(UTC), b"{}"),
        lambda one: Released(one),
        lambda one: Crashed(one, b"{}"),
    ]
    await backend.complete([kinds[number % 4](one) for number, one in enumerate(held)])


VERBS: Final[dict[str, Verb]] = {
    "stats": lambda backend, _: backend.stats(),
    "find": lambda backend, _: backend.find(TaskQuery(with_bytes=True)),
    "find some": lambda backend, _: backend.find(TaskQuery(statuses=[Status.FAILED, Status.PENDING])),
    "find by id": lambda backend, _: backend.find(TaskQuery(ids=ALL)),
    "notes": lambda backend, _: backend.notes("bad-held"),
    "workers": lambda backend, _: backend.workers(),
    "load": lambda backend, _: backend.load(""),
    "heartbeat": lambda backend, path: backend.heartbeat(
        "w1",
        _held(path),
        LEASE,
        notes=[NewNote(one, NoteKind.LOG, b"{}") for one in _held(path)],
        info=store.info(datetime.now(UTC)),
    ),
    "enqueue": lambda backend, _: backend.enqueue(
        [_task("new-1"), _task("new-2", edges=(Edge("bad-parent"),))]
    ),
    "enqueue key": lambda backend, _: backend.enqueue([_task("new-3", unique=Unique("key", replace=True))]),
    "enqueue full": lambda backend, _: backend.enqueue([_task("new-4")], max_pending={"new": 100}),
    "reserve new": lambda backend, _: backend.reserve("w3", ["new"], 1, LEASE),
    "complete": _reports,
    "cancel": lambda backend, _: backend.cancel(
        ["bad-late", "bad-parent", "bad-key", "bad-bounded-2", "bad-held"]
    ),
    "requeue": lambda backend, _: backend.requeue(ALL),
    "prune": lambda backend, _: backend.prune(100),
    "discard": lambda backend, _: backend.prune(100, ids=["bad-failed", "bad-done"]),
    "save": lambda backend, _: backend.save({"a": b"b"}),
    "resume": lambda backend, _: backend.set_paused("elsewhere", False),
}


async def _good_run(backend: SQLiteBackend, failed: list[Exception]) -> tuple[set[str], SitqError | None]:
    """The good tasks that a worker does not get, looking as often as it needs to."""
    refused: SitqError | None = None
    missing = {f"good-{number}" for number in range(store.GOOD)}
    for _ in range(10):
        try:
            found = await backend.reserve("w9", None, 50, LEASE)
        except SitqError as error:
            refused = error
            continue
        except Exception as error:
            failed.append(error)
            continue
        missing.difference_update(task.id for task in found.tasks)
        if not missing:
            break
    return missing, refused


async def _one(damage: Damage, path: Path, broken: list[str], figures: dict[str, int], first: bool) -> None:
    told = f"{damage.sql} {damage.values!r:.60}{' (loose)' if damage.loose else ''}"
    backend = SQLiteBackend(path, durability="fast")
    queue = TaskQueue(backend)
    try:
        await queue.open()
    except SitqError:
        figures["stores refused"] += 1
        return
    except Exception as error:
        broken.append(f"{told}: open raises {type(error).__name__}: {error!s:.100}")
        return
    verbs = list(VERBS.items())

    async def check() -> None:
        failed: list[Exception] = []
        missing, refused = await _good_run(backend, failed)
        if failed:
            broken.append(f"{told}: reserve raises {type(failed[0]).__name__}: {failed[0]!s:.100}")
        if missing and not damage.shared:
            broken.append(f"{told}: {len(missing)} good tasks do not run: {refused!s:.150}")

    try:
        async with asyncio.timeout(PATIENCE):
            if first:
                await check()
            for name, verb in verbs:
                try:
                    await verb(backend, path)
                    figures["answers"] += 1
                except SitqError:
                    figures["typed errors"] += 1
                except Exception as error:
                    broken.append(f"{told}: {name} raises {type(error).__name__}: {error!s:.100}")
            if not first:
                await check()
    except TimeoutError:
        broken.append(f"{told}: takes more than {PATIENCE:g} s")
    finally:
        await queue.close()


def run(seed: int, count: int, progress: Progress) -> tuple[list[str], dict[str, int]]:
    """So many stores, each damaged once."""
    rng = random.Random(seed)
    broken: list[str] = []
    figures = {"answers": 0, "typed errors": 0, "stores refused": 0}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "source.db")
        asyncio.run(store.prepare(source))

        async def all_of_them() -> None:
            for number in range(count):
                path = store.copied(source, Path(folder), number)
                damage = store.draw(rng, path)
                store.inflict(damage, path)
                await _one(damage, path, broken, figures, first=rng.random() < 0.5)
                for file in Path(folder).glob(f"{number}.db*"):
                    file.unlink()
                progress(number + 1)

        asyncio.run(all_of_them())
    return broken, figures
