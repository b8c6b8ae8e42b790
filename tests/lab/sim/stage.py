"""One schedule: a few processes on one storage, some trouble, and then enough peace to finish the work."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from sitq.backends.base import Backend
from sitq.backends.sqlite import SQLiteBackend
from sitq.model import NoteKind, Status, TaskQuery
from sitq.progress import decode_line
from tests.lab.history.checker import check
from tests.lab.history.collect import final
from tests.lab.history.entries import History, Noted
from tests.lab.sim.cast import Players, WorkerPlan, govern, produce, work
from tests.lab.sim.promises import Extra, cancels_hold, leases_hold, lines_arrive, pauses_hold, sound
from tests.lab.sim.seams import SimClock, simulated
from tests.lab.sim.wire import LATE, Weather, Wire
from tests.lab.sim.world import Deadlock, Overdue, Process, World
from tests.stores import Store

BOUND = 600.0
"""By this virtual time everything has ended. What cannot be loaded is put off by two minutes at most."""


LONGEST_LEASE = 3.0
"""Seconds. What is due later than that nobody runs."""
UNFINISHED = [status for status in Status if not status.finished]


class Plan(NamedTuple):
    """What a schedule is to meet. Which of the troubles it has at all is drawn as well: few together reach deep."""

    workers: int
    batches: int
    ticks: bool
    trouble_until: float
    weather: Weather
    lost: float
    unknown_commits: float
    shuffled: bool
    deeds: tuple[str, ...]


def draw(rng: random.Random) -> Plan:
    return Plan(
        workers=rng.choice([2, 2, 2, 3]),
        batches=rng.choice([1, 2, 2, 3, 3]),
        ticks=rng.random() < 0.25,
        trouble_until=rng.uniform(0.6, 2.4),
        weather=Weather(
            rng.choice([0.0, 0.0, 0.07, 0.3]), rng.choice([0.0, 0.0, 0.0, 0.03]), rng.choice([0.05, 0.1, 0.3])
        ),
        lost=rng.choice([0.0, 0.0, 0.3, 1.0]),
        unknown_commits=rng.choice([0.0, 0.0, 0.1]),
        shuffled=rng.random() < 0.2,
        deeds=tuple(deed for deed in DEEDS if rng.random() < 0.5),
    )


def draw_worker(rng: random.Random) -> WorkerPlan:
    queues = rng.choice([None, None, None, None, ["default", "other"], {"default": 2, "other": 1}])
    return WorkerPlan(
        queues=queues,
        strict=isinstance(queues, list) and rng.random() < 0.5,
        concurrency=rng.randint(1, 3),
        lease=rng.choice([1.0, 2.0, LONGEST_LEASE]),
        poll_interval=rng.choice([0.8, 1.6]),
        shutdown_timeout=rng.choice([0.0, 1.0, 3.0]),
    )


@dataclass
class Crew:
    """A process that works, with what is needed to end it."""

    process: Process
    wire: Wire
    task: asyncio.Task[Any] | None = None
    stop: asyncio.Event = field(default_factory=asyncio.Event)


class Stage:
    """The players of one schedule and their director.

    Args:
        store: The kind of storage.
        folder: Empty, or with a store in it; only stores that are shared have anything there.
    """

    def __init__(self, world: World, store: Store, folder: Path) -> None:
        self.world = world
        self.history = History()
        self.extra = Extra()
        self.players = Players(self.history, self.extra)
        self.queues: dict[str, str] = {}
        self.broken: list[str] = []
        self._store = store
        self._folder = folder
        self._backends: list[Backend] = []
        self._director = Process(world, "director")
        self._plan = draw(world.rng)
        self._workers: list[Crew] = []
        self._ended: list[Crew] = []
        self._backend = self._make()

    @property
    def may_be_slow(self) -> bool:
        return self._plan.weather.slow > 0

    # -- The play ----------------------------------------------------------------------------------

    def play(self) -> None:
        task = self._director.spawn(self._direct())
        try:
            self.world.run(task.done, BOUND)
            task.result()
        except (Deadlock, Overdue) as error:
            self.broken.append(f"{type(error).__name__}: {error}")
        finally:
            for backend in self._backends:
                if isinstance(backend, SQLiteBackend):
                    backend._lock.close()

    async def _direct(self) -> None:
        world, plan = self.world, self._plan
        await self._backend.open()
        world.shuffled, world.net.lost, world.unknown_commits = plan.shuffled, plan.lost, 0.0
        if self._store.shared:
            world.unknown_commits = plan.unknown_commits
        for _ in range(plan.workers):
            self._start_worker(plan.weather)
        producer, steward = self._start("producer", plan.weather), self._start("steward", plan.weather)
        producer.task = producer.process.spawn(
            produce(producer.process, producer.wire, plan.batches, self.players)
        )
        govern_it = govern(steward.process, steward.wire, plan.trouble_until, self.players, ticks=plan.ticks)
        steward.task = steward.process.spawn(govern_it)
        while world.now < plan.trouble_until:
            await asyncio.sleep(world.rng.random() * 0.75)
            if plan.deeds:
                DEEDS[world.rng.choice(plan.deeds)](self, producer)
        await self._make_peace([producer, steward])
        await self._collect()

    async def _make_peace(self, others: list[Crew]) -> None:
        """Let those who are there do what is left, and end them in order."""
        world = self.world
        world.net.lost = world.unknown_commits = 0.0
        for one in [*self._workers, *self._ended, *others]:
            one.wire.weather = Weather()
        await self._ended_by(others)
        everybody = [*self._workers, *self._ended, *others]
        while any(one.wire.late and not one.process.dead for one in everybody) or await self._unfinished():
            await asyncio.sleep(0.4)
        for one in self._workers:
            one.stop.set()
        await self._ended_by([*self._workers, *self._ended])
        for one in self._workers:
            if one.wire.unanswered and not one.process.dead:
                self.broken.append(f"{one.process.name} has not delivered {sorted(one.wire.unanswered)}")

    async def _unfinished(self) -> bool:
        """Whether anything is left to do. What only waits for a later time waits for no minutes of heartbeats."""
        left = await self._backend.find(TaskQuery(statuses=UNFINISHED, limit=100_000))
        dues = [task.due_at for task in left if task.due_at is not None and task.status is not Status.WAITING]
        if dues and (span := (min(dues) - self.world.wall()).total_seconds() - LONGEST_LEASE) > 0:
            self.world.ahead += span
        return bool(left)

    async def _ended_by(self, crew: list[Crew]) -> None:
        """Wait for their ends, and look at them."""
        for one in crew:
            if one.process.dead or one.task is None:
                continue
            await self._over(one.task)
            if (error := one.task.exception()) is not None:
                self.broken.append(f"{one.process.name} ended with {error!r}")
            left = [task for task in asyncio.all_tasks(one.process.loop) if task.get_name() != LATE]
            if left:
                names = sorted(f"{task.get_coro()!r}".partition(" at ")[0] for task in left)
                self.broken.append(f"{one.process.name} has ended, and left {names}")

    async def _over(self, task: asyncio.Task[Any]) -> None:
        """Wait for a task of another process. To look again and again would be most of what the director does."""
        over = asyncio.Event()
        task.add_done_callback(lambda _: self._director.loop.call_soon(over.set))
        await over.wait()

    # -- Who is there ------------------------------------------------------------------------------

    def _make(self) -> Backend:
        backend = self._store.make(self._folder, SimClock(self.world))
        self._backends.append(backend)
        return backend

    def _start(self, name: str, weather: Weather) -> Crew:
        process = Process(self.world, name)
        shared = self._store.shared
        backend = self._make() if shared else self._backend
        return Crew(process, Wire(process, backend, weather, self.history, self.extra, own=shared))

    def _start_worker(self, weather: Weather) -> Crew:
        crew = self._start("worker", weather)
        plan = draw_worker(self.world.rng)
        crew.task = crew.process.spawn(work(crew.process, crew.wire, plan, self.history, crew.stop))
        self._workers.append(crew)
        return crew

    def _take_worker(self) -> Crew:
        """Take one off the list. Another one takes its place, or those who are left have more to do."""
        one = self._pick()
        self._workers.remove(one)
        if len(self._workers) < 2 or self.world.rng.random() < 0.3:
            self._start_worker(self._plan.weather)
        return one

    def _pick(self) -> Crew:
        """One that works; more often than not who was handed a task last, where trouble does most."""
        last = self.history.reserved[-1].pid if self.history.reserved else None
        busy = [one for one in self._workers if one.process.pid == last]
        return self.world.rng.choice(busy if busy and self.world.rng.random() < 0.8 else self._workers)

    # -- Trouble -----------------------------------------------------------------------------------

    def crash(self, _: Crew) -> None:
        self.world.met["workers crashed"] += 1
        self._take_worker().process.crash()

    def crash_of_the_producer(self, producer: Crew) -> None:
        self.world.met["producers crashed"] += not producer.process.dead
        producer.process.crash()

    def pause(self, _: Crew) -> None:
        self.world.met["pauses"] += 1
        self._pick().process.pause(self.world.rng.uniform(1.5, 8.0))

    def restart(self, _: Crew) -> None:
        self.world.met["restarts"] += 1
        one = self._take_worker()
        one.stop.set()
        self._ended.append(one)

    def jump(self, _: Crew) -> None:
        self.world.met["jumps of the clock"] += 1
        self.world.ahead += self.world.rng.random() * 5.0

    # -- The end -----------------------------------------------------------------------------------

    async def _collect(self) -> None:
        for record in await self._backend.find(TaskQuery(limit=100_000, with_bytes=True)):
            self.history.final.append(final(record))
            self.queues[record.id] = record.queue
            if (record.metadata or {}).get("says"):
                notes = await self._backend.notes(record.id)
                lines = [decode_line(note.data) for note in notes if note.kind is NoteKind.LOG]
                self.history.noted += [Noted(record.id, line) for line in lines]
        await self._backend.close()


DEEDS: dict[str, Callable[[Stage, Crew], None]] = {
    "crash": Stage.crash,
    "crash of the producer": Stage.crash_of_the_producer,
    "pause": Stage.pause,
    "restart": Stage.restart,
    "jump": Stage.jump,
}


class Outcome(NamedTuple):
    """What came of one schedule."""

    broken: list[str]
    met: dict[str, int]
    history: History
    seconds: float


def play(seed: int, store: Store, folder: Path, trace: list[str] | None = None) -> Outcome:
    """Play the schedule of this seed. Leaves nothing behind but garbage, and files in the folder."""
    world = World(seed, trace)
    with simulated(world):
        stage = Stage(world, store, folder)
        stage.play()
        world.over = True
    broken = [*stage.broken, *world.errors]
    if not broken:
        broken += check(sound(stage.history))
        broken += [f"{held} was accepted, and refused when it came again" for held in stage.extra.refused]
        broken += leases_hold(stage.history, stage.extra.renewed)
        broken += cancels_hold(stage.history, stage.extra.asked)
        broken += pauses_hold(stage.history, stage.extra.paused, stage.queues)
        if not stage.may_be_slow:
            broken += lines_arrive(stage.history)
    return Outcome(broken, dict(world.met), stage.history, world.now)
