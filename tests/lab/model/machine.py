"""Random histories, compared after each step with a model that is dicts and loops (`tests/lab/model/model.py`).

`SITQ_MODEL_STEPS` sets how many steps each backend takes; a longer run than the default draws new histories each time.
"""

import asyncio
import os
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Set
from contextlib import closing
from copy import deepcopy
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from sitq.backends.base import finished
from sitq.model import (
    Held,
    NewNote,
    NewTask,
    NoteKind,
    Outcome,
    Stats,
    Status,
    Succeeded,
    TaskId,
    TaskRecord,
    WorkerInfo,
    WorkerRecord,
)
from tests.lab.model import draws
from tests.lab.model.draws import Drawn
from tests.lab.model.model import Model, Row, essence
from tests.stores import BACKENDS, Store
from tests.support import FakeClock, everything

SHORT_STEPS = 2_000
STEPS = int(os.environ.get("SITQ_MODEL_STEPS", SHORT_STEPS))
STEPS_A_HISTORY = 50

SETTINGS = settings(
    max_examples=max(1, STEPS // STEPS_A_HISTORY),
    stateful_step_count=STEPS_A_HISTORY,
    derandomize=STEPS <= SHORT_STEPS,
    database=None,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.mark.timeout(
    0 if STEPS > SHORT_STEPS else 900
)  # a failure is worth the minutes that shrinking it takes
@pytest.mark.parametrize("store", BACKENDS, ids=lambda store: store.name)
def test_every_history_agrees_with_the_model(store: Store) -> None:
    machine: Any = lambda: Histories(store)  # noqa: E731  # called like a class
    run_state_machine_as_test(machine, settings=SETTINGS)


class Histories(RuleBasedStateMachine):
    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store
        self.clock = FakeClock()
        self.runner = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp(prefix="sitq-model-"))
        self.backend = store.make(self.folder, self.clock)
        self.runner.run(self.backend.open())
        self.model = Model()
        self.focus: Set[str] | None = None
        self.held: list[Held] = [Held("never", 1)]
        self.ended: dict[tuple[TaskId, int], TaskRecord] = {}
        self.last_said = self.last_position = 0
        self.positions: dict[int, int] = {}  # of what was said, in the model's order

    def teardown(self) -> None:
        self.runner.run(self.backend.close())
        self.runner.close()
        shutil.rmtree(self.folder)

    def known(self, numbers: list[int]) -> list[TaskId]:
        """The ids of tasks that are there, and now and then of one that is not."""
        ids = [*self.model.rows, "unknown"]
        return [ids[-1 - number % len(ids)] for number in numbers]

    def hold(self, number: int) -> Held:
        """Mostly a reservation that is current; else any that was ever made, the newest first."""
        running = self.model.running()
        if number < 10 and running:
            return running[number % len(running)]
        return self.held[-1 - number % len(self.held)]

    def said(self, drawn: list[tuple[int, NoteKind, bytes, int]]) -> list[NewNote]:
        return [
            NewNote(self.hold(number), kind, data)
            for number, kind, data, times in drawn
            for _ in range(times)
        ]

    def batch(self, tasks: list[Drawn], now: datetime) -> list[NewTask]:
        known = [*self.model.rows]
        batch: list[NewTask] = []
        for drawn in tasks:
            batch.append(drawn.at(now, self.focus, known))
            known.append(batch[-1].id)
        return [
            task._replace(rate=None) if task.rate and not self.model.looks_back(task.rate, now) else task
            for task in batch
        ]

    # -- Verbs --

    @initialize(tasks=st.lists(draws.new_tasks(), min_size=2, max_size=6), focus=draws.focuses)
    def something_to_do(self, tasks: list[Drawn], focus: Set[str] | None) -> None:
        self.focus = focus
        self.enqueue(tasks, {})

    @rule(tasks=st.lists(draws.new_tasks(), max_size=4), room=draws.room)
    def enqueue(self, tasks: list[Drawn], room: dict[str, int]) -> None:
        now = self.clock.now()
        batch = self.batch(tasks, now)
        expected = self.model.enqueue(batch, room, now)

        if isinstance(expected, Exception):
            with pytest.raises(type(expected)) as raised:
                self.runner.run(self.backend.enqueue(batch, max_pending=room))
            assert vars(raised.value) == vars(expected)
        else:
            assert self.runner.run(self.backend.enqueue(batch, max_pending=room or None)) == expected

    @rule(
        worker=draws.workers,
        queues=draws.queues,
        limit=st.integers(0, 5),
        lease=draws.leases,
        chosen=st.one_of(st.none(), st.none(), draws.numbers),
    )
    def reserve(
        self, worker: str, queues: list[str] | None, limit: int, lease: timedelta, chosen: list[int] | None
    ) -> None:
        ids = None if chosen is None else self.known(chosen)
        now = self.clock.now()
        expected = self.model.reserve(worker, queues, ids, limit, now, lease)

        tasks, next_due_at = self.runner.run(self.backend.reserve(worker, queues, limit, lease, ids=ids))

        assert [task.id for task in tasks] == [row.id for row in expected]
        for task, row in zip(tasks, expected, strict=True):
            self.model.take(row, task)
            assert (task.attempt, task.crashes, task.max_crashes) == (
                row.attempt,
                row.crashes,
                row.max_crashes,
            )
            assert (task.payload, task.metadata, task.name) == (row.payload, row.metadata, row.name)
            assert (task.queue, task.cancel_requested) == (row.queue, row.cancel_requested)
            assert task.parents == row.parents
        self.model.newest_fence = max([self.model.newest_fence, *(task.fence for task in tasks)])
        self.held += [task.held for task in tasks]
        if len(tasks) == limit:
            assert next_due_at is None
        elif ids is None:
            self.is_in_time(next_due_at, queues, now)

    def is_in_time(self, next_due_at: datetime | None, queues: list[str] | None, now: datetime) -> None:
        """To look again too early costs a look; too late, and a task waits for nothing."""
        rows = self.model.unfinished(queues)
        opens_at = min((at for row in rows if (at := self.model.opens_at(row))), default=None)
        assert next_due_at is None or next_due_at > now
        assert opens_at is None or (next_due_at is not None and next_due_at <= opens_at)
        if not any(row.rate or row.concurrency for row in rows):
            assert next_due_at == opens_at

    @rule(
        worker=draws.workers,
        numbers=draws.numbers,
        lease=st.one_of(draws.leases, draws.leases, st.just(timedelta(0))),
        drawn=draws.notes,
        info=st.one_of(st.none(), draws.infos),
    )
    def heartbeat(
        self, worker: str, numbers: list[int], lease: timedelta, drawn: Any, info: WorkerInfo | None
    ) -> None:
        now = self.clock.now()
        held = [self.hold(number) for number in numbers]
        running = {hold: row for hold in held if (row := self.model.current(hold, running=True))}
        notes = self.said(drawn)

        answer = self.runner.run(self.backend.heartbeat(worker, held, lease, notes=notes, info=info))

        assert answer.lost == set(held) - running.keys()
        assert answer.cancelled == {hold for hold, row in running.items() if row.cancel_requested}
        for row in running.values():
            row.due_at = now + lease
        self.model.write_all(notes, now)
        self.model.see(worker, info, now, lease)

    @rule(drawn=st.lists(draws.outcomes, max_size=5), said=draws.notes)
    def complete(self, drawn: list[tuple[int, type[Outcome], timedelta | None, bytes]], said: Any) -> None:
        now = self.clock.now()
        # Before anything ends: one may come twice in a batch.
        holds = [self.hold(number) for number, *_ in drawn]
        outcomes = [
            draws.outcome(kind, held, None if delay is None else now + delay, now, data)
            for held, (_, kind, delay, data) in zip(holds, drawn, strict=True)
        ]
        notes = self.said(said)
        self.model.write_all(notes, now)
        stale = [outcome.held for outcome in outcomes if not self.model.apply(outcome, now)]
        self.model.follow(now)

        answer = self.runner.run(self.backend.complete(outcomes, notes=notes))

        assert (answer.accepted, list(answer.stale)) == (len(outcomes) - len(stale), stale)
        self.model.stale += len(stale)

    @precondition(lambda self: self.store.shared)
    @rule(
        tasks=st.lists(draws.new_tasks(), max_size=3),
        room=draws.room,
        number=st.one_of(st.none(), st.integers(0, 15)),
        said=draws.notes,
        commits=st.booleans(),
    )
    def within(
        self, tasks: list[Drawn], room: dict[str, int], number: int | None, said: Any, commits: bool
    ) -> None:
        """In a transaction of the application, which ends one way or the other."""
        before, now = deepcopy(self.model), self.clock.now()
        with closing(sqlite3.connect(self.folder / "tasks.db")) as db:
            inside = self.backend.within(db)
            batch = self.batch(tasks, now)
            expected = self.model.enqueue(batch, room, now)
            if isinstance(expected, Exception):
                with pytest.raises(type(expected)):
                    finished(inside.enqueue(batch, max_pending=room))
            else:
                assert finished(inside.enqueue(batch, max_pending=room)) == expected
            if number is not None:
                held, notes = self.hold(number), self.said(said)
                accepted = self.model.current(held, running=True) is not None
                if accepted:
                    self.model.write_all(notes, now)
                    assert self.model.apply(Succeeded(held, b"inside"), now)
                assert finished(inside.complete(Succeeded(held, b"inside"), notes=lambda: notes)) is accepted
            if commits:
                db.commit()
            else:
                self.model = before

    @rule(numbers=draws.numbers)
    def cancel(self, numbers: list[int]) -> None:
        ids = self.known(numbers)
        expected = self.model.cancel(ids, self.clock.now())

        assert self.runner.run(self.backend.cancel(ids)) == expected

    @rule(numbers=draws.numbers)
    def requeue(self, numbers: list[int]) -> None:
        now = self.clock.now()
        ended = [row for row in self.model.rows.values() if row.status in (Status.FAILED, Status.CANCELLED)]
        ids = [*self.known(numbers[:1]), *(ended[number % len(ended)].id for number in numbers[1:] if ended)]
        ids = [task_id for task_id in ids if self.may_be_requeued(self.model.rows.get(task_id), now)]
        expected = self.model.requeue(ids, now)

        assert self.runner.run(self.backend.requeue(ids)) == expected

        for task_id in expected:
            self.ended.pop((task_id, self.model.rows[task_id].order), None)

    def may_be_requeued(self, row: Row | None, now: datetime) -> bool:
        return row is None or row.rate is None or self.model.looks_back(row.rate, now)

    @rule(limit=st.integers(0, 3), chosen=st.one_of(st.none(), st.none(), draws.numbers))
    def prune(self, limit: int, chosen: list[int] | None) -> None:
        ids = None if chosen is None else self.known(chosen)
        expected = self.model.may_go(ids, self.clock.now())

        pruned = self.runner.run(self.backend.prune(limit, ids=ids))

        # Which of them go first is up to the backend.
        gone = self.model.rows.keys() - {task.id for task in self.runner.run(everything(self.backend))}
        assert gone <= expected
        assert all(self.model.needed_by(task_id) <= gone for task_id in gone)
        assert len(gone) == pruned == min(limit, len(expected))
        for task_id in gone:
            del self.model.rows[task_id]
            assert self.runner.run(self.backend.notes(task_id)) == []

    @rule(queue=st.sampled_from(["x", "y", "empty"]), paused=st.booleans())
    def set_paused(self, queue: str, paused: bool) -> None:
        self.runner.run(self.backend.set_paused(queue, paused))

        (self.model.paused.add if paused else self.model.paused.discard)(queue)

    @rule(documents=draws.documents, prefix=draws.prefixes)
    def save_and_load(self, documents: dict[str, bytes | None], prefix: str) -> None:
        self.runner.run(self.backend.save(documents))

        for name, data in documents.items():
            self.model.documents.pop(name, None)
            if data is not None:
                self.model.documents[name] = data
        expected = {name: data for name, data in self.model.documents.items() if name.startswith(prefix)}
        assert list(self.runner.run(self.backend.load(prefix)).items()) == sorted(expected.items())

    @rule(number=st.integers(0, 15), beyond=st.integers(0, 5), limit=st.integers(0, 5))
    def read_on(self, number: int, beyond: int, limit: int) -> None:
        [task_id] = self.known([number])
        notes = self.model.rows[task_id].notes if task_id in self.model.rows else []
        after = self.positions[notes[beyond].order] if beyond < len(notes) else 0
        left = notes[beyond + 1 :] if beyond < len(notes) else notes

        found = self.runner.run(self.backend.notes(task_id, after=after, limit=limit))

        assert [note.position for note in found] == [self.positions[note.order] for note in left[:limit]]

    # -- What happens around it --

    @rule(span=draws.steps)
    def time_passes(self, span: timedelta) -> None:
        self.clock.advance(span)

    @rule(queues=draws.queues)
    def an_idle_worker_sleeps(self, queues: list[str] | None) -> None:
        """Take all there is, then sleep until the storage says that there is more: what is held up comes back."""
        self.reserve("w1", queues, 100, timedelta(seconds=30), None)
        next_due_at = self.runner.run(
            self.backend.reserve("w1", queues, 100, timedelta(seconds=30))
        ).next_due_at
        if next_due_at is not None:
            self.clock.advance(next_due_at - self.clock.now())
            self.reserve("w2", queues, 100, timedelta(seconds=30), None)

    @precondition(lambda self: self.store.survives_close)
    @rule()
    def reopen(self) -> None:
        self.runner.run(self.backend.close())
        self.runner.run(self.backend.open())

    @precondition(lambda self: self.store.shared)
    @rule()
    def another_client(self) -> None:
        """Go on with a new backend object on the same store."""
        former, self.backend = self.backend, self.store.make(self.folder, self.clock)
        self.runner.run(self.backend.open())
        self.runner.run(former.close())

    @precondition(lambda self: self.store.shared)
    @rule()
    def crash(self) -> None:
        """Go on with what a kill would leave: the files as they are now, with nothing closed."""
        left = Path(tempfile.mkdtemp(prefix="sitq-model-"))
        shutil.copytree(self.folder, left, dirs_exist_ok=True)
        self.runner.run(self.backend.close())
        shutil.rmtree(self.folder)
        self.folder = left
        self.backend = self.store.make(self.folder, self.clock)
        self.runner.run(self.backend.open())

    # -- What always holds --

    @invariant()
    def the_store_is_that_of_the_model(self) -> None:
        tasks, stats, workers = self.runner.run(self.look())
        self.check_tasks(tasks)
        self.check_stats(stats)
        now = self.clock.now()
        alive = [one for one in self.model.workers.values() if now < one.alive_until + timedelta(days=1)]
        assert workers == alive

    async def look(self) -> tuple[list[TaskRecord], Stats, list[WorkerRecord]]:
        """All at once: each turn of the loop and each way to the reader and back costs more than the look."""
        return await asyncio.gather(everything(self.backend), self.backend.stats(), self.backend.workers())

    def check_tasks(self, stored: list[TaskRecord]) -> None:
        expected = sorted(self.model.rows.values(), key=lambda row: -row.order)
        assert [essence(task) for task in stored] == [essence(row) for row in expected]
        seqs = [task.seq for task in stored]
        assert seqs == sorted(set(seqs), reverse=True)

        for task in stored:
            assert (task.due_at is None) is task.status.finished is (task.finished_at is not None)
            assert task.fence <= self.model.newest_fence
            if task.status is Status.RUNNING:
                assert task.attempt >= 1
                assert task.worker is not None or task.error is not None  # else it crashed
            if task.status.finished:
                assert self.ended.setdefault((task.id, self.model.rows[task.id].order), task) == task

    def check_stats(self, stats: Stats) -> None:
        rows = self.model.rows.values()
        now = self.clock.now()
        counted = {
            (queue.queue, status): n for queue in stats.queues for status, n in queue.counts.items() if n
        }
        assert counted == Counter((row.queue, row.status) for row in rows)
        assert stats.stale_outcomes == self.model.stale
        assert {queue.queue for queue in stats.queues if queue.paused} == self.model.paused
        for queue in stats.queues:
            pending = [row for row in rows if row.queue == queue.queue and row.status is Status.PENDING]
            overdue = [row.due_at for row in pending if row.due_at and row.due_at <= now]
            assert queue.oldest_due_at == min(overdue, default=None)

    @invariant()
    def the_notes_are_those_of_the_model(self) -> None:
        """Only of tasks that have a new one; of all of them when `prune` and `read_on` look."""
        found: dict[int, int] = {}  # position by the model's order
        for row in self.model.rows.values():
            if not row.notes or row.notes[-1].order <= self.last_said:
                continue
            notes = self.runner.run(self.backend.notes(row.id))
            assert [note[1:] for note in notes] == [said[1:] for said in row.notes]
            found |= {said.order: note.position for said, note in zip(row.notes, notes, strict=True)}
        new = {order: position for order, position in sorted(found.items()) if order > self.last_said}
        assert all(self.positions[order] == at for order, at in found.items() if order <= self.last_said)
        assert list(new.values()) == sorted(set(new.values()))
        assert all(position > self.last_position for position in new.values())
        self.positions |= new
        self.last_said = self.model.said
        self.last_position = max([self.last_position, *new.values()])
