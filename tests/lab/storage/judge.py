"""What a run with a fault must have left behind, by what it was told: the states that may be there, and no other."""

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from sitq.backends.base import Backend
from sitq.backends.sqlite import SQLiteBackend
from sitq.model import ReservedTask, Status, Succeeded
from sitq.serialization import decode_value
from tests.lab.storage.shim import EVER
from tests.lab.storage.steps import STEPS, State, read
from tests.lab.storage.zygote import Ended, Job
from tests.support import LEASE, FakeClock, everything

DIED = 77


def broken(job: Job, ended: Ended) -> list[str]:
    """Every promise that this run broke, in words."""
    diary = diary_of(job)
    judges = {"steps": _judge_steps, "work": _judge_work}
    problems = [*_process(job, ended, diary), *judges[job.workload](job, diary)]
    return [f"{job.workload} with {job.fault}: {problem}" for problem in problems]


def diary_of(job: Job) -> list[list[Any]]:
    path = Path(job.folder, "diary")
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _process(job: Job, ended: Ended, diary: list[list[Any]]) -> Iterator[str]:
    expected = {0} if job.fault.die_after < 0 else {0, DIED}
    if ended.code not in expected:
        yield f"it ended with {ended.code}: {ended.said}"
    if "Traceback" in ended.said:
        yield f"a traceback: {ended.said}"
    refused: list[str] = []
    for word, name, *rest in (entry for entry in diary if len(entry) > 1):
        if word == "raw":
            yield f"{name} raised what sitq does not: {rest[0]}"
        elif word == "refused":
            refused.append(name)
            if job.fault.times == 1 and refused.count(name) > 1:
                yield f"{name} was refused again, {rest[1]}, and the disk failed once"
    if job.fault.times == 1 and len(set(refused)) > 1:
        yield f"one fault was felt by {refused}"


# -- The client that takes steps -------------------------------------------------------------------


def _judge_steps(job: Job, diary: list[list[Any]]) -> Iterator[str]:
    if job.fault.times == 1 and job.fault.die_after < 0 and ["acked", "close", True] not in diary:
        yield f"it did not go on to its end: {diary[-1:]}"
    possible = possible_states(diary)
    with closing(sqlite3.connect(job.database)) as db:
        integrity = db.execute("PRAGMA integrity_check").fetchall()
    if integrity != [("ok",)]:
        yield f"integrity: {integrity}"
    state, problems = asyncio.run(_reopened(job.database))
    if state not in possible:
        yield f"{state} is none of the {len(possible)} states that may be: {possible[:3]}"
    yield from problems


def possible_states(diary: list[list[Any]]) -> list[State]:
    """The states that may follow from what was answered to each step. Each is there once."""
    answers: dict[str, set[str]] = {}
    for word, name, *rest in diary:
        answer = {"asked": "asked", "refused": "known" if rest and rest[0] else "unknown"}.get(word)
        if word == "acked":
            answer = "done" if rest[0] else "nothing"
        answers.setdefault(name, set()).add(answer or "unknown")
    asked = {name: sum(entry[:2] == ["asked", name] for entry in diary) for name in answers}
    told = {name: sum(entry[0] != "asked" and entry[1] == name for entry in diary) for name in answers}
    states: list[State] = [{}]
    for step in STEPS:
        answer = answers.get(step.name, set())
        after = [step.applied(state) for state in states]
        if "done" in answer:
            states = after
        elif "unknown" in answer or asked.get(step.name, 0) > told.get(step.name, 0):
            states += [state for state in after if state not in states]
    return states


async def _reopened(database: Path) -> tuple[State, list[str]]:
    """The state as the next process finds it, and whether a worker can go on from there."""
    clock = FakeClock()
    backend = SQLiteBackend(database, clock=clock)
    await backend.open()
    try:
        return await read(backend), await finish_all(backend, clock)
    finally:
        await backend.close()


async def finish_all(backend: Backend, clock: FakeClock) -> list[str]:
    """Take and complete everything. What is wrong with that, in words."""
    clock.advance(LEASE * 2)
    problems: list[str] = []
    fences: set[int] = set()
    while tasks := (await backend.reserve("after", None, 100, LEASE)).tasks:
        problems += _fences(tasks, fences)
        done = await backend.complete([Succeeded(task.held, b"after") for task in tasks])
        if done.accepted != len(tasks):
            problems.append(f"only {done.accepted} of {len(tasks)} outcomes were accepted")
    left = [record.id for record in await everything(backend) if not Status(record.status).finished]
    return [*problems, *(f"{one} cannot be finished" for one in left)]


def _fences(tasks: list[ReservedTask], seen: set[int]) -> list[str]:
    again = [task.id for task in tasks if task.fence in seen and len({one.fence for one in tasks}) > 1]
    seen.update(task.fence for task in tasks)
    return [f"{one} got a fence again" for one in again]


# -- The worker ------------------------------------------------------------------------------------


def _judge_work(job: Job, diary: list[list[Any]]) -> Iterator[str]:
    acked = {entry[1] for entry in diary if entry[0] == "acked" and entry[1].startswith("task-")}
    lives = job.fault.die_after < 0 and job.fault.times != EVER
    if lives and ["worked"] not in diary:
        yield "the worker did not come to its end"
    found = asyncio.run(_values(job.database))
    if missing := acked - found.keys():
        yield f"{missing} were acknowledged and are gone"
    if not lives:
        return
    for number, task_id in ((int(one[-1]), one) for one in sorted(acked)):
        if found.get(task_id) != number:
            yield f"{task_id} came to {found.get(task_id)}"


async def _values(database: Path) -> dict[str, object]:
    backend = SQLiteBackend(database)
    await backend.open()
    try:
        records = await everything(backend)
    finally:
        await backend.close()
    return {
        record.id: record.status if record.result is None else decode_value(record.result)
        for record in records
    }
