"""Measures one peer in one setting, in a process of its own with the peer's interpreter.

Arguments: PEER SECONDS PLACE..., one empty place for each of `PLACES`. Prints a line of JSON for each measure as soon
as it is known: its name with a value, or with the reason why there is none.
"""

import asyncio
import inspect
import json
import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.comparison import usage
from benchmarks.peers import interface, work
from benchmarks.peers.interface import Adapter, Client, Place

CALLERS: Final = 100
BATCH: Final = 1000
IDLE_CONCURRENCY: Final = 10
PLACES: Final = ("enqueue", "one", "two", "cpu one", "cpu two", "wait")
_MOST_FILLED: Final = 60_000
_CPU_TASKS: Final = 3_000
_FIRST_MARK_WITHIN: Final = 20.0
_ROOM: Final = work.MOST - 10_000
_MIDDLE: Final = (0.1, 0.9)


@dataclass
class Fill:
    """Puts tasks in and knows how many there are: their numbers are those below `next`."""

    client: Client
    next: int = 0

    def numbers(self, count: int) -> range:
        """So many numbers that no task has. Raises `RuntimeError` when there is no room for their marks."""
        if self.next + count > _ROOM:
            raise RuntimeError("no room for the marks of so many tasks")
        self.next += count
        return range(self.next - count, self.next)

    async def one_by_one(self, task: str, seconds: float, most: int = _MOST_FILLED) -> float:
        """Enqueue one after another. Returns tasks a second."""
        start, first = time.perf_counter(), self.next
        is_async = inspect.iscoroutinefunction(self.client.enqueue)
        enqueue: Any = self.client.enqueue
        while (taken := time.perf_counter() - start) < seconds and self.next - first < most:
            for number in self.numbers(1):
                if is_async:
                    await enqueue(task, number)
                else:
                    enqueue(task, number)
        return (self.next - first) / taken

    async def at_once(self, task: str, seconds: float, most: int = _MOST_FILLED) -> float:
        """Enqueue from a hundred callers: coroutines, or threads where the interface is synchronous."""
        start, first = time.perf_counter(), self.next
        lock = threading.Lock()

        def more() -> int | None:
            with lock:
                if time.perf_counter() - start >= seconds or self.next - first >= most:
                    return None
                return self.numbers(1)[0]

        if inspect.iscoroutinefunction(self.client.enqueue):
            await asyncio.gather(*(_caller(self.client.enqueue, task, more) for _ in range(CALLERS)))
        else:
            await asyncio.to_thread(_in_threads, self.client.enqueue, task, more)
        return (self.next - first) / (time.perf_counter() - start)

    async def in_batches(self, task: str, seconds: float, most: int = _MOST_FILLED) -> float | None:
        """Enqueue a thousand with a call, or as many as are wanted. None where there is no such call."""
        if (many := self.client.enqueue_many) is None:
            return None
        start, first = time.perf_counter(), self.next
        while (taken := time.perf_counter() - start) < seconds and self.next - first < most:
            answer = many(task, self.numbers(min(BATCH, most)))
            if inspect.isawaitable(answer):
                await answer
        return (self.next - first) / taken

    async def quickly(self, task: str, seconds: float, most: int = _MOST_FILLED) -> None:
        """Enqueue in whatever way is the fastest."""
        if await self.in_batches(task, seconds, most) is None:
            await self.at_once(task, seconds, most)


async def _caller(enqueue: Callable[[str, int], Any], task: str, more: Callable[[], int | None]) -> None:
    while (number := more()) is not None:
        await enqueue(task, number)


def _in_threads(enqueue: Callable[[str, int], Any], task: str, more: Callable[[], int | None]) -> None:
    problems: list[Exception] = []

    def run() -> None:
        try:
            while (number := more()) is not None:
                enqueue(task, number)
        except Exception as problem:
            problems.append(problem)

    threads = [threading.Thread(target=run) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise RuntimeError(f"{len(problems)} of {CALLERS} threads failed, the first with {problems[0]!r}")


@contextmanager
def workers(name: str, place: Place, concurrency: int, count: int = 1) -> Iterator[list[int]]:
    """Start worker processes, all at the same time once each has loaded its modules. Yields their ids."""
    command = [sys.executable, "-m", "benchmarks.comparison.worker", name, place.as_json(), str(concurrency)]
    started = []
    try:
        for number in range(count):
            with (place.folder / f"worker-{number}.log").open("wb") as log:
                started.append(
                    subprocess.Popen(
                        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True
                    )
                )
        for process in started:
            assert process.stdout is not None
            if not process.stdout.readline():
                raise RuntimeError(f"the worker did not start: {_last_words(place)}")
        for process in started:
            assert process.stdin is not None
            process.stdin.write(b"go\n")
            process.stdin.flush()
        yield [process.pid for process in started]
    finally:
        for process in started:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in usage.tree(process.pid)[::-1]:
        try:
            os.kill(number, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()
    for stream in (process.stdin, process.stdout):
        assert stream is not None
        stream.close()


def _last_words(place: Place) -> str:
    text = (place.folder / "worker-0.log").read_text(encoding="utf-8", errors="replace").strip()
    return text.splitlines()[-1] if text else "it said nothing"


class Marks:
    """The marks of a place's tasks, read while they appear."""

    def __init__(self, place: Place) -> None:
        self._map = work.opened(place.marks)
        self._low = 0

    def of(self, number: int) -> int:
        """The mark of one task; 0 if there is none yet."""
        return work.mark_of(self._map, number)

    def all_below(self, count: int) -> bool:
        """Whether every task with a lower number has run."""
        while self._low < count and self.of(self._low):
            self._low += 1
        return self._low >= count

    def found(self, count: int) -> list[int]:
        """The marks of the tasks with a lower number that have run, in the order of time."""
        return sorted(filter(None, map(self.of, range(count))))

    def any_below(self, count: int) -> bool:
        """Whether at least one task has run. Cheap as long as it is one of the first or the last."""
        near = [*range(min(count, 200)), *range(max(0, count - 200), count)]
        return any(map(self.of, near))


def drain(name: str, place: Place, count: int, concurrency: int, processes: int, seconds: float) -> tuple[float, float]:
    """Tasks a second that workers run, and their memory in MiB afterwards.

    The rate is that of the middle four fifths, by the marks of their first lines: neither the start of the workers nor
    the end, when there is not enough for all, counts. Ends when all have run, or after `seconds`.
    """
    marks = Marks(place)
    with workers(name, place, concurrency, processes) as pids:
        _wait_for(lambda: marks.any_below(count), _FIRST_MARK_WITHIN, place)
        end = time.perf_counter() + seconds
        while not marks.all_below(count) and time.perf_counter() < end:
            time.sleep(0.05)
        memory = sum(map(usage.memory, pids))
    found = marks.found(count)
    return rate_of(found), memory


def rate_of(marks: list[int]) -> float:
    """Tasks a second in the middle of a drain."""
    low, high = (round(share * (len(marks) - 1)) for share in _MIDDLE)
    if high - low < 5:
        raise RuntimeError(f"only {len(marks)} tasks ran in the time there was")
    return (high - low) / (marks[high] - marks[low]) * 1e9


def _wait_for(condition: Callable[[], bool], seconds: float, place: Place) -> None:
    end = time.perf_counter() + seconds
    while not condition():
        if time.perf_counter() > end:
            raise RuntimeError(f"no task ran within {seconds:g} s: {_last_words(place)}")
        time.sleep(0.01)


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
            yield Fill(client)


async def enqueue_and_drain(session: Session) -> None:
    """Enqueue in each way; what there is then is drained by one worker with a hundred at a time."""
    async with session.fill("enqueue") as fill:
        say("enqueue", await fill.one_by_one("noop", session.seconds))
        say("enqueue 100", await fill.at_once("noop", session.seconds))
        many = await fill.in_batches("noop", session.seconds)
        say("enqueue many", many, None if many else "has none")
        if many is None:
            await fill.at_once("noop", session.seconds)
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
        await fill.quickly("noop", session.seconds / 2, 6_000)
    say("drain 1", drain(session.name, session.places["one"], fill.next, 1, 1, session.seconds)[0])


async def drain_two(session: Session) -> None:
    """Two workers."""
    async with session.fill("two") as fill:
        await fill.quickly("noop", 1.5 * session.seconds)
    most = min(100, session.most)
    say("drain 2x100", drain(session.name, session.places["two"], fill.next, most, 2, 1.5 * session.seconds)[0])


async def burn(session: Session) -> None:
    """Tasks that compute, in one worker and in two."""
    most = min(100, session.most)
    for where, count in (("cpu one", 1), ("cpu two", 2)):
        async with session.fill(where) as fill:
            await fill.quickly("burn", session.seconds / 2, _CPU_TASKS)
        rate = drain(session.name, session.places[where], fill.next, most, count, session.seconds)[0]
        say(where, rate)


async def wait(session: Session, server: int | None) -> None:
    """A worker with nothing to do: what it uses, and how soon it notices a task."""
    place = session.places["wait"]
    marks = Marks(place)
    async with session.fill("wait") as fill:
        with workers(session.name, place, min(IDLE_CONCURRENCY, session.most)) as [pid]:
            await fill.one_by_one("noop", math.inf, 3)
            _wait_for(lambda: marks.all_below(3), _FIRST_MARK_WITHIN, place)
            await asyncio.sleep(0.5)
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


async def latencies(fill: Fill, marks: Marks, seconds: float, most: int = 200) -> list[float]:
    """Milliseconds from before a task is enqueued to its first line, one task at a time, sorted."""
    chance, found, end = random.Random(1), [], time.perf_counter() + seconds
    while time.perf_counter() < end and len(found) < most:
        await asyncio.sleep(chance.uniform(0.005, 0.02))
        start, number = time.monotonic_ns(), fill.next
        await fill.one_by_one("noop", math.inf, 1)
        while not (mark := marks.of(number)):
            if time.perf_counter() > end + _FIRST_MARK_WITHIN:
                raise RuntimeError("a task was never run")
            await asyncio.sleep(0.001)
        found.append((mark - start) / 1e6)
    return sorted(found)


def say(measure: str, value: float | None, reason: str | None = None) -> None:
    """Answer the parent."""
    if value is not None and not math.isfinite(value):
        value, reason = None, "not told by the system"
    print(json.dumps({"measure": measure, "value": value, "reason": reason}), flush=True)


MEASURES: Final[dict[str, tuple[str, ...]]] = {
    "enqueue_and_drain": ("enqueue", "enqueue 100", "enqueue many", "drain 100", "memory"),
    "drain_one": ("drain 1",),
    "drain_two": ("drain 2x100",),
    "burn": ("cpu one", "cpu two"),
    "wait": ("idle", "idle memory", "wake-up p50", "wake-up p99"),
}


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
