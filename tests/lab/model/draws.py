"""What the histories are made of: few names and short spans, so that everything meets everything."""

from collections.abc import Sequence, Set
from datetime import UTC, datetime, timedelta
from itertools import combinations, product
from typing import Any, NamedTuple

from hypothesis import strategies as st

from sitq.model import (
    FINISHED,
    ONLY_SUCCESS,
    Cancelled,
    Concurrency,
    Crashed,
    Edge,
    Failed,
    Held,
    NewTask,
    NoteKind,
    Outcome,
    Rate,
    Released,
    Retried,
    Status,
    Succeeded,
    TaskId,
    Unique,
    Until,
    WorkerInfo,
)

IDS = [f"task-{letter}" for letter in "abcdefghijklmnop"]  # few, so that they come again


def mix(*choices: Sequence[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    """One of each, by a single number. A draw costs ten times what it takes to choose, so there are to be few."""
    together = st.sampled_from([*product(*choices)])

    @st.composite
    def mixed(draw: st.DrawFn) -> tuple[Any, ...]:
        return draw(together)

    return (
        mixed()
    )  # which Hypothesis prints as such: it prints strategies again and again, with all that is in them


def _seconds(*numbers: float) -> list[timedelta]:
    return [timedelta(seconds=number) for number in numbers]


_NUMBERS = range(16)  # of tasks or reservations, see `known` and `hold`
_QUEUES = ["x", "y"]
_SPANS = _seconds(0, 1, 10, 30, 90)
_BYTES = [b"", b"\0", b"a", b"\xff\xfe"]
_INFOS = [
    WorkerInfo(
        host=host,
        pid=pid,
        started_at=datetime(2026, 3, 1, 11, 59, 59, 999_999, tzinfo=UTC),
        concurrency=pid,
        queues=queues,
        running=running,
        cpu=cpu,
        memory=memory,
    )
    for host, pid, queues, running, (cpu, memory) in product(
        ["here", "größe"],
        [1, 3],
        [None, (), ("x", "y")],
        [(), ("task-a", "task-b")],
        [(None, 2**33), (0.25, None)],
    )
]

numbers = st.lists(st.sampled_from(_NUMBERS), max_size=4)
chosen = st.one_of(st.none(), st.none(), numbers)
number = st.sampled_from(_NUMBERS)
steps = st.sampled_from(_seconds(0, 1, 5, 10, 10, 30, 90, 90_000))
queues = st.sampled_from([None, None, ["x"], ["y"], ["x", "y"], ["y", "x"], []])
# Of a worker, its queues, how many it takes at most, and for how long.
reservations = mix(
    ["w1", "w2", "w3"], [None, None, ["x"], ["y"], ["x", "y"], ["y", "x"], []], range(6), _seconds(10, 30)
)
# Of a worker, its lease, and what it says of itself.
beats = mix(["w1", "w2", "w3"], _seconds(10, 30, 10, 30, 0), [*[None] * len(_INFOS), *_INFOS])
_kinds = [Succeeded, Failed, Cancelled, Retried, Retried, Released, Released, Crashed]
outcomes = st.lists(mix(_NUMBERS, _kinds, [*[None] * 5, *_SPANS], _BYTES), max_size=5)
# Thirty of a kind are more than a task keeps of some.
_notes = [NoteKind.PROGRESS, NoteKind.LOG, NoteKind.VALUE, NoteKind.ATTEMPT]
notes = st.lists(mix(_NUMBERS, _notes, _BYTES, [1, 1, 1, 30]), max_size=3)
# How many tasks may be pending in each queue.
_bounds: list[dict[str, int]] = [{"x": n} for n in range(6)] + [{"y": n} for n in range(6)]
_both: list[dict[str, int]] = [{"x": n, "y": m} for n in range(6) for m in range(6)]
room = st.sampled_from([*[{}] * 60, *_bounds, *_both])
pauses = mix(["x", "y", "empty"], [False, True])
documents = st.lists(mix(["cron:a", "cron:b", "cronk", "größe"], [None, None, *_BYTES]), max_size=3).map(dict)
prefixes = st.sampled_from(["", "cron:", "cron:a", "g", "z"])
pages = mix(_NUMBERS, range(6), range(6))
endings = mix([*[None] * 16, *_NUMBERS], [False, True])
restarts = st.sampled_from(["closed", "replaced", "killed"])


BOUNDS = frozenset({"unique", "concurrency", "rate", "edges"})
# What the tasks of one history are bound by; None leaves it to each of them. Those that share a kind meet more often.
focuses = st.sampled_from([None, None, BOUNDS, {"unique"}, {"concurrency"}, {"rate"}, *[{"edges"}] * 3])
_SUBSETS = [frozenset(some) for n in range(5) for some in combinations(sorted(BOUNDS), n)]
_UNTILS: list[Until | timedelta] = [*[*Until] * 4, *_seconds(-10, 0, 10, 30)]
_ACCEPTS = [
    *[ONLY_SUCCESS] * 4,
    *[FINISHED] * 2,
    frozenset({Status.SUCCESS, Status.FAILED}),
    frozenset({Status.FAILED, Status.CANCELLED}),
    frozenset[Status](),
]


class Drawn(NamedTuple):
    """A task without its instants, how far from now they are, by what it is bound, and the numbers of its parents."""

    task: NewTask
    delay: timedelta | None
    until: Until | timedelta
    bounds: Set[str]
    edges: list[tuple[int, frozenset[Status]]]

    def at(self, now: datetime, focus: Set[str] | None, known: Sequence[TaskId]) -> NewTask:
        assert self.task.unique is not None
        unique = self.task.unique
        # An instant or the span to it, from now on.
        is_span = isinstance(self.until, Until) or (unique.key == "u1" and self.until >= timedelta(0))
        until = self.until if is_span else now + self.until
        bounds = self.bounds if focus is None else focus
        unbound: dict[str, Any] = dict.fromkeys(BOUNDS - bounds - {"edges"})
        if "edges" in bounds:
            # Mostly those that are there, the newest first.
            edges = [
                Edge("unknown" if n == 15 else known[-1 - n % len(known)], of)
                for n, of in self.edges
                if known
            ]
            unbound["edges"] = tuple(edges)
        return self.task._replace(
            due_at=None if self.delay is None else now + self.delay,
            **{"unique": unique._replace(until=until), **unbound},
        )


_calls = mix(IDS, ["work", "größe"], _BYTES)
_lives = mix(
    _QUEUES,
    [0, 0, -9, 1, 9],
    [1, 2, 3],
    [None, timedelta(0), timedelta(0), timedelta(seconds=10)],
    [None, {}, {"tenant": 12, "größe": ["a", None]}],
)
_uniques = mix(["u1", "u2"], [False, True], _UNTILS)
_limits = mix(["c1", "c2"], [1, 2], ["r1", "r1", "r2"], [1, 2, 2, 3], _seconds(10, 10, 30))
_delays = mix([*[None] * 10, *_SPANS, *_seconds(-10) * 5], _SUBSETS)
_edges = st.lists(mix(_NUMBERS, _ACCEPTS), max_size=3)


@st.composite
def _tasks(draw: st.DrawFn) -> Drawn:
    task_id, name, payload = draw(_calls)
    queue, priority, max_crashes, result_ttl, metadata = draw(_lives)
    key, replace, until = draw(_uniques)
    concurrent, running, rate, starts, period = draw(_limits)
    delay, bounds = draw(_delays)
    task = NewTask(
        id=task_id,
        name=name,
        payload=payload,
        queue=queue,
        priority=priority,
        max_crashes=max_crashes,
        result_ttl=result_ttl,
        metadata=metadata,
        unique=Unique(key, replace=replace),
        concurrency=Concurrency(concurrent, running),
        rate=Rate(rate, starts, period),
    )
    return Drawn(task, delay, until, bounds, draw(_edges))


first_tasks = st.lists(_tasks(), min_size=2, max_size=6)
more_tasks = st.lists(_tasks(), max_size=4)


def outcome(kind: type[Outcome], held: Held, at: datetime | None, now: datetime, data: bytes) -> Outcome:
    if kind is Retried:
        return Retried(held, at or now, data)
    if kind is Released:
        return Released(held, at, data or None)
    if kind is Cancelled:
        return Cancelled(held, data or None)
    if kind is Crashed:
        return Crashed(held, data)
    if kind is Succeeded:
        return Succeeded(held, data)
    return Failed(held, data) if at is None else Failed(held, data, at - now)
