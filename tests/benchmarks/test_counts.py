"""The guard against slowdowns: what sitq does for a task is counted, and may not become more than is recorded.

Counts do not depend on the machine or on how busy it is. When a change makes a task cost more on purpose, or less,
`python -m benchmarks.counts > tests/benchmarks/counts.json` records the new figures, and the commit says why.
"""

import json
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from benchmarks import counts
from sitq.backends.sqlite import edges, enqueue
from sitq.serialization import codec

RECORDED = json.loads((Path(__file__).parent / "counts.json").read_text(encoding="utf-8"))
FIGURES: counts.Figures = RECORDED["figures"]
SAME_PYTHON = RECORDED["python"] == f"{sys.version_info[0]}.{sys.version_info[1]}"
_TRIES = 3


async def judged(folder: Path, tries: int = _TRIES) -> list[str]:
    """What is too much in the least of up to so many runs."""
    found: list[counts.Figures] = []
    said: list[str] = []
    for number in range(tries):
        place = folder / str(number)
        place.mkdir()
        found.append(await counts.figures(place))
        said = counts.exceeded(counts.least(found), FIGURES, same_python=SAME_PYTHON)
        if not said:
            break
    return said


async def test_a_task_costs_no_more_than_is_recorded(tmp_path: Path) -> None:
    assert await judged(tmp_path) == []


def twice(func: Callable[..., Any]) -> Callable[..., Any]:
    def both(*args: Any, **kwargs: Any) -> Any:
        func(*args, **kwargs)
        return func(*args, **kwargs)

    return both


def test_twice_is_twice() -> None:
    seen: list[int] = []
    twice(seen.append)(1)
    assert seen == [1, 1]


async def test_a_call_that_is_encoded_twice_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in (codec.Codec, codec._PickleCodec):
        monkeypatch.setattr(kind, "encode_call", twice(kind.encode_call))
    said = await judged(tmp_path, 1)
    assert any(each.startswith("enqueue_many") and " calls a task" in each for each in said), said


async def test_a_statement_more_for_each_task_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row, connections = enqueue._row, []
    store = enqueue.enqueue

    def one_more(seq: int | None, *args: Any) -> Any:
        edges.is_open(connections[-1], seq or 0)
        return row(seq, *args)

    def with_connection(db: sqlite3.Connection, *args: Any) -> Any:
        connections.append(db)
        return store(db, *args)

    monkeypatch.setattr(enqueue, "_row", one_more)
    monkeypatch.setattr(enqueue, "enqueue", with_connection)
    said = await judged(tmp_path, 1)
    for scenario in ("enqueue, one after another", "enqueue, 100 callers", "enqueue_many"):
        assert any(each.startswith(scenario) and " statements a task" in each for each in said), said
    assert not any(each.startswith("drain") for each in said), said


def test_less_is_fine_and_a_little_more_is_tolerated() -> None:
    less = {
        scenario: {name: count * 0.5 for name, count in each.items()} for scenario, each in FIGURES.items()
    }
    assert counts.exceeded(less, FIGURES) == []
    for factor, much in ((1.04, False), (1.4, True)):
        more = {
            scenario: {name: count * factor for name, count in each.items()}
            for scenario, each in FIGURES.items()
        }
        assert bool(counts.exceeded(more, FIGURES)) is much
    assert counts.least([FIGURES, less]) == less


def test_only_code_of_sitq_counts() -> None:
    with counts.counted() as found, closing(sqlite3.connect(":memory:")) as db:
        db.execute("SELECT 1")
        for number in range(100):
            str(number)
    assert not found
