"""What is known of a run: entries of the journals, and how the tasks stand at the end.

Times are seconds of the monotonic clock, which all processes of a machine share. `asked` was read before a call and
`answered` after it: what the call did was done in between.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple


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


class Seen(NamedTuple):
    """A reader saw a finished task."""

    id: str
    status: str
    fence: int


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


KINDS = {kind.__name__: kind for kind in (Reserved, Ran, Sent, Reported, Stored, Wanted, Requeued, Seen)}


@dataclass
class History:
    acknowledged: set[str] = field(default_factory=set[str])
    reserved: list[Reserved] = field(default_factory=list[Reserved])
    ran: list[Ran] = field(default_factory=list[Ran])
    sent: list[Sent] = field(default_factory=list[Sent])
    reported: list[Reported] = field(default_factory=list[Reported])
    stored: list[Stored] = field(default_factory=list[Stored])
    wanted: list[Wanted] = field(default_factory=list[Wanted])
    requeued: list[Requeued] = field(default_factory=list[Requeued])
    seen: list[Seen] = field(default_factory=list[Seen])
    noted: list[Noted] = field(default_factory=list[Noted])
    final: list[Final] = field(default_factory=list[Final])
    integrity: str = "ok"


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
