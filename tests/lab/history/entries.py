"""What is known of a run: entries of the journals, and how the tasks stand at the end.

Times are seconds of one clock that all parties share: of a machine, or of a simulation. `asked` was read before a call
and `answered` after it: what the call did was done in between. `pid` tells parties apart; it may be any number.

A call leaves one entry before it is made and one after it was answered. If the second one is missing, nobody knows what
became of it: the party died, or got an error that leaves it open.

    call       begun       ok               refused              unknown: neither of both
    enqueue    Asked       Acknowledged     Refused              the task is there as a whole, or not at all
    reserve    (nothing)   Reserved         (not to be seen)     held until a lost lease, or not handed out
    complete   Sent        Reported, True   Reported, False      accepted, or not
    requeue    Wanted      Requeued         (not to be seen)     one more run, or none
    cancel     Unwanted    Stopped          (not to be seen)     cancelled, or it ended before
    prune      Forgone     (not to be seen) (not to be seen)     the task is there as a whole, or gone
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Asked(NamedTuple):
    """Somebody is about to enqueue a task."""

    id: str


class Acknowledged(NamedTuple):
    """It was told that the task is stored."""

    id: str


class Refused(NamedTuple):
    """It was told that nothing of the task is stored."""

    id: str


class Looked(NamedTuple):
    """Who had been told that a task is stored asked for it by its id."""

    id: str
    found: bool


class Reserved(NamedTuple):
    """A worker was handed a task."""

    id: str
    fence: int
    attempt: int
    crashes: int
    pid: int = 0
    asked: float = 0.0
    answered: float = 0.0


class Ran(NamedTuple):
    """A task began to run; `mark` is what that run returns."""

    id: str
    attempt: int
    mark: str
    pid: int = 0
    at: float = 0.0


class Sent(NamedTuple):
    """A worker is about to hand over an outcome. Without it nobody but a lost lease ends the reservation."""

    id: str
    fence: int
    kind: str
    at: float = 0.0
    due: float | None = None


class Reported(NamedTuple):
    """The storage answered to an outcome."""

    id: str
    fence: int
    kind: str
    accepted: bool


class Stored(NamedTuple):
    """The storage answered to a task with a unique key; `id` is the one that holds it."""

    id: str
    created: bool
    asked: float
    answered: float


class Wanted(NamedTuple):
    """The steward is about to ask for another run of a task that ended under this fence."""

    id: str
    fence: int


class Requeued(NamedTuple):
    """It got it."""

    id: str
    fence: int
    answered: float = 0.0


class Unwanted(NamedTuple):
    """The steward is about to cancel a task."""

    id: str


class Stopped(NamedTuple):
    """It was told that the task is cancelled, and so never starts again."""

    id: str
    answered: float = 0.0


class Forgone(NamedTuple):
    """The steward is about to remove a task that has ended."""

    id: str


class Seen(NamedTuple):
    """A reader saw a task that ran or had finished; `due` if it would be reserved again, now or when its lease ends."""

    id: str
    status: str
    fence: int
    due: bool = False


class Beside(NamedTuple):
    """A row at the end that an application wrote in the transaction in which a task was stored or succeeded.

    `mark` is the one of the run that succeeded, and empty for a task that was stored.
    """

    id: str
    mark: str = ""


class Noted(NamedTuple):
    """A line in the log of a task at the end: the mark of the run that wrote it. In the order of their positions."""

    id: str
    mark: str


class Final(NamedTuple):
    """A task at the end. `meta` says what it was enqueued with."""

    id: str
    status: str
    fence: int
    crashes: int
    max_crashes: int
    due: bool
    result: str | None = None
    error_type: str | None = None
    attempt: int = 1
    meta: Mapping[str, Any] = {}
    parents: tuple[str, ...] = ()
    cancelled_by: str | None = None


LISTED = (Looked, Reserved, Ran, Sent, Reported, Stored, Wanted, Requeued, Stopped, Seen)
NAMED = (Asked, Acknowledged, Refused, Unwanted, Forgone)
"""Entries of a journal; of these last ones a history keeps the ids."""


@dataclass
class History:
    """All entries of a run.

    Attributes:
        asked: None if nobody wrote down what was asked for.
        beside: None if no application wrote anything beside its tasks.
        tick_every: Seconds between two ticks of the schedule.
        integrity: What SQLite says of the file.
        leftovers: What should not be there any more when everybody has closed the storage, in words.
    """

    asked: set[str] | None = None
    acknowledged: set[str] = field(default_factory=set[str])
    refused: set[str] = field(default_factory=set[str])
    unwanted: set[str] = field(default_factory=set[str])
    forgone: set[str] = field(default_factory=set[str])
    looked: list[Looked] = field(default_factory=list[Looked])
    reserved: list[Reserved] = field(default_factory=list[Reserved])
    ran: list[Ran] = field(default_factory=list[Ran])
    sent: list[Sent] = field(default_factory=list[Sent])
    reported: list[Reported] = field(default_factory=list[Reported])
    stored: list[Stored] = field(default_factory=list[Stored])
    wanted: list[Wanted] = field(default_factory=list[Wanted])
    requeued: list[Requeued] = field(default_factory=list[Requeued])
    stopped: list[Stopped] = field(default_factory=list[Stopped])
    seen: list[Seen] = field(default_factory=list[Seen])
    noted: list[Noted] = field(default_factory=list[Noted])
    beside: list[Beside] | None = None
    final: list[Final] = field(default_factory=list[Final])
    tick_every: float = 1.0
    integrity: str = "ok"
    leftovers: list[str] = field(default_factory=list[str])


FINISHED = frozenset({"success", "failed", "cancelled"})


def by_id[E: tuple[Any, ...]](entries: Iterable[E]) -> dict[str, list[E]]:
    found: defaultdict[str, list[E]] = defaultdict(list)
    for entry in entries:
        found[entry[0]].append(entry)
    return found


def reservations(history: History) -> dict[str, list[Reserved]]:
    """Those of each task, by fence: the order in which the storage made them."""
    return by_id(sorted(history.reserved, key=lambda entry: entry.fence))


def is_new_run(history: Mapping[str, list[Any]], before: Reserved | None, after: Reserved) -> bool:
    """Whether a requeueing in this list lies between two reservations of a task."""
    return before is None or any(before.fence <= one.fence < after.fence for one in history.get(after.id, ()))


def was_stopped(history: History, task: Final) -> bool:
    """Whether somebody asked to cancel it and it ends as cancelled: in a new run, perhaps, that never began."""
    return task.status == "cancelled" and task.id in history.unwanted
