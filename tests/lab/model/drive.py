"""Drives a machine of Hypothesis for so many steps, part by part, each with a seed of its own."""

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from tests.stores import Store

STEPS_A_HISTORY = 50
MOST_SEEDS = 5


@dataclass
class Tally:
    """How many steps were taken, and what they met."""

    steps: int = 0
    met: Counter[str] = field(default_factory=Counter[str])


class Course(NamedTuple):
    """A machine on a storage."""

    name: str
    make: Callable[[Store, Tally], RuleBasedStateMachine]
    store: Store


def take_steps(course: Course, tally: Tally, number: int, at_least: int) -> None:
    """Take steps of random histories: at least so many, or raise what the first history that fails raises, made short.

    Args:
        tally: Where they are counted, those that make a failing history short as well.
        number: The seed. The same one makes the same histories.
    """
    while tally.steps < at_least:
        histories = -(-(at_least - tally.steps) // STEPS_A_HISTORY)
        run_state_machine_as_test(_seeded(course, tally, number), settings=_settings(histories))
        number += 2**32  # where a history ended early, some are missing


def meet_all(course: Course, steps: int, what: Iterable[str]) -> None:
    """Take so many steps, and as many again for each further seed until all of `what` was met.

    What a seed meets changes with the sources, because Hypothesis draws from their constants, too.
    """
    tally, missing = Tally(), set(what)
    for number in range(1, MOST_SEEDS + 1):
        take_steps(course, tally, number, number * steps)
        missing = {name for name in missing if not tally.met[name]}
        if not missing:
            return
    raise AssertionError(f"{tally.steps} steps did not meet {sorted(missing)}: {tally.met}")


def _seeded(course: Course, tally: Tally, number: int) -> Any:
    def factory() -> RuleBasedStateMachine:
        return course.make(course.store, tally)

    return seed(number)(factory)


def _settings(histories: int) -> settings:
    return settings(
        max_examples=histories,
        stateful_step_count=STEPS_A_HISTORY,
        phases=set(settings.default.phases) & {Phase.generate, Phase.shrink},
        derandomize=False,
        database=None,
        deadline=None,
        print_blob=False,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )


def folder_in_memory() -> Path:
    """A new folder, where the system has such on a file system in memory: files and locks are the same there."""
    shm = Path("/dev/shm")
    return Path(
        tempfile.mkdtemp(prefix="sitq-model-", dir=shm if shm.is_dir() and os.access(shm, os.W_OK) else None)
    )
