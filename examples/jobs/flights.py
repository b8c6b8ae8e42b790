"""Data processing: how late 336,776 flights were, by airline and by airport. One task a part of the table.

The flights are all that left New York City in 2013. `group` fans the parts out to processes, and `merge` gets what they
found once the last of them has ended. Sums are of whole minutes, so that it does not matter in which order the parts
are added up.

    python -m examples.jobs flights demo

Prints

    336,776 flights in 8 parts; 8,255 never left

    airline                         flights   late  minutes
    Frontier Airlines Inc.              685    39%     21.9
    AirTran Airways Corporation       3,260    35%     20.1
    ExpressJet Airlines Inc.         54,173    32%     15.8

    airport                         flights   late  minutes
    Columbia Metropolitan               116    63%     41.8
    Tulsa Intl                          315    49%     33.7
    Will Rogers World                   346    52%     30.6

    one pass over the table, without a queue, finds the same
"""

import argparse
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from examples.jobs.command import Job, open_queue
from examples.jobs.flights_table import MISSING, Flight, Part, flights, names, split, unpack, whole_table
from sitq import TaskHandle, TaskQueue, Worker, call, current_task, group, result_of, task

QUEUE = "flights"
PARTS = 8
LATE = 15
"""Minutes after which an arrival counts as late, as the authorities count it."""

TELL_EVERY = 5_000
"""Rows between two words about the progress."""

TOP = 3


# -- What is found ---------------------------------------------------------------------------------


@dataclass(slots=True)
class Delays:
    """What is known about some flights. Minutes are those of the arrivals; early ones count as negative."""

    flights: int = 0
    departed: int = 0
    arrived: int = 0
    late: int = 0
    minutes: int = 0

    def count(self, flight: Flight) -> None:
        self.flights += 1
        self.departed += flight.dep_delay != MISSING
        if flight.arr_delay != MISSING:
            minutes = int(flight.arr_delay)
            self.arrived += 1
            self.late += minutes >= LATE
            self.minutes += minutes

    def add(self, other: "Delays") -> None:
        self.flights += other.flights
        self.departed += other.departed
        self.arrived += other.arrived
        self.late += other.late
        self.minutes += other.minutes

    @property
    def mean(self) -> float:
        return self.minutes / self.arrived if self.arrived else 0.0

    def __str__(self) -> str:
        share = self.late / self.arrived if self.arrived else 0.0
        return f"{self.flights:7,} {share:6.0%} {self.mean:8.1f}"


@dataclass(slots=True)
class Summary:
    """Delays by the codes of the airline and of the airport where the flights went."""

    routes: defaultdict[tuple[str, str], Delays] = field(default_factory=lambda: defaultdict(Delays))

    def add(self, other: "Summary") -> None:
        for route, delays in other.routes.items():
            self.routes[route].add(delays)

    def airlines(self) -> dict[str, Delays]:
        return added((airline, delays) for (airline, _), delays in self.routes.items())

    def airports(self) -> dict[str, Delays]:
        return added((airport, delays) for (_, airport), delays in self.routes.items())

    def total(self) -> Delays:
        return added(("all", delays) for delays in self.routes.values())["all"]

    def __str__(self) -> str:
        airlines = most_minutes("airline", self.airlines(), names("airlines.csv", "carrier"))
        airports = most_minutes("airport", self.airports(), names("airports.csv", "faa"))
        return "\n".join([*airlines, "", *airports])


def added(delays: Iterable[tuple[str, Delays]]) -> dict[str, Delays]:
    """Add up those of the same code."""
    sums: defaultdict[str, Delays] = defaultdict(Delays)
    for code, one in delays:
        sums[code].add(one)
    return sums


def summarize(flights: Iterable[Flight]) -> Summary:
    found = Summary()
    for flight in flights:
        found.routes[flight.carrier, flight.dest].count(flight)
    return found


def most_minutes(title: str, delays: Mapping[str, Delays], names: Mapping[str, str]) -> Iterator[str]:
    yield f"{title:32}flights   late  minutes"
    for code in sorted(delays, key=lambda code: -delays[code].mean)[:TOP]:
        yield f"{names.get(code, code):32}{delays[code]}"


# -- The tasks -------------------------------------------------------------------------------------


@task(queue=QUEUE, executor="process", timeout=600)
def measure(part: Part) -> Summary:
    """Read one part. In a process of its own, because this is nothing but work for a CPU."""
    return summarize(flights(with_progress(part), part.columns))


def with_progress(part: Part) -> Iterator[str]:
    """Yield the lines of a part, and tell how far it is."""
    read = 0
    for number, line in enumerate(part.lines(), 1):
        yield line
        read += len(line)
        if number % TELL_EVERY == 0:
            current_task().progress(100 * read / (part.stop - part.start), f"{number:,} rows")


@task(queue=QUEUE)
def merge(parts: list[Summary]) -> Summary:
    found = Summary()
    for part in parts:
        found.add(part)
    return found


async def enqueue(queue: TaskQueue, parts: Iterable[Part]) -> TaskHandle[Summary]:
    """Store a task for each part, one that gathers what they find, and the one that merges it: all or none."""
    found = group(call(measure, part) for part in parts)
    return await queue.options(queue=QUEUE).enqueue(merge, result_of(found))


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--parts", type=int, default=PARTS, metavar="N", help=f"how many parts ({PARTS})")
    parser.add_argument("--folder", type=Path, default=Path("flights"), help="for the table (flights)")


async def submit(queue: TaskQueue, given: argparse.Namespace) -> Sequence[str]:
    return [await enqueue(queue, split(unpack(given.folder), given.parts))]


# -- The demonstration -----------------------------------------------------------------------------


async def demo(folder: Path) -> None:
    parts = split(unpack(folder), PARTS)
    async with open_queue(folder / "flights.db") as queue, Worker(queue):
        found = await (await enqueue(queue, parts)).result(timeout=300)
    total = found.total()
    print(f"{total.flights:,} flights in {len(parts)} parts; {total.flights - total.departed:,} never left\n")
    print(found)
    assert found == summarize(whole_table())
    print("\none pass over the table, without a queue, finds the same")


JOB = Job(QUEUE, "delays of 336,776 flights, in processes", arguments, submit, demo)
