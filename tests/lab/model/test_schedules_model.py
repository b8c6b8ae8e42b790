"""Random histories of schedules, on every storage."""

import pytest

from tests.lab.model.drive import Course, meet_all
from tests.lab.model.schedules import Schedules
from tests.stores import BACKENDS, Store

STEPS = 4_000
MET = ("ticks", "dropped", "made by another", "tickers killed")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("store", BACKENDS[:2], ids=lambda store: store.name)
def test_each_instant_has_one_task(store: Store) -> None:
    meet_all(Course("schedules", Schedules, store), STEPS, MET)
