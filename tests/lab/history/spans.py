"""What must not happen at the same time. Only what is certain is held against the storage.

A reservation that is in no journal was made by a process that died before it could write: so it ended with a lost
lease and raised `crashes`. And what ends a reservation, other than a lost lease, is announced by a `Sent`.
"""

import heapq
import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tests.lab.history.entries import Final, History, Reserved, by_id, is_new_run, reservations

ENDS = frozenset({"Succeeded", "Failed", "Cancelled"})
TOLERANCE = 0.01  # the storage reads the other clock, which may be slewed


class Span(NamedTuple):
    """From when until when something surely was so."""

    since: float
    until: float
    id: str


def limits_hold(history: History) -> Iterator[str]:
    yield from _running_at_once(history)
    yield from _started_in_a_period(history)


def keys_hold(history: History) -> Iterator[str]:
    yield from _holders_at_once(history)
    yield from _throttled(history)


# -- Concurrency -----------------------------------------------------------------------------------


def running(history: History) -> Iterator[Span]:
    """A task is running from its reservation on; when it is taken over it has not ceased to, but who had it before does
    not count any more: a worker that was stopped may begin with it later.
    """
    sent = {(one.id, one.fence): one.at for one in sorted(history.sent, key=lambda one: -one.at)}
    for task_id, entries in reservations(history).items():
        for one, following in itertools.zip_longest(entries, entries[1:]):
            ends = [sent[task_id, one.fence]] if (task_id, one.fence) in sent else []
            until = min([*ends, following.asked] if following else ends, default=None)
            if until is not None and until > one.answered:
                yield Span(one.answered, until, task_id)


def _running_at_once(history: History) -> Iterator[str]:
    spans = by_id((span.id, span) for span in running(history))
    for key, tasks in _by_key(history, "concurrency"):
        limit = max(task.meta["concurrency"][1] for task in tasks)
        most = _overlap(span for task in tasks for _, span in spans.get(task.id, ()))
        if len(most) > limit:
            yield f"{len(most)} tasks of {key} ran at once, and {limit} were allowed: {sorted(most)}"


def _overlap(spans: Iterable[Span]) -> set[str]:
    """The tasks of the moment at which most spans lie. One that ends then is not there any more."""
    events = sorted(event for span in spans for event in ((span.since, 1, span.id), (span.until, 0, span.id)))
    now: set[str] = set()
    most: set[str] = set()
    for _, begins, task_id in events:
        (now.add if begins else now.discard)(task_id)
        if len(now) > len(most):
            most = set(now)
    return most


# -- Rates -----------------------------------------------------------------------------------------


def starts(history: History) -> Iterator[Reserved]:
    """Reservations that surely were no take-overs."""
    wanted = by_id(history.wanted)
    for entries in reservations(history).values():
        for before, after in itertools.pairwise([None, *entries]):
            assert after is not None
            new_run = before is None or is_new_run(wanted, before, after)
            if after.crashes == 0 or (before and not new_run and after.crashes == before.crashes):
                yield after


def _started_in_a_period(history: History) -> Iterator[str]:
    found = by_id(starts(history))
    for key, tasks in _by_key(history, "rate"):
        _, limit, period = max(task.meta["rate"] for task in tasks)
        times = sorted((one.asked, one.answered) for task in tasks for one in found.get(task.id, ()))
        for number, (asked, answered) in enumerate(times):
            near = itertools.takewhile(lambda each: each[0] < asked + period, times[number + 1 :])  # noqa: B023
            first = heapq.nsmallest(limit, (each[1] for each in near))
            if len(first) == limit and max(answered, *first) - asked < period - TOLERANCE:
                yield f"{limit + 1} tasks of {key} started within {period} s, and {limit} were allowed, at {asked}"
                break


# -- Unique keys -----------------------------------------------------------------------------------


def holding(history: History) -> Iterator[Span]:
    """When tasks held their keys, of those that hold them until their start or their end."""
    meta = {task.id: task.meta for task in history.final if task.meta.get("until") in ("start", "end")}
    entries = reservations(history)
    ends = by_id(sorted((one for one in history.sent if one.kind in ENDS), key=lambda one: one.at))
    took = [
        *((one.id, one.answered, 0) for one in history.stored if one.created),
        *((one.id, one.answered, one.fence) for one in history.requeued),
    ]
    for task_id, since, fence in took:
        if task_id not in meta:
            continue
        # By fence: a worker may have it before whoever stored it hears of that.
        later = [one for one in entries.get(task_id, ()) if one.fence > fence]
        if meta[task_id]["until"] == "start":
            # If the first one is in no journal, nobody knows when the task let go of its key.
            until = later[0].asked if later and not later[0].crashes else since
        else:
            until = next((one.at for one in ends.get(task_id, ()) if one.fence > fence), since)
        if until > since:
            yield Span(since, until, task_id)


def _holders_at_once(history: History) -> Iterator[str]:
    spans = by_id((span.id, span) for span in holding(history))
    for key, tasks in _by_key(history, "unique"):
        together = _overlap(span for task in tasks for _, span in spans.get(task.id, ()))
        if len(together) > 1:
            yield f"{key} was held by {len(together)} tasks at once: {sorted(together)}"


def _throttled(history: History) -> Iterator[str]:
    stored = by_id(one for one in history.stored if one.created)
    for key, tasks in _by_key(history, "throttle"):
        window = min(task.meta["throttle"][1] for task in tasks) - TOLERANCE
        found = sorted((one.answered, one) for task in tasks for one in stored.get(task.id, ()))
        for (_, one), (_, other) in itertools.pairwise(found):
            # Whichever of the two was first: the other one came before its span was over.
            if other.answered - one.asked < window and one.answered - other.asked < window:
                yield f"{key} let in {one.id} and {other.id} within {window} s"


def _by_key(history: History, name: str) -> Iterator[tuple[str, list[Final]]]:
    found: defaultdict[str, list[Final]] = defaultdict(list)
    for task in history.final:
        if name in task.meta:
            value = task.meta[name]
            found[value if isinstance(value, str) else value[0]].append(task)
    yield from found.items()
