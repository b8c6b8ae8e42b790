"""Figures, and how two things are compared on a machine that does other work too."""

import gc
import math
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final, Literal

DURABILITIES: Final = ("full", "fast")

MOST_TASKS: Final = 20_000

type Durability = Literal["full", "fast"]
type Run = Callable[[int], Awaitable[float]]
"""Does so many tasks and returns how many a second that was. Preparation is its own business and is not counted."""


@dataclass(frozen=True, slots=True)
class Target:
    """What was promised about a figure: its value, or its ratio to the limit, against a bound."""

    of: Literal["value", "ratio"]
    sign: Literal[">=", "<="]
    bound: float

    def met(self, figure: "Figure") -> bool:
        """Whether the figure keeps the promise."""
        number = figure.value if self.of == "value" else figure.ratio
        if number is None or math.isnan(number):
            return False
        return number >= self.bound if self.sign == ">=" else number <= self.bound


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table.

    Attributes:
        name: What was measured.
        unit: Of `value` and `limit`. Rates end in "/s": there more is better; of everything else less is better.
        value: What sitq does; the median of the rounds.
        limit: What the straight-line program does; the median of the rounds.
        ratio: `value / limit`; the median of the ratios of the rounds.
        target: What was promised, if anything was.
        samples: How many rounds, or single events, stand behind it.
        note: What else one has to know.
    """

    name: str
    unit: str
    value: float
    limit: float | None = None
    ratio: float | None = None
    target: Target | None = None
    samples: int = 1
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        return None if self.target is None else self.target.met(self)


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured.

    Attributes:
        quick: True for a look, False for figures that are worth writing down.
        folder: Where the databases are made.
    """

    quick: bool
    folder: Path

    @property
    def rounds(self) -> int:
        """How often sitq and the limit take turns."""
        return 3 if self.quick else 7

    @property
    def seconds(self) -> float:
        """How long the limit takes for its turn."""
        return 0.06 if self.quick else 0.25

    def count(self, full: int, quick: int | None = None) -> int:
        """How many of something: `full`, or for a look `quick` or a tenth."""
        if not self.quick:
            return full
        return max(1, full // 10) if quick is None else quick

    @contextmanager
    def file(self) -> Iterator[Path]:
        """A path for a database in a folder of its own, which is removed afterwards."""
        made = Path(tempfile.mkdtemp(prefix="sitq-bench-", dir=self.folder))
        try:
            yield made / "bench.db"
        finally:
            shutil.rmtree(made, ignore_errors=True)


async def compare(
    name: str, ours: Run, limit: Run, scale: Scale, *, step: int, target: Target | None = None, note: str = ""
) -> Figure:
    """Let both take turns, first one first, then the other, and take medians.

    Other work on the machine hits neighbours alike, so the ratio of two runs side by side says more than either.

    Args:
        step: Tasks come in multiples of this. How many, a first run of the limit tells: both do as many.
    """
    await ours(5 * step)
    rate = await limit(5 * step)
    count = step * max(5, min(MOST_TASKS // step, round(rate * scale.seconds / step)))
    values: list[float] = []
    limits: list[float] = []
    for number in range(scale.rounds):
        for run, found in [(ours, values), (limit, limits)][:: 1 if number % 2 == 0 else -1]:
            gc.collect()
            found.append(await run(count))
    ratios = [value / bound for value, bound in zip(values, limits, strict=True)]
    return Figure(name, "tasks/s", median(values), median(limits), median(ratios), target, scale.rounds, note)


@contextmanager
def stopwatch() -> Iterator[Callable[[], float]]:
    """Seconds since the start; after the end, the seconds until the end."""
    start = time.perf_counter()
    end: float | None = None
    yield lambda: (end or time.perf_counter()) - start
    end = time.perf_counter()


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which that share of the values lies (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]
