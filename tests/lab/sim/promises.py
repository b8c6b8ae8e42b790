"""What the judge of histories does not look at, because only here it is certain."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import NamedTuple

from sitq.model import Held, Status
from tests.lab.history.entries import History, by_id, reservations

LINES = 3
"""How many lines a task writes that talks."""


def sound(history: History) -> History:
    """The history without what misleads the judge: a worker that has slept sends an outcome for a task that was handed
    to another one long ago. He takes it to have run until then, and it may have ended under the other one.
    """
    taken: dict[tuple[str, int], float] = {}
    for entries in reservations(history).values():
        taken.update(((one.id, one.fence), after.answered) for one, after in pairwise(entries))
    sent = [one._replace(at=min(one.at, taken.get((one.id, one.fence), one.at))) for one in history.sent]
    return replace(history, sent=sent)


class Asked:
    """A wish to cancel a task. `status` and `answered` are of the answer; None if it was not heard."""

    def __init__(self, task_id: str) -> None:
        self.id = task_id
        self.status: Status | None = None
        self.answered = 0.0


class Pause(NamedTuple):
    """From when until when a queue surely was paused."""

    queue: str
    since: float
    until: float


class Renewed(NamedTuple):
    """What a heartbeat said of one reservation."""

    id: str
    fence: int
    asked: float
    lost: bool


@dataclass
class Extra:
    """What is known besides the history.

    Attributes:
        asked: Each wish to cancel a task, whether it was answered or not.
        refused: Successes that were accepted, and not when they came again.
    """

    asked: list[Asked] = field(default_factory=list[Asked])
    paused: list[Pause] = field(default_factory=list[Pause])
    renewed: list[Renewed] = field(default_factory=list[Renewed])
    refused: list[Held] = field(default_factory=list[Held])


def leases_hold(history: History, renewed: list[Renewed]) -> Iterator[str]:
    """A heartbeat tells who has lost a reservation, and nobody else."""
    reserved = by_id(history.reserved)
    fences = {task.id: task.fence for task in history.final}
    sent = {(one.id, one.fence) for one in history.sent}
    for one in renewed:
        later = [
            each for each in reserved.get(one.id, ()) if each.fence > one.fence and each.answered < one.asked
        ]
        if later and not one.lost:
            yield f"the lease of {one.id} under fence {one.fence} was renewed after {later[0].fence} was handed out"
        if one.lost and fences.get(one.id) == one.fence and (one.id, one.fence) not in sent:
            yield f"{one.id} was called lost under fence {one.fence}, which is the last, and nobody ended it"


def cancels_hold(history: History, asked: list[Asked]) -> Iterator[str]:
    """One that was asked to cancel is handed out to nobody who runs it, and nothing else is cancelled."""
    final = {task.id: task for task in history.final}
    reserved, runs = by_id(history.reserved), by_id(history.ran)
    wanted = {one.id for one in history.wanted}
    for wish in asked:
        if wish.status is None or wish.id in wanted:
            continue
        late = [one for one in reserved.get(wish.id, ()) if one.asked > wish.answered]
        if wish.status is Status.CANCELLED and late:
            yield f"{wish.id} was cancelled at {wish.answered}, and handed out under fence {late[0].fence}"
        held = {(one.attempt, one.pid) for one in late}
        if any((run.attempt, run.pid) in held and run.at > wish.answered for run in runs.get(wish.id, ())):
            yield f"{wish.id} was asked to cancel at {wish.answered}, and began to run after that"
        if wish.id in final and wish.status.finished and final[wish.id].status != wish.status:
            yield f"{wish.id} was {wish.status} when it was cancelled, and ends as {final[wish.id].status}"
    wishes = {wish.id for wish in asked}
    for task in history.final:
        if task.status == "cancelled" and not task.parents and task.id not in wishes:
            yield f"{task.id} is cancelled, and nobody asked for that"


def pauses_hold(history: History, paused: list[Pause], queues: dict[str, str]) -> Iterator[str]:
    """Nothing is handed out from a queue that is paused."""
    for pause in paused:
        for one in history.reserved:
            if queues.get(one.id) == pause.queue and pause.since < one.asked and one.answered < pause.until:
                yield f"{one.id} was handed out at {one.answered}, and its queue {pause.queue} was paused"


def lines_arrive(history: History) -> Iterator[str]:
    """What the run said whose result counts is stored. Not so where a call may take seconds: it is not waited for."""
    said: Counter[str] = Counter(note.mark for note in history.noted)
    for task in history.final:
        if task.meta.get("says") and task.status == "success" and said[task.result or ""] < LINES:
            yield f"{task.id} has {said[task.result or '']} lines of the run that counts, which wrote {LINES}"
