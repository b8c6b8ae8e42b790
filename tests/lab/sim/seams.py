"""Where sitq touches what is not simulated: clocks, chance, threads, sockets. Here each of them is replaced.

`test_seams.py` looks through the source for others.
"""

import asyncio
import socket
import sqlite3
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, tzinfo
from functools import partial
from importlib import import_module
from types import SimpleNamespace
from typing import Any

from sitq.backends.base import Bells, Signal
from sitq.worker.heartbeat import Heartbeat
from sitq.worker.runners import ThreadRunner
from tests.lab.sim.world import Process, SimLoop, World

UNKNOWN = sqlite3.SQLITE_IOERR | (4 << 8)
"""SQLITE_IOERR_FSYNC: whether the commit is in the log nobody knows."""


def here() -> SimLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimLoop)
    return loop


# -- Threads ---------------------------------------------------------------------------------------


class SimHeartbeat(Heartbeat):
    """Signs of life from a simulated thread, which has a loop of its own as the real one has."""

    async def start(self) -> None:
        loop = here().process.new_loop("heartbeat")
        loop.create_task(self._served(loop))
        await self._started.wait()

    async def _served(self, loop: SimLoop) -> None:
        try:
            await self._main()
        except asyncio.CancelledError:
            pass
        beside = [task for task in asyncio.all_tasks(loop) if task.get_name() == "sitq-beside"]
        if beside:
            await asyncio.wait(beside)
        loop.close()
        self._worker_loop.call_soon_threadsafe(self._ended.set)


class SimThreadRunner(ThreadRunner):
    """Plain functions on simulated threads. One takes no time, but it may begin late."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        process = here().process
        self._jobs: Any = SimpleNamespace(put=partial(_begin, process))

    def _add_thread(self) -> None:
        pass


def _begin(process: Process, job: Any) -> None:
    if job is not None:
        process.new_thread("task").post(process.world.rng.random() * 0.3, job)


class SimConnection:
    """In the place of aiosqlite's connection: serves its queue on a simulated thread."""

    def __init__(self, connect: Any, iter_chunk_size: int) -> None:
        process = here().process
        self._connect = connect
        self._strand = process.new_thread("sqlite")
        self._tx = self

    def put_nowait(self, item: Any) -> None:
        self._strand.queue(self._strand.world.rng.random() * 0.001, item[1])

    def __await__(self) -> Any:
        return self._run(self._open).__await__()

    async def close(self) -> None:
        await self._run(self._end)

    def stop(self) -> None:
        pass

    def _open(self) -> None:
        self._db = self._connect()

    def _end(self) -> None:
        self._db.close()

    async def _run(self, function: Any) -> None:
        loop = here()
        done = loop.create_future()

        def run() -> None:
            function()
            loop.call_soon_threadsafe(done.set_result, None)

        self.put_nowait((None, run))
        await done


# -- Wake-ups --------------------------------------------------------------------------------------


class SimSignal(Signal):
    """Knows its place in the order of all signals: sets of them have none that is the same in two processes."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = here()
        self.number = next(self.loop.world.numbers)


def _ring(world: World, bells: Bells, places: dict[Any, set[Any]], keys: Iterable[Any]) -> None:
    """As `Bells._ring`, through the network: a ring is a hint."""
    found = {signal.number: signal for key in keys for signal in places.get(key, ())}
    for _, signal in sorted(found.items()):
        world.net.deliver(signal.loop, signal.ring)


class _Socket:
    """The sending end of a doorbell."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._port = 0

    def setblocking(self, flag: bool) -> None:
        pass

    def connect(self, address: tuple[str, int]) -> None:
        self._port = address[1]

    def send(self, data: bytes) -> None:
        self._world.net.send(self._port, data)

    def close(self) -> None:
        pass


# -- Clocks and chance -----------------------------------------------------------------------------


def _datetimes(world: World) -> type[datetime]:
    class SimDatetime(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return world.wall().astimezone(tz)

    return SimDatetime


class SimClock:
    """The clocks of a world."""

    def __init__(self, world: World) -> None:
        self.now = world.wall
        self.monotonic = world.monotonic


def _commit(world: World, db: sqlite3.Connection) -> None:
    if world.rng.random() < world.unknown_commits:
        world.met["commits unknown"] += 1
        # After an error that it knows nothing of SQLite has no transaction any more, wherever it went.
        db.execute("COMMIT" if world.rng.random() < 0.5 else "ROLLBACK")
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = UNKNOWN
        raise error
    db.execute("COMMIT")


# -- All of them -----------------------------------------------------------------------------------


def seams(world: World) -> dict[str, Any]:
    """What stands in the place of what, by the name where sitq finds it."""
    time = SimpleNamespace(monotonic=world.monotonic)
    chance = SimpleNamespace(random=world.rng.random, uniform=world.rng.uniform)
    net = SimpleNamespace(
        socket=lambda *_: _Socket(world), AF_INET=socket.AF_INET, SOCK_DGRAM=socket.SOCK_DGRAM
    )
    tokens = SimpleNamespace(
        token_hex=lambda size: f"{next(world.numbers):0{2 * size}x}",
        compare_digest=lambda one, other: one == other,
    )
    fresh = lambda: f"t{next(world.numbers)}"  # noqa: E731
    return {
        "sitq.worker.executor:time": time,
        "sitq.worker.run:time": time,
        "sitq.worker.services:SystemClock": partial(SimClock, world),
        "sitq.worker.services:Heartbeat": SimHeartbeat,
        "sitq.worker.choice:ThreadRunner": SimThreadRunner,
        "sitq.worker.portrait:_process": lambda: None,
        "sitq.worker.ticker:random": chance,
        "sitq.worker.maintenance:random": chance,
        "sitq.worker.judge:random": chance,
        "sitq.queue:datetime": _datetimes(world),
        "sitq.queue:new_id": fresh,
        "sitq.links:new_id": fresh,
        "sitq.backends.base:Signal": SimSignal,
        "sitq.backends.base:Bells._ring": lambda bells, places, keys: _ring(world, bells, places, keys),
        "sitq.backends.sqlite.files:file_system": lambda folder: None,
        "sitq.backends.sqlite.lane:aiosqlite": SimpleNamespace(Connection=SimConnection),
        "sitq.backends.sqlite.lane:watch": lambda connection: None,
        "sitq.backends.sqlite.lane:commit": partial(_commit, world),
        "sitq.backends.sqlite.doorbell:socket": net,
        "sitq.backends.sqlite.doorbell:secrets": tokens,
    }


@contextmanager
def simulated(world: World) -> Iterator[None]:
    """Let sitq live in this world, and in no other, for as long."""
    before: list[tuple[Any, str, Any]] = []
    try:
        for place, value in seams(world).items():
            owner, name = _find(place)
            before.append((owner, name, getattr(owner, name)))
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in reversed(before):
            setattr(owner, name, value)


def _find(place: str) -> tuple[Any, str]:
    module, _, path = place.partition(":")
    owner: Any = sys.modules.get(module) or import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    return owner, name
