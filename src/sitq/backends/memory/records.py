"""What becomes of a task: plain functions from one record to the next."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from sitq.model import (
    Cancelled,
    Crashed,
    Failed,
    NewTask,
    Outcome,
    Released,
    ReservedTask,
    Retried,
    Status,
    Succeeded,
    TaskId,
    TaskQuery,
    TaskRecord,
    Unique,
    leads_to,
)


def created(task: NewTask, seq: int, now: datetime) -> TaskRecord:
    # By way of JSON, as a store on disk would keep it: whatever the caller does to the object later.
    metadata = None if task.metadata is None else json.loads(json.dumps(dict(task.metadata)))
    return TaskRecord(
        seq=seq,
        id=task.id,
        name=task.name,
        queue=task.queue,
        status=Status.PENDING,
        priority=task.priority,
        attempt=0,
        crashes=0,
        max_crashes=task.max_crashes,
        fence=0,
        worker=None,
        enqueued_at=now,
        due_at=(task.due_at or now).astimezone(UTC),
        started_at=None,
        finished_at=None,
        metadata=metadata,
        unique=_in_utc(None if task.unique is None else task.unique.counted_from(now)),
        concurrency=task.concurrency,
        rate=task.rate,
        payload=task.payload,
    )


def placed(task: TaskRecord, *, waits: bool) -> TaskRecord:
    """A pending task as it stands if it waits for others. Its `due_at` counts when they have finished."""
    return replace(task, status=Status.WAITING) if waits and task.status is Status.PENDING else task


def followed(task: TaskRecord, culprit: TaskId | None, now: datetime) -> TaskRecord:
    """A task after its parents have finished, or one of them ended as it does not accept, because of this culprit."""
    if culprit is not None:
        return replace(finished(task, Status.CANCELLED, now), cancelled_by=culprit)
    assert task.due_at is not None
    return replace(task, status=Status.PENDING, due_at=max(now, task.due_at))


def come_to(task: TaskRecord) -> Status:
    """The state that an outcome led to: as long as it waits for others, a task that is tried again is not pending."""
    return Status.PENDING if task.status is Status.WAITING else task.status


def replaced(holder: TaskRecord, newcomer: TaskRecord) -> TaskRecord:
    """The holder of a key with what a task brings that wants the key, too."""
    return replace(holder, payload=newcomer.payload, due_at=newcomer.due_at)


def taken(task: TaskRecord, worker: str, fence: int, now: datetime, lease: timedelta) -> TaskRecord:
    return replace(
        task,
        status=Status.RUNNING,
        worker=worker,
        fence=fence,
        attempt=task.attempt + 1,
        crashes=task.crashes + (task.status is Status.RUNNING),
        started_at=now,
        due_at=now + lease,
    )


def handed_out(task: TaskRecord) -> ReservedTask:
    return ReservedTask(
        id=task.id,
        fence=task.fence,
        name=task.name,
        queue=task.queue,
        payload=task.payload or b"",
        attempt=task.attempt,
        crashes=task.crashes,
        max_crashes=task.max_crashes,
        metadata=task.metadata,
        cancel_requested=task.cancel_requested,
        parents=task.parents,
    )


def is_held(task: TaskRecord) -> bool:
    """Whether somebody runs it: one that crashed is running until it is reserved again, by nobody."""
    return task.status is Status.RUNNING and task.worker is not None


def after(task: TaskRecord, outcome: Outcome, now: datetime) -> TaskRecord:
    match outcome:
        case Succeeded(_, result):
            task = replace(task, result=result, error=None)
        case Failed(error=error) | Retried(error=error):
            task = replace(task, error=error)
        case Crashed(_, error):
            return replace(task, error=error, worker=None, due_at=now)
        case Cancelled(_, error) | Released(_, _, error):
            # Without a reason of its own it leaves the error of the attempt before.
            task = replace(task, error=task.error if error is None else error)
    if task.cancel_requested or not isinstance(outcome, Retried | Released):
        return finished(task, leads_to(outcome, task.cancel_requested), now)
    return replace(
        task,
        status=Status.PENDING,
        worker=None,
        attempt=task.attempt - isinstance(outcome, Released),
        started_at=None,
        due_at=(outcome.at or now).astimezone(UTC),
    )


def finished(task: TaskRecord, status: Status, now: datetime) -> TaskRecord:
    return replace(task, status=status, due_at=None, finished_at=now)


def requeued(task: TaskRecord, now: datetime) -> TaskRecord:
    """A new run. The fence stays, so that the next one is beyond it and no old holder's outcome counts."""
    return replace(
        task,
        status=Status.PENDING,
        attempt=0,
        crashes=0,
        worker=None,
        due_at=now,
        started_at=None,
        finished_at=None,
        cancel_requested=False,
        cancelled_by=None,
        error=None,
    )


def matches(task: TaskRecord, query: TaskQuery) -> bool:
    return (
        (query.statuses is None or task.status in query.statuses)
        and (query.queue is None or task.queue == query.queue)
        and (query.name is None or task.name == query.name)
        and (query.since is None or task.enqueued_at >= query.since)
        and (query.until is None or task.enqueued_at < query.until)
        and (query.before is None or task.seq < query.before)
    )


def _in_utc(unique: Unique | None) -> Unique | None:
    if unique is None or not isinstance(unique.until, datetime):
        return unique
    return unique._replace(until=unique.until.astimezone(UTC))
