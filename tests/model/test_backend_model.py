"""Random histories, compared after each step with a model that fits on a page.

The model holds one dict and knows nothing of indexes or transactions. `SITQ_MODEL_STEPS` sets how many steps each
backend takes; a longer run than the default draws new histories each time.
"""

import asyncio
import os
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, fields
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

from sitq.model import (
    FINISHED,
    Cancelled,
    Failed,
    Held,
    NewTask,
    Outcome,
    Released,
    Retried,
    Status,
    Succeeded,
    TaskId,
    TaskRecord,
)
from tests.conformance.conftest import BACKENDS, Store
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
    run_state_machine_as_test(lambda: Histories(store), settings=SETTINGS)


# -- The model -------------------------------------------------------------------------------------


@dataclass
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
    ttl: timedelta | None
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

    def end(self, status: Status, now: datetime) -> None:
        self.status, self.due_at, self.finished_at = status, None, now


COMPARED = [field.name for field in fields(TaskRecord) if field.name != "seq"]


def essence(task: Row | TaskRecord) -> dict[str, Any]:
    return {name: getattr(task, name) for name in COMPARED}


ENDS: dict[type[Outcome], Status] = {
    Succeeded: Status.SUCCESS,
    Failed: Status.FAILED,
    Cancelled: Status.CANCELLED,
}

# -- What is drawn ---------------------------------------------------------------------------------

IDS = [f"task-{letter}" for letter in "abcdefghijklmnop"]  # few, so that they come again

numbers = st.lists(st.integers(0, 15), max_size=4)  # of tasks or reservations, see `known` and `holds`
queues = st.sampled_from([None, None, ["x"], ["y"], ["x", "y"], ["y", "x"], []])
spans = st.sampled_from([0, 1, 10, 30, 90]).map(lambda seconds: timedelta(seconds=seconds))
leases = st.sampled_from([10, 30]).map(lambda seconds: timedelta(seconds=seconds))
result_ttls = st.sampled_from([None, timedelta(0), timedelta(0), timedelta(seconds=10)])
workers = st.sampled_from(["w1", "w2"])
outcomes = st.tuples(
    st.integers(0, 15),
    st.sampled_from([Succeeded, Failed, Cancelled, Retried, Retried, Released, Released]),
    st.one_of(st.none(), spans),
    st.binary(max_size=2),
)


@st.composite
def new_tasks(draw: st.DrawFn) -> tuple[NewTask, timedelta | None]:
    """A task, and how far from now it is due."""
    task = NewTask(
        id=draw(st.sampled_from(IDS)),
        name=draw(st.sampled_from(["work", "größe"])),
        payload=draw(st.binary(max_size=4)),
        queue=draw(st.sampled_from(["x", "y"])),
        priority=draw(st.sampled_from([-9, 0, 0, 1, 9])),
        max_crashes=draw(st.integers(1, 3)),
        result_ttl=draw(result_ttls),
        metadata=draw(st.sampled_from([None, {}, {"tenant": 12, "größe": ["a", None]}])),
    )
    return task, draw(st.one_of(st.none(), spans, st.just(timedelta(seconds=-10))))


# -- The histories ---------------------------------------------------------------------------------


class Histories(RuleBasedStateMachine):
    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store
        self.clock = FakeClock()
        self.runner = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp(prefix="sitq-model-"))
        self.backend = store.make(self.folder, self.clock)
        self.runner.run(self.backend.open())
        self.rows: dict[TaskId, Row] = {}
        self.held: list[Held] = [Held("never", 1)]
        self.newest_fence = 0
        self.enqueued = 0
        self.stale = 0
        self.ended: dict[tuple[TaskId, int], TaskRecord] = {}

    def teardown(self) -> None:
        self.runner.run(self.backend.close())
        self.runner.close()
        shutil.rmtree(self.folder)

    def known(self, numbers: list[int]) -> list[TaskId]:
        """The ids of tasks that are there, and now and then of one that is not."""
        ids = [*self.rows, "unknown"]
        return [ids[-1 - number % len(ids)] for number in numbers]

    def hold(self, number: int) -> Held:
        """Mostly a reservation that is current; else any that was ever made, the newest first."""
        running = [Held(row.id, row.fence) for row in self.rows.values() if row.status is Status.RUNNING]
        if number < 10 and running:
            return running[number % len(running)]
        return self.held[-1 - number % len(self.held)]

    def current(self, held: Held) -> Row | None:
        row = self.rows.get(held.id)
        return row if row is not None and row.fence == held.fence else None

    # -- Verbs --

    @initialize(tasks=st.lists(new_tasks(), min_size=2, max_size=6))
    def something_to_do(self, tasks: list[tuple[NewTask, timedelta | None]]) -> None:
        self.enqueue(tasks)

    @rule(tasks=st.lists(new_tasks(), max_size=4))
    def enqueue(self, tasks: list[tuple[NewTask, timedelta | None]]) -> None:
        now = self.clock.now()
        batch, expected = [], []
        for drawn, delay in tasks:
            task = NewTask(
                drawn.id, drawn.name, drawn.payload, drawn.queue, drawn.priority,
                None if delay is None else now + delay, drawn.max_crashes, drawn.result_ttl, drawn.metadata,
            )  # fmt: skip
            batch.append(task)
            expected.append((task.id, task.id not in self.rows))
            if task.id not in self.rows:
                self.enqueued += 1
                self.rows[task.id] = Row(
                    self.enqueued, task.id, task.name, task.queue, task.priority, task.max_crashes, task.payload,
                    task.metadata, now, task.due_at or now, task.result_ttl,
                )  # fmt: skip

        assert self.runner.run(self.backend.enqueue(batch)) == expected

    @rule(
        worker=workers,
        queues=queues,
        limit=st.integers(0, 5),
        lease=leases,
        chosen=st.one_of(st.none(), st.none(), numbers),
    )
    def reserve(
        self, worker: str, queues: list[str] | None, limit: int, lease: timedelta, chosen: list[int] | None
    ) -> None:
        ids = None if chosen is None else self.known(chosen)
        now = self.clock.now()
        asked = [row for row in self.rows.values() if row.due_at and (queues is None or row.queue in queues)]
        due = [row for row in asked if row.due_at <= now and (ids is None or row.id in ids)]
        due = sorted(due, key=lambda row: (row.priority, row.due_at, row.order))[:limit]

        tasks, next_due_at = self.runner.run(self.backend.reserve(worker, queues, limit, lease, ids=ids))

        assert [task.id for task in tasks] == [row.id for row in due]
        for task, row in zip(tasks, due, strict=True):
            assert task.fence > self.newest_fence
            row.crashes += row.status is Status.RUNNING
            row.attempt += 1
            row.status, row.fence, row.worker = Status.RUNNING, task.fence, worker
            row.started_at, row.due_at = now, now + lease
            assert (task.attempt, task.crashes, task.max_crashes) == (
                row.attempt,
                row.crashes,
                row.max_crashes,
            )
            assert (task.payload, task.metadata, task.name) == (row.payload, row.metadata, row.name)
            assert (task.queue, task.cancel_requested) == (row.queue, row.cancel_requested)
        self.newest_fence = max([self.newest_fence, *(task.fence for task in tasks)])
        self.held += [task.held for task in tasks]
        if len(tasks) == limit:
            assert next_due_at is None
        elif ids is None:
            assert next_due_at == min((row.due_at for row in asked), default=None)

    @rule(worker=workers, numbers=numbers, lease=leases)
    def heartbeat(self, worker: str, numbers: list[int], lease: timedelta) -> None:
        held = [self.hold(number) for number in numbers]
        running = {
            hold: row
            for hold in held
            if (row := self.current(hold)) is not None and row.status is Status.RUNNING
        }

        answer = self.runner.run(self.backend.heartbeat(worker, held, lease))

        assert answer.lost == set(held) - running.keys()
        assert answer.cancelled == {hold for hold, row in running.items() if row.cancel_requested}
        for row in running.values():
            row.due_at = self.clock.now() + lease

    @rule(drawn=st.lists(outcomes, max_size=5))
    def complete(self, drawn: list[tuple[int, type[Outcome], timedelta | None, bytes]]) -> None:
        now = self.clock.now()
        outcomes: list[Outcome] = []
        stale = []
        holds = [
            self.hold(number) for number, *_ in drawn
        ]  # before anything ends: one may come twice in a batch
        for held, (_, kind, delay, data) in zip(holds, drawn, strict=True):
            at = now + (delay or timedelta(0))
            outcome: Outcome
            if kind is Retried:
                outcome = Retried(held, at, data)
            elif kind is Released:
                outcome = Released(held, None if delay is None else at)
            elif kind is Cancelled:
                outcome = Cancelled(held, data or None)
            else:
                outcome = kind(held, data)
            outcomes.append(outcome)
            if not self.apply(outcome, now, at):
                stale.append(held)

        answer = self.runner.run(self.backend.complete(outcomes))

        assert (answer.accepted, list(answer.stale)) == (len(outcomes) - len(stale), stale)
        self.stale += len(stale)

    def apply(self, outcome: Outcome, now: datetime, at: datetime) -> bool:
        """Whether the outcome is accepted; if so, and it is news, what it does to the row."""
        row = self.current(outcome.held)
        if row is None:
            return False
        leads_to = ENDS.get(type(outcome), Status.CANCELLED if row.cancel_requested else Status.PENDING)
        if row.status is not Status.RUNNING:
            return row.status is leads_to
        if isinstance(outcome, Succeeded):
            row.result, row.error = outcome.result, None
        elif not isinstance(outcome, Released) and outcome.error is not None:
            row.error = outcome.error
        if leads_to in FINISHED:
            row.end(leads_to, now)
        else:
            row.status, row.due_at, row.worker, row.started_at = leads_to, at, None, None
            row.attempt -= isinstance(outcome, Released)
        return True

    @rule(numbers=numbers)
    def cancel(self, numbers: list[int]) -> None:
        ids = self.known(numbers)
        rows = [self.rows[task_id] for task_id in set(ids) & self.rows.keys()]
        for row in rows:
            if row.status is Status.RUNNING:
                row.cancel_requested = True
            elif row.status is Status.PENDING:
                row.end(Status.CANCELLED, self.clock.now())

        assert self.runner.run(self.backend.cancel(ids)) == {row.id: row.status for row in rows}

    @rule(limit=st.integers(0, 3))
    def prune(self, limit: int) -> None:
        now = self.clock.now()
        expired = {
            row.id
            for row in self.rows.values()
            if row.finished_at is not None and row.ttl is not None and row.finished_at + row.ttl <= now
        }

        pruned = self.runner.run(self.backend.prune(limit))

        # Which of them go first is up to the backend.
        gone = self.rows.keys() - {task.id for task in self.runner.run(everything(self.backend))}
        assert gone <= expired
        assert len(gone) == pruned == min(limit, len(expired))
        for task_id in gone:
            del self.rows[task_id]

    # -- What happens around it --

    @rule(span=spans)
    def time_passes(self, span: timedelta) -> None:
        self.clock.advance(span)

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
    def the_tasks_are_those_of_the_model(self) -> None:
        stored = self.runner.run(everything(self.backend))

        expected = sorted(self.rows.values(), key=lambda row: -row.order)
        assert [essence(task) for task in stored] == [essence(row) for row in expected]
        seqs = [task.seq for task in stored]
        assert seqs == sorted(set(seqs), reverse=True)

        for task in stored:
            assert (task.due_at is None) is task.status.finished is (task.finished_at is not None)
            assert task.fence <= self.newest_fence
            if task.status is Status.RUNNING:
                assert task.attempt >= 1
                assert task.worker is not None
            if task.status.finished:
                assert self.ended.setdefault((task.id, self.rows[task.id].order), task) == task

    @invariant()
    def the_numbers_are_those_of_the_model(self) -> None:
        stats = self.runner.run(self.backend.stats())

        counted = {
            (queue.queue, status): n for queue in stats.queues for status, n in queue.counts.items() if n
        }
        assert counted == Counter((row.queue, row.status) for row in self.rows.values())
        assert stats.stale_outcomes == self.stale
        now = self.clock.now()
        for queue in stats.queues:
            overdue = [
                row.due_at
                for row in self.rows.values()
                if row.queue == queue.queue
                and row.status is Status.PENDING
                and row.due_at
                and row.due_at <= now
            ]
            assert queue.oldest_due_at == min(overdue, default=None)
