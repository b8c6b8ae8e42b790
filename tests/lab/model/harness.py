"""Random histories against models, for as long as one likes: `python -m tests.lab model`."""

import traceback
from collections import Counter

from tests.lab.experiment import Batch, Experiment, Progress
from tests.lab.model.attempts import Attempts
from tests.lab.model.drive import Course, Tally, take_steps
from tests.lab.model.schedules import Schedules
from tests.lab.model.shared import histories
from tests.stores import BACKENDS

CHUNK = 1_000
"""How many steps one machine takes at a time: after these the next one goes on."""


COURSES = [
    *[Course("storage", histories, store) for store in BACKENDS],
    *[Course("schedules", Schedules, store) for store in BACKENDS if store.survives_close],
    *[Course("attempts", Attempts, store) for store in BACKENDS if store.survives_close],
]


def model(seed: int, count: int, progress: Progress) -> Batch:
    """Take so many steps in all, each machine in turn. Ends at the first history that disagrees with its model."""
    taken: Counter[str] = Counter()
    broken: list[str] = []
    while taken.total() < count and not broken:
        course, tally = COURSES[seed % len(COURSES)], Tally()
        name = f"{course.name} on {course.store.name}"
        try:
            take_steps(course, tally, seed, min(CHUNK, count - taken.total()))
        except Exception as error:
            told = "".join(traceback.format_exception(error))
            broken.append(f"{name}, and sooner with --count {CHUNK} --seed {seed}\n{told}")
        taken[name] += tally.steps
        seed += 1
        progress(taken.total())
    return Batch(taken.total(), broken, dict(taken))


MODEL = Experiment(
    "model",
    "steps",
    "random histories of storages, schedules and attempts, each step compared with a model",
    50_000,
    model,
)
