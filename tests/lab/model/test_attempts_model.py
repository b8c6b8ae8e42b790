"""Random histories of attempts, on every storage."""

import pytest

from tests.lab.model.attempts import Attempts
from tests.lab.model.drive import Course, meet_all
from tests.stores import BACKENDS, Store

STEPS = 5_000
MET = [
    *["Succeeded", "Failed", "Retried", "Cancelled", "Released", "put off", "workers died"],
    *["at start: expired", "at start: worker_lost", "at start: cancelled"],
    *["stopped: CANCEL", "stopped: TIMEOUT", "stopped: RELEASE"],
]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("store", BACKENDS[:2], ids=lambda store: store.name)
def test_each_attempt_ends_as_its_rules_say(store: Store) -> None:
    meet_all(Course("attempts", Attempts, store), STEPS, MET)
