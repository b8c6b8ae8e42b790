"""Tasks that ended without a result, in the mass: started again or thrown away."""

from collections.abc import AsyncGenerator, Collection, Iterable
from dataclasses import replace
from datetime import datetime
from itertools import batched
from typing import Final

from sitq.backends.base import Backend
from sitq.checks import kind
from sitq.errors import ValidationError
from sitq.model import Status, TaskId, TaskQuery, TaskRecord
from sitq.query import check_task_id, task_query

_BATCH: Final = 500
ENDED_WITHOUT_RESULT: Final = (Status.FAILED, Status.CANCELLED)


def selection(
    ids: TaskId | Collection[TaskId] | None,
    *,
    status: Status | Collection[Status] | None,
    queue: str | None,
    name: str | None,
    since: datetime | None,
    until: datetime | None,
) -> TaskQuery:
    """Make the query for what `requeue` and `discard` are about.

    Raises:
        ValidationError: Both ids and a filter, or neither; or one of them is not usable.
    """
    filters = {"status": status, "queue": queue, "name": name, "since": since, "until": until}
    given = [field for field, value in filters.items() if value is not None]
    if (ids is None) == (not given):
        text = f"ids and {given[0]} both say which tasks" if given else "nothing says which tasks"
        raise ValidationError(f"{text}: give ids, or a filter; status='failed' means all that failed")
    if ids is None:
        query = task_query(
            status=status or Status.FAILED,
            queue=queue,
            name=name,
            since=since,
            until=until,
            before=None,
            limit=_BATCH,
        )
        wrong = [one for one in query.statuses or () if one not in ENDED_WITHOUT_RESULT]
        if wrong:
            raise ValidationError(f"status is {wrong[0]}: only failed and cancelled tasks can be meant")
        return query
    if not isinstance(ids, Iterable):
        raise ValidationError(f"ids is {kind(ids)}: give the id of a task, or several of them")
    wanted = [ids] if isinstance(ids, str) else list(dict.fromkeys(_checked(ids)))
    return TaskQuery(ids=wanted, statuses=ENDED_WITHOUT_RESULT, limit=_BATCH)


def _checked(ids: Iterable[TaskId]) -> Iterable[TaskId]:
    for task_id in ids:
        check_task_id(task_id)
        yield task_id


async def _pages(backend: Backend, query: TaskQuery) -> AsyncGenerator[list[TaskRecord]]:
    """The matching tasks, a batch at a time: however many there are, no call of the storage takes long."""
    if query.ids is not None:
        for some in batched(query.ids, _BATCH, strict=False):
            yield await backend.find(replace(query, ids=some))
        return
    while page := await backend.find(query):
        yield page
        query = replace(query, before=page[-1].seq)


async def requeue_all(backend: Backend, query: TaskQuery) -> list[TaskRecord]:
    """Give what matches a new run, in batches. Returns those that got one, as they were."""
    found = [task async for page in _pages(backend, query) for task in page]
    # The oldest first: a task that depends on others gets its run only after they have theirs.
    found.sort(key=lambda task: task.seq)
    done: list[TaskRecord] = []
    for some in batched(found, _BATCH, strict=False):
        # What changed since it was read is the storage's to refuse.
        requeued = set(await backend.requeue([task.id for task in some]))
        done += [task for task in some if task.id in requeued]
    return done


async def discard_all(backend: Backend, query: TaskQuery) -> int:
    """Delete what matches, in batches. Returns how many."""
    total = 0
    async for page in _pages(backend, query):
        total += await backend.prune(len(page), ids=[task.id for task in page])
    return total
