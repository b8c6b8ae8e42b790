"""Random histories of attempts at tasks: time limits, expiry, retries, cancellation, lost leases and dead workers.

The executor of a worker runs what is reserved. What the tasks do, and when a limit is up, is done by hand.
"""

import asyncio
import shutil
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sitq.model import (
    Held,
    NewTask,
    Outcome,
    Released,
    ReservedTask,
    Status,
    TaskId,
)
from sitq.rules import RunRules
from sitq.task import Call
from sitq.verbs import Cancel, Retry, Snooze
from sitq.worker.run import Run, Stop
from tests.lab.model.compare import Comparison, look
from tests.lab.model.desks import CODEC, MANNERS, Desk, make_executor, work
from tests.lab.model.draws import mix
from tests.lab.model.drive import Tally, folder_in_memory
from tests.lab.model.model import Model, Row
from tests.lab.model.verdicts import (
    SECOND,
    Facts,
    Policy,
    Rules,
    Verdict,
    at_start,
    over_end,
    over_stop,
    too_late,
)
from tests.stores import Store
from tests.support import LEASE, FakeClock

POLICIES = [
    None,
    Policy(1, "constant", 5.0, 1.0, 5.0, "none"),
    Policy(2, "constant", 5.0, 1.0, 5.0, "none"),
    Policy(3, "linear", 4.0, 1.0, 10.0, "equal"),
    Policy(5, "exponential", 1.0, 3.0, 20.0, "full"),
    Policy(9, "exponential", 2.0, 2.0, 9.0, "none"),
]
drawn_tasks = st.lists(
    mix(POLICIES, [None, 3600.0], [None, None, 4, 12, 30], [0, 0, 0, 5], [1, 2, 3]), max_size=3
)
numbers = st.sampled_from(range(8))
spans = st.sampled_from([timedelta(seconds=s) for s in (0, 1, 2, 4, 5, 9, 20, 31, 700)])
ends = mix(range(8), ["value", "value", "ValueError", "ValueError", "UnicodeError", "KeyError", "unstorable",
                      "Retry", "Retry", "Snooze", "Cancel", *["time is up"] * 4, *["left behind"] * 2, *["cancel"] * 3],
           [None, 3, 50])  # fmt: skip
several_ends = st.lists(ends, min_size=1, max_size=4)
reservations = mix([1, 2, 8], MANNERS, MANNERS, MANNERS)
deliveries = mix([1, 2, 9], [False, False, True])


def raised(how: str, delay: int | None) -> Exception:
    verbs = {"Retry": Retry(delay), "Snooze": Snooze(delay or 0), "Cancel": Cancel("why")}
    errors = {"ValueError": ValueError("no"), "UnicodeError": UnicodeError("no"), "KeyError": KeyError("no")}
    return {**verbs, **errors}[how]


class Attempts(RuleBasedStateMachine):
    def __init__(self, store: Store, tally: Tally) -> None:
        super().__init__()
        self.tally = tally
        self.clock = FakeClock()
        self.loop = asyncio.new_event_loop()
        self.folder = folder_in_memory()
        self.backend = store.make(self.folder, self.clock)
        self.run(self.backend.open())
        self.model = Model()
        self.comparison = Comparison()
        self.rules: dict[TaskId, Rules] = {}
        self.manners: list[str] = []
        self.desks: dict[Held, Desk] = {}
        self.reported: list[Outcome] = []
        self.checked = 0
        self.executor = make_executor(self.backend, self.clock, self.seat, self.reported.append)

    def seat(self, held: Held) -> Desk:
        self.desks[held] = Desk(self.manners[len(self.desks) % 3], self.loop.create_future())
        return self.desks[held]

    def run[T](self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def runs(self) -> list[Run]:
        return [*self.executor._runs.values()]

    async def spin(self) -> None:
        for _ in range(6):
            await asyncio.sleep(0)

    def teardown(self) -> None:
        self.abandon()
        self.run(self.backend.close())
        self.loop.close()
        shutil.rmtree(self.folder)

    def abandon(self) -> None:
        """Nothing of it is heard of again."""
        for run in self.runs():
            run.reported = True
            desk = self.desks[run.held]
            if not desk.end.done():
                desk.end.set_result(None)
            if run.timer is not None:
                run.timer.cancel()
        self.run(self.let_go())
        self.desks.clear()

    async def let_go(self) -> None:
        await self.spin()
        assert not self.runs()
        self.executor.cancel_leftovers()

    # -- Coming in --

    @initialize(drawn=drawn_tasks)
    def something_to_do(self, drawn: list[Any]) -> None:
        self.enqueue(drawn)

    @rule(drawn=drawn_tasks)
    def enqueue(self, drawn: list[tuple[Policy | None, float | None, int | None, int, int]]) -> None:
        now = self.clock.now()
        batch: list[NewTask] = []
        for policy, timeout, expires, delay, max_crashes in drawn:
            rules = Rules(policy, timeout, None if expires is None else now + expires * SECOND)
            task_id = f"task-{len(self.rules)}"
            self.rules[task_id] = rules
            told = RunRules(policy and policy.made(), timeout, rules.expires_at)
            payload = CODEC.encode_call(Call(work, (), {}), {}, told, task_id)
            due_at = now + delay * SECOND
            batch.append(NewTask(task_id, "work", payload, due_at=due_at, max_crashes=max_crashes))
        expected = self.model.enqueue(batch, {}, now)
        assert self.run(self.backend.enqueue(batch)) == expected

    @rule(drawn=reservations)
    def reserve(self, drawn: tuple[int, str, str, str]) -> None:
        limit, *self.manners = drawn
        now = self.clock.now()
        expected = self.model.reserve("w", None, None, limit, now, LEASE)
        tasks = self.run(self.backend.reserve("w", None, limit, LEASE)).tasks
        assert [task.id for task in tasks] == [row.id for row in expected]
        for task, row in zip(tasks, expected, strict=True):
            self.model.take(row, task)
            assert (task.attempt, task.crashes) == (row.attempt, row.crashes)
        self.model.newest_fence = max([self.model.newest_fence, *(task.fence for task in tasks)])
        verdicts = self.at_start(tasks)
        self.run(self.start(tasks))
        self.hear(verdicts)
        begun = {task.held for task in tasks} - verdicts.keys()
        assert begun <= {run.held for run in self.runs()}

    async def start(self, tasks: list[ReservedTask]) -> None:
        self.executor.start_all(tasks)
        await self.spin()

    def at_start(self, tasks: list[ReservedTask]) -> dict[Held, list[Verdict]]:
        """Of those that do not begin. On their last chance one runs at a time."""
        now = self.clock.now()
        found: dict[Held, list[Verdict]] = {}
        alone = any(0 < run.reserved.crashes == run.reserved.max_crashes - 1 for run in self.runs())
        for task in tasks:
            if 0 < task.crashes == task.max_crashes - 1:
                if alone:
                    found[task.held] = [Verdict(Released, None, (now + SECOND, now + SECOND))]
                    self.tally.met["put off"] += 1
                    continue
                alone = True
            verdict = at_start(self.rules[task.id], cancelled=task.cancel_requested, crashes=task.crashes,
                               max_crashes=task.max_crashes, now=now)  # fmt: skip
            if verdict is not None:
                found[task.held] = [verdict]
                self.tally.met[f"at start: {verdict.error or 'cancelled'}"] += 1
        return found

    def hear(self, verdicts: dict[Held, list[Verdict]]) -> None:
        """What was reported meanwhile is what had to be, once for each."""
        new, self.checked = self.reported[self.checked :], len(self.reported)
        assert len(new) == len(verdicts), (new, verdicts)
        for outcome in new:
            assert any(verdict.fits(outcome) for verdict in verdicts[outcome.held]), (outcome, verdicts)
            self.tally.met[type(outcome).__name__] += 1

    # -- What happens to a run --

    def pick(self, number: int) -> Run | None:
        runs = self.runs()
        return runs[number % len(runs)] if runs else None

    @rule(
        tasks=drawn_tasks,
        span=spans,
        reservation=reservations,
        drawn=st.lists(ends, min_size=1, max_size=4),
        delivery=deliveries,
    )
    def a_turn(
        self,
        tasks: list[Any],
        span: timedelta,
        reservation: Any,
        drawn: list[Any],
        delivery: tuple[int, bool],
    ) -> None:
        """What mostly happens: new tasks come, a worker takes some, some of what runs ends, and that is stored."""
        self.enqueue(tasks)
        self.time_passes(span)
        self.reserve(reservation)
        for one in drawn:
            self.end(one)
        self.deliver(delivery)

    @rule(drawn=several_ends)
    def some_end(self, drawn: list[Any]) -> None:
        for one in drawn:
            self.end(one)

    def end(self, drawn: tuple[int, str, int | None]) -> None:
        number, how, delay = drawn
        run = self.pick(number)
        if run is None:
            return
        if how == "cancel":
            self.cancel_all([run.held.id], hears=True)
            return
        if how in ("time is up", "left behind"):
            self.time_is_up(run, how)
            return
        verdicts = {} if run.reported else {run.held: over_end(self.facts(run), how, delay)}
        future = self.desks[run.held].end
        if how in ("value", "unstorable"):
            future.set_result(7 if how == "value" else (number for number in ()))
        else:
            future.set_exception(raised(how, delay))
        self.run(self.spin())
        assert run.held not in self.executor._runs
        self.hear(verdicts)

    def time_is_up(self, run: Run, what: str) -> None:
        """Its timer fires, or the one of those that have not stopped since."""
        assert run.timer is not None
        if what == "left behind" and run.stop is Stop.TIMEOUT:
            verdicts = {} if run.reported else {run.held: too_late(self.facts(run))}
            self.executor._leave_behind(run)
            self.hear(verdicts)
        elif run.stop is not Stop.TIMEOUT:
            run.timer.cancel()
            verdicts = self.over([run], Stop.TIMEOUT)
            self.run(self.fire(run))
            self.hear(verdicts)

    async def fire(self, run: Run) -> None:
        self.executor._time_is_up(run)
        assert run.timer is not None
        run.timer.cancel()  # the grace is over when it is said
        await self.spin()

    def over(self, runs: list[Run], why: Stop) -> dict[Held, list[Verdict]]:
        """The verdicts over runs that are stopped now. The first reason counts."""
        found: dict[Held, list[Verdict]] = {}
        for run in runs:
            if run.reported or run.stop is not None:
                continue
            verdicts = over_stop(self.facts(run), self.desks[run.held].manner, why)
            if verdicts:
                found[run.held] = verdicts
                self.tally.met[f"stopped: {why.name}"] += 1
        return found

    def facts(self, run: Run) -> Facts:
        return Facts(self.rules[run.held.id], run.reserved.attempt, run.stop, self.clock.now())

    @rule()
    def heartbeat(self) -> None:
        held = [*self.executor.held()]
        now = self.clock.now()
        rows = {one: row for one in held if (row := self.model.current(one, running=True))}
        answer = self.run(self.backend.heartbeat("w", held, LEASE))
        assert answer.lost == set(held) - rows.keys()
        assert answer.cancelled == {one for one, row in rows.items() if row.cancel_requested}
        for row in rows.values():
            row.due_at = now + LEASE
        for some, why in ((answer.lost, Stop.LOST), (answer.cancelled, Stop.CANCEL)):
            self.stop([run for run in self.runs() if run.held in some], why)

    def stop(self, runs: list[Run], why: Stop) -> None:
        verdicts = self.over(runs, why)
        self.run(self.stop_them(runs, why))
        self.hear(verdicts)

    async def stop_them(self, runs: list[Run], why: Stop) -> None:
        self.executor.stop([run.held for run in runs], why)
        await self.spin()

    @rule(how=st.sampled_from(["hurries", "hurries", "dies"]))
    def the_worker_goes(self, how: str) -> None:
        """It gives back what it runs; or it dies, with all that it has not delivered."""
        if how == "hurries":
            self.stop(self.runs(), Stop.RELEASE)
            return
        self.abandon()
        del self.reported[:]
        self.checked = 0
        self.executor = make_executor(self.backend, self.clock, self.seat, self.reported.append)
        self.tally.met["workers died"] += 1

    # -- What reaches the storage --

    @rule(drawn=deliveries)
    def deliver(self, drawn: tuple[int, bool]) -> None:
        """What was reported arrives; or it does, and its sender does not hear of it and sends it again."""
        count, again = drawn
        batch = self.reported[:count]
        now = self.clock.now()
        if not batch:
            return
        stale = [outcome.held for outcome in batch if not self.model.apply(outcome, now)]
        answer = self.run(self.backend.complete(batch))
        assert [*answer.stale] == stale
        self.model.stale += len(stale)
        if not again:
            del self.reported[:count]
            self.checked -= len(batch)

    @rule(some=st.lists(numbers, min_size=1, max_size=2), hears=st.booleans())
    def cancel(self, some: list[int], hears: bool) -> None:
        rows = self.newest()
        rows = [row for row in rows if row.status is Status.RUNNING] or rows
        ids = [rows[number % len(rows)].id for number in some if rows]
        self.cancel_all(ids, hears=hears)

    def cancel_all(self, ids: list[TaskId], *, hears: bool) -> None:
        assert self.run(self.backend.cancel(ids)) == self.model.cancel(ids, self.clock.now())
        if hears:
            self.heartbeat()

    @rule(number=numbers)
    def requeue(self, number: int) -> None:
        ended = [row.id for row in self.newest() if row.status in (Status.FAILED, Status.CANCELLED)]
        ids = [ended[number % len(ended)]] if ended else []
        expected = self.model.requeue(ids, self.clock.now())
        assert self.run(self.backend.requeue(ids)) == expected
        for task_id in expected:
            self.comparison.ended.pop((task_id, self.model.rows[task_id].order), None)

    def newest(self) -> list[Row]:
        return [*self.model.rows.values()][::-1]

    @rule(span=spans)
    def time_passes(self, span: timedelta) -> None:
        self.clock.advance(span)

    @invariant()
    def the_store_is_that_of_the_model(self) -> None:
        self.tally.steps += 1
        seen = self.run(look(self.backend, self.comparison.unseen(self.model)))
        self.comparison.check(seen, self.model, self.clock.now())
