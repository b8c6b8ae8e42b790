"""A short run of the power losses: what was acknowledged is there, and nothing that was not whole."""

from pathlib import Path

import pytest

from tests.lab.experiment import SHORT_SEED
from tests.lab.storage import power

PARTS = 2
POINTS = 1_050


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("part", range(PARTS))
def test_what_was_acknowledged_survives_the_power(part: int) -> None:
    seed = SHORT_SEED + part

    batch = power.crash(seed, POINTS, lambda done: None)

    again = f"python -m tests.lab storage --count {POINTS} --seed {seed}"
    assert batch.broken == [], again
    assert batch.count == POINTS
    assert 0 not in batch.figures.values(), f"{batch.figures}, {again}"


def test_a_disk_keeps_what_was_synced(tmp_path: Path) -> None:
    """The oracle itself: on a disk where nothing is pending, nothing is lost in any way."""
    disk = power.Disk(tmp_path / "tasks.db")
    path = str(tmp_path / "tasks.db")
    for event in (
        power.Event(power.OPEN, path, 0, b""),
        power.Event(power.WRITE, path, 0, b"a" * 1_000),
        power.Event(8, path, 0, b""),
        power.Event(8, str(tmp_path), 0, b""),
    ):
        disk.apply(event)
    for way in power.WAYS[:-1]:
        assert disk.after_power_loss(power.random.Random(1), way) == {"": b"a" * 1_000}

    disk.apply(power.Event(power.WRITE, path, 0, b"b" * 1_000))

    assert disk.after_power_loss(power.random.Random(1), "none") == {"": b"a" * 1_000}
    torn = disk.after_power_loss(power.random.Random(1), "point")[""]
    assert torn == b"b" * torn.count(b"b") + b"a" * torn.count(b"a")
    assert disk.live() == {"": b"b" * 1_000}
