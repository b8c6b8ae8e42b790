"""How attempts, crashes and runs are counted, and when another attempt may come."""

import itertools
from collections.abc import Iterator

from tests.lab.history.entries import History, Reserved, Sent, by_id, is_new_run, reservations, was_stopped
from tests.lab.history.spans import TOLERANCE


def tries_are_counted(history: History) -> Iterator[str]:
    wanted, requeued = by_id(history.wanted), by_id(history.requeued)
    sent = _not_refused(history)
    for entries in reservations(history).values():
        for before, after in itertools.pairwise([None, *entries]):
            assert after is not None
            allowed = set[int]()
            if is_new_run(wanted, before, after):
                allowed.add(after.crashes + 1)
            if before is not None and not is_new_run(requeued, before, after):
                outcomes = sent.get((before.id, before.fence), [])
                allowed |= _attempts_after(before, after, outcomes)
                yield from _not_too_early(before, after, outcomes)
            if after.attempt not in allowed:
                yield (
                    f"{after.id}: fence {after.fence} came as attempt {after.attempt} after {after.crashes} crashes, "
                    f"and {sorted(allowed) or 'nothing'} was to come after {before}"
                )


def _not_refused(history: History) -> dict[tuple[str, int], list[Sent]]:
    """The outcomes of each reservation that may have been accepted; those that were, if any is known to be."""
    answers = {(one.id, one.fence, one.kind): one.accepted for one in history.reported}
    accepted = {(one.id, one.fence) for one in history.reported if one.accepted}
    found: dict[tuple[str, int], list[Sent]] = {}
    for one in history.sent:
        if answers.get((one.id, one.fence, one.kind), (one.id, one.fence) not in accepted):
            found.setdefault((one.id, one.fence), []).append(one)
    return found


def _attempts_after(before: Reserved, after: Reserved, outcomes: list[Sent]) -> set[int]:
    """A lost lease uses up an attempt, and so does a retry; what was released gives it back."""
    crashed = after.crashes - before.crashes
    if crashed < 0:
        return set()
    found = {before.attempt + crashed + (one.kind == "Retried") for one in outcomes if one.due is not None}
    return found | {before.attempt + crashed} if crashed else found


def _not_too_early(before: Reserved, after: Reserved, outcomes: list[Sent]) -> Iterator[str]:
    due = min((one.due for one in outcomes if one.due is not None), default=None)
    if after.crashes == before.crashes and due is not None and after.answered < due - TOLERANCE:
        yield f"{after.id}: fence {after.fence} came {due - after.answered:.3f} s before it was due"


def attempts_are_bounded(history: History) -> Iterator[str]:
    most = {task.id: task.meta.get("max_attempts", 1) for task in history.final}
    for entry in history.reserved:
        if entry.attempt - entry.crashes > most.get(entry.id, entry.attempt):
            yield (
                f"{entry.id} was handed out as attempt {entry.attempt} after {entry.crashes} crashes, and "
                f"{most[entry.id]} were allowed"
            )


def requeued_run_again(history: History) -> Iterator[str]:
    final = {task.id: task for task in history.final}
    for one in history.requeued:
        task = final.get(one.id)
        if task is not None and task.fence <= one.fence and not was_stopped(history, task):
            yield f"{one.id} was requeued after fence {one.fence}, and ends under {task.fence}"


def ticks_come_once(history: History) -> Iterator[str]:
    """Every instant has its tick from the first one on: what was missed runs later."""
    ticks = sorted(task.meta["tick"] for task in history.final if "tick" in task.meta)
    for before, after in itertools.pairwise(ticks):
        if before == after:
            yield f"the tick of {after} came twice"
        if after - before > history.tick_every:
            yield f"no tick came between {before} and {after}"
