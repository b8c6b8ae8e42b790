"""Random histories of schedules, on every storage."""

import pytest

from tests.lab.model.drive import Course, Tally, take_steps
from tests.lab.model.schedules import Schedules
from tests.stores import BACKENDS, Store

STEPS = 4_000
MOST_SEEDS = 5
TO_MEET = ("ticks", "dropped", "made by another", "tickers killed")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("store", BACKENDS[:2], ids=lambda store: store.name)
def test_each_instant_has_one_task(store: Store) -> None:
    tally = Tally()
    # What a seed meets changes with the sources, because Hypothesis draws from their constants, too.
    for number in range(1, MOST_SEEDS + 1):
        take_steps(Course("schedules", Schedules, store), tally, number, number * STEPS)
        if all(tally.met[what] for what in TO_MEET):
            return
    pytest.fail(f"{tally.steps} steps did not meet all of {TO_MEET}: {tally.met}")
