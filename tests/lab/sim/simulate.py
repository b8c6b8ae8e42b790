"""Play many schedules, each of a seed of its own, and hear the judges: `python -m tests.lab simulate`."""

import gc
import hashlib
import logging
import random
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lab.experiment import Batch, Experiment, Progress
from tests.lab.sim.stage import Outcome, play
from tests.stores import BACKENDS, Store

WEIGHTS = {"memory": 30}
"""Which storage a schedule has: those that are quick have more. 1 if nothing is said here."""
MEMORY_FILES = Path("/dev/shm")
COLLECT_EVERY = 3


def seed_of(seed: int, number: int) -> int:
    """The seed of one schedule of a batch. The first one has that of the batch, so it can be played alone."""
    if number == 0:
        return seed
    return int.from_bytes(hashlib.blake2b(f"{seed} {number}".encode(), digest_size=6).digest())


def store_of(seed: int) -> Store:
    """The storage of the schedule with this seed."""
    return random.Random(f"store {seed}").choices(BACKENDS, [WEIGHTS.get(one.name, 1) for one in BACKENDS])[0]


def play_one(seed: int, trace: list[str] | None = None, store: Store | None = None) -> Outcome:
    """Play the schedule of this seed, in a folder that is gone afterwards if its storage has files."""
    store = store or store_of(seed)
    if not store.shared:
        return play(seed, store, Path(), trace)
    home = MEMORY_FILES if MEMORY_FILES.is_dir() else None
    folder = tempfile.mkdtemp(prefix="sitq-sim-", dir=home)
    try:
        return play(seed, store, Path(folder), trace)
    finally:
        shutil.rmtree(folder)


@contextmanager
def quiet() -> Iterator[None]:
    """What died in a schedule is thrown away between two schedules, whatever it says to that."""
    hook, logger = sys.unraisablehook, logging.getLogger("sitq")
    level, collects = logger.level, gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    logger.setLevel(logging.CRITICAL + 1)
    sys.unraisablehook = lambda _: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
            gc.collect()
    finally:
        sys.unraisablehook = hook
        logger.setLevel(level)
        gc.unfreeze()
        if collects:
            gc.enable()


def simulate(seed: int, count: int, progress: Progress) -> Batch:
    """Play so many schedules. What is broken comes with the command that plays its schedule again."""
    broken: list[str] = []
    met: Counter[str] = Counter()
    with quiet():
        for number in range(count):
            own = seed_of(seed, number)
            outcome = play_one(own)
            met += figures(outcome, store_of(own))
            broken += [
                f"{problem} (again: python -m tests.lab simulate --count 1 --seed {own})"
                for problem in outcome.broken
            ]
            if number % COLLECT_EVERY == 0:
                gc.collect()  # here and nowhere else: it runs the clean-up of the dead
            progress(number + 1)
    return Batch(count, broken, dict(sorted(met.items())))


def figures(outcome: Outcome, store: Store) -> Counter[str]:
    """What a schedule met. A run that met little proves little."""
    history = outcome.history
    return Counter(
        {
            f"on {store.name}": 1,
            "virtual seconds": int(outcome.seconds),
            "acknowledged": len(history.acknowledged),
            "runs": len(history.ran),
            "stale outcomes refused": sum(not entry.accepted for entry in history.reported),
            "given up": sum(task.status == "failed" for task in history.final),
            "requeued": len(history.requeued),
            "retries": sum(one.kind == "Retried" for one in history.sent),
            "lines": len(history.noted),
            "ticks": sum("tick" in task.meta for task in history.final),
            "followed": sum(bool(task.parents) and task.status == "success" for task in history.final),
            "cancelled": sum(task.status == "cancelled" for task in history.final),
            "taken over": sum(one.crashes > 0 for one in history.reserved),
            **outcome.met,
        }
    )


SIMULATE = Experiment(
    "simulate",
    "schedules",
    "queue, workers and storage in a world with a seeded time of its own: crashes, pauses, lost and repeated calls",
    2000,
    simulate,
)
