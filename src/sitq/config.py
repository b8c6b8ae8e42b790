"""The settings of a worker: one frozen value, validated once."""

import os
import secrets
import socket
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Final

from sitq.checks import Duration, kind, label, seconds
from sitq.errors import ValidationError
from sitq.executors import ProcessOptions, process_options

DEFAULT_CONCURRENCY: Final = 10
DEFAULT_LEASE: Final = 30.0
DEFAULT_SHUTDOWN_TIMEOUT: Final = 30.0
DEFAULT_POLL_INTERVAL: Final = 1.0
MAX_CONCURRENCY: Final = 10_000
MIN_LEASE: Final = 0.1
MAX_WEIGHT: Final = 1_000


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """How a worker works. Durations are seconds.

    Attributes:
        id: Its name in the storage and in logs.
        queues: What it takes from; None means every queue.
        weights: The share of each queue in the slots that become free; None if they have none.
        strict: Take from a queue only what those named before it leave free.
        concurrency: How many tasks it runs at once, and the most it ever reserves.
        lease: How long a reservation lasts without a sign of life. Renewed every third of it.
        poll_interval: How often to look for work when nothing rings.
        shutdown_timeout: How long a stopping worker waits for running tasks before it cancels them.
        max_tasks: Stop after this many tasks; None means never.
        executor: Where plain functions run that say nothing; None means on threads.
        processes: The child processes.
    """

    id: str
    queues: tuple[str, ...] | None
    weights: tuple[int, ...] | None
    strict: bool
    concurrency: int
    lease: float
    poll_interval: float
    shutdown_timeout: float
    max_tasks: int | None
    executor: str | None = None
    processes: ProcessOptions = field(default_factory=ProcessOptions)


def worker_config(
    *,
    id: str | None,
    queues: Sequence[str] | Mapping[str, int] | None,
    strict: bool,
    concurrency: int,
    lease: Duration,
    poll_interval: Duration,
    shutdown_timeout: Duration,
    max_tasks: int | None,
    executor: str | None = None,
    processes: int | ProcessOptions | None = None,
) -> WorkerConfig:
    """Check what was given to `Worker`. Whether its queue has the executor is known to the queue.

    Raises:
        ValidationError: naming the argument, what was given and the fix.
    """
    return WorkerConfig(
        id=f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}" if id is None else label(id, "id"),
        queues=_queues(queues),
        weights=_weights(queues),
        strict=_strict(strict, queues),
        concurrency=_count(concurrency, "concurrency", MAX_CONCURRENCY),
        lease=seconds(lease, "lease", minimum=MIN_LEASE),
        poll_interval=seconds(poll_interval, "poll_interval", minimum=0.001),
        shutdown_timeout=seconds(shutdown_timeout, "shutdown_timeout"),
        max_tasks=None if max_tasks is None else _count(max_tasks, "max_tasks", 2**31),
        executor=None if executor is None else label(executor, "executor"),
        processes=process_options(processes),
    )


def _queues(queues: Sequence[str] | Mapping[str, int] | None) -> tuple[str, ...] | None:
    if queues is None:
        return None
    if isinstance(queues, str):
        raise ValidationError(f"queues is a str: give a list of names, queues=[{queues!r}]")
    if not isinstance(queues, Collection):
        raise ValidationError(
            f"queues is {kind(queues)}: give a list of names, or a mapping of names to weights"
        )
    names = tuple(dict.fromkeys(label(queue, "queues") for queue in queues))
    if not names:
        raise ValidationError("queues is empty: name at least one queue, or leave it out to take from all")
    return names


def _weights(queues: Sequence[str] | Mapping[str, int] | None) -> tuple[int, ...] | None:
    if not isinstance(queues, Mapping):
        return None
    return tuple(
        _count(weight, f"the weight of queue {queue!r}", MAX_WEIGHT) for queue, weight in queues.items()
    )


def _strict(strict: bool, queues: object) -> bool:
    if not isinstance(strict, bool):
        raise ValidationError(f"strict is {kind(strict)}: give True or False")
    if strict and (queues is None or isinstance(queues, Mapping | Set)):
        raise ValidationError(
            "strict needs an order: give queues as a list of names, the most important first"
        )
    return strict


def _count(value: int, field: str, maximum: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= maximum:
        raise ValidationError(f"{field} is {value!r}: give an int from 1 to {maximum}")
    return value
