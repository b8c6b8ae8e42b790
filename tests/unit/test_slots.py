"""Slots count: what is taken comes back, and never more is taken than there is."""

import pytest

from sitq.worker.slots import Slots


def slots(size: int = 3, *, awaited: bool = True) -> tuple[Slots, list[int]]:
    """Slots, and how many were free each time somebody was told."""
    made = Slots(size)
    made.awaited = awaited
    told: list[int] = []
    made.on_free = lambda: told.append(made.free)
    return made, told


def test_taking_and_giving_back() -> None:
    made, told = slots(3)
    assert (made.free, made.unused) == (3, True)
    made.take()
    made.take(2)
    assert (made.free, made.unused) == (0, False)
    made.give_back()
    made.give_back(2)
    assert (made.free, made.unused) == (3, True)
    assert told == [1, 3]


def test_who_does_not_wait_for_a_slot_is_told_when_all_are_free() -> None:
    made, told = slots(3, awaited=False)
    made.take(3)
    made.give_back(2)
    assert told == []
    made.give_back()
    assert told == [3]


def test_putting_back_tells_nobody() -> None:
    made, told = slots(3)
    made.take(3)
    made.put_back(2)
    assert (made.free, made.unused, told) == (2, False, [])


def test_giving_back_nothing_tells_nobody() -> None:
    made, told = slots(3)
    made.take()
    made.give_back(0)
    assert (made.free, told) == (2, [])


def test_one_told_may_take_at_once() -> None:
    made, _ = slots(1)
    made.on_free = made.take
    made.take()
    made.give_back()
    assert (made.free, made.unused) == (0, False)


def test_nobody_has_to_listen() -> None:
    made = Slots(1)
    made.take()
    made.give_back()
    assert made.unused


@pytest.mark.parametrize(("before", "count"), [(0, 4), (3, 1), (2, 2)])
def test_taking_more_than_there_are_is_a_bug_and_takes_nothing(before: int, count: int) -> None:
    made, _ = slots(3)
    made.take(before)
    with pytest.raises(AssertionError, match="more slots taken than there are"):
        made.take(count)
    assert made.free == 3 - before
