"""Schedules in a storage: three small documents a schedule, each written by one party.

    schedule/<name>          when it repeats and what it calls; by who defines it
    schedule-paused/<name>   whether it is paused, and since when it is as it is; by who pauses and resumes
    schedule-last/<name>     the newest tick that is settled; by the workers

So nothing has to be compared and swapped. What makes a tick happen once is the id of its task: name and instant.
"""

import difflib
import json
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from sitq.backends.base import Backend
from sitq.errors import ScheduleNotFoundError, ValidationError
from sitq.model import Concurrency, NewTask, Rate, Unique
from sitq.schedule import Misfire, Overlap, Schedule, make_schedule, next_tick

MIN_RESULT_TTL: Final = timedelta(hours=1)
"""The task of a tick is kept for so long at least: it is the memory that the tick was there."""

_VERSION: Final = 1
_PREFIX: Final = "schedule"
_DEFINITION: Final = "schedule/"
_PAUSED: Final = "schedule-paused/"
_LAST: Final = "schedule-last/"
_MICROSECOND: Final = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleRecord:
    """A schedule as it stands in the storage.

    Attributes:
        name: What it is called.
        task: The name of the tasks that it makes.
        queue: The queue that they go to.
        cron, every: When it repeats; one of them is None.
        tz: The zone of `cron`.
        misfire: Which of the ticks that nobody was there for run.
        overlap: What becomes of a tick while the task of an earlier one has not ended.
        paused: It makes no tasks until it is resumed. Ticks meanwhile do not count as missed.
        last: The newest tick that is settled; None before the first one.
        next: The next tick; None while it is paused, and if there is none within fifty years.
    """

    name: str
    task: str
    queue: str
    cron: str | None
    every: timedelta | None
    tz: str
    misfire: Misfire
    overlap: Overlap
    paused: bool = False
    last: datetime | None = None
    next: datetime | None = None


# -- For queues ------------------------------------------------------------------------------------


async def save_schedules(backend: Backend, new: Iterable[tuple[Schedule, NewTask]], now: datetime) -> None:
    """Store schedules under their names, with a task as the pattern of those to make.

    One that repeats as before goes on where it is; otherwise its first tick is later than `now`. What is stored already
    is not written again, so that any number of processes may begin with the same schedules.
    """
    stored = {one.name: one for one in await load_schedules(backend)}
    changed: dict[str, bytes | None] = {}
    for schedule, task in new:
        old = stored.get(schedule.name)
        data = _encode(schedule, task, _since(old, schedule) or now)
        if old is None or old.definition != data:
            changed[_DEFINITION + schedule.name] = data
    if changed:
        await backend.save(changed)


def _since(old: "Stored | None", schedule: Schedule) -> datetime | None:
    """From when on a schedule counts, if it repeats as the stored one does."""
    try:
        entry = None if old is None else decode(old)
    except ValidationError:
        return None  # unreadable: this one takes its place
    if entry is None:
        return None
    before = entry.schedule
    same = (before.cron, before.every, before.tz) == (schedule.cron, schedule.every, schedule.tz)
    return entry.since if same else None


async def list_schedules(backend: Backend, now: datetime) -> list[ScheduleRecord]:
    """All schedules by name.

    Raises:
        ValidationError: One cannot be read here; the message names it.
    """
    return [_record(decode(one), now) for one in await load_schedules(backend)]


async def find_schedule(backend: Backend, name: str, now: datetime) -> ScheduleRecord:
    """One schedule. Raises `ScheduleNotFoundError`, and `ValidationError` if it cannot be read here."""
    return _record(decode(await _find(backend, name)), now)


async def set_schedule_paused(backend: Backend, name: str, paused: bool, now: datetime) -> None:
    """Pause a schedule or let it go on; from then on its ticks count. Raises `ScheduleNotFoundError`."""
    found = await _find(backend, name)
    if _paused(found)[0] != paused:
        await backend.save({_PAUSED + name: json.dumps({"paused": paused, "at": now.isoformat()}).encode()})


async def remove_schedule(backend: Backend, name: str) -> None:
    """Forget a schedule. Tasks that it made stay. Raises `ScheduleNotFoundError`."""
    await _find(backend, name)
    await backend.save({_DEFINITION + name: None, _PAUSED + name: None, _LAST + name: None})


async def _find(backend: Backend, name: str) -> "Stored":
    if not isinstance(name, str):
        raise ValidationError(f"name is a {type(name).__qualname__}: give the name of a schedule")
    stored = {one.name: one for one in await load_schedules(backend)}
    if name not in stored:
        near = difflib.get_close_matches(name, stored, n=1)
        raise ScheduleNotFoundError(name, near[0] if near else None)
    return stored[name]


def _record(entry: "Entry", now: datetime) -> ScheduleRecord:
    schedule = entry.schedule
    return ScheduleRecord(
        name=schedule.name,
        task=entry.task.name,
        queue=entry.task.queue,
        cron=schedule.cron,
        every=schedule.every,
        tz=schedule.tz,
        misfire=schedule.misfire,
        overlap=schedule.overlap,
        paused=entry.paused,
        last=entry.last,
        next=None if entry.paused else next_tick(schedule, max(entry.settled, now)),
    )


# -- For workers -----------------------------------------------------------------------------------


class Stored(NamedTuple):
    """The documents of one schedule."""

    name: str
    definition: bytes
    paused: bytes | None
    last: bytes | None


class Entry(NamedTuple):
    """A schedule as read.

    Attributes:
        task: The pattern of the tasks that it makes.
        since: Ticks count that are later than this: when it was defined.
        settled: No tick until then is open.
    """

    schedule: Schedule
    task: NewTask
    since: datetime
    paused: bool
    last: datetime | None
    settled: datetime


async def load_schedules(backend: Backend) -> list[Stored]:
    """The documents of all schedules, as they stood at one moment."""
    documents = await backend.load(_PREFIX)
    return [
        Stored(name, data, documents.get(_PAUSED + name), documents.get(_LAST + name))
        for key, data in documents.items()
        if key.startswith(_DEFINITION) and (name := key.removeprefix(_DEFINITION))
    ]


async def save_last(backend: Backend, last: Mapping[str, datetime]) -> None:
    """Remember the newest tick that is settled, by name of the schedule."""
    await backend.save({_LAST + name: tick.isoformat().encode() for name, tick in last.items()})


def schedule_id(name: str) -> str:
    """What the payload of a schedule is bound to, until it becomes that of a task."""
    return _DEFINITION + name


def tick_task(entry: Entry, tick: datetime) -> NewTask:
    """The task of a tick. Whoever makes it makes the same one."""
    name, task = entry.schedule.name, entry.task
    at = tick.strftime("%Y-%m-%dT%H:%M:%S" + (".%f" if tick.microsecond else "") + "Z")
    overlap = entry.schedule.overlap
    ttl = task.result_ttl
    return task._replace(
        id=f"{name}@{at}",
        due_at=tick,
        result_ttl=None if ttl is None else max(ttl, MIN_RESULT_TTL),
        metadata={**(task.metadata or {}), "schedule": name, "tick": at},
        unique=Unique(_DEFINITION + name) if overlap == "skip" else None,
        concurrency=Concurrency(_DEFINITION + name, 1) if overlap == "wait" else task.concurrency,
    )


# -- As bytes --------------------------------------------------------------------------------------


def _encode(schedule: Schedule, task: NewTask, since: datetime) -> bytes:
    _check(schedule, task)
    return json.dumps(
        {
            "version": _VERSION,
            "cron": schedule.cron,
            "every": _to_number(schedule.every),
            "tz": schedule.tz,
            "misfire": schedule.misfire,
            "overlap": schedule.overlap,
            "since": since.isoformat(),
            "task": {
                "name": task.name,
                "payload": b64encode(task.payload).decode(),
                "queue": task.queue,
                "priority": task.priority,
                "max_crashes": task.max_crashes,
                "result_ttl": _to_number(task.result_ttl),
                "metadata": task.metadata,
                "concurrency": task.concurrency,
                "rate": task.rate and [task.rate.key, task.rate.limit, _to_number(task.rate.period)],
            },
        }
    ).encode()


def _check(schedule: Schedule, task: NewTask) -> None:
    if task.unique is not None:
        raise ValidationError(
            "unique is not for a schedule, whose ticks are unique: leave it out, and say with overlap= what becomes of "
            "a tick that comes too early"
        )
    if task.concurrency is not None and schedule.overlap == "wait":
        raise ValidationError(
            "concurrency is given with overlap='wait', which is a concurrency of 1 itself: give one of them"
        )


def decode(stored: Stored) -> Entry:
    """Read a schedule.

    Raises:
        ValidationError: A newer sitq wrote it, it is damaged, or something that it needs is missing here: cronsim, or
            its time zone. The message names it.
    """
    try:
        data = json.loads(stored.definition)
        if data["version"] != _VERSION:
            raise ValidationError(
                f"it has version {data['version']!r}: use the sitq that wrote it, or a newer one"
            )
        schedule = make_schedule(
            stored.name,
            cron=data["cron"],
            every=_to_span(data["every"]),
            tz=data["tz"],
            misfire=data["misfire"],
            overlap=data["overlap"],
        )
        since = _to_instant(data["since"])
        last = None if stored.last is None else _to_instant(stored.last.decode())
        paused, at = _paused(stored)
        settled = max(since, last or since, at or since)
        return Entry(schedule, _to_task(data["task"]), since, paused, last, settled)
    except ValidationError as error:
        raise ValidationError(f"schedule {stored.name!r} cannot be used here: {error}") from error
    except Exception as error:
        raise ValidationError(
            f"schedule {stored.name!r} is damaged: define it again, or remove it"
        ) from error


def _paused(stored: Stored) -> tuple[bool, datetime | None]:
    if stored.paused is None:
        return False, None
    try:
        data = json.loads(stored.paused)
        return data["paused"] is True, _to_instant(data["at"])
    except Exception as error:
        raise ValidationError("whether it is paused is damaged: remove it, and define it again") from error


def _to_task(data: dict[str, Any]) -> NewTask:
    concurrency: Sequence[Any] | None = data["concurrency"]
    rate: Sequence[Any] | None = data["rate"]
    return NewTask(
        id="",
        name=str(data["name"]),
        payload=b64decode(data["payload"], validate=True),
        queue=str(data["queue"]),
        priority=int(data["priority"]),
        max_crashes=int(data["max_crashes"]),
        result_ttl=_to_span(data["result_ttl"]),
        metadata=data["metadata"] and dict(data["metadata"]),
        concurrency=None if concurrency is None else Concurrency(*concurrency),
        rate=None if rate is None else Rate(rate[0], rate[1], timedelta(microseconds=rate[2])),
    )


def _to_number(span: timedelta | None) -> int | None:
    return None if span is None else span // _MICROSECOND


def _to_span(number: int | None) -> timedelta | None:
    return None if number is None else timedelta(microseconds=number)


def _to_instant(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
