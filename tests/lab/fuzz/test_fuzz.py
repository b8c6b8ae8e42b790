"""Short forms of the fuzzing: other cases each day, and the seed in the message of a failure."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab.experiment import Progress
from tests.lab.fuzz import commands, rows, store, times

SEED = int(os.environ.get("SITQ_LAB_SEED", "0")) or int.from_bytes(os.urandom(4))
type Kind = Callable[[int, int, Progress], tuple[list[str], dict[str, int]]]


def fuzz(kind: Kind, seed: int, count: int) -> dict[str, int]:
    broken, figures = kind(seed, count, lambda done: None)
    assert not broken, f"SITQ_LAB_SEED={SEED} python -m pytest {__file__}\n" + "\n".join(broken[:20])
    return figures


@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(3))
def test_hostile_rows_are_answered_and_hold_up_nobody(part: int) -> None:
    figures = fuzz(rows.run, SEED + part, 120)
    assert figures["answers"] > 1_000
    assert figures["typed errors"] > 4


@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(2))
def test_any_cron_expression_is_a_schedule_or_refused(part: int) -> None:
    figures = fuzz(times.run, SEED + part, 450)
    assert figures["refused"] > 50
    assert figures["with ticks"] > 20
    assert figures["instants compared"] > 100


@pytest.mark.timeout(600)
def test_any_command_line_ends_with_a_documented_code(tmp_path: Path) -> None:
    source = tmp_path / "source.db"
    asyncio.run(store.prepare(source))
    broken, figures = commands.run(SEED, 600, lambda done: None, commands.checkpointed(source))
    assert not broken, f"SITQ_LAB_SEED={SEED}\n" + "\n".join(broken[:20])
    assert figures["exit 0"] > 20
    assert figures["exit 2"] > 20
