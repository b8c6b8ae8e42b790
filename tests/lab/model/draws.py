"""What the histories are made of: few names and short spans, so that everything meets everything."""

from collections.abc import Sequence, Set
from datetime import UTC, datetime, timedelta
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


def _seconds(*numbers: float) -> st.SearchStrategy[timedelta]:
    return st.sampled_from([timedelta(seconds=number) for number in numbers])


numbers = st.lists(st.integers(0, 15), max_size=4)  # of tasks or reservations, see `known` and `hold`
queues = st.sampled_from([None, None, ["x"], ["y"], ["x", "y"], ["y", "x"], []])
spans = _seconds(0, 1, 10, 30, 90)
steps = _seconds(0, 1, 5, 10, 10, 30, 90, 90_000)
leases = _seconds(10, 30)
result_ttls = st.sampled_from([None, timedelta(0), timedelta(0), timedelta(seconds=10)])
workers = st.sampled_from(["w1", "w2", "w3"])
outcomes = st.tuples(
    st.integers(0, 15),
    st.sampled_from([Succeeded, Failed, Cancelled, Retried, Retried, Released, Released, Crashed]),
    st.one_of(st.none(), spans),
    st.binary(max_size=2),
)
# Thirty of a kind are more than a task keeps of some.
notes = st.lists(
    st.tuples(
        st.integers(0, 15),
        st.sampled_from([NoteKind.PROGRESS, NoteKind.LOG, NoteKind.VALUE, NoteKind.ATTEMPT]),
        st.binary(max_size=2),
        st.sampled_from([1, 1, 1, 30]),
    ),
    max_size=3,
)
no_bound: dict[str, int] = {}
room = st.one_of(st.just(no_bound), st.dictionaries(st.sampled_from(["x", "y"]), st.integers(0, 5)))
infos = st.builds(
    WorkerInfo,
    host=st.sampled_from(["here", "größe"]),
    pid=st.integers(1, 3),
    started_at=st.just(datetime(2026, 3, 1, 11, 59, 59, 999_999, tzinfo=UTC)),
    concurrency=st.integers(1, 3),
    queues=st.sampled_from([None, (), ("x", "y")]),
    running=st.sampled_from([(), ("task-a", "task-b")]),
    cpu=st.sampled_from([None, 0.25]),
    memory=st.sampled_from([None, 2**33]),
)
documents = st.dictionaries(
    st.sampled_from(["cron:a", "cron:b", "cronk", "größe"]),
    st.one_of(st.none(), st.binary(max_size=2)),
    max_size=3,
)
prefixes = st.sampled_from(["", "cron:", "cron:a", "g", "z"])

_untils = st.one_of(st.sampled_from(Until), st.sampled_from(Until), _seconds(-10, 0, 10, 30))
_concurrencies = st.builds(Concurrency, st.sampled_from(["c1", "c2"]), st.integers(1, 2))
_rates = st.builds(
    Rate, st.sampled_from(["r1", "r1", "r2"]), st.sampled_from([1, 2, 2, 3]), _seconds(10, 10, 30)
)


_accepts = st.sampled_from(
    [
        *[ONLY_SUCCESS] * 4,
        *[FINISHED] * 2,
        frozenset({Status.SUCCESS, Status.FAILED}),
        frozenset({Status.FAILED, Status.CANCELLED}),
        frozenset[Status](),
    ]
)
_edges = st.lists(st.tuples(st.integers(0, 15), _accepts), max_size=3)

BOUNDS = frozenset({"unique", "concurrency", "rate", "edges"})
# What the tasks of one history are bound by; None leaves it to each of them. Those that share a kind meet more often.
focuses = st.sampled_from([None, None, BOUNDS, {"unique"}, {"concurrency"}, {"rate"}, *[{"edges"}] * 3])


class Drawn(NamedTuple):
    """A task without its instants, how far from now they are, by what it is bound, and the numbers of its parents."""

    task: NewTask
    delay: timedelta | None
    until: Until | timedelta
    bounds: Set[str]
    edges: list[tuple[int, frozenset[Status]]]

    def at(self, now: datetime, focus: Set[str] | None, known: Sequence[TaskId]) -> NewTask:
        assert self.task.unique is not None
        until = self.until if isinstance(self.until, Until) else now + self.until
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
            **{"unique": self.task.unique._replace(until=until), **unbound},
        )


@st.composite
def new_tasks(draw: st.DrawFn) -> Drawn:
    task = NewTask(
        id=draw(st.sampled_from(IDS)),
        name=draw(st.sampled_from(["work", "größe"])),
        payload=draw(st.binary(max_size=4)),
        queue=draw(st.sampled_from(["x", "y"])),
        priority=draw(st.sampled_from([0, 0, -9, 1, 9])),
        max_crashes=draw(st.integers(1, 3)),
        result_ttl=draw(result_ttls),
        metadata=draw(st.sampled_from([None, {}, {"tenant": 12, "größe": ["a", None]}])),
        unique=draw(st.builds(Unique, st.sampled_from(["u1", "u2"]), replace=st.booleans())),
        concurrency=draw(_concurrencies),
        rate=draw(_rates),
    )
    delay = draw(st.one_of(st.none(), st.none(), spans, st.just(timedelta(seconds=-10))))
    return Drawn(task, delay, draw(_untils), draw(st.sets(st.sampled_from(sorted(BOUNDS)))), draw(_edges))


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
