"""Drives a machine of Hypothesis for so many steps, part by part, each with a seed of its own."""

import os
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

STEPS_A_HISTORY = 50


@dataclass
class Tally:
    """How many steps were taken, and what they met."""

    steps: int = 0
    met: Counter[str] = field(default_factory=Counter[str])


type Machine = Callable[[Tally], RuleBasedStateMachine]


def take_steps(machine: Machine, number: int, at_least: int) -> Tally:
    """Take steps of random histories: at least so many, or raise what the first history that fails raises, made short.

    Args:
        number: The seed. The same one makes the same histories.
    """
    tally = Tally()
    while tally.steps < at_least:
        histories = -(-(at_least - tally.steps) // STEPS_A_HISTORY)
        run_state_machine_as_test(_seeded(machine, tally, number), settings=_settings(histories))
        number += 2**32  # where a history ended early, some are missing
    return tally


def _seeded(machine: Machine, tally: Tally, number: int) -> Any:
    def factory() -> RuleBasedStateMachine:
        return machine(tally)

    return seed(number)(factory)


def _settings(histories: int) -> settings:
    return settings(
        max_examples=histories,
        stateful_step_count=STEPS_A_HISTORY,
        phases=[Phase.generate, Phase.shrink],
        derandomize=False,
        database=None,
        deadline=None,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
    )


def folder_in_memory() -> Path:
    """A new folder, where the system has such on a file system in memory: files and locks are the same there."""
    shm = Path("/dev/shm")
    return Path(
        tempfile.mkdtemp(prefix="sitq-model-", dir=shm if shm.is_dir() and os.access(shm, os.W_OK) else None)
    )
