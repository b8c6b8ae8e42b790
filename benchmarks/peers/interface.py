"""What a peer's module has: `PEER`, and the functions of `Adapter`.

Its package is imported by the functions, so that what is known of a peer can be told without it.
"""

import importlib
import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal, Protocol, Self

type Storage = Literal["SQLite", "Redis", "PostgreSQL"]

SYNCED: Final = "each commit synced"
NOT_SYNCED: Final = "the operating system syncs later"
RUNS_AGAIN: Final = "runs again"
LOST: Final = "is lost"
EACH_SECOND: Final = "append-only file, synced each second"


@dataclass(frozen=True, slots=True)
class Setting:
    """One way in which a peer is measured.

    Attributes:
        name: Tells it from the other settings of the peer; "" for the only one.
        durability: What an enqueued task survives.
        results: Whether what a task returns can be read later.
        crash: What becomes of the task of a worker that is killed.
    """

    name: str
    durability: str
    results: bool
    crash: str = RUNS_AGAIN


@dataclass(frozen=True, slots=True)
class Peer:
    """What is known of a peer without its package.

    Attributes:
        name: Of the module.
        packages: The distributions whose versions are told; the first one is the peer itself.
        storage: Where tasks are stored.
        settings: The ways in which it is measured.
        runs: What runs tasks side by side in a worker: "coroutines", "threads" or "processes".
        most: How many tasks a worker can run side by side; None where it says.
        note: What else one has to know to read the figures.
        missing: Why the package may not be there, beyond not being installed.
    """

    name: str
    packages: tuple[str, ...]
    storage: Storage
    settings: tuple[Setting, ...]
    runs: str
    most: int | None = None
    note: str = ""
    missing: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """Where one measurement happens; nothing else is there.

    Attributes:
        folder: For files.
        setting: The name of the setting.
        url: Of an empty database of the server, "" for SQLite.
    """

    folder: Path
    setting: str
    url: str = ""

    @property
    def marks(self) -> Path:
        """The file in which tasks leave their marks: see `work`."""
        return self.folder / "marks"

    def as_json(self) -> str:
        """For the command line of another process."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The reverse of `as_json`."""
        given = json.loads(text)
        return cls(Path(given["folder"]), given["setting"], given["url"])


@dataclass(frozen=True, slots=True)
class Client:
    """What puts tasks in. A peer with a synchronous interface has plain functions, which may be called by threads.

    Attributes:
        enqueue: Takes the name of a task in `work` and its number. The task is stored when it returns.
        enqueue_many: The same for many numbers in one call; None where the peer has none.
    """

    enqueue: Callable[[str, int], object]
    enqueue_many: Callable[[str, range], object] | None = None


class Adapter(Protocol):
    """A peer's module."""

    PEER: Peer

    def prepare(self, place: Place) -> None:
        """Make tables. Called once for a place, before all else."""

    def client(self, place: Place) -> AbstractAsyncContextManager[Client]:
        """Open what puts tasks in."""

    def work(self, place: Place, concurrency: int) -> None:
        """Run the peer's own worker, with so many tasks side by side, until the process is killed."""


def load(name: str) -> Adapter:
    """The module of a peer."""
    module: Adapter = importlib.import_module(f"benchmarks.peers.{name}")  # type: ignore[assignment]
    return module
