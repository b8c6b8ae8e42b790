"""Measures one peer in one setting, in a process of its own with the peer's interpreter.

Arguments: PEER SECONDS SERVER PLACE..., where SERVER is the process of the server or 0, and there is an empty place for
each of `PLACES`. Prints a line of JSON for each measure as soon as it is known: its name with a value, or with the
reason why there is none.
"""

import asyncio
import json
import math
import os
import random
import sys
import time
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.comparison import usage
from benchmarks.comparison.load import Fill
from benchmarks.comparison.observe import FIRST_MARK_WITHIN, Marks, drain, wait_for, workers
from benchmarks.peers import interface, work
from benchmarks.peers.interface import Adapter, Place

IDLE_CONCURRENCY: Final = 10
PLACES: Final = ("enqueue", "one", "two", "cpu one", "cpu two", "wait")
_WARM_UP: Final = 3
_ONE_ENOUGH: Final = 300
_CPU_TASKS: Final = 3_000
_CPU_ENOUGH: Final = 500
_SETTLE: Final = 0.5
_SAMPLES: Final = (20, 200)


@dataclass(frozen=True)
class Session:
    """One peer, its places, and how long a part of the work may take."""

    name: str
    adapter: Adapter
    seconds: float
    places: dict[str, Place]
    most: int

    @asynccontextmanager
    async def fill(self, where: str) -> AsyncIterator[Fill]:
        """Open a client on an empty place."""
        place = self.places[where]
        os.chdir(place.folder)
        os.environ[work.VARIABLE] = str(place.marks)
        async with self.adapter.client(place) as client:
            fill = Fill(client)
            await fill.one_by_one("noop", math.inf, _WARM_UP)
            yield fill


async def enqueue_and_drain(session: Session) -> None:
    """Enqueue in each way; what there is then is drained by one worker with a hundred at a time."""
    async with session.fill("enqueue") as fill:
        say("enqueue", await fill.one_by_one("noop", session.seconds))
        say("enqueue 100", await fill.at_once("noop", session.seconds))
        many = await fill.in_batches("noop", session.seconds)
        say("enqueue many", many, None if many else "has none")
        await fill.quickly("noop", session.seconds / 2)
        count = fill.next
    concurrency = min(100, session.most)
    rate, memory = drain(
        session.name, session.places["enqueue"], count, concurrency, 1, 1.5 * session.seconds
    )
    say("drain 100", rate)
    say("memory", memory)


async def drain_one(session: Session) -> None:
    """One worker, one task at a time."""
    async with session.fill("one") as fill:
        await fill.quickly("noop", session.seconds / 2, 6_000, _ONE_ENOUGH)
    say("drain 1", drain(session.name, session.places["one"], fill.next, 1, 1, session.seconds)[0])


async def drain_two(session: Session) -> None:
    """Two workers."""
    async with session.fill("two") as fill:
        await fill.quickly("noop", 1.5 * session.seconds)
    most = min(100, session.most)
    say(
        "drain 2x100",
        drain(session.name, session.places["two"], fill.next, most, 2, 1.5 * session.seconds)[0],
    )


async def burn(session: Session) -> None:
    """Tasks that compute, in one worker and in two."""
    most = min(100, session.most)
    for where, count in (("cpu one", 1), ("cpu two", 2)):
        async with session.fill(where) as fill:
            await fill.quickly("burn", session.seconds, _CPU_TASKS, _CPU_ENOUGH * count)
        rate = drain(session.name, session.places[where], fill.next, most, count, session.seconds)[0]
        say(where, rate)


async def wait(session: Session, server: int | None) -> None:
    """A worker with nothing to do: what it uses, and how soon it notices a task."""
    place = session.places["wait"]
    marks = Marks(place)
    async with session.fill("wait") as fill:
        with workers(session.name, place, min(IDLE_CONCURRENCY, session.most)) as [pid]:
            wait_for(lambda: marks.all_below(_WARM_UP), FIRST_MARK_WITHIN, place)
            await asyncio.sleep(_SETTLE)
            both = (pid, server) if server else (pid,)
            before, start = [usage.processor_time(each) for each in both], time.perf_counter()
            await asyncio.sleep(1.5 * session.seconds)
            taken = time.perf_counter() - start
            shares = [
                100 * (usage.processor_time(each) - then) / taken
                for each, then in zip(both, before, strict=True)
            ]
            say("idle", shares[0])
            if server:
                say("idle server", shares[1])
            say("idle memory", usage.memory(pid))
            found = await latencies(fill, marks, 2 * session.seconds)
    for share in (0.5, 0.99):
        say(f"wake-up p{round(share * 100)}", found[min(len(found) - 1, math.ceil(share * len(found)) - 1)])
    say("wake-ups", len(found))


async def latencies(fill: Fill, marks: Marks, seconds: float) -> list[float]:
    """Milliseconds from before a task is enqueued to its first line, one task at a time, sorted.

    The pause before each is random. Goes on for so many seconds, or three times as long if there are only a few then.
    """
    chance, found, start = random.Random(1), [], time.perf_counter()
    few, most = _SAMPLES
    while len(found) < most:
        taken = time.perf_counter() - start
        if taken > (seconds if len(found) >= few else 3 * seconds):
            break
        await asyncio.sleep(chance.uniform(0.005, 0.02))
        before, number = time.monotonic_ns(), fill.next
        await fill.one_by_one("noop", math.inf, 1)
        while not (mark := marks.of(number)):
            if time.perf_counter() - start > 3 * seconds + FIRST_MARK_WITHIN:
                raise RuntimeError("a task was never run")
            await asyncio.sleep(0.001)
        found.append((mark - before) / 1e6)
    return sorted(found)


def say(measure: str, value: float | None, reason: str | None = None) -> None:
    """Answer the parent."""
    if value is not None and not math.isfinite(value):
        value, reason = None, "not told by the system"
    print(json.dumps({"measure": measure, "value": value, "reason": reason}), flush=True)


def main(name: str, seconds: str, server: str, *places: str) -> None:
    """Measure everything; what fails is told, and the rest goes on."""
    adapter = interface.load(name)
    where = dict(zip(PLACES, map(Place.from_json, places), strict=True))
    session = Session(name, adapter, float(seconds), where, adapter.PEER.most or 100)
    for place in where.values():
        work.make(place.marks)
        adapter.prepare(place)
    parts: dict[str, Any] = {
        "enqueue_and_drain": enqueue_and_drain,
        "drain_one": drain_one,
        "drain_two": drain_two,
        "burn": burn,
        "wait": lambda one: wait(one, int(server) or None),
    }
    for part, run in parts.items():
        try:
            asyncio.run(run(session))
        except Exception as problem:
            traceback.print_exc()
            say(part, None, f"{type(problem).__name__}: {problem}")


if __name__ == "__main__":
    main(*sys.argv[1:])
