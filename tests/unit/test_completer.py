"""Outcomes reach the storage in batches and in order, however long it is away."""

import asyncio
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

import pytest

from sitq.errors import BackendError
from sitq.events import OutcomeRefused, StorageFailed
from sitq.failure import decode_error
from sitq.model import Completed, Failed, Held, NewNote, NoteKind, Outcome, Succeeded
from sitq.serialization import Purpose
from sitq.worker.completer import HIGH_WATER, MAX_BATCH, Completer
from tests.integration.support import Gate
from tests.support import PATIENCE

label: ContextVar[str] = ContextVar("label", default="nobody's")
_real_sleep = asyncio.sleep


class Storage:
    """A backend that takes outcomes: it can be held up, be away, refuse, or choke on one of them."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.stored: list[Outcome] = []
        self.gate: Gate | None = None
        self.away = 0
        self.stale: set[Held] = set()
        self.chokes_on: set[str] = set()
        self.labels: list[str] = []
        self.notes: list[list[NewNote]] = []

    async def complete(self, outcomes: list[Outcome], *, notes: Sequence[NewNote] = ()) -> Completed:
        self.labels.append(label.get())
        self.notes.append(list(notes))
        self.calls.append([outcome.held.id for outcome in outcomes])
        if self.gate is not None:
            await self.gate.pass_through()
        if self.away:
            self.away -= 1
            raise BackendError("the storage is away")
        if any(isinstance(each, Succeeded) and each.held.id in self.chokes_on for each in outcomes):
            raise ValueError("cannot bind this value")
        stale = tuple(each.held for each in outcomes if each.held in self.stale)
        self.stored += [each for each in outcomes if each.held not in self.stale]
        return Completed(len(outcomes) - len(stale), stale)


@pytest.fixture
def storage() -> Storage:
    return Storage()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that would have been made."""
    made: list[float] = []

    async def sleep(delay: float) -> None:
        made.append(delay)
        await _real_sleep(0)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return made


def completer(storage: Any, emit: Callable[[Any], None] = lambda event: None) -> Completer:
    return Completer("w1", storage, emit)


def outcomes(first: int, last: int) -> list[Outcome]:
    return [Succeeded(Held(f"t{number}", number), b"value") for number in range(first, last + 1)]


def put(made: Completer, some: list[Outcome]) -> list[Outcome]:
    for outcome in some:
        made.put(outcome)
    return some


async def test_what_comes_during_a_write_forms_the_next_one(storage: Storage) -> None:
    storage.gate = Gate()
    made = completer(storage)
    first = put(made, outcomes(1, 1))
    await storage.gate.wait_reached()
    rest = put(made, outcomes(2, 4))
    assert storage.calls == [["t1"]]
    storage.gate.open()
    assert await made.flush(PATIENCE)
    assert storage.calls == [["t1"], ["t2", "t3", "t4"]]
    assert storage.stored == first + rest


async def test_an_outcome_is_written_at_once_when_nothing_else_is(storage: Storage) -> None:
    made = completer(storage)
    for number in (1, 2):
        put(made, outcomes(number, number))
        assert await made.flush(PATIENCE)
    assert storage.calls == [["t1"], ["t2"]]


async def test_a_batch_has_a_bound(storage: Storage) -> None:
    made = completer(storage)
    everything = put(made, outcomes(1, 2 * MAX_BATCH + 1))
    assert await made.flush(PATIENCE)
    assert [len(call) for call in storage.calls] == [MAX_BATCH, MAX_BATCH, 1]
    assert storage.stored == everything


async def test_a_storage_that_is_away_is_tried_again_with_growing_pauses(
    storage: Storage, pauses: list[float]
) -> None:
    storage.away = 9
    events: list[Any] = []
    made = completer(storage, events.append)
    everything = put(made, outcomes(1, 3))
    assert await made.flush(PATIENCE)
    assert storage.stored == everything
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0])
    assert events == [StorageFailed("w1", "store outcomes", "the storage is away", pause) for pause in pauses]


async def test_pauses_are_short_again_once_something_was_written(
    storage: Storage, pauses: list[float]
) -> None:
    made = completer(storage)
    for _ in range(2):
        storage.away = 3
        put(made, outcomes(1, 1))
        assert await made.flush(PATIENCE)
    assert pauses == pytest.approx([0.1, 0.2, 0.4] * 2)


async def test_what_comes_during_an_outage_keeps_its_place(storage: Storage, pauses: list[float]) -> None:
    storage.away = 3
    made = Completer("w1", storage, lambda event: late.extend(put(made, outcomes(9, 9))))  # type: ignore[arg-type]
    late: list[Outcome] = []
    early = put(made, outcomes(1, 2))
    assert await made.flush(PATIENCE)
    assert len(late) == 3
    assert storage.stored == early + late


async def test_an_outcome_that_cannot_be_stored_is_replaced_by_a_failure(storage: Storage) -> None:
    storage.chokes_on = {"t2"}
    made = completer(storage)
    one, two, three = put(made, outcomes(1, 3))
    assert await made.flush(PATIENCE)
    first, second, third = storage.stored
    assert (first, third) == (one, three)
    assert isinstance(second, Failed)
    assert second.held == two.held
    error = decode_error(second.error)
    assert (error.type, error.message) == ("ValueError", "cannot bind this value")


async def test_the_failure_in_its_place_is_sealed_as_any_error_is(storage: Storage) -> None:
    sealed: list[tuple[str, Purpose]] = []

    def seal(data: bytes, task_id: str, purpose: Purpose) -> bytes:
        sealed.append((task_id, purpose))
        return b"sealed " + data

    storage.chokes_on = {"t1"}
    made = Completer("w1", storage, lambda event: None, seal=seal)  # type: ignore[arg-type]
    put(made, outcomes(1, 1))
    assert await made.flush(PATIENCE)
    [stored] = storage.stored
    assert isinstance(stored, Failed)
    assert sealed == [("t1", Purpose.ERROR)]
    assert decode_error(stored.error.removeprefix(b"sealed ")).type == "ValueError"


async def test_a_storage_that_goes_away_before_the_failure_is_in_its_place_is_tried_again(
    pauses: list[float],
) -> None:
    class GoesAway(Storage):
        async def complete(self, outcomes: list[Outcome], *, notes: Sequence[NewNote] = ()) -> Completed:
            try:
                return await super().complete(outcomes, notes=notes)
            except ValueError:
                self.away = 1  # for what follows from it
                raise

    away = GoesAway()
    away.chokes_on = {"t1"}
    made = completer(away)
    put(made, outcomes(1, 1))
    while len(pauses) < 2:
        await _real_sleep(0)
    away.chokes_on = set()  # it was a passing trouble: the outcome itself is stored then
    assert await made.flush(PATIENCE)
    assert away.stored == outcomes(1, 1)


async def test_one_that_cannot_be_stored_does_not_hold_up_what_comes_later(
    storage: Storage, pauses: list[float]
) -> None:
    storage.chokes_on = {"t1"}
    made = completer(storage)
    put(made, outcomes(1, 1))
    assert await made.flush(PATIENCE)
    storage.away = 1
    later = put(made, outcomes(2, 3))
    assert await made.flush(PATIENCE)
    assert isinstance(storage.stored[0], Failed)
    assert storage.stored[1:] == later
    assert len(pauses) == 1


async def test_refused_outcomes_are_reported_and_not_repeated(storage: Storage) -> None:
    storage.stale = {Held("t2", 2)}
    events: list[Any] = []
    made = completer(storage, events.append)
    put(made, outcomes(1, 3))
    assert await made.flush(PATIENCE)
    assert events == [OutcomeRefused("t2", 2, "w1")]
    assert storage.calls == [["t1", "t2", "t3"]]


async def test_flush_of_nothing_is_done(storage: Storage) -> None:
    assert await completer(storage).flush(0)
    assert storage.calls == []


async def test_flush_does_not_wait_longer_than_it_was_told(storage: Storage) -> None:
    storage.gate = Gate()
    made = completer(storage)
    everything = put(made, outcomes(1, 1))
    await storage.gate.wait_reached()
    assert not await made.flush(0)
    storage.gate.open()
    assert await made.flush(PATIENCE)
    assert storage.stored == everything


async def test_what_is_put_later_is_not_waited_for(storage: Storage) -> None:
    # A busy worker never has stored them all: whoever waits for its own outcomes must not wait for those of others.
    storage.gate = Gate()
    made = completer(storage)
    put(made, outcomes(1, 1))
    await storage.gate.wait_reached()
    waiting = asyncio.ensure_future(made.settled())
    await asyncio.sleep(0)
    put(made, outcomes(2, 2))
    second, first = Gate(), storage.gate
    storage.gate = second
    first.open()
    await second.wait_reached()
    assert await waiting
    assert [each.held.id for each in storage.stored] == ["t1"]
    second.open()
    assert await made.flush(PATIENCE)


async def test_whoever_waits_is_told_of_the_close(storage: Storage) -> None:
    storage.gate = Gate()
    made = completer(storage)
    put(made, outcomes(1, 1))
    await storage.gate.wait_reached()
    waiting = asyncio.ensure_future(made.settled())
    await asyncio.sleep(0)
    await made.close()
    assert not await waiting


async def test_close_stops_trying(storage: Storage) -> None:
    storage.gate = Gate()
    made = completer(storage)
    put(made, outcomes(1, 1))
    await storage.gate.wait_reached()
    await made.close()
    storage.gate.open()
    await asyncio.sleep(0)
    assert (storage.calls, storage.stored) == ([["t1"]], [])


async def test_close_after_everything_is_written(storage: Storage) -> None:
    made = completer(storage)
    everything = put(made, outcomes(1, 1))
    assert await made.flush(PATIENCE)
    await made.close()
    await made.close()
    assert storage.stored == everything


async def test_it_is_congested_while_much_waits(storage: Storage) -> None:
    storage.gate = Gate()
    made = completer(storage)
    put(made, outcomes(1, HIGH_WATER - 1))
    assert not made.congested()
    put(made, outcomes(HIGH_WATER, HIGH_WATER))
    assert made.congested()
    storage.gate.open()
    assert await made.flush(PATIENCE)
    assert not made.congested()


async def test_the_context_of_whoever_reports_does_not_spread(storage: Storage) -> None:
    made = completer(storage)
    label.set("the task's")
    put(made, outcomes(1, 1))
    assert await made.flush(PATIENCE)
    assert storage.labels == ["nobody's"]


async def test_one_that_cannot_be_stored_at_all_is_named_and_does_not_hold_up_the_others(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Any] = []
    made = completer(storage, events.append)
    complete = storage.complete

    async def choke_always(given: list[Outcome], *, notes: Sequence[NewNote] = ()) -> Completed:
        if any(each.held.id == "t2" for each in given):
            raise ValueError("cannot bind this value")
        return await complete(given, notes=notes)

    monkeypatch.setattr(storage, "complete", choke_always)
    put(made, outcomes(1, 3))

    assert await made.flush(PATIENCE)
    assert [each.held.id for each in storage.stored] == ["t1", "t3"]
    assert [type(event) for event in events] == [StorageFailed]
    assert "t2" in events[0].action


async def test_what_still_waits_is_not_called_flushed(storage: Storage) -> None:
    storage.gate = Gate()
    made = completer(storage)
    put(made, outcomes(1, 1))

    assert not await made.flush(0.01)
    await made.close()
    assert not await made.flush(PATIENCE)


async def test_a_completer_closed_before_its_first_step_can_be_used_again(storage: Storage) -> None:
    made = completer(storage)
    put(made, outcomes(1, 1))
    await made.close()

    put(made, outcomes(2, 2))
    assert await made.flush(PATIENCE)
    assert [each.held.id for each in storage.stored] == ["t1", "t2"]


async def test_notes_go_along_with_their_outcome_and_again_with_each_try(
    storage: Storage, pauses: list[float]
) -> None:
    storage.away = 1
    made = completer(storage)
    first, second = outcomes(1, 2)
    note = NewNote(first.held, NoteKind.LOG, b"line")
    made.put(first, [note])
    made.put(second)
    assert await made.flush(PATIENCE)
    assert storage.notes == [[note], [note]]

    put(made, outcomes(1, 1))
    assert await made.flush(PATIENCE)
    assert storage.notes[2:] == [[]]
