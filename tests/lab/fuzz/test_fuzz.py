"""Short forms of the fuzzing, with the seed in the message of a failure."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab.experiment import SHORT_SEED, Progress
from tests.lab.fuzz import commands, rows, store, times

type Kind = Callable[[int, int, Progress], tuple[list[str], dict[str, int]]]


def fuzz(kind: Kind, seed: int, count: int) -> dict[str, int]:
    broken, figures = kind(seed, count, lambda done: None)
    assert not broken, f"SITQ_LAB_SEED={SHORT_SEED} python -m pytest {__file__}\n" + "\n".join(broken[:20])
    return figures


@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(3))
def test_hostile_rows_are_answered_and_hold_up_nobody(part: int) -> None:
    figures = fuzz(rows.run, SHORT_SEED + part, 120)
    assert figures["answers"] > 1_000
    assert figures["typed errors"] > 4


@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(2))
def test_any_cron_expression_is_a_schedule_or_refused(part: int) -> None:
    figures = fuzz(times.run, SHORT_SEED + part, 450)
    assert figures["refused"] > 50
    assert figures["with ticks"] > 20
    assert figures["instants compared"] > 100


@pytest.mark.timeout(600)
def test_any_command_line_ends_with_a_documented_code(tmp_path: Path) -> None:
    source = tmp_path / "source.db"
    asyncio.run(store.prepare(source))
    broken, figures = commands.run(SHORT_SEED, 600, lambda done: None, commands.checkpointed(source))
    assert not broken, f"SITQ_LAB_SEED={SHORT_SEED}\n" + "\n".join(broken[:20])
    assert figures["exit 0"] > 20
    assert figures["exit 2"] > 20
