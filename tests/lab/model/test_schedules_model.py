"""Random histories of schedules, on every storage."""

import pytest

from tests.lab.model.drive import Course, Tally, take_steps
from tests.lab.model.schedules import Schedules
from tests.stores import BACKENDS, Store

STEPS = 4_000


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("store", BACKENDS[:2], ids=lambda store: store.name)
def test_each_instant_has_one_task(store: Store) -> None:
    tally = Tally()
    take_steps(Course("schedules", Schedules, store), tally, 1, STEPS)

    assert tally.steps >= STEPS
    assert min(tally.met[what] for what in ("ticks", "dropped", "made by another", "tickers killed")) > 0
