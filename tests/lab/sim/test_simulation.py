"""A short run of the simulation; that it finds what is wrong; and that a seed is all that it takes to see it again."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from sitq.backends.memory import MemoryBackend
from sitq.model import Completed, Outcome
from tests.lab.experiment import SHORT_SEED
from tests.lab.sim.simulate import COLLECT_EVERY, play_one, quiet, seed_of, simulate
from tests.stores import BACKENDS, Store

PARTS = 25
SCHEDULES = 800
"""For each part: 20,000 in all."""
REPLAYED = 40
MET = {
    "acknowledged", "calls done and failed", "calls done twice", "calls failed and done later",
    "calls failed and not done", "cancelled", "commits unknown", "followed", "given up", "jumps of the clock", "lines",
    "pauses", "producers crashed", "requeued", "restarts", "retries", "rings lost", "runs", "stale outcomes refused",
    "taken over", "ticks", "workers crashed", *(f"on {store.name}" for store in BACKENDS),
}  # fmt: skip


def python(*arguments: str, **environment: str) -> str:
    """What a process of its own prints: a schedule wants no other garbage than its own."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment},
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(PARTS))
def test_every_schedule_keeps_what_is_promised(part: int) -> None:
    out = python("tests.lab", "simulate", "--count", str(SCHEDULES), "--seed", str(SHORT_SEED + part))
    found = re.findall(r"(\d[\d,]*) ([a-z][a-z -]*)", out)
    met = {name: int(number.replace(",", "")) for number, name in found}
    assert met["schedules"] == SCHEDULES
    assert MET - met.keys() == set(), out


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_same_seed_is_the_same_to_the_last_byte_in_another_process() -> None:
    """Which hashes otherwise, and has played the others in another order."""
    seeds = [str(seed_of(2026, number)) for number in range(REPLAYED)]
    one = python("tests.lab.sim.replay", *seeds, PYTHONHASHSEED="1")
    other = python("tests.lab.sim.replay", *reversed(seeds), PYTHONHASHSEED="2")
    assert sorted(one.splitlines()) == sorted(other.splitlines())
    assert len({line.split()[2] for line in one.splitlines()}) == REPLAYED


def test_the_first_schedule_of_a_batch_has_its_seed() -> None:
    assert seed_of(7, 0) == 7
    assert len({seed_of(seed, number) for seed in range(10) for number in range(10)}) == 100


# -- It finds what is wrong ------------------------------------------------------------------------


class Unfenced(MemoryBackend):
    """Takes the outcome of whoever held the task once."""

    async def complete(self, outcomes: Sequence[Outcome], **notes: Any) -> Completed:
        fences = {task.id: task.fence for task in self._tasks.values()}
        claimed: list[Any] = [
            one._replace(held=one.held._replace(fence=fences[one.held.id])) for one in outcomes
        ]
        return await super().complete(claimed, **notes)


class Forgetful(MemoryBackend):
    """Acknowledges what it does not store, now and then."""

    async def enqueue(self, tasks: Any, **bounds: Any) -> Any:
        answers = await super().enqueue(tasks, **bounds)
        if len(self._tasks) == 4:
            self._remove(self._tasks[answers[0].id])
        return answers


class Deaf(MemoryBackend):
    """Renews no leases, and says that it did."""

    async def heartbeat(self, worker: Any, held: Any, lease: Any, **more: Any) -> Any:
        return await super().heartbeat(worker, [], lease, **more)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("wrong", [Unfenced, Forgetful, Deaf])
def test_a_storage_that_breaks_a_promise_is_found(wrong: type[MemoryBackend]) -> None:
    store = Store(wrong.__name__, lambda folder, clock: wrong(clock=clock), shared=False)
    with quiet():
        assert any(play_one(seed_of(1, number), store=store).broken for number in range(200))


def test_a_failure_comes_with_the_command_that_repeats_it(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store("unfenced", lambda folder, clock: Unfenced(clock=clock), shared=False)
    monkeypatch.setattr("tests.lab.sim.simulate.store_of", lambda seed: store)
    batch = simulate(1, 100, lambda done: None)
    found = re.search(r"simulate --count 1 --seed (\d+)\)$", batch.broken[0])
    assert found is not None
    again = simulate(int(found[1]), 1, lambda done: None)
    assert again.broken[0] == batch.broken[0]


# -- Every storage ---------------------------------------------------------------------------------


@pytest.mark.parametrize("store", BACKENDS, ids=lambda store: store.name)
def test_a_few_schedules_on_each_storage(store: Store) -> None:
    with quiet():
        for number in range(2 * COLLECT_EVERY):
            assert play_one(seed_of(3, number), store=store).broken == []
