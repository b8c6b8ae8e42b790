"""What a store should hold after each call: dicts and loops, without indexes or transactions."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sitq.errors import ParentNotFoundError, QueueFullError
from sitq.model import (
    FINISHED,
    NOTES_KEPT,
    Cancelled,
    Concurrency,
    Crashed,
    Edge,
    Failed,
    Held,
    NewNote,
    NewTask,
    NoteKind,
    Outcome,
    Rate,
    Released,
    ReservedTask,
    Retried,
    Status,
    Succeeded,
    TaskId,
    TaskRecord,
    Unique,
    Until,
    WorkerInfo,
    WorkerRecord,
)

DAY = timedelta(days=1)
ENDS: dict[type[Outcome], Status] = {
    Succeeded: Status.SUCCESS,
    Failed: Status.FAILED,
    Cancelled: Status.CANCELLED,
    Crashed: Status.RUNNING,
}


class Said(NamedTuple):
    """A note. `order` stands for its position, of which only the order matters."""

    order: int
    kind: NoteKind
    attempt: int
    at: datetime
    data: bytes


@dataclass
class Start:
    """A start under a rate. Up to `kept_until` some rate that was known all the time looks back at it."""

    at: datetime
    kept_until: datetime


@dataclass(eq=False)
class Row:
    """What a task should look like. `order` stands for `seq`, of which only the order matters."""

    order: int
    id: TaskId
    name: str
    queue: str
    priority: int
    max_crashes: int
    payload: bytes
    metadata: Any
    enqueued_at: datetime
    due_at: datetime | None
    result_ttl: timedelta | None
    unique: Unique | None
    concurrency: Concurrency | None
    rate: Rate | None
    status: Status = Status.PENDING
    attempt: int = 0
    crashes: int = 0
    fence: int = 0
    worker: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    cancel_requested: bool = False
    result: bytes | None = None
    error: bytes | None = None
    holds: bool = True
    keep_for: timedelta = timedelta(0)
    notes: list[Said] = field(default_factory=list[Said])
    edges: list[tuple["Row", frozenset[Status]]] = field(default_factory=list[Any])
    cancelled_by: TaskId | None = None

    @property
    def parents(self) -> tuple[TaskId, ...]:
        return tuple(parent.id for parent, _ in self.edges)

    @property
    def waits(self) -> bool:
        return any(parent.status not in FINISHED for parent, _ in self.edges)

    @property
    def culprit(self) -> TaskId | None:
        """The first parent that ended as one of the edges to it does not accept, or who had that cancelled."""
        for parent, _ in self.edges:
            accepts = [accepted for other, accepted in self.edges if other is parent]
            if parent.status in FINISHED and any(parent.status not in accepted for accepted in accepts):
                return parent.cancelled_by or parent.id
        return None

    def end(self, status: Status, now: datetime) -> None:
        self.status, self.due_at, self.finished_at = status, None, now
        self.holds = self.until_instant is not None

    @property
    def is_held(self) -> bool:
        """Whether somebody runs it: one that crashed stays running, by nobody."""
        return self.status is Status.RUNNING and self.worker is not None

    @property
    def until_instant(self) -> datetime | None:
        return self.unique.until if self.unique and isinstance(self.unique.until, datetime) else None

    def is_over(self, now: datetime) -> bool:
        if self.finished_at is None or self.result_ttl is None:
            return False
        return self.finished_at + max(self.result_ttl, self.keep_for) <= now


COMPARED = [each.name for each in fields(TaskRecord) if each.name != "seq"]


def held_from(unique: Unique | None, now: datetime) -> Unique | None:
    """As a task holds its key that is stored now."""
    if unique is None or not isinstance(unique.until, timedelta):
        return unique
    return unique._replace(until=now + unique.until)


def essence(task: Row | TaskRecord) -> dict[str, Any]:
    return {name: getattr(task, name) for name in COMPARED}


class Model:
    """The rows and what else a store knows. Each verb tells what the storage should answer."""

    def __init__(self) -> None:
        self.rows: dict[TaskId, Row] = {}
        self.starts: defaultdict[str, list[Start]] = defaultdict(list)
        self.paused: set[str] = set()
        self.workers: dict[str, WorkerRecord] = {}
        self.documents: dict[str, bytes] = {}
        self.enqueued = self.said = self.stale = 0
        self.newest_fence = 0
        self.ended: list[Row] = []  # in this call

    def running(self) -> list[Held]:
        return [Held(row.id, row.fence) for row in self.rows.values() if row.is_held]

    def current(self, held: Held, *, running: bool = False) -> Row | None:
        row = self.rows.get(held.id)
        if row is None or row.fence != held.fence or (running and not row.is_held):
            return None
        return row

    # -- Coming in --

    def holder(self, key: str, now: datetime) -> Row | None:
        holders = [
            row
            for row in self.rows.values()
            if row.unique is not None and row.unique.key == key and row.holds
            if row.until_instant is None or row.until_instant > now
        ]
        assert len(holders) <= 1
        return holders[0] if holders else None

    def enqueue(
        self, tasks: Sequence[NewTask], max_pending: Mapping[str, int], now: datetime
    ) -> list[tuple[TaskId, bool]] | QueueFullError | ParentNotFoundError:
        """The answers, or what is wrong."""
        before = {task_id: copy(row) for task_id, row in self.rows.items()}
        try:
            answers = self._enqueue_all(tasks, now)
            new = [
                row.queue for row in self.rows.values() if row.id not in before and row.status == "pending"
            ]
            pending = Counter(row.queue for row in self.rows.values() if row.status is Status.PENDING)
            for queue in dict.fromkeys(new):
                if pending[queue] > max_pending.get(queue, len(self.rows)):
                    raise QueueFullError(queue, max_pending[queue])
        except (QueueFullError, ParentNotFoundError) as error:
            self.rows = {task_id: self.rows[task_id] for task_id in before}
            for task_id, row in before.items():  # in place: others have it as their parent
                vars(self.rows[task_id]).update(vars(row))
            return error
        for row in self.rows.values():
            if row.id not in before:
                self.look_back(row)
        return answers

    def _enqueue_all(self, tasks: Sequence[NewTask], now: datetime) -> list[tuple[TaskId, bool]]:
        answers: list[tuple[TaskId, bool]] = []
        names: dict[TaskId, TaskId] = {}
        for task in tasks:
            parents: list[Edge] = [
                edge._replace(parent=names.get(edge.parent, edge.parent)) for edge in task.edges
            ]
            answers.append(self._enqueue_one(task, parents, now))
            names[task.id] = answers[-1][0]
        return answers

    def _enqueue_one(self, task: NewTask, edges: Sequence[Edge], now: datetime) -> tuple[TaskId, bool]:
        due_at = task.due_at or now
        if task.id in self.rows:
            return task.id, False
        holder = None if task.unique is None else self.holder(task.unique.key, now)
        if holder is not None:
            assert task.unique is not None
            alone = not task.edges and not holder.edges
            if task.unique.replace and holder.status is Status.PENDING and not holder.fence and alone:
                holder.payload, holder.due_at = task.payload, due_at
            return holder.id, False
        for edge, asked in zip(edges, task.edges, strict=True):
            if edge.parent not in self.rows:
                raise ParentNotFoundError(asked.parent)
        self.enqueued += 1
        row = self.rows[task.id] = Row(
            self.enqueued, task.id, task.name, task.queue, task.priority, task.max_crashes, task.payload,
            task.metadata, now, due_at, task.result_ttl, held_from(task.unique, now), task.concurrency, task.rate,
        )  # fmt: skip
        row.edges = [(self.rows[parent], accepts) for parent, accepts in edges]
        self._follow_one(row, now)
        return task.id, True

    def _follow_one(self, row: Row, now: datetime) -> None:
        """What its parents make of a task that would be pending."""
        if (culprit := row.culprit) is not None:
            row.cancelled_by = culprit
            row.end(Status.CANCELLED, now)
        else:
            row.status = Status.WAITING if row.waits else Status.PENDING

    def follow(self, now: datetime) -> None:
        """What becomes of those that waited for what has ended, and of those that waited for them."""
        while self.ended:
            ended, self.ended = self.ended, []
            after: list[tuple[Row, TaskId | None]] = []
            for row in self.rows.values():
                waited = row.status is Status.WAITING and any(parent in ended for parent, _ in row.edges)
                if waited and (row.culprit or not row.waits):
                    after.append((row, row.culprit))
            for row, culprit in after:
                if culprit is None:
                    assert row.due_at is not None
                    row.status, row.due_at = Status.PENDING, max(now, row.due_at)
                else:
                    row.cancelled_by = culprit
                    row.end(Status.CANCELLED, now)
                    self.ended.append(row)

    def requeue(self, ids: Iterable[TaskId], now: datetime) -> list[TaskId]:
        again: list[TaskId] = []
        known = [self.rows[task_id] for task_id in set(ids) if task_id in self.rows]
        for row in sorted(known, key=lambda row: row.order):
            if row.status not in (Status.FAILED, Status.CANCELLED) or row.culprit:
                continue
            if row.unique is not None and self.holder(row.unique.key, now) not in (None, row):
                continue
            self.write_down(row, NoteKind.REQUEUED, row.error or b"", now)
            row.status, row.due_at, row.attempt, row.crashes = Status.PENDING, now, 0, 0
            row.status = Status.WAITING if row.waits else Status.PENDING
            row.cancelled_by = None
            row.worker = row.started_at = row.finished_at = row.error = None
            row.cancel_requested, row.holds, row.keep_for = False, True, timedelta(0)
            self.look_back(row)
            again.append(row.id)
        return again

    # -- Starting --

    def looks_back(self, rate: Rate, now: datetime) -> bool:
        """Whether all starts that bound this rate are sure to be known: those that no rate asked for may be gone."""
        return all(now >= start.at + rate.period or now < start.kept_until for start in self.starts[rate.key])

    def look_back(self, row: Row) -> None:
        """Starts are remembered from now on for as long as the rate of this task looks back."""
        for start in self.starts[row.rate.key] if row.rate else ():
            start.kept_until = max(start.kept_until, start.at + row.rate.period)  # type: ignore[union-attr]

    def opens_at(self, row: Row) -> datetime | None:
        """When the task may be handed out; None if that hangs on the end of another one."""
        if row.status is Status.RUNNING or row.due_at is None:
            return row.due_at
        if row.concurrency is not None and self.runs(row.concurrency.key) >= row.concurrency.limit:
            return None
        if row.rate is None or len(self.starts[row.rate.key]) < row.rate.limit:
            return row.due_at
        return max(row.due_at, self.starts[row.rate.key][-row.rate.limit].at + row.rate.period)

    def runs(self, key: str) -> int:
        running = [row for row in self.rows.values() if row.status is Status.RUNNING and row.concurrency]
        return sum(row.concurrency is not None and row.concurrency.key == key for row in running)

    def unfinished(self, queues: Sequence[str] | None) -> list[Row]:
        """The tasks that one may be handed from these queues, in the order of `reserve`."""
        rows = [
            row
            for row in self.rows.values()
            if row.status in (Status.PENDING, Status.RUNNING) and row.queue not in self.paused
        ]
        asked = [row for row in rows if queues is None or row.queue in queues]
        return sorted(asked, key=lambda row: (row.priority, row.due_at, row.order))

    def reserve(
        self, worker: str, queues: Sequence[str] | None, ids: Iterable[TaskId] | None, limit: int,
        now: datetime, lease: timedelta,
    ) -> list[Row]:  # fmt: skip
        """The tasks that are handed out, as they are then except for their fences."""
        taken: list[Row] = []
        for row in self.unfinished(queues):
            at = self.opens_at(row)
            if len(taken) < limit and at is not None and at <= now and (ids is None or row.id in ids):
                self._start(row, now)
                row.worker, row.started_at, row.due_at = worker, now, now + lease
                taken.append(row)
        return taken

    def _start(self, row: Row, now: datetime) -> None:
        row.attempt += 1
        if row.status is Status.RUNNING:
            row.crashes += 1
            return
        row.status = Status.RUNNING
        row.holds &= row.unique is None or row.unique.until is not Until.START
        if row.rate is not None:
            unfinished = [each for each in self.rows.values() if each.due_at]
            periods = [each.rate.period for each in unfinished if each.rate and each.rate.key == row.rate.key]
            self.starts[row.rate.key].append(Start(now, now + max(periods)))

    def take(self, row: Row, task: ReservedTask) -> None:
        """The fence is the storage's to choose, as long as it grows."""
        assert task.fence > self.newest_fence
        row.fence = task.fence

    # -- Ending --

    def apply(self, outcome: Outcome, now: datetime) -> bool:
        """Whether the outcome is accepted; if so, and it is news, what it does to the row."""
        row = self.current(outcome.held)
        if row is None:
            return False
        status = ENDS.get(type(outcome), Status.CANCELLED if row.cancel_requested else Status.PENDING)
        if not row.is_held:
            return row.status is status or (row.status, status) == (Status.WAITING, Status.PENDING)
        if isinstance(outcome, Retried | Crashed):
            self.write_down(row, NoteKind.ATTEMPT, outcome.error, now)
        if isinstance(outcome, Succeeded):
            row.result, row.error = outcome.result, None
        elif outcome.error is not None:
            row.error = outcome.error
        row.keep_for = outcome.keep_for if isinstance(outcome, Failed) else timedelta(0)
        if status in FINISHED:
            row.end(status, now)
            self.ended.append(row)
        elif isinstance(outcome, Retried | Released):
            row.status, row.due_at, row.worker, row.started_at = status, outcome.at or now, None, None
            row.status = Status.WAITING if row.waits else status
            row.attempt -= isinstance(outcome, Released)
        elif isinstance(outcome, Crashed):
            row.due_at, row.worker = now, None
        return True

    def cancel(self, ids: Iterable[TaskId], now: datetime) -> dict[TaskId, Status]:
        rows = [self.rows[task_id] for task_id in set(ids) & self.rows.keys()]
        for row in rows:
            if row.status is Status.RUNNING:
                row.cancel_requested = True
            elif row.status not in FINISHED:
                row.end(Status.CANCELLED, now)
                self.ended.append(row)
        self.follow(now)
        return {row.id: row.status for row in rows}

    def may_go(self, ids: Iterable[TaskId] | None, now: datetime) -> set[TaskId]:
        """Which tasks may be pruned. The workers that have been dead for a day go with them."""
        dead = [one.id for one in self.workers.values() if one.alive_until + DAY <= now]
        for worker in dead:
            del self.workers[worker]
        over = {row.id: row for row in self.rows.values() if row.finished_at is not None}
        may_go = {
            row.id
            for row in over.values()
            if not (row.until_instant is not None and row.until_instant > now and row.holds)
            if (row.id in ids if ids is not None else row.is_over(now))
        }
        while needed := {task_id for task_id in may_go if self.needed_by(task_id) - may_go}:
            may_go -= needed
        return may_go

    def needed_by(self, task_id: TaskId) -> set[TaskId]:
        """Those that depend on a task and have not succeeded."""
        parent = self.rows[task_id]
        children = [row for row in self.rows.values() if any(one is parent for one, _ in row.edges)]
        return {row.id for row in children if row.status is not Status.SUCCESS}

    # -- What is said --

    def write_down(self, row: Row, kind: NoteKind, data: bytes, now: datetime) -> None:
        self.said += 1
        row.notes.append(Said(self.said, kind, row.attempt, now, data))
        same = [note for note in row.notes if note.kind is kind]
        if len(same) > NOTES_KEPT[kind]:
            row.notes.remove(same[0])

    def write_all(self, notes: Sequence[NewNote], now: datetime) -> None:
        for held, kind, data in notes:
            row = self.current(held, running=True)
            if row is not None:
                self.write_down(row, kind, data, now)

    def see(self, worker: str, info: WorkerInfo | None, now: datetime, lease: timedelta) -> None:
        if info is not None and lease:
            self.workers[worker] = WorkerRecord(id=worker, info=info, seen_at=now, alive_until=now + lease)
        elif info is not None:
            self.workers.pop(worker, None)
