"""What an experiment of the laboratory is: something that is done very often, with a seed, and may break promises."""

import os
from collections.abc import Callable
from typing import Final, NamedTuple

SHORT_SEED: Final = int(os.environ.get("SITQ_LAB_SEED", "20261122"))
"""Of the short forms, part by part. The same ones with every change, so that what fails is due to the change; long
runs draw new ones.
"""

Progress = Callable[[int], None]
"""Told how many of a batch are done."""


class Batch(NamedTuple):
    """What came out of one batch.

    Attributes:
        count: How many were done, of the experiment's unit.
        broken: Each promise that was broken, in words. Empty is good.
        figures: What else was counted, to see that the batch met what it was to meet.
    """

    count: int
    broken: list[str]
    figures: dict[str, int]


class Experiment(NamedTuple):
    """A kind of test that finds the more, the longer it runs.

    Attributes:
        name: The word for it on the command line.
        unit: What it counts, in the plural.
        about: One line.
        batch: How many a long run does between two entries in the ledger.
        run: Does so many with this seed. The same seed makes the same choices.
    """

    name: str
    unit: str
    about: str
    batch: int
    run: Callable[[int, int, Progress], Batch]
