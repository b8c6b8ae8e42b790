"""Counts what sitq's own code does for a task: the same on every machine, however busy it is.

Counted are the calls that code of sitq makes, the rounds of its loops, and the statements that it gives to SQLite. What
the standard library does inside is not: that is another matter with each version. `python -m benchmarks.counts` prints
what tests/benchmarks/counts.json records.
"""

import asyncio
import json
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import CodeType
from typing import Any, Final

import sitq
from benchmarks.drain import fill_for_sitq
from benchmarks.tasks import noop
from sitq import TaskQueue, Worker, call
from sitq.backends.sqlite import SQLiteBackend

_HOME: Final = str(Path(sitq.__file__).parent)
_STATEMENTS: Final = {"execute", "executemany"}
_CONNECTIONS: Final = (sqlite3.Connection, sqlite3.Cursor)


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count, in every thread, until the end of the block: "calls", "rounds" and "statements".

    Raises `ValueError` when another tool, such as a profiler, uses the same place in `sys.monitoring`.
    """
    found: Counter[str] = Counter()
    tool, events = sys.monitoring.PROFILER_ID, sys.monitoring.events

    def call(code: CodeType, _offset: int, func: Any, _first: Any) -> Any:
        if not code.co_filename.startswith(_HOME):
            return sys.monitoring.DISABLE
        found["calls"] += 1
        if (
            getattr(func, "__name__", "") in _STATEMENTS
            and getattr(func, "__objclass__", None) in _CONNECTIONS
        ):
            found["statements"] += 1
        return None

    def jump(code: CodeType, offset: int, destination: int) -> Any:
        if not code.co_filename.startswith(_HOME):
            return sys.monitoring.DISABLE
        if destination < offset:
            found["rounds"] += 1
        return None

    sys.monitoring.use_tool_id(tool, "sitq counts")
    try:
        sys.monitoring.register_callback(tool, events.CALL, call)
        sys.monitoring.register_callback(tool, events.JUMP, jump)
        sys.monitoring.restart_events()
        sys.monitoring.set_events(tool, events.CALL | events.JUMP)
        yield found
    finally:
        sys.monitoring.set_events(tool, 0)
        sys.monitoring.free_tool_id(tool)


type Figures = dict[str, dict[str, float]]
"""For each scenario, what is counted for a task."""

TOLERANCES: Final = {"calls": 0.05, "statements": 0.05, "rounds": 0.3}
"""How much more than recorded is let pass. Rounds depend on how the loop and the database thread take turns."""

_OTHER_PYTHON: Final = 0.2
_SLACK: Final = 0.05
"""A batch that falls apart costs another statement or two, which is little for each task."""

_SCENARIO_TASKS: Final = 500


async def figures(folder: Path) -> Figures:
    """Count for each scenario. Makes its databases in the folder."""
    async with TaskQueue(SQLiteBackend(folder / "enqueue.db", durability="fast")) as queue:
        await queue.enqueue(noop, 0)
        found = {
            "enqueue, one after another": await _per_task(_one_by_one(queue)),
            "enqueue, 100 callers": await _per_task(_at_once(queue)),
            "enqueue_many": await _per_task(
                queue.enqueue_many([call(noop, number) for number in range(_SCENARIO_TASKS)])
            ),
        }
    for concurrency in (1, 100):
        path = folder / f"drain-{concurrency}.db"
        fill_for_sitq(path, noop, _SCENARIO_TASKS)
        async with TaskQueue(SQLiteBackend(path, durability="fast")) as queue:
            worker = Worker(queue, concurrency=concurrency)
            found[f"drain, {concurrency} at a time"] = await _per_task(worker.run(until_idle=True))
    return found


async def _one_by_one(queue: TaskQueue) -> None:
    for number in range(_SCENARIO_TASKS):
        await queue.enqueue(noop, number)


async def _at_once(queue: TaskQueue) -> None:
    for first in range(0, _SCENARIO_TASKS, 100):
        await asyncio.gather(*(queue.enqueue(noop, number) for number in range(first, first + 100)))


async def _per_task(work: Awaitable[object]) -> dict[str, float]:
    with counted() as found:
        await work
    return {name: round(found[name] / _SCENARIO_TASKS, 3) for name in TOLERANCES}


def least(several: Sequence[Figures]) -> Figures:
    """The least of each count: what comes on top is how threads happened to take turns."""
    return {
        scenario: {name: min(each[scenario][name] for each in several) for name in counts}
        for scenario, counts in several[0].items()
    }


def exceeded(found: Figures, recorded: Figures, *, same_python: bool = True) -> list[str]:
    """What is more than recorded and tolerated, as sentences."""
    said = []
    for scenario, counts in recorded.items():
        for name, count in counts.items():
            bound = count * (1 + max(TOLERANCES[name], 0 if same_python else _OTHER_PYTHON)) + _SLACK
            if (now := found[scenario][name]) > bound:
                said.append(f"{scenario}: {now:g} {name} a task, recorded are {count:g}")
    return said


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        told = {
            "python": f"{sys.version_info[0]}.{sys.version_info[1]}",
            "figures": asyncio.run(figures(Path(made))),
        }
    print(json.dumps(told, indent=2))
