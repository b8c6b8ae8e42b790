"""Named points of the code at which a process kills itself.

The product knows nothing of them: the functions whose names stand here are wrapped in the process that is to die. One
that is renamed makes the process end with an AttributeError, and one that is not called any more is never reached; the
harness notices both.
"""

import os
import random
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple

from sitq.backends.sqlite import enqueue, lane, registry, reports, reserve, schema, upkeep
from sitq.worker import ticker
from tests.lab.kill import tasks

type Role = Literal["worker", "producer", "steward"]
type Pass = Callable[[], None]
"""Called each time when a process comes by its point."""

WRITES = ("INSERT", "UPDATE", "DELETE", "CREATE")


class Verb(NamedTuple):
    """Functions of a connection that the database thread runs in a transaction.

    Attributes:
        did: Whether a call with these arguments and this answer did anything.
    """

    role: Role
    module: ModuleType
    functions: tuple[str, ...]
    did: Callable[[tuple[Any, ...], Any], object]


VERBS: Mapping[str, Verb] = {
    "enqueue": Verb("producer", enqueue, ("enqueue", "enqueue_carefully"), lambda args, answer: True),
    "reserve": Verb("worker", reserve, ("reserve",), lambda args, answer: answer.tasks),
    "heartbeat": Verb("worker", reports, ("heartbeat",), lambda args, answer: args[1].held),
    "complete": Verb("worker", reports, ("complete",), lambda args, answer: answer[0].accepted),
    "requeue": Verb("steward", upkeep, ("requeue",), lambda args, answer: answer),
    "cancel": Verb("steward", upkeep, ("cancel",), lambda args, answer: answer),
    "prune": Verb("steward", upkeep, ("prune",), lambda args, answer: answer),
    "save": Verb("worker", registry, ("save",), lambda args, answer: True),
}
MOMENTS = ("inside", "before_commit", "after_commit")
MIGRATION = tuple(f"migrate.{moment}" for moment in MOMENTS)
"""These are reached on a new file only, and the last one once."""

POINTS: Mapping[str, Role] = {
    **{f"{name}.{moment}": verb.role for name, verb in VERBS.items() for moment in MOMENTS},
    "tick.stored": "worker",
    "tick.settled": "worker",
    "within_enqueue.before_commit": "producer",
    "within_enqueue.after_commit": "producer",
    "within_complete.before_commit": "worker",
    "within_complete.after_commit": "worker",
    "checkpoint.inside": "worker",
    "checkpoint.after": "worker",
    "close.before": "worker",
    "close.after": "worker",
}
"""All the others, and which process comes by."""


class Aim(NamedTuple):
    """A process is to die when it has come by a point so many times."""

    point: str
    passes: int


def aim_at(point: str, rng: random.Random) -> Aim:
    return Aim(point, rng.randint(1, _most_passes(*point.split("."))))


def _most_passes(name: str, moment: str) -> int:
    # Two connections are closed at an end; ticks are rare; inside, each statement that writes is a pass.
    match name, moment:
        case "migrate", "inside":
            return 20
        case (("migrate" | "tick" | "save"), _):
            return 1
        case "close", _:
            return 2
        case _, "inside":
            return 8
        case _:
            return 3


def arm(aim: Aim, database: Path) -> None:
    """Make this process die at its point. The file must not be open yet."""
    left = aim.passes

    def come_by() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    name, moment = aim.point.split(".")
    match name:
        case "migrate":
            _migration(moment, come_by)
        case "tick":
            be_first()
            _tick(moment, come_by)
        case "within_enqueue":
            wrap(tasks, "commit_order", before_or_after(moment, come_by))
        case "within_complete":
            wrap(tasks, "commit_effect", before_or_after(moment, come_by))
        case "checkpoint":
            _checkpoint(moment, come_by, database)
        case "close":
            wrap(lane.Lane, "_close_connection", before_or_after(moment, come_by))
        case _:
            if name == "save":
                be_first()
            _verb(VERBS[name], moment, come_by)


def be_first() -> None:
    """Look at schedules without a delay: who comes first makes the task of a tick."""
    wrap(ticker, "_JITTER", lambda jitter: 0.0)


def wrap(owner: Any, name: str, around: Callable[[Any], Any]) -> None:
    setattr(owner, name, around(getattr(owner, name)))


def before_or_after(moment: str, come_by: Pass) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def around(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            if moment.startswith("before"):
                come_by()
            answer = function(*args)
            if moment.startswith("after"):
                come_by()
            return answer

        return call

    return around


def _verb(verb: Verb, moment: str, come_by: Pass) -> None:
    done: list[Any] = []  # the connections whose open transaction has something of the verb in it

    def noted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(db: Any, *args: Any) -> Any:
            answer = traced(function, come_by)(db, *args) if moment == "inside" else function(db, *args)
            if verb.did((db, *args), answer):
                done.append(db)
            return answer

        return call

    def committed(commit: Callable[[Any], None]) -> Callable[[Any], None]:
        def call(db: Any) -> None:
            counts = any(one is db for one in done)
            done.clear()
            if counts and moment == "before_commit":
                come_by()
            commit(db)
            if counts and moment == "after_commit":
                come_by()

        return call

    for name in verb.functions:
        wrap(verb.module, name, noted)
    wrap(lane, "commit", committed)


def traced(function: Callable[..., Any], come_by: Pass) -> Callable[..., Any]:
    """Come by before each statement that writes."""

    def call(db: Any, *args: Any) -> Any:
        db.set_trace_callback(lambda sql: come_by() if sql.lstrip().startswith(WRITES) else None)
        try:
            return function(db, *args)
        finally:
            db.set_trace_callback(None)

    return call


def _migration(moment: str, come_by: Pass) -> None:
    def around(migrate: Callable[[Any], None]) -> Callable[[Any], None]:
        def call(db: Any) -> None:
            said: list[str] = []

            def hear(sql: str) -> None:
                said.append(sql.split(maxsplit=1)[0] if sql.strip() else "")
                if moment == "before_commit" and said[-1] == "COMMIT":
                    come_by()

            db.set_trace_callback(hear)
            migrate(db)
            db.set_trace_callback(None)
            if moment == "after_commit" and "COMMIT" in said:
                come_by()

        return call

    wrap(schema, "migrate", (lambda migrate: traced(migrate, come_by)) if moment == "inside" else around)


def _tick(moment: str, come_by: Pass) -> None:
    """Between the task of a tick and the note that the tick is settled, and after that."""

    def after(function: Callable[..., Any]) -> Callable[..., Any]:
        async def call(*args: Any) -> Any:
            answer = await function(*args)
            if moment == "settled" or answer:
                come_by()
            return answer

        return call

    if moment == "stored":
        wrap(ticker.Ticker, "_store", after)
    else:
        wrap(ticker, "save_last", after)


def _checkpoint(moment: str, come_by: Pass, database: Path) -> None:
    """While a commit writes the log back into the file, and right after it. Only a checkpoint writes to the file."""

    def written() -> int:
        return database.stat().st_mtime_ns

    def watch(before: int, over: threading.Event) -> None:
        while not over.is_set():
            if written() != before:
                come_by()
                return

    def around(commit: Callable[[Any], None]) -> Callable[[Any], None]:
        def call(db: Any) -> None:
            db.execute("PRAGMA wal_autocheckpoint = 20")
            before, over = written(), threading.Event()
            if moment == "inside":
                threading.Thread(target=watch, args=(before, over), daemon=True).start()
            commit(db)
            over.set()
            if moment == "after" and written() != before:
                come_by()

        return call

    wrap(lane, "commit", around)
