"""A disk as the trace of a run leaves it at any moment: what was synced, and what a power loss may make of the rest.

The model is the strict one of POSIX: until a file is synced, any of its sectors may be old, new, empty or rubbish,
whatever their order; until the folder is synced, a new name may be missing, and one that was removed may be back.
"""

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

SECTOR = 512
HEAD = struct.Struct("4q")
OPEN, WRITE, TRUNCATE, SYNC, UNLINK, MARK = 1, 2, 4, 8, 16, 32
SUFFIXES = ("", "-wal", "-journal")

type Image = dict[str, bytes]
"""The files that there are, by the end of their names."""


class Event(NamedTuple):
    """A call that succeeded, or a mark. `path` is empty for a mark; `size` is where it writes or cuts."""

    kind: int
    path: str
    at: int
    data: bytes


def events(trace: Path) -> Iterator[Event]:
    raw, position = trace.read_bytes(), 0
    while position < len(raw):
        kind, path_length, at, length = HEAD.unpack_from(raw, position)
        position += HEAD.size
        path = raw[position : position + path_length].decode()
        position += path_length
        yield Event(kind, path, at, raw[position : position + length])
        position += length


@dataclass
class File:
    """One file. `pending` is what was done to it since it was synced, with the place in the order of all calls."""

    synced: bytes = b""
    now: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, Event]] = field(default_factory=list[tuple[int, Event]])
    named: bool = False


class Disk:
    """The files of one database. Other files of the folder mean nothing after a power loss."""

    def __init__(self, database: Path) -> None:
        self._names = {f"{database}{suffix}": suffix for suffix in SUFFIXES}
        self._folder = str(database.parent)
        self._order = 0
        self.files: dict[str, File] = {}
        self.removed: dict[str, File] = {}

    def apply(self, event: Event) -> None:
        """Let it happen."""
        self._order += 1
        if event.path == self._folder:
            self.removed.clear()
            for file in self.files.values():
                file.named = True
        suffix = self._names.get(event.path)
        if suffix is None:
            return
        if event.kind == OPEN:
            self.files[suffix] = File()
            self.removed.pop(suffix, None)
        elif event.kind == UNLINK:
            self.removed[suffix] = self.files.pop(suffix)
        elif event.kind == SYNC:
            file = self.files[suffix]
            file.synced = bytes(file.now)
            file.pending.clear()
        else:
            file = self.files[suffix]
            change(file.now, event)
            file.pending.append((self._order, event))

    def live(self) -> Image:
        """What a process finds that opens it now: after the death of the one before, say."""
        return {suffix: bytes(file.now) for suffix, file in self.files.items()}

    def after_power_loss(self, rng: random.Random, how: str) -> Image:
        """What may be there when the power comes back.

        Args:
            how: "none" of what was not synced has survived, all of it up to some "point", or "some" of its sectors, or
                some of them "garbled".
        """
        pending = sorted(order for file in self.files.values() for order, _ in file.pending)
        last = rng.choice(pending) if pending else 0
        image: Image = {}
        for suffix, file in self.files.items():
            if file.named or (how != "none" and (how == "point" or rng.random() < 0.8)):
                image[suffix] = survived(file, rng, how, last)
        for suffix, file in self.removed.items():
            if suffix not in self.files and file.named and how != "point" and rng.random() < 0.5:
                image[suffix] = survived(file, rng, how, last)
        return image


def change(content: bytearray, event: Event) -> None:
    if event.kind == TRUNCATE:
        del content[event.at :]
        content.extend(bytes(event.at - len(content)))
    else:
        content.extend(bytes(max(0, event.at - len(content))))
        content[event.at : event.at + len(event.data)] = event.data


def survived(file: File, rng: random.Random, how: str, last: int) -> bytes:
    content = bytearray(file.synced)
    for order, event in file.pending if how != "none" else ():
        if how == "point":
            if order < last or (order == last and event.kind == TRUNCATE):
                change(content, event)
            elif order == last:
                change(content, event._replace(data=event.data[: rng.randint(0, len(event.data))]))
        elif event.kind == TRUNCATE:
            if rng.random() < 0.5:
                change(content, event)
        else:
            for piece in sectors(event):
                if rng.random() < 0.6:
                    change(content, garbled(piece, rng) if how == "garbled" else piece)
    return bytes(content)


def sectors(event: Event) -> Iterator[Event]:
    at, data = event.at, event.data
    while data:
        length = SECTOR - at % SECTOR
        yield event._replace(at=at, data=data[:length])
        at, data = at + length, data[length:]


def garbled(piece: Event, rng: random.Random) -> Event:
    data = bytearray(piece.data)
    match rng.randrange(4):
        case 0:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        case 1:
            data = bytearray(len(data))
        case 2:
            data = bytearray(rng.randbytes(len(data)))
        case _:
            pass
    return piece._replace(data=bytes(data))
