"""Starts workers and sees by the marks of their tasks how fast they are."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from benchmarks.comparison import usage
from benchmarks.peers import work
from benchmarks.peers.interface import Place

FIRST_MARK_WITHIN: Final = 20.0
_MIDDLE: Final = (0.1, 0.9)
_FEW: Final = 20


@contextmanager
def workers(name: str, place: Place, concurrency: int, count: int = 1) -> Iterator[list[int]]:
    """Start worker processes, all at the same time once each has loaded its modules. Yields their ids."""
    command = [sys.executable, "-m", "benchmarks.comparison.worker", name, place.as_json(), str(concurrency)]
    started = []
    try:
        for number in range(count):
            with (place.folder / f"worker-{number}.log").open("wb") as log:
                started.append(
                    subprocess.Popen(
                        command,
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=log,
                        start_new_session=True,
                    )
                )
        for process in started:
            assert process.stdout is not None
            if not process.stdout.readline():
                raise RuntimeError(f"the worker did not start: {_last_words(place)}")
        for process in started:
            assert process.stdin is not None
            process.stdin.write(b"go\n")
            process.stdin.flush()
        yield [process.pid for process in started]
    finally:
        for process in started:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in usage.tree(process.pid)[::-1]:
        try:
            os.kill(number, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()
    for stream in (process.stdin, process.stdout):
        assert stream is not None
        stream.close()


def _last_words(place: Place) -> str:
    text = (place.folder / "worker-0.log").read_text(encoding="utf-8", errors="replace").strip()
    return text.splitlines()[-1] if text else "it said nothing"


class Marks:
    """The marks of a place's tasks, read while they appear."""

    def __init__(self, place: Place) -> None:
        self._map = work.opened(place.marks)
        self._low = 0

    def of(self, number: int) -> int:
        """The mark of one task; 0 if there is none yet."""
        return work.mark_of(self._map, number)

    def all_below(self, count: int) -> bool:
        """Whether every task with a lower number has run."""
        while self._low < count and self.of(self._low):
            self._low += 1
        return self._low >= count

    def found(self, count: int) -> list[int]:
        """The marks of the tasks with a lower number that have run, in the order of time."""
        return sorted(filter(None, map(self.of, range(count))))

    def any_below(self, count: int) -> bool:
        """Whether at least one task has run. Cheap as long as it is one of the first or the last."""
        near = [*range(min(count, 200)), *range(max(0, count - 200), count)]
        return any(map(self.of, near))


def drain(
    name: str, place: Place, count: int, concurrency: int, processes: int, seconds: float
) -> tuple[float, float]:
    """Tasks a second that workers run, and their memory in MiB afterwards.

    The rate is that of the middle four fifths, by the marks of their first lines: neither the start of the workers nor
    the end, when there is not enough for all, counts. Ends when all have run, or after `seconds`.
    """
    marks = Marks(place)
    with workers(name, place, concurrency, processes) as pids:
        wait_for(lambda: marks.any_below(count), FIRST_MARK_WITHIN, place)
        end = time.perf_counter() + seconds
        while not marks.all_below(count) and time.perf_counter() < end:
            time.sleep(0.05)
        memory = sum(map(usage.memory, pids))
    return rate_of(marks.found(count), count, concurrency * processes), memory


def rate_of(marks: list[int], count: int, at_once: int) -> float:
    """Tasks a second in the middle of a drain; of all there is when few have run.

    Raises `RuntimeError` when there were too few tasks: one handful at once says nothing about a rate.
    """
    if count < 5 * at_once:
        raise RuntimeError(f"only {count} tasks could be enqueued in time, too few for {at_once} at once")
    if len(marks) < 2:
        raise RuntimeError(f"only {len(marks)} of {count} tasks ran in time")
    shares = _MIDDLE if len(marks) >= _FEW else (0.0, 1.0)
    low, high = (round(share * (len(marks) - 1)) for share in shares)
    return (high - low) / (marks[high] - marks[low]) * 1e9


def wait_for(condition: Callable[[], bool], seconds: float, place: Place) -> None:
    end = time.perf_counter() + seconds
    while not condition():
        if time.perf_counter() > end:
            raise RuntimeError(f"no task ran within {seconds:g} s: {_last_words(place)}")
        time.sleep(0.01)
