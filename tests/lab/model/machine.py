"""Random histories on one store, compared after each step with a model that is dicts and loops."""

import asyncio
import shutil
from collections.abc import Coroutine, Set
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sitq.model import Held, NewTask, Outcome, Status, TaskId, WorkerInfo
from tests.lab.model import draws
from tests.lab.model.compare import Comparison, look, said
from tests.lab.model.draws import Drawn
from tests.lab.model.drive import Tally, folder_in_memory
from tests.lab.model.model import Model, Row
from tests.stores import Store
from tests.support import FakeClock, everything


class Histories(RuleBasedStateMachine):
    """What may be done with any store."""

    def __init__(self, store: Store, tally: Tally) -> None:
        super().__init__()
        self.store = store
        self.tally = tally
        self.clock = FakeClock()
        self.loop = asyncio.new_event_loop()
        self.folder = folder_in_memory()
        self.backend = store.make(self.folder, self.clock)
        self.run(self.backend.open())
        self.model = Model()
        self.focus: Set[str] | None = None
        self.held: list[Held] = [Held("never", 1)]
        self.limited: set[str] = set()  # the queues that have ever had a task with a rate or a concurrency
        self.comparison = Comparison()

    def run[T](self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(coroutine)

    def teardown(self) -> None:
        self.run(self.backend.close())
        self.loop.close()
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

    def batch(self, tasks: list[Drawn], now: datetime) -> list[NewTask]:
        known = [*self.model.rows]
        batch: list[NewTask] = []
        for drawn in tasks:
            batch.append(drawn.at(now, self.focus, known))
            known.append(batch[-1].id)
        batch = [
            task._replace(rate=None) if task.rate and not self.model.looks_back(task.rate, now) else task
            for task in batch
        ]
        self.limited |= {task.queue for task in batch if task.rate or task.concurrency}
        return batch

    # -- Verbs --

    @initialize(tasks=draws.first_tasks, focus=draws.focuses)
    def something_to_do(self, tasks: list[Drawn], focus: Set[str] | None) -> None:
        self.focus = focus
        self.enqueue(tasks, {})

    @rule(tasks=draws.more_tasks, room=draws.room)
    def enqueue(self, tasks: list[Drawn], room: dict[str, int]) -> None:
        now = self.clock.now()
        batch = self.batch(tasks, now)
        expected = self.model.enqueue(batch, room, now)

        if isinstance(expected, Exception):
            with pytest.raises(type(expected)) as raised:
                self.run(self.backend.enqueue(batch, max_pending=room))
            assert vars(raised.value) == vars(expected)
        else:
            assert self.run(self.backend.enqueue(batch, max_pending=room or None)) == expected

    @rule(drawn=draws.reservations, chosen=draws.chosen)
    def reserve(self, drawn: tuple[str, list[str] | None, int, timedelta], chosen: list[int] | None) -> None:
        worker, queues, limit, lease = drawn
        ids = None if chosen is None else self.known(chosen)
        now = self.clock.now()
        expected = self.model.reserve(worker, queues, ids, limit, now, lease)

        tasks, next_due_at = self.run(self.backend.reserve(worker, queues, limit, lease, ids=ids))

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
        # A line in which nobody stands any more may be looked at once more, when its time has come.
        if not self.limited & {*("xy" if queues is None else queues)}:
            assert next_due_at == opens_at

    @rule(beat=draws.beats, numbers=draws.numbers, drawn=draws.notes)
    def heartbeat(
        self, beat: tuple[str, timedelta, WorkerInfo | None], numbers: list[int], drawn: Any
    ) -> None:
        worker, lease, info = beat
        now = self.clock.now()
        held = [self.hold(number) for number in numbers]
        running = {hold: row for hold in held if (row := self.model.current(hold, running=True))}
        notes = said(self.hold, drawn)

        answer = self.run(self.backend.heartbeat(worker, held, lease, notes=notes, info=info))

        assert answer.lost == set(held) - running.keys()
        assert answer.cancelled == {hold for hold, row in running.items() if row.cancel_requested}
        for row in running.values():
            row.due_at = now + lease
        self.model.write_all(notes, now)
        self.model.see(worker, info, now, lease)

    @rule(drawn=draws.outcomes, lines=draws.notes)
    def complete(self, drawn: list[tuple[int, type[Outcome], timedelta | None, bytes]], lines: Any) -> None:
        now = self.clock.now()
        # Before anything ends: one may come twice in a batch.
        holds = [self.hold(number) for number, *_ in drawn]
        outcomes = [
            draws.outcome(kind, held, None if delay is None else now + delay, now, data)
            for held, (_, kind, delay, data) in zip(holds, drawn, strict=True)
        ]
        notes = said(self.hold, lines)
        self.model.write_all(notes, now)
        stale = [outcome.held for outcome in outcomes if not self.model.apply(outcome, now)]
        self.model.follow(now)

        answer = self.run(self.backend.complete(outcomes, notes=notes))

        assert (answer.accepted, list(answer.stale)) == (len(outcomes) - len(stale), stale)
        self.model.stale += len(stale)

    @rule(numbers=draws.numbers)
    def cancel(self, numbers: list[int]) -> None:
        ids = self.known(numbers)
        expected = self.model.cancel(ids, self.clock.now())

        assert self.run(self.backend.cancel(ids)) == expected

    @rule(numbers=draws.numbers)
    def requeue(self, numbers: list[int]) -> None:
        now = self.clock.now()
        ended = [row for row in self.model.rows.values() if row.status in (Status.FAILED, Status.CANCELLED)]
        ids = [*self.known(numbers[:1]), *(ended[number % len(ended)].id for number in numbers[1:] if ended)]
        ids = [task_id for task_id in ids if self.may_be_requeued(self.model.rows.get(task_id), now)]
        expected = self.model.requeue(ids, now)

        assert self.run(self.backend.requeue(ids)) == expected

        for task_id in expected:
            self.comparison.ended.pop((task_id, self.model.rows[task_id].order), None)

    def may_be_requeued(self, row: Row | None, now: datetime) -> bool:
        return row is None or row.rate is None or self.model.looks_back(row.rate, now)

    @rule(number=draws.number, chosen=draws.chosen)
    def prune(self, number: int, chosen: list[int] | None) -> None:
        limit, ids = number % 4, None if chosen is None else self.known(chosen)
        expected = self.model.may_go(ids, self.clock.now())

        pruned = self.run(self.backend.prune(limit, ids=ids))

        # Which of them go first is up to the backend.
        gone = self.model.rows.keys() - {task.id for task in self.run(everything(self.backend))}
        assert gone <= expected
        assert all(self.model.needed_by(task_id) <= gone for task_id in gone)
        assert len(gone) == pruned == min(limit, len(expected))
        for task_id in gone:
            del self.model.rows[task_id]
            assert self.run(self.backend.notes(task_id)) == []

    @rule(drawn=draws.pauses)
    def set_paused(self, drawn: tuple[str, bool]) -> None:
        queue, paused = drawn
        self.run(self.backend.set_paused(queue, paused))

        (self.model.paused.add if paused else self.model.paused.discard)(queue)

    @rule(documents=draws.documents, prefix=draws.prefixes)
    def save_and_load(self, documents: dict[str, bytes | None], prefix: str) -> None:
        self.run(self.backend.save(documents))

        for name, data in documents.items():
            self.model.documents.pop(name, None)
            if data is not None:
                self.model.documents[name] = data
        expected = {name: data for name, data in self.model.documents.items() if name.startswith(prefix)}
        assert list(self.run(self.backend.load(prefix)).items()) == sorted(expected.items())

    @rule(page=draws.pages)
    def read_on(self, page: tuple[int, int, int]) -> None:
        number, beyond, limit = page
        [task_id] = self.known([number])
        notes = self.model.rows[task_id].notes if task_id in self.model.rows else []
        after = self.comparison.positions[notes[beyond].order] if beyond < len(notes) else 0
        left = notes[beyond + 1 :] if beyond < len(notes) else notes

        found = self.run(self.backend.notes(task_id, after=after, limit=limit))

        assert [note.position for note in found] == [
            self.comparison.positions[note.order] for note in left[:limit]
        ]

    # -- What happens around it --

    @rule(span=draws.steps)
    def time_passes(self, span: timedelta) -> None:
        self.clock.advance(span)

    @rule(queues=draws.queues)
    def an_idle_worker_sleeps(self, queues: list[str] | None) -> None:
        """Take all there is, then sleep until the storage says that there is more: what is held up comes back."""
        self.reserve(("w1", queues, 100, timedelta(seconds=30)), None)
        next_due_at = self.run(self.backend.reserve("w1", queues, 100, timedelta(seconds=30))).next_due_at
        if next_due_at is not None:
            self.clock.advance(next_due_at - self.clock.now())
            self.reserve(("w2", queues, 100, timedelta(seconds=30)), None)

    # -- What always holds --

    @invariant()
    def the_store_is_that_of_the_model(self) -> None:
        self.tally.steps += 1
        seen = self.run(look(self.backend, self.comparison.unseen(self.model)))
        self.comparison.check(seen, self.model, self.clock.now())
