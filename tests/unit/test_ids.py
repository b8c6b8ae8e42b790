"""Task ids are UUIDs of version 7: unique wherever they are made, and in the order of their making."""

import os
import uuid
from types import SimpleNamespace

import pytest

from sitq import ids
from sitq.ids import new_id
from tests.unit import processes

NOW = 1_772_366_400_123_456_789
STEP = 245
"""Nanoseconds: the least distance at which ids are in order for certain (a 4096th of a millisecond, rounded up)."""


def at(monkeypatch: pytest.MonkeyPatch, *times: int) -> list[str]:
    """Ids made at these times, in nanoseconds."""
    clock = iter(times)
    monkeypatch.setattr(ids, "time", SimpleNamespace(time_ns=lambda: next(clock)))
    return [new_id() for _ in times]


def test_an_id_is_a_uuid_of_version_7_in_its_usual_form() -> None:
    for made in (new_id() for _ in range(1000)):
        parsed = uuid.UUID(made)
        assert str(parsed) == made
        assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)


def test_an_id_holds_the_milliseconds_and_their_fraction(monkeypatch: pytest.MonkeyPatch) -> None:
    [made] = at(monkeypatch, NOW)
    number = uuid.UUID(made).int
    assert number >> 80 == NOW // 1_000_000
    assert number >> 64 & 0xFFF == 456_789 * 4096 // 1_000_000


@pytest.mark.parametrize("fraction", [0, 1, 999_999])
def test_the_ends_of_a_millisecond_fit(monkeypatch: pytest.MonkeyPatch, fraction: int) -> None:
    [made] = at(monkeypatch, NOW - NOW % 1_000_000 + fraction)
    assert uuid.UUID(made).version == 7
    assert uuid.UUID(made).int >> 64 & 0xFFF == fraction * 4096 // 1_000_000


def test_later_ids_sort_later(monkeypatch: pytest.MonkeyPatch) -> None:
    # Several times across the end of a millisecond, and once far ahead.
    times = [*range(NOW, NOW + 20_000 * STEP, STEP), NOW + 10**12, NOW + 10**18]
    made = at(monkeypatch, *times)
    assert made == sorted(made)
    assert len(set(made)) == len(made)


def test_ids_of_one_instant_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(set(at(monkeypatch, *[NOW] * 10_000))) == 10_000


def test_a_hundred_thousand_ids_differ() -> None:
    assert len({new_id() for _ in range(100_000)}) == 100_000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_children_make_other_ids_than_each_other() -> None:
    # At one and the same time for all three, so that only the random part tells them apart.
    out = processes.run(
        """
        import os, time
        from sitq import ids
        ids.new_id()
        ids.time = type("Stopped", (), {"time_ns": staticmethod(lambda: 1_772_366_400_123_456_789)})
        pipes = []
        for _ in range(2):
            reader, writer = os.pipe()
            if os.fork() == 0:
                with open(writer, "w") as out:
                    out.writelines(ids.new_id() + "\\n" for _ in range(1000))
                os._exit(0)
            os.close(writer)
            pipes.append(open(reader))
        made = [ids.new_id() for _ in range(1000)]
        for pipe in pipes:
            made += pipe.read().split()
            os.wait()
        print(len(made), len(set(made)))
        """
    )
    assert out.split() == ["3000", "3000"]
