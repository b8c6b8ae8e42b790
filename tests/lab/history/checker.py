"""The judge of a run: a history and the final state go in, broken promises come out. It knows no database."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from tests.lab.history.calls import (
    calls_did_what_they_said,
    cancelled_stay_so,
    leases_are_there,
    written_together,
)
from tests.lab.history.entries import FINISHED, History, Ran, by_id, reservations, was_stopped
from tests.lab.history.kin import dependencies_hold
from tests.lab.history.spans import ENDS, keys_hold, limits_hold
from tests.lab.history.tries import (
    attempts_are_bounded,
    requeued_run_again,
    ticks_come_once,
    tries_are_counted,
)

PLANNED = "Planned"
"""The name of the exception of tasks that fail on purpose."""


def check(history: History) -> list[str]:
    """Every promise that was broken, in words, each with the number of its invariant before it."""
    return [
        f"{number}: {problem}"
        for number, invariant in INVARIANTS.items()
        for one in invariant.checks
        for problem in one(history)
    ]


class Invariant(NamedTuple):
    """What is promised, and which functions look for where it was broken."""

    promise: str
    checks: tuple[Callable[[History], Iterable[str]], ...]


class _Fences:
    """Under which fence a run ran: the last one by then that its process got for this attempt."""

    def __init__(self, history: History) -> None:
        self._reserved = reservations(history)

    def of(self, run: Ran) -> int | None:
        return max(
            (
                one.fence
                for one in self._reserved.get(run.id, ())
                if (one.attempt, one.pid) == (run.attempt, run.pid) and one.answered <= run.at
            ),
            default=None,
        )


def _nothing_lost(history: History) -> Iterable[str]:
    final = {task.id: task for task in history.final}
    for task_id, count in Counter(task.id for task in history.final).items():
        if count > 1:
            yield f"{task_id} is stored {count} times"
    for task_id in sorted(history.acknowledged - final.keys() - history.forgone):
        yield f"{task_id} was acknowledged and is gone"
    runs = by_id(history.ran)
    for task in history.final:
        if task.status not in FINISHED:
            yield f"{task.id} is {task.status} at the end"
        if task.status == "success" and not runs.get(task.id):
            yield f"{task.id} succeeded and never ran"


def _fences_grow(history: History) -> Iterable[str]:
    final = {task.id: task for task in history.final}
    for task_id, entries in reservations(history).items():
        for fence, count in Counter(entry.fence for entry in entries).items():
            if count > 1:
                yield f"{task_id} was handed out twice under fence {fence}"
        highest = entries[-1].fence
        if task_id in final and final[task_id].fence < highest:
            yield f"{task_id} ends with fence {final[task_id].fence}, and {highest} was handed out"


def _results_come_from_the_last_fence(history: History) -> Iterable[str]:
    fences = _Fences(history)
    marks = {run.mark: run for run in history.ran}
    for task in history.final:
        if task.status != "success":
            continue
        run = marks.get(task.result or "")
        if run is None or run.id != task.id:
            yield f"{task.id} has a result that none of its runs returned: {task.result}"
            continue
        fence = fences.of(run)
        if fence != task.fence:
            yield f"{task.id} has the result of fence {fence}, and the last one was {task.fence}"
        if run.attempt <= task.meta.get("fails", 0):
            yield f"{task.id} has the result of attempt {run.attempt}, which was to fail"


def _one_outcome_counts(history: History) -> Iterable[str]:
    final = {task.id: task for task in history.final}
    requeued = {(one.id, one.fence) for one in history.wanted}
    kinds = {"Succeeded": "success", "Failed": "failed", "Cancelled": "cancelled"}
    accepted = [entry for entry in history.reported if entry.accepted and entry.kind in ENDS]
    for task_id, ends in by_id(accepted).items():
        if task_id not in final:
            continue
        last = [entry for entry in ends if entry[:2] not in requeued or entry.fence == final[task_id].fence]
        if len({entry.fence for entry in last}) > 1:
            yield f"{task_id}: outcomes of several fences were accepted: {sorted({entry.fence for entry in last})}"
        for entry in last:
            if entry.fence != final[task_id].fence:
                yield f"{task_id}: an outcome of fence {entry.fence} was accepted, the last was {final[task_id].fence}"
            stopped = entry[:2] in requeued and was_stopped(history, final[task_id])
            if kinds[entry.kind] != final[task_id].status and not stopped:
                yield f"{task_id}: {entry.kind} was accepted, and it ends as {final[task_id].status}"


def _finished_is_final(history: History) -> Iterable[str]:
    final = {task.id: task for task in history.final}
    requeued = {(one.id, one.fence) for one in history.wanted}
    for seen in history.seen:
        if seen.status not in FINISHED:
            continue
        task = final.get(seen.id)
        if task is None or (task.status, task.fence) == (seen.status, seen.fence):
            continue
        if seen.status != "failed" or (seen.id, seen.fence) not in requeued:
            yield (
                f"{seen.id} was {seen.status} under fence {seen.fence}, and ends as {task.status} under {task.fence}"
            )


def _crashes_are_bounded(history: History) -> Iterable[str]:
    fences = _Fences(history)
    sent = {(one.id, one.fence) for one in history.sent if one.kind != "Crashed"}
    runs = by_id(history.ran)
    requeued = Counter(one.id for one in history.wanted)
    for task in history.final:
        # Not the counter: a worker may also die after it took a task in order to give it up, without a run.
        died = [run for run in runs.get(task.id, ()) if (run.id, fences.of(run)) not in sent]
        most = task.max_crashes * (1 + requeued[task.id])
        if len(died) > most:
            yield f"{task.id} ran {len(died)} times without an end, and {most} crashes were allowed"


def _failures_are_meant(history: History) -> Iterable[str]:
    for task in history.final:
        if task.status != "failed":
            continue
        if task.error_type == "worker_lost":
            if task.crashes < task.max_crashes:
                yield f"{task.id} was given up after {task.crashes} crashes of {task.max_crashes}"
        elif not (task.error_type or "").endswith(PLANNED) or not task.meta.get("fails"):
            yield f"{task.id} failed with {task.error_type}, and does not do that by itself"
        elif task.attempt < task.meta.get("max_attempts", 1):
            yield f"{task.id} was given up in attempt {task.attempt} of {task.meta['max_attempts']}"


def _notes_come_from_current_fences(history: History) -> Iterable[str]:
    fences = _Fences(history)
    runs = {run.mark: run for run in history.ran}
    for task_id, notes in by_id(history.noted).items():
        last = 0
        for note in notes:
            run = runs.get(note.mark)
            if run is None or run.id != task_id:
                yield f"{task_id} has a note that none of its runs wrote: {note.mark}"
                continue
            fence = fences.of(run) or 0
            if fence < last:
                yield f"{task_id} has a note of fence {fence} that was stored after one of fence {last}"
            last = max(last, fence)


def _file_is_sound(history: History) -> Iterable[str]:
    if history.integrity != "ok":
        yield f"integrity_check says {history.integrity}"
    yield from history.leftovers


INVARIANTS: Mapping[str, Invariant] = {
    "I1": Invariant(
        "What was acknowledged is there and comes to an end, and what succeeded has run. What was refused is not "
        "there, nor what nobody asked for.",
        (_nothing_lost, calls_did_what_they_said),
    ),
    "I2": Invariant("A result is that of the last fence.", (_results_come_from_the_last_fence,)),
    "I3": Invariant("Fences of a task grow, and each is handed out once.", (_fences_grow,)),
    "I4": Invariant(
        "Nothing is accepted from a fence that is not the current one.",
        (_one_outcome_counts, _notes_come_from_current_fences),
    ),
    "I5": Invariant(
        "What has ended stays as it is, unless another run of it is asked for; what was cancelled never starts.",
        (_finished_is_final, cancelled_stay_so),
    ),
    "I6": Invariant(
        "A task is tried as often as its attempts and crashes allow, and not too early.",
        (
            tries_are_counted,
            attempts_are_bounded,
            requeued_run_again,
            _crashes_are_bounded,
            _failures_are_meant,
        ),
    ),
    "I7": Invariant("What runs has a lease, and what has ended has none.", (leases_are_there,)),
    "I8": Invariant("A unique key is held by one task at most.", (keys_hold,)),
    "I9": Invariant("The file is sound, and nothing is left over beside it and in it.", (_file_is_sound,)),
    "I10": Invariant("No more run at once, or start in a period, than is allowed.", (limits_hold,)),
    "I11": Invariant("Each tick of a schedule comes once.", (ticks_come_once,)),
    "I12": Invariant(
        "None starts before its parents have ended as it demands, and it ends as they say.",
        (dependencies_hold,),
    ),
    "I13": Invariant(
        "What an application writes in one transaction with a task is there if and only if the task is, or has "
        "succeeded.",
        (written_together,),
    ),
}
"""I1 to I9 hold for any queue of this kind; the others for what sitq promises besides."""
