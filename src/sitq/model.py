"""The values that cross the layers: plain, frozen, and without services in them.

What is made once a task or more often is a named tuple, which costs a third of a frozen dataclass to make.

A task lives through these states. `due_at` is the one clock of a task: the next moment it may be reserved. A
schedule, a lease and a heartbeat are all writes to it, so nothing has to move tasks from one list to another.

    waiting -> pending      its last parent finished
    waiting -> cancelled    a parent ended in a state that it does not accept
    pending -> running      reserved: attempt + 1, a new fence
    running -> running      its lease ran out, or its run crashed, and a worker reserved it: crashes + 1, a new fence
    running -> pending      retried, or released by a worker that stops; waiting, if a parent got a new run meanwhile
    running -> success | failed | cancelled
    waiting | pending -> cancelled
    failed | cancelled -> pending   requeued: a new run; waiting, if it depends on others that have not finished
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final, NamedTuple, Protocol, cast

type TaskId = str


class _Make(Protocol):
    def __call__[T](self, kind: type[T], fields: Iterable[Any], /) -> T: ...


make: Final = cast(_Make, tuple.__new__)  # pyright: ignore[reportUnknownMemberType]
"""A named tuple of all its fields, in half the time of its own constructor, which is a Python function."""


DEFAULT_QUEUE: Final = "default"
MIN_PRIORITY: Final = -9
MAX_PRIORITY: Final = 9
DEFAULT_MAX_CRASHES: Final = 3
DEFAULT_RESULT_TTL: Final = timedelta(days=7)
DEFAULT_KEEP_FAILED: Final = timedelta(days=30)


class Status(StrEnum):
    """Where a task is in its life."""

    WAITING = "waiting"
    PENDING = "pending"
    RUNNING = "running"
    SUCCESS = "success"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def finished(self) -> bool:
        """True for the three states that a task never leaves."""
        return self in FINISHED


FINISHED: Final = frozenset({Status.SUCCESS, Status.FAILED, Status.CANCELLED})


# -- Into the storage ------------------------------------------------------------------------------


class Until(StrEnum):
    """How long a task holds its unique key."""

    START = "start"
    END = "end"


class Unique(NamedTuple):
    """At most one task holds a key at any moment; who comes second gets the id of the holder.

    Attributes:
        key: Shared by all queues of a store.
        until: The holder lets go of it at its first start, at its end, or at an instant, whatever became of it by then.
            A span becomes an instant when the task is stored: whoever sends it may come late, or have another clock.
        replace: A holder that has not been reserved yet takes over the payload and the `due_at` of who comes second.
    """

    key: str
    until: Until | datetime | timedelta = Until.END
    replace: bool = False

    def counted_from(self, now: datetime) -> "Unique":
        """As it is held by a task that is stored at this instant."""
        return self._replace(until=now + self.until) if isinstance(self.until, timedelta) else self


class Concurrency(NamedTuple):
    """At most `limit` tasks with this key run at once, over all workers of a store. Each task brings its own limit."""

    key: str
    limit: int


class Rate(NamedTuple):
    """At most `limit` tasks with this key start within any span of `period`, over all workers of a store.

    So a task may start when the `limit`th last start of its key is at least `period` ago.
    """

    key: str
    limit: int
    period: timedelta


ONLY_SUCCESS: Final = frozenset({Status.SUCCESS})


class Edge(NamedTuple):
    """A task waits until `parent` has finished. If that ends in a state outside `accepts`, the task is cancelled."""

    parent: TaskId
    accepts: frozenset[Status] = ONLY_SUCCESS


class NewTask(NamedTuple):
    """A task to store.

    Attributes:
        id: Chosen by the caller, so that storing it again after an unknown outcome is safe.
        name: What the task is called in lists and logs.
        payload: The encoded call. Opaque to the storage.
        due_at: Earliest start, in UTC; None means now, by the storage's clock.
        priority: Lower runs first; `MIN_PRIORITY` to `MAX_PRIORITY`.
        max_crashes: How many times a worker may die over it before it is given up.
        result_ttl: How long it is kept after it finished; None keeps it until it is removed by hand.
        metadata: A JSON object for people and filters; never interpreted.
        unique: The key that it takes, if it is free.
        concurrency, rate: What bounds its start; the storage reserves it when both allow.
        edges: What it waits for. Parents are stored before it, so there are no cycles.
    """

    id: TaskId
    name: str
    payload: bytes
    queue: str = DEFAULT_QUEUE
    priority: int = 0
    due_at: datetime | None = None
    max_crashes: int = DEFAULT_MAX_CRASHES
    result_ttl: timedelta | None = DEFAULT_RESULT_TTL
    metadata: Mapping[str, Any] | None = None
    unique: Unique | None = None
    concurrency: Concurrency | None = None
    rate: Rate | None = None
    edges: tuple[Edge, ...] = ()


class Enqueued(NamedTuple):
    """The answer for one `NewTask`.

    `created` is False if a task with this id was there already, or if `id` is another task that holds the unique key.
    """

    id: TaskId
    created: bool


# -- Out to a worker and back ----------------------------------------------------------------------


class Held(NamedTuple):
    """One reservation. Every write of a worker carries it; a fence that is not the current one changes nothing."""

    id: TaskId
    fence: int


class ReservedTask(NamedTuple):
    """A task handed to a worker until its lease runs out.

    Attributes:
        fence: Grows with each call of `reserve` and is never repeated in one store: a task never gets one twice, not
            even when its id is pruned and used again.
        attempt: Counts tries, from 1. A release gives it back; the fence never goes back.
        crashes: How many earlier reservations ended in a lost lease.
        cancel_requested: Somebody asked to cancel it while an earlier worker had it.
        parents: The tasks that it waited for, in the order of its edges.
    """

    id: TaskId
    fence: int
    name: str
    queue: str
    payload: bytes
    attempt: int = 1
    crashes: int = 0
    max_crashes: int = DEFAULT_MAX_CRASHES
    metadata: Mapping[str, Any] | None = None
    cancel_requested: bool = False
    parents: tuple[TaskId, ...] = ()

    @property
    def held(self) -> Held:
        return make(Held, self[:2])


class Reserved(NamedTuple):
    """What `reserve` found. `next_due_at` says when to look again, if fewer than the limit were found."""

    tasks: list[ReservedTask]
    next_due_at: datetime | None = None


class Heartbeat(NamedTuple):
    """What a renewal learned: reservations that are no longer ours, and those that somebody asked to cancel."""

    lost: frozenset[Held] = frozenset()
    cancelled: frozenset[Held] = frozenset()


class Succeeded(NamedTuple):
    """The task returned; `result` is the encoded value."""

    held: Held
    result: bytes


class Failed(NamedTuple):
    """The task is given up; `error` is the encoded reason. It is kept for the longer of `keep_for` and `result_ttl`."""

    held: Held
    error: bytes
    keep_for: timedelta = timedelta(0)


class Retried(NamedTuple):
    """The attempt failed and another one is due at `at`."""

    held: Held
    at: datetime
    error: bytes


class Cancelled(NamedTuple):
    """The task was stopped on request."""

    held: Held
    error: bytes | None = None


class Released(NamedTuple):
    """The worker gives the task back: the attempt is not counted. Due at `at`, or at once; `error` may say why."""

    held: Held
    at: datetime | None = None
    error: bytes | None = None


class Crashed(NamedTuple):
    """What ran the task died, and its worker did not: the reservation ends now, and counts as a lost lease.

    The task stays running, by no worker, until it is reserved again.
    """

    held: Held
    error: bytes


type Outcome = Succeeded | Failed | Retried | Cancelled | Released | Crashed


def leads_to(outcome: Outcome, cancel_requested: bool) -> Status:
    """The state that a running task comes to. One that was asked to cancel does not become pending again.

    One that becomes pending waits, if a parent of it has not finished.
    """
    match outcome:
        case Succeeded():
            return Status.SUCCESS
        case Failed():
            return Status.FAILED
        case Cancelled():
            return Status.CANCELLED
        case Retried() | Released():
            return Status.CANCELLED if cancel_requested else Status.PENDING
        case Crashed():  # pragma: no branch: all outcomes are named, says the type checker
            return Status.RUNNING


class Completed(NamedTuple):
    """What `complete` did. Reservations in `stale` had lost their lease; their outcomes changed nothing."""

    accepted: int
    stale: tuple[Held, ...] = ()


# -- What a task says while it runs, and what happened to it ---------------------------------------


class NoteKind(StrEnum):
    """What a note is about."""

    PROGRESS = "progress"
    LOG = "log"
    VALUE = "value"
    ATTEMPT = "attempt"
    REQUEUED = "requeued"


NOTES_KEPT: Final[Mapping[NoteKind, int]] = {
    NoteKind.PROGRESS: 1,
    NoteKind.LOG: 1_000,
    NoteKind.VALUE: 1_000,
    NoteKind.ATTEMPT: 20,
    NoteKind.REQUEUED: 20,
}
"""How many notes of a kind a task keeps: the newest ones."""


class NewNote(NamedTuple):
    """Something to write down about a running task, by who holds it. `data` is opaque to the storage."""

    held: Held
    kind: NoteKind
    data: bytes


class Note(NamedTuple):
    """A note as stored. `position` grows within a store and is never used twice: the cursor of a reader.

    An `ATTEMPT` note is written by the storage with each `Retried` and `Crashed` outcome and holds its error; a
    `REQUEUED` note is written by `requeue` and holds the error of the run before, if it had one.
    """

    position: int
    kind: NoteKind
    attempt: int
    at: datetime
    data: bytes


# -- Out to a reader -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecord:
    """A task as it stands in the storage.

    Attributes:
        seq: Position in the order of enqueueing; the cursor of `TaskQuery.before`.
        due_at: While waiting and pending the earliest start, while running the end of the lease, None afterwards.
        parents: The tasks that it depends on, in the order of its edges; those that are gone, too.
        cancelled_by: The task that failed or was cancelled, and this one depends on it, maybe by way of others.
        payload, result, error: Encoded; present only when the query asked for bytes.
    """

    seq: int
    id: TaskId
    name: str
    queue: str
    status: Status
    priority: int
    attempt: int
    crashes: int
    max_crashes: int
    fence: int
    worker: str | None
    enqueued_at: datetime
    due_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    cancel_requested: bool = False
    metadata: Mapping[str, Any] | None = None
    unique: Unique | None = None
    concurrency: Concurrency | None = None
    rate: Rate | None = None
    parents: tuple[TaskId, ...] = ()
    cancelled_by: TaskId | None = None
    payload: bytes | None = field(default=None, repr=False)
    result: bytes | None = field(default=None, repr=False)
    error: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskQuery:
    """Which tasks to list, newest first. Everything given must match.

    Attributes:
        since, until: Bounds of `enqueued_at`: from `since` on, and before `until`.
        before: Only tasks with a smaller `seq`: pass the last record's `seq` for the next page.
        limit: Page size.
        with_bytes: Also load payload, result and error.
    """

    ids: Collection[TaskId] | None = None
    statuses: Collection[Status] | None = None
    queue: str | None = None
    name: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    before: int | None = None
    limit: int = 100
    with_bytes: bool = False


@dataclass(frozen=True, slots=True)
class QueueStats:
    """One queue: how many tasks in each state, and the `due_at` of the pending task that has been due longest.

    A queue that is paused is there even when it has no tasks.
    """

    queue: str
    counts: Mapping[Status, int]
    oldest_due_at: datetime | None = None
    paused: bool = False


@dataclass(frozen=True, slots=True)
class Stats:
    """The store as a whole. `stale_outcomes` counts writes of workers that had lost their lease; all were refused."""

    queues: tuple[QueueStats, ...]
    stale_outcomes: int = 0

    @property
    def counts(self) -> dict[Status, int]:
        """How many tasks are in each state, over all queues. Every state is there."""
        return {status: sum(queue.counts.get(status, 0) for queue in self.queues) for status in Status}


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerInfo:
    """What a worker says about itself with each heartbeat.

    Attributes:
        queues: Which it takes from; None means all.
        running: The ids of the tasks that it runs now.
        cpu: Share of one core that its process used since the heartbeat before; None without `psutil`.
        memory: Resident bytes of its process; None without `psutil`.
    """

    host: str
    pid: int
    started_at: datetime
    concurrency: int
    queues: tuple[str, ...] | None = None
    running: tuple[TaskId, ...] = ()
    cpu: float | None = None
    memory: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRecord:
    """A worker as the storage knows it. It is given up for dead when `alive_until` has passed."""

    id: str
    info: WorkerInfo
    seen_at: datetime
    alive_until: datetime


# -- Wake-ups --------------------------------------------------------------------------------------


class QueueTopic(NamedTuple):
    """Work may have become due in this queue; None stands for every queue."""

    queue: str | None = None


class TaskTopic(NamedTuple):
    """This task may have finished, or has a new note."""

    id: TaskId


class CancelTopic(NamedTuple):
    """Some running task was asked to cancel."""


type Topic = QueueTopic | TaskTopic | CancelTopic
