"""Compares all that a store holds with all that the model holds."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any, NamedTuple

from sitq.backends.base import Backend
from sitq.model import NewNote, Note, NoteKind, Stats, Status, TaskId, TaskRecord, WorkerRecord
from tests.lab.model.model import COMPARED, Model, Row, essence
from tests.support import everything

_values: Callable[[Any], Any] = attrgetter(*COMPARED)

type News = NewNote | Note


class Look(NamedTuple):
    tasks: list[TaskRecord]
    stats: Stats
    workers: list[WorkerRecord]
    notes: list[tuple[Row, list[Note]]]


async def look(backend: Backend, said: Sequence[Row]) -> Look:
    """All at once, with the notes of these: each turn of the loop and each way to the reader costs more than a look."""
    tasks, stats, workers, *notes = await asyncio.gather(
        everything(backend), backend.stats(), backend.workers(), *(backend.notes(row.id) for row in said)
    )
    return Look(tasks, stats, workers, list(zip(said, notes, strict=True)))


class Comparison:
    """Of one store with its model. It remembers what must never change."""

    def __init__(self) -> None:
        self.ended: dict[tuple[TaskId, int], TaskRecord] = {}
        self.positions: dict[int, int] = {}  # of what was said, in the model's order
        self._last_said = self._last_position = 0

    def unseen(self, model: Model) -> list[Row]:
        """The tasks that have a new note."""
        if model.said == self._last_said:
            return []
        return [row for row in model.rows.values() if row.notes and row.notes[-1].order > self._last_said]

    def check(self, seen: Look, model: Model, now: datetime) -> None:
        self._check_tasks(seen.tasks, model)
        check_stats(seen.stats, model, now)
        alive = [one for one in model.workers.values() if now < one.alive_until + timedelta(days=1)]
        assert seen.workers == alive
        self._check_notes(seen.notes, model)

    def _check_tasks(self, stored: list[TaskRecord], model: Model) -> None:
        expected = sorted(model.rows.values(), key=lambda row: -row.order)
        if [*map(_values, stored)] != [*map(_values, expected)]:
            assert [essence(task) for task in stored] == [essence(row) for row in expected]
        seqs = [task.seq for task in stored]
        assert seqs == sorted(set(seqs), reverse=True)
        for task, row in zip(stored, expected, strict=True):
            assert (task.due_at is None) is task.status.finished is (task.finished_at is not None)
            assert task.fence <= model.newest_fence
            if task.status is Status.RUNNING:
                assert task.attempt >= 1
                assert task.worker is not None or task.error is not None  # else it crashed
            if task.status.finished:
                assert self.ended.setdefault((task.id, row.order), task) == task

    def _check_notes(self, notes: list[tuple[Row, list[Note]]], model: Model) -> None:
        """Only of tasks that have a new one; of all of them when `prune` and `read_on` look."""
        found: dict[int, int] = {}  # position by the model's order
        for row, stored in notes:
            assert [note[1:] for note in stored] == [said[1:] for said in row.notes]
            found |= {said.order: note.position for said, note in zip(row.notes, stored, strict=True)}
        new = {order: position for order, position in sorted(found.items()) if order > self._last_said}
        assert all(self.positions[order] == at for order, at in found.items() if order <= self._last_said)
        assert list(new.values()) == sorted(set(new.values()))
        assert all(position > self._last_position for position in new.values())
        self.positions |= new
        self._last_said = model.said
        self._last_position = max([self._last_position, *new.values()])


def check_stats(stats: Stats, model: Model, now: datetime) -> None:
    rows = model.rows.values()
    counted = {(queue.queue, status): n for queue in stats.queues for status, n in queue.counts.items() if n}
    assert counted == Counter((row.queue, row.status) for row in rows)
    assert stats.stale_outcomes == model.stale
    assert {queue.queue for queue in stats.queues if queue.paused} == model.paused
    for queue in stats.queues:
        pending = [row for row in rows if row.queue == queue.queue and row.status is Status.PENDING]
        overdue = [row.due_at for row in pending if row.due_at and row.due_at <= now]
        assert queue.oldest_due_at == min(overdue, default=None)


def said(hold: Callable[[int], Any], drawn: list[tuple[int, NoteKind, bytes, int]]) -> list[NewNote]:
    """New notes from what was drawn: of whom, of what kind, what, and how many times."""
    return [NewNote(hold(number), kind, data) for number, kind, data, times in drawn for _ in range(times)]
