"""Who plays in a schedule: workers, a producer, a steward; and the tasks, of which each run leaves a mark."""

import asyncio
import random
from collections.abc import Callable
from contextlib import nullcontext, suppress
from datetime import timedelta
from typing import Any, NamedTuple

from sitq import RetryPolicy, SitqError, Snooze, Status, TaskQueue, Worker, call, current_task
from sitq.errors import BackendError, ScheduleNotFoundError
from sitq.model import TaskQuery
from sitq.rates import RateLimit
from sitq.resources import resource
from tests.lab.history.entries import History, Ran, Seen
from tests.lab.sim.promises import Asked, Extra, Pause
from tests.lab.sim.wire import Wire
from tests.lab.sim.world import Process

RATE = RateLimit(2, timedelta(seconds=2))
WINDOW = 2.0
TIMEOUT = 0.8
SCHEDULE = "tick"
QUEUES = ("default", "other")
NEVER_GIVEN_UP = 1000


class Planned(Exception):
    """What tasks fail with on purpose."""


class Player(NamedTuple):
    """What a task finds of the worker that runs it."""

    process: Process
    history: History


# -- The tasks -------------------------------------------------------------------------------------


def leave_mark() -> str:
    player, task = resource(Player), current_task()
    world = player.process.world
    mark = f"{task.id} {task.attempt} {player.process.pid} {next(world.numbers)}"
    player.history.ran.append(Ran(task.id, task.attempt, mark, player.process.pid, world.time()))
    world.tell("run", mark)
    return mark


async def quick() -> str:
    return leave_mark()


async def waiting(span: float) -> str:
    mark = leave_mark()
    await asyncio.sleep(span)
    return mark


async def blocking(span: float) -> str:
    """Block the event loop of the worker. Its heartbeat has a thread of its own."""
    mark = leave_mark()
    resource(Player).process.loop.pause(span)
    await asyncio.sleep(0)
    return mark


def in_a_thread() -> str:
    return leave_mark()


async def failing(fails: int) -> str:
    mark = leave_mark()
    await asyncio.sleep(0.01)
    if current_task().attempt <= fails:
        raise Planned(mark)
    return mark


async def snoozing() -> str:
    mark = leave_mark()
    if resource(Player).process.world.rng.random() < 0.5:
        raise Snooze(0.3)
    return mark


async def late(fails: int, deaf: float) -> str:
    """Take too long in the first attempts, and then as long again before it stops."""
    mark = leave_mark()
    if current_task().attempt <= fails:
        try:
            await asyncio.sleep(10 * TIMEOUT)
        except asyncio.CancelledError:
            await asyncio.sleep(deaf)
            raise
    return mark


async def talking(span: float) -> str:
    mark = leave_mark()
    for percent in (0, 50, 100):
        current_task().progress(percent, mark)
        current_task().log(mark)
        await asyncio.sleep(span / 3)
    return mark


async def after(parents: list[str], values: list[Any]) -> str:
    for parent, value in zip(parents, values, strict=True):
        right = value.startswith(f"{parent} ") if isinstance(value, str) else parent in str(value)
        assert right, f"{value!r} instead of what {parent} returned"
    return leave_mark()


# -- What is enqueued ------------------------------------------------------------------------------

type Some = tuple[list[Any], dict[str, Any], dict[str, Any]]


def _plain(rng: random.Random) -> Some:
    return [_a_call(rng) for _ in range(rng.randint(1, 3))], {}, {}


def _a_call(rng: random.Random) -> Any:
    makers: tuple[Callable[[], Any], ...] = (
        lambda: call(quick),
        lambda: call(waiting, rng.random() * 4.0),
        lambda: call(blocking, rng.random() * 4.0),
        lambda: call(in_a_thread),
        lambda: call(snoozing),
    )
    return rng.choice(makers)()


def _failing(rng: random.Random) -> Some:
    fails, most = rng.randint(1, 3), rng.randint(1, 3)
    policy = RetryPolicy(max_attempts=most, base=0.3, jitter=rng.choice(["none", "full"]))
    return [call(failing, fails)], {"retry": policy}, {"fails": fails, "max_attempts": most}


def _late(rng: random.Random) -> Some:
    fails = rng.randint(1, 2)
    policy = RetryPolicy(max_attempts=fails + 1, base=0.1, jitter="none")
    calls = [call(late, fails, rng.choice([0.0, 0.0, 1.0, 7.0]))]
    meta = {"fails": fails, "max_attempts": fails + 1}
    return calls, {"retry": policy, "timeout": TIMEOUT}, meta


def _few_at_once(rng: random.Random) -> Some:
    calls = [call(waiting, rng.random() * 2.0) for _ in range(3)]
    return calls, {"concurrency_key": "few", "concurrency_limit": 1}, {"concurrency": ["few", 1]}


def _paced(rng: random.Random) -> Some:
    meta = {"rate": ["paced", RATE.count, RATE.period.total_seconds()]}
    return [call(quick) for _ in range(3)], {"rate_key": "paced", "rate_limit": RATE}, meta


def _unique(rng: random.Random) -> Some:
    until = rng.choice(["start", "end"])
    meta = {"unique": f"one {until}", "until": until}
    calls = [call(waiting, rng.random()) for _ in range(2)]
    return calls, {"unique_key": f"one {until}", "unique_until": until}, meta


def _throttled(rng: random.Random) -> Some:
    return [call(quick)] * 2, {"unique_key": "rare", "throttle": WINDOW}, {"throttle": ["rare", WINDOW]}


def _talking(rng: random.Random) -> Some:
    return [call(talking, rng.random())], {}, {"says": True}


def _delayed(rng: random.Random) -> Some:
    return [call(quick)], {"delay": rng.random() * 4.0}, {}


KINDS = (_plain, _plain, _failing, _late, _few_at_once, _paced, _unique, _throttled, _talking, _delayed)


# -- The players -----------------------------------------------------------------------------------


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
        await asyncio.sleep(rng.random() * 1.5)


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
        await asyncio.sleep(rng.random() * 1.5)
        with suppress(SitqError):
            await rng.choice((_cancel, _requeue, _requeue, _pause, _look))(process, wire, players)
    if ticks:
        with suppress(ScheduleNotFoundError):
            await insist(lambda: queue.remove_schedule(SCHEDULE), process)
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
    statuses = await wire.cancel([task.id])
    asked.status, asked.answered = statuses[task.id], process.world.time()


async def _requeue(process: Process, wire: Wire, players: Players) -> None:
    failed = await wire.find(TaskQuery(statuses=[Status.FAILED], limit=20))
    asked = {wish.id for wish in players.extra.asked}
    await wire.requeue_as_seen(
        [task for task in failed if task.id not in asked and process.world.rng.random() < 0.5]
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
