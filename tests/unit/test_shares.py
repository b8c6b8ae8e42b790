"""Slots are divided by weight, over time and whatever their number; or strictly in order."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitq.config import WorkerConfig, worker_config
from sitq.errors import BackendError
from sitq.model import Reserved, ReservedTask
from sitq.worker.shares import Shares, combine, take

NOW = datetime(2026, 3, 1, tzinfo=UTC)
weights = st.lists(st.integers(1, 1000), min_size=1, max_size=8)


class Storage:
    """So many tasks in each queue."""

    def __init__(self, **tasks: int) -> None:
        self.tasks = tasks
        self.asked: list[tuple[tuple[str, ...] | None, int]] = []
        self.broken: set[str] = set()

    async def reserve(self, queues: Sequence[str] | None, limit: int) -> Reserved:
        self.asked.append((None if queues is None else tuple(queues), limit))
        names = list(self.tasks) if queues is None else list(queues)
        if self.broken.intersection(names):
            raise BackendError("away")
        found: list[ReservedTask] = []
        for name in names:
            number = min(self.tasks[name], limit - len(found))
            self.tasks[name] -= number
            found += [ReservedTask(f"{name}{i}", 1, "work", name, b"") for i in range(number)]
        return Reserved(found, NOW if len(found) < limit else None)


def config(queues: Any, *, strict: bool = False) -> WorkerConfig:
    return worker_config(
        id="w1",
        queues=queues,
        strict=strict,
        concurrency=10,
        lease=30,
        poll_interval=1,
        shutdown_timeout=30,
        max_tasks=None,
    )


async def took(storage: Storage, queues: Any, limit: int, **options: Any) -> dict[str, int]:
    """How many tasks of each queue come for so many slots."""
    made = config(queues, **options)
    shares = None if made.weights is None else Shares(made.weights)
    found = await take(made, shares, limit, storage.reserve)
    names = [task.queue for task in found.tasks]
    return {name: names.count(name) for name in dict.fromkeys(names)}


# -- Weights ----------------------------------------------------------------------------------------


@given(weights, st.lists(st.integers(0, 700), max_size=60))
def test_over_time_shares_follow_the_weights_whatever_the_slots(weights: list[int], turns: list[int]) -> None:
    shares, given = Shares(weights), [0] * len(weights)
    for slots in turns:
        part = shares.split(slots)
        assert sum(part) == slots
        assert min(part) >= 0
        given = [before + more for before, more in zip(given, part, strict=True)]
        for weight, number in zip(weights, given, strict=True):
            # Never further from its share than one slot for each queue.
            assert abs(number - sum(given) * weight / sum(weights)) < len(weights)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=4))
def test_a_whole_round_is_exact(weights: list[int]) -> None:
    shares = Shares(weights)
    assert shares.split(sum(weights)) == weights
    one_by_one = [shares.split(1) for _ in range(sum(weights))]
    assert [sum(column) for column in zip(*one_by_one, strict=True)] == weights


def test_slots_that_come_one_by_one_alternate() -> None:
    shares = Shares([3, 1])
    assert [shares.split(1).index(1) for _ in range(8)] == [0, 0, 1, 0, 0, 0, 1, 0]


async def test_each_queue_gets_its_share_and_the_others_what_it_leaves() -> None:
    queues = {"mail": 3, "reports": 1}
    assert await took(Storage(mail=99, reports=99), queues, 8) == {"mail": 6, "reports": 2}
    assert await took(Storage(mail=2, reports=99), queues, 8) == {"mail": 2, "reports": 6}
    assert await took(Storage(mail=99, reports=0), queues, 8) == {"mail": 8}
    assert await took(storage := Storage(mail=0, reports=0), queues, 8) == {}
    assert storage.asked == [(("mail",), 6), (("reports",), 2), (("mail", "reports"), 8)]


async def test_a_queue_without_a_slot_in_this_turn_is_not_asked_unless_something_is_left() -> None:
    storage = Storage(mail=1, reports=1)
    assert await took(storage, {"mail": 3, "reports": 1}, 1) == {"mail": 1}
    assert storage.asked == [(("mail",), 1)]
    assert await took(storage, {"mail": 3, "reports": 1}, 1) == {"reports": 1}


# -- Order ------------------------------------------------------------------------------------------


async def test_strict_takes_what_those_before_leave() -> None:
    storage = Storage(high=3, middle=0, low=99)
    assert await took(storage, ["high", "middle", "low"], 5, strict=True) == {"high": 3, "low": 2}
    assert storage.asked == [(("high",), 5), (("middle",), 2), (("low",), 2)]


async def test_strict_asks_no_further_than_it_has_to() -> None:
    storage = Storage(high=5, low=5)
    assert await took(storage, ["high", "low"], 5, strict=True) == {"high": 5}
    assert storage.asked == [(("high",), 5)]


async def test_without_weights_and_order_it_is_one_call() -> None:
    storage = Storage(a=2, b=2)
    assert await took(storage, None, 3) == {"a": 2, "b": 1}
    assert await took(storage, ["b", "a"], 3) == {"b": 1}
    assert storage.asked == [(None, 3), (("b", "a"), 3)]


# -- Answers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("queues", "strict"), [({"a": 1, "b": 1}, False), (["a", "b"], True)])
async def test_what_was_reserved_is_run_although_another_call_failed(queues: Any, strict: bool) -> None:
    storage = Storage(a=1, b=1)
    storage.broken = {"b"}
    assert await took(storage, queues, 4, strict=strict) == {"a": 1}
    with pytest.raises(BackendError, match="away"):
        await took(storage, queues, 4, strict=strict)


async def test_strict_does_not_pass_over_a_queue_that_could_not_be_asked() -> None:
    storage = Storage(a=1, b=1)
    storage.broken = {"a"}
    with pytest.raises(BackendError):
        await took(storage, ["a", "b"], 4, strict=True)
    assert storage.tasks == {"a": 1, "b": 1}


def test_the_earliest_of_the_due_times_counts() -> None:
    later = NOW + timedelta(seconds=1)
    assert combine([Reserved([], later), Reserved([]), Reserved([], NOW)]) == Reserved([], NOW)
    assert combine([Reserved([])]) == Reserved([])
