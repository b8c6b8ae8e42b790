"""Random histories of schedules: tickers that compete, stop between two calls, fail and die, and clocks that jump."""

import asyncio
import shutil
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, cast

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sitq.backends.base import Backend
from sitq.emitter import Emitter
from sitq.model import Failed, NewTask, Status, Succeeded, TaskId, TaskQuery
from sitq.schedule import make_schedule
from sitq.schedules import list_schedules, remove_schedule, save_schedules, set_schedule_paused
from sitq.worker.ticker import Ticker
from tests.lab.model import instants
from tests.lab.model.draws import mix
from tests.lab.model.drive import Tally, folder_in_memory
from tests.lab.model.gated import Fault, Gated
from tests.lab.model.instants import Repetition, Run
from tests.stores import Store
from tests.support import LEASE, FakeClock

NAMES = ("a", "b@größe")
LONGEST_STALL = timedelta(minutes=30)
"""A ticker that stands still for longer than the tasks of its ticks are kept, an hour, may make one of them again."""

HALVES = tuple((hour, minute) for hour in range(24) for minute in (0, 30))
REPETITIONS = [
    Repetition(every=timedelta(seconds=50)),
    Repetition(every=timedelta(minutes=7)),
    Repetition(every=timedelta(hours=1, microseconds=1)),
    Repetition(cron="30 2 * * *", tz="Europe/Berlin", times=((2, 30),)),
    Repetition(cron="15,45 */2 * * *", tz="America/New_York",
               times=tuple((hour, minute) for hour in range(0, 24, 2) for minute in (15, 45))),
    Repetition(cron="0,30 * * * *", tz="UTC", times=HALVES),
]  # fmt: skip
POLICIES = [
    ("latest", "skip"),
    ("latest", "allow"),
    ("all", "wait"),
    ("all", "allow"),
    ("skip", "skip"),
    ("skip", "wait"),
]
SPANS = [timedelta(seconds=s) for s in (0, 1, 20, 40, 59, 61, 600, 3600, 3600 * 5, 86_400, 86_400 * 9)]
PAUSES = [timedelta(seconds=61), timedelta(minutes=8), timedelta(hours=2)]
# Shortly before clocks change in these zones.
CHANGES = [
    datetime(2026, 3, 8, 6, 40, tzinfo=UTC),
    datetime(2026, 3, 29, 0, 20, tzinfo=UTC),
    datetime(2026, 10, 25, 0, 20, tzinfo=UTC),
    datetime(2026, 11, 1, 5, 40, tzinfo=UTC),
]
SKEWS = [timedelta(0), timedelta(seconds=40), timedelta(seconds=-40)]

definitions = mix(NAMES, REPETITIONS, POLICIES, [b"1", b"2"])
changes = mix(NAMES, ["pause", "pause", "resume", "resume", "remove"])
moves = st.lists(mix(range(len(SKEWS)), ["go"] * 8 + ["before", "after", "kill"]), min_size=1, max_size=9)


class Definition(NamedTuple):
    name: str
    repetition: Repetition
    misfire: str
    overlap: str
    payload: bytes
    since: datetime


class SkewedClock:
    """Of a machine whose clock is so much ahead."""

    def __init__(self, clock: FakeClock, skew: timedelta) -> None:
        self._clock = clock
        self._skew = skew

    def now(self) -> datetime:
        return self._clock.now() + self._skew

    def monotonic(self) -> float:
        return self._clock.monotonic()


@dataclass
class Round:
    """One look of a ticker: what it has to do, known from when it has read the schedules."""

    gate: Gated
    began: datetime
    now: datetime
    due: dict[str, tuple[Definition, Run]] | None = None
    tried: list[NewTask] = field(default_factory=list[NewTask])


class Schedules(RuleBasedStateMachine):
    def __init__(self, store: Store, tally: Tally) -> None:
        super().__init__()
        self.tally = tally
        self.clock = FakeClock()
        self.loop = asyncio.new_event_loop()
        self.folder = folder_in_memory()
        self.backend = store.make(self.folder, self.clock)
        self.run(self.backend.open())
        self.tickers = [self.ticker(number) for number in range(len(SKEWS))]
        self.rounds: dict[int, Round] = {}
        # What is stored, and each task that was ever made.
        self.defined: dict[str, Definition] = {}
        self.paused: dict[str, tuple[bool, datetime]] = {}
        self.last: dict[str, datetime] = {}
        self.made: dict[TaskId, tuple[Definition, datetime]] = {}

    def run[T](self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def ticker(self, number: int) -> tuple[Gated, Ticker]:
        gate = Gated(self.backend)
        clock = SkewedClock(self.clock, SKEWS[number])
        return gate, Ticker(f"w{number}", cast(Backend, gate), clock, Emitter())

    def teardown(self) -> None:
        for number in [*self.rounds]:
            self.kill(number)
        self.run(self.backend.close())
        self.loop.close()
        shutil.rmtree(self.folder)

    # -- What people do --

    @initialize(drawn=st.lists(definitions, min_size=1, max_size=2))
    def something_to_repeat(self, drawn: list[Any]) -> None:
        for one in drawn:
            self.define(one)

    @rule(drawn=definitions, really=st.sampled_from([False, False, False, True]))
    def define_again(self, drawn: Any, really: bool) -> None:
        if really or drawn[0] not in self.defined:
            self.define(drawn)

    def define(self, drawn: tuple[str, Repetition, tuple[str, str], bytes]) -> None:
        name, repetition, (misfire, overlap), payload = drawn
        old, now = self.defined.get(name), self.clock.now()
        since = old.since if old is not None and old.repetition == repetition else now
        self.defined[name] = Definition(name, repetition, misfire, overlap, payload, since)
        every, cron, tz, _ = repetition
        schedule = make_schedule(name, every=every, cron=cron, tz=tz, misfire=cast(Any, misfire),
                                 overlap=cast(Any, overlap))  # fmt: skip
        task = NewTask("", "work", payload, result_ttl=timedelta(0))
        self.run(save_schedules(self.backend, [(schedule, task)], now))

    @precondition(lambda self: self.defined)
    @rule(drawn=changes)
    def change(self, drawn: tuple[str, str]) -> None:
        name, what = drawn
        if name not in self.defined:
            [name, *_] = self.defined
        now = self.clock.now()
        if what == "remove":
            self.run(remove_schedule(self.backend, name))
            del self.defined[name]
            self.paused.pop(name, None)
            self.last.pop(name, None)
        else:
            self.run(set_schedule_paused(self.backend, name, what == "pause", now))
            if self.is_paused(name) is not (what == "pause"):
                self.paused[name] = what == "pause", now

    def is_paused(self, name: str) -> bool:
        return self.paused.get(name, (False, None))[0]

    @rule(span=st.sampled_from(SPANS))
    def time_passes(self, span: timedelta) -> None:
        self.clock.advance(span)
        for number, one in [*self.rounds.items()]:
            if self.clock.now() - one.began > LONGEST_STALL:
                self.kill(number)

    @rule(to=st.sampled_from(CHANGES))
    def clocks_are_about_to_change(self, to: datetime) -> None:
        if to > self.clock.now():
            self.time_passes(to - self.clock.now())

    @rule(drawn=mix([1, 2, 20], [True, True, False]))
    def workers_work(self, drawn: tuple[int, bool]) -> None:
        """Some run to their end; others are left to their lease."""
        limit, to_the_end = drawn
        tasks = self.run(self.backend.reserve("worker", None, limit, LEASE)).tasks
        for task in tasks:
            definition, tick = self.made[task.id]
            assert tick <= self.clock.now()
            assert task.payload == definition.payload
            assert (task.metadata or {})["schedule"] == definition.name
        if to_the_end:
            ends = [Succeeded(task.held, b"") for task in tasks[::2]]
            self.run(self.backend.complete([*ends, *(Failed(task.held, b"") for task in tasks[1::2])]))

    @rule()
    def prune(self) -> None:
        self.run(self.backend.prune(1_000))

    # -- What tickers do --

    @rule(drawn=moves)
    def race(self, drawn: list[tuple[int, str]]) -> None:
        """Some begin, and come a few calls further, in any order."""
        for number, how in drawn:
            self.move(number, how)

    def move(self, number: int, how: str) -> None:
        if number not in self.rounds:
            self.begin(number)
        elif how == "kill":
            self.kill(number)
        else:
            self.go(number, cast(Fault, "" if how == "go" else how))

    @rule(number=st.sampled_from(range(len(SKEWS))))
    def a_whole_round(self, number: int) -> None:
        """Of a ticker that nobody disturbs, from wherever it stands: after it, all that it knows of is settled."""
        if number not in self.rounds:
            self.begin(number)
        while number in self.rounds:
            self.go(number, "")
        self.tally.met["whole rounds"] += 1

    @rule(span=st.sampled_from(PAUSES), number=st.sampled_from(range(len(SKEWS))))
    def ticks_follow_one_another(self, span: timedelta, number: int) -> None:
        """While nobody works: the tasks of the first ones have not ended when the next ones are due."""
        for _ in range(3):
            self.time_passes(span)
            self.a_whole_round(number)

    def begin(self, number: int) -> None:
        gate, ticker = self.tickers[number]
        gate.made.clear()
        now = self.clock.now()
        self.rounds[number] = Round(gate, now, now + SKEWS[number])
        self.run(gate.begin(ticker.run_once()))

    def go(self, number: int, fault: Fault) -> None:
        one = self.rounds[number]
        seen = len(one.gate.made)
        over = self.run(one.gate.go(fault))
        for verb, argument, answer in one.gate.made[seen:]:
            if verb == "load":
                one.due = {name: self.due(name, one.now) for name in sorted(self.defined)}
            elif verb == "enqueue":
                self.see_enqueued(one, argument, answer)
            else:
                self.see_saved(one, argument)
        if over:
            del self.rounds[number]
            if not fault:
                self.see_end(one)

    def kill(self, number: int) -> None:
        """It is gone, with all that it knew; a new one takes its place."""
        self.run(self.rounds.pop(number).gate.kill())
        self.tickers[number] = self.ticker(number)
        self.tally.met["tickers killed"] += 1

    def settled(self, name: str) -> datetime:
        definition = self.defined[name]
        last, (_, at) = self.last.get(name), self.paused.get(name, (False, None))
        return max(definition.since, last or definition.since, at or definition.since)

    def due(self, name: str, now: datetime) -> tuple[Definition, Run]:
        definition = self.defined[name]
        if self.is_paused(name):
            return definition, Run([], None)
        return definition, instants.due(definition.repetition, definition.misfire, self.settled(name), now)

    # -- What must come of it --

    def see_enqueued(self, one: Round, tasks: list[NewTask], answers: list[Any]) -> None:
        assert one.due is not None
        expected = [(definition, tick) for definition, run in one.due.values() for tick in run.instants]
        at = len(one.tried)
        one.tried += tasks
        for task, answer, (definition, tick) in zip(tasks, answers, expected[at:], strict=False):
            self.check_task(task, definition, tick)
            if answer.created:
                assert task.id not in self.made, f"{task.id} was made twice"
                self.made[task.id] = definition, tick
                self.tally.met["ticks"] += 1
            elif answer.id != task.id:
                [holder] = self.run(self.backend.find(TaskQuery(ids=[answer.id])))
                assert definition.overlap == "skip"
                assert not holder.status.finished
                assert self.made[holder.id][0].name == definition.name
                self.tally.met["dropped"] += 1
            else:
                assert task.id in self.made
                self.tally.met["made by another"] += 1
        assert len(one.tried) <= len(expected)

    def check_task(self, task: NewTask, definition: Definition, tick: datetime) -> None:
        assert (task.due_at, task.name, task.payload) == (tick, "work", definition.payload)
        assert task.id == f"{definition.name}@{tick.isoformat().replace('+00:00', 'Z')}"
        assert (task.unique is not None) is (definition.overlap == "skip")
        assert (task.concurrency is not None) is (definition.overlap == "wait")

    def see_saved(self, one: Round, documents: dict[str, bytes]) -> None:
        """Nothing is settled before its tasks are stored."""
        assert one.due is not None
        settled = {name: run.settled for name, (_, run) in one.due.items() if run.settled is not None}
        assert documents == {f"schedule-last/{name}": at.isoformat().encode() for name, at in settled.items()}
        assert len(one.tried) == sum(len(run.instants) for _, run in one.due.values())
        self.last |= settled

    def see_end(self, one: Round) -> None:
        assert one.due is not None
        assert len(one.tried) == sum(len(run.instants) for _, run in one.due.values())
        wanted = any(run.settled for _, run in one.due.values())
        assert wanted is any(made.verb == "save" for made in one.gate.made)

    @invariant()
    def the_store_is_that_of_the_model(self) -> None:
        self.tally.steps += 1
        now = self.clock.now()
        listed = {one.name: one for one in self.run(list_schedules(self.backend, now))}
        assert listed.keys() == self.defined.keys()
        for name, one in listed.items():
            definition = self.defined[name]
            assert (one.misfire, one.overlap) == (definition.misfire, definition.overlap)
            assert (one.paused, one.last) == (self.is_paused(name), self.last.get(name))
            if one.paused:
                assert one.next is None
            else:
                after = max(self.settled(name), now)
                assert one.next is not None
                assert definition.repetition.between(after, one.next) == [one.next]

    @invariant()
    def overlap_is_as_it_was_said(self) -> None:
        """Of those that were stored under one policy: a change of it does not reach those that are there."""
        unfinished = [Status.PENDING, Status.RUNNING]
        found = self.run(self.backend.find(TaskQuery(statuses=unfinished, limit=10_000)))
        for overlap, statuses in (("skip", unfinished), ("wait", [Status.RUNNING])):
            names = [
                self.made[task.id][0].name
                for task in found
                if task.status in statuses and self.made[task.id][0].overlap == overlap
            ]
            assert len(names) == len(set(names))
