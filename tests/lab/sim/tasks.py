"""The tasks of a schedule, of which each run leaves a mark, and in what ways they are enqueued."""

import asyncio
import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple

from sitq import RetryPolicy, Snooze, call, current_task
from sitq.rates import RateLimit
from sitq.resources import resource
from tests.lab.history.entries import History, Ran
from tests.lab.sim.world import Process

RATE = RateLimit(2, timedelta(seconds=2))
WINDOW = 2.0
TIMEOUT = 0.8


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
    """Never end in the first attempts; when it is to stop, take so long for that."""
    mark = leave_mark()
    if current_task().attempt <= fails:
        try:
            await asyncio.Event().wait()
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
        lambda: call(blocking, rng.random() * 3.0),
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
    return [call(quick)], {"delay": rng.random() * 2.0}, {}


KINDS = (
    _plain,
    _plain,
    _failing,
    _failing,
    _late,
    _few_at_once,
    _paced,
    _unique,
    _throttled,
    _talking,
    _delayed,
)
