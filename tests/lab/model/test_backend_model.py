"""Random histories on every storage, compared after each step with a model."""

import os

import pytest

from tests.lab.model.drive import Course, Tally, take_steps
from tests.lab.model.shared import histories
from tests.stores import BACKENDS, Store

PARTS = 10
STEPS_A_PART = int(os.environ.get("SITQ_MODEL_STEPS", "5000"))  # fewer for a bug that was planted


@pytest.mark.slow
@pytest.mark.timeout(900)  # a failure is worth the minutes that shrinking it takes
@pytest.mark.parametrize(
    ("store", "part"),
    # One without a file is that with a file but for opening and closing.
    [(store, part) for store in BACKENDS for part in range(PARTS if store.survives_close else 2)],
    ids=lambda value: value.name if isinstance(value, Store) else str(value),
)
def test_every_history_agrees_with_the_model(store: Store, part: int) -> None:
    tally = Tally()
    take_steps(Course("storage", histories, store), tally, part, STEPS_A_PART)

    assert tally.steps >= STEPS_A_PART
