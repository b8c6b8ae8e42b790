"""The judge of a torture run: a history and the final state go in, broken promises come out. It knows no database."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

FINISHED = frozenset({"success", "failed", "cancelled"})


class Reserved(NamedTuple):
    """A worker was handed a task."""

    id: str
    fence: int
    attempt: int
    crashes: int


class Ran(NamedTuple):
    """A task began to run; `mark` is what that run returns."""

    id: str
    attempt: int
    mark: str


class Reported(NamedTuple):
    """The storage answered to an outcome."""

    id: str
    fence: int
    kind: str
    accepted: bool


class Seen(NamedTuple):
    """A reader saw a finished task."""

    id: str
    status: str
    fence: int


class Final(NamedTuple):
    """A task at the end."""

    id: str
    status: str
    fence: int
    crashes: int
    max_crashes: int
    due: bool
    result: str | None = None
    error_type: str | None = None


@dataclass
class History:
    acknowledged: set[str] = field(default_factory=set)
    reserved: list[Reserved] = field(default_factory=list)
    ran: list[Ran] = field(default_factory=list)
    reported: list[Reported] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    final: list[Final] = field(default_factory=list)
    integrity: str = "ok"


def check(history: History) -> list[str]:
    """Every promise that was broken, in words."""
    return [
        *_nothing_lost(history),
        *_fences_grow(history),
        *_results_come_from_the_last_fence(history),
        *_one_outcome_counts(history),
        *_finished_is_final(history),
        *_crashes_are_bounded(history),
        *([] if history.integrity == "ok" else [f"integrity_check says {history.integrity}"]),
    ]


def _by_id(entries: Iterable[tuple]) -> dict[str, list]:  # type: ignore[type-arg]
    found = defaultdict(list)
    for entry in entries:
        found[entry[0]].append(entry)
    return found


def _nothing_lost(history: History) -> Iterable[str]:
    final = {task.id: task for task in history.final}
    for task_id, count in Counter(task.id for task in history.final).items():
        if count > 1:
            yield f"{task_id} is stored {count} times"
    for task_id in sorted(history.acknowledged - final.keys()):
        yield f"{task_id} was acknowledged and is gone"
    runs = _by_id(history.ran)
    for task in history.final:
        if task.status not in FINISHED:
            yield f"{task.id} is {task.status} at the end"
        if task.status in FINISHED and task.due:
            yield f"{task.id} is {task.status} and would be reserved again"
        if task.status == "success" and not runs.get(task.id):
            yield f"{task.id} succeeded and never ran"


def _fences_grow(history: History) -> Iterable[str]:
    final = {task.id: task for task in history.final}
    for task_id, entries in _by_id(history.reserved).items():
        by_fence = sorted(entries, key=lambda entry: entry.fence)
        for before, after in itertools.pairwise(by_fence):
            if after.fence == before.fence:
                yield f"{task_id} was handed out twice under fence {after.fence}"
            if (after.attempt, after.crashes) < (before.attempt, before.crashes):
                yield (
                    f"{task_id}: fence {after.fence} came with attempt {after.attempt}, fence {before.fence} with "
                    f"{before.attempt}"
                )
        for entry in entries:
            # A crash uses up an attempt, a release gives it back, and no task here asks for another one.
            if entry.attempt != entry.crashes + 1:
                yield f"{task_id} was handed out as attempt {entry.attempt} after {entry.crashes} crashes"
        highest = max(entry.fence for entry in entries)
        if task_id in final and final[task_id].fence < highest:
            yield f"{task_id} ends with fence {final[task_id].fence}, and {highest} was handed out"


def _results_come_from_the_last_fence(history: History) -> Iterable[str]:
    # What was given back without a run has the attempt of the run that came after it.
    fences = {
        (entry.id, entry.attempt): entry.fence
        for entry in sorted(history.reserved, key=lambda entry: entry.fence)
    }
    marks = {run.mark: run for run in history.ran}
    for task in history.final:
        if task.status != "success":
            continue
        run = marks.get(task.result or "")
        if run is None or run.id != task.id:
            yield f"{task.id} has a result that none of its runs returned: {task.result}"
            continue
        fence = fences.get((run.id, run.attempt))
        if fence != task.fence:
            yield f"{task.id} has the result of fence {fence}, and the last one was {task.fence}"


def _one_outcome_counts(history: History) -> Iterable[str]:
    final = {task.id: task for task in history.final}
    kinds = {"Succeeded": "success", "Failed": "failed", "Cancelled": "cancelled"}
    for task_id, entries in _by_id(entry for entry in history.reported if entry.accepted).items():
        ends = [entry for entry in entries if entry.kind in kinds]
        if len({entry.fence for entry in ends}) > 1:
            yield f"{task_id}: outcomes of several fences were accepted: {sorted({entry.fence for entry in ends})}"
        if task_id not in final:
            continue
        for entry in ends:
            if entry.fence != final[task_id].fence:
                yield f"{task_id}: an outcome of fence {entry.fence} was accepted, the last was {final[task_id].fence}"
            if kinds[entry.kind] != final[task_id].status:
                yield f"{task_id}: {entry.kind} was accepted, and it ends as {final[task_id].status}"


def _finished_is_final(history: History) -> Iterable[str]:
    final = {task.id: task for task in history.final}
    for seen in history.seen:
        task = final.get(seen.id)
        if task is not None and (task.status, task.fence) != (seen.status, seen.fence):
            yield (
                f"{seen.id} was {seen.status} under fence {seen.fence}, and ends as {task.status} under {task.fence}"
            )


def _crashes_are_bounded(history: History) -> Iterable[str]:
    runs = _by_id(history.ran)
    for task in history.final:
        count = len(runs.get(task.id, ()))
        # Not the counter: a worker may also die after it took a task in order to give it up, without a run.
        if count > task.max_crashes:
            yield f"{task.id} ran {count} times, and {task.max_crashes} crashes were allowed"
        if task.status == "failed" and task.error_type != "worker_lost":
            yield f"{task.id} failed with {task.error_type}, and none of them fails by itself"
        if task.status == "failed" and task.crashes < task.max_crashes:
            yield f"{task.id} was given up after {task.crashes} crashes of {task.max_crashes}"
