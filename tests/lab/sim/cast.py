"""Who plays in a schedule: workers, a producer, a steward."""

import asyncio
import random
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Any, NamedTuple

from sitq import SitqError, Status, TaskQueue, Worker, call
from sitq.errors import BackendError, ScheduleNotFoundError
from sitq.model import TaskQuery
from tests.lab.history.entries import History, Seen
from tests.lab.sim.promises import Asked, Extra, Pause
from tests.lab.sim.tasks import KINDS, Player, after, quick
from tests.lab.sim.wire import Wire
from tests.lab.sim.world import Process

SCHEDULE = "tick"
QUEUES = ("default", "other")
NEVER_GIVEN_UP = 1000


class Players(NamedTuple):
    """What the players of one schedule write down."""

    history: History
    extra: Extra


async def insist(work: Callable[[], Any], process: Process, pause: float = 0.2) -> Any:
    """Do it until it succeeds."""
    while True:
        try:
            return await work()
        except BackendError as error:
            process.world.tell(process.name, "again", type(error).__name__)
            await asyncio.sleep(pause)


class WorkerPlan(NamedTuple):
    """How a worker is set up."""

    queues: Any
    strict: bool
    concurrency: int
    lease: float
    poll_interval: float
    shutdown_timeout: float


async def work(process: Process, wire: Wire, plan: WorkerPlan, history: History, stop: asyncio.Event) -> None:
    """A worker, until it is told to stop in order."""
    queue = TaskQueue(wire)  # type: ignore[arg-type]
    await queue.open()
    worker = Worker(
        queue,
        **plan._asdict(),
        resources=lambda: nullcontext(Player(process, history)),
        id=process.name,
    )
    async with worker:
        await stop.wait()
    await queue.close()


async def produce(process: Process, wire: Wire, number: int, players: Players) -> None:
    """Enqueue something so many times. What is acknowledged is written down."""
    rng = process.world.rng
    queue = TaskQueue(wire)  # type: ignore[arg-type]
    await queue.open()
    for _ in range(number):
        with suppress(SitqError):  # not acknowledged: it may be there or not
            handles = await _enqueue(process, queue, rng)
            players.history.acknowledged.update(map(str, handles))
            if rng.random() < 0.3:
                players.history.acknowledged.update(map(str, await _followers(rng, queue, handles)))
        await asyncio.sleep(rng.random() * 0.6)


async def _enqueue(process: Process, queue: TaskQueue, rng: random.Random) -> list[Any]:
    calls, options, metadata = rng.choice(KINDS)(rng)
    options = {
        "max_crashes": rng.choice([1, 2, 3, NEVER_GIVEN_UP, NEVER_GIVEN_UP]),
        "metadata": metadata,
        "queue": rng.choice(QUEUES),
        "priority": rng.randint(-1, 1),
        **options,
    }
    if len(calls) == 1 and "unique_key" not in options and rng.random() < 0.5:
        # With an id of its own an unknown outcome is no reason to give up.
        view = queue.options(id=f"own{next(process.world.numbers)}", **options)
        return [await insist(lambda: view.enqueue(calls[0]), process)]
    return await queue.options(**options).enqueue_many(calls)


async def _followers(rng: random.Random, queue: TaskQueue, handles: list[Any]) -> list[Any]:
    """Tasks that depend on some of these, and on each other."""
    strict = rng.random() < 0.7
    view = queue.options(
        on_parent_failure=None if strict else "run",
        max_crashes=rng.choice([1, 3, NEVER_GIVEN_UP]),
        metadata={"strict": strict},
    )
    parents = list(dict.fromkeys(handles[:3]))
    first = await view.enqueue(after, [str(one) for one in parents], parents)
    second = await view.enqueue(after, [str(first)], [first])
    return [first, second]


async def govern(process: Process, wire: Wire, until: float, players: Players, *, ticks: bool) -> None:
    """Cancel, requeue, pause and look, until then; and leave everything so that all of it can end."""
    world, rng = process.world, process.world.rng
    queue = TaskQueue(wire)  # type: ignore[arg-type]
    await queue.open()
    if ticks:
        options: dict[str, Any] = {"misfire": "all", "overlap": "allow"}
        await insist(lambda: queue.schedule(SCHEDULE, call(quick), every=1, **options), process)
    while world.now < until:
        await asyncio.sleep(rng.random())
        with suppress(SitqError):
            await rng.choice((_cancel, _requeue, _requeue, _pause, _look))(process, wire, players)
    if ticks:
        with suppress(ScheduleNotFoundError):
            await insist(lambda: queue.remove_schedule(SCHEDULE), process)
    await insist(lambda: _requeue(process, wire, players), process)
    for name in QUEUES:
        await insist(lambda name=name: wire.set_paused(name, False), process)


async def _cancel(process: Process, wire: Wire, players: Players) -> None:
    # The judge of histories does not know wishes to cancel: not of one that is to end with a success or a failure.
    requeued = {one.id for one in players.history.wanted}
    everything = await wire.find(TaskQuery(limit=20))
    found = [task for task in everything if not task.parents and task.id not in requeued]
    if not found:
        return
    task = process.world.rng.choice(found)
    asked = Asked(task.id)
    players.extra.asked.append(asked)
    players.history.unwanted.add(task.id)
    statuses = await wire.cancel([task.id])
    asked.status, asked.answered = statuses[task.id], process.world.time()


async def _requeue(process: Process, wire: Wire, players: Players) -> None:
    failed = await wire.find(TaskQuery(statuses=[Status.FAILED], limit=20))
    asked = {wish.id for wish in players.extra.asked}
    await wire.requeue_as_seen(
        [task for task in failed if task.id not in asked and process.world.rng.random() < 0.9]
    )


async def _pause(process: Process, wire: Wire, players: Players) -> None:
    name = process.world.rng.choice(QUEUES)
    try:
        await wire.set_paused(name, True)
        since = process.world.time()
        await asyncio.sleep(process.world.rng.random() * 2.0)
        players.extra.paused.append(Pause(name, since, process.world.time()))
    finally:
        await insist(lambda: wire.set_paused(name, False), process)


async def _look(process: Process, wire: Wire, players: Players) -> None:
    finished = await wire.find(TaskQuery(statuses=[Status.SUCCESS, Status.FAILED], limit=20))
    players.history.seen += [Seen(task.id, task.status, task.fence) for task in finished]
