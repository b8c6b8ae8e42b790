"""What tasks say is collected from any thread, stored a few times a second, and never overtaken by the outcome."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sitq.backends.memory import MemoryBackend
from sitq.errors import BackendError
from sitq.events import StorageFailed
from sitq.model import Held, NewNote, NoteKind, Succeeded
from sitq.worker import outbox as module
from sitq.worker.completer import Completer
from sitq.worker.outbox import MAX_WAITING, Outbox
from tests.integration.support import Gate, Spied
from tests.support import PATIENCE, running

OTHER = Held("other", 1)


@pytest.fixture
async def backend() -> MemoryBackend:
    made = MemoryBackend()
    await made.open()
    return made


def line(held: Held, text: str) -> NewNote:
    return NewNote(held, NoteKind.LOG, text.encode())


def progress(held: Held, text: str) -> NewNote:
    return NewNote(held, NoteKind.PROGRESS, text.encode())


async def stored(backend: MemoryBackend, held: Held) -> list[str]:
    return [note.data.decode() for note in await backend.notes(held.id)]


def outbox(backend: Any, events: list[Any] | None = None) -> Outbox:
    return Outbox("w1", backend, (events if events is not None else []).append)


@asynccontextmanager
async def flowing(made: Outbox) -> AsyncIterator[None]:
    task = asyncio.create_task(made.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def set_after(count: int) -> tuple[asyncio.Event, Callable[..., Any]]:
    """An event, and a hook that sets it when it was called so often."""
    done, calls = asyncio.Event(), list[int]()

    async def hook(*args: Any, **kwargs: Any) -> None:
        calls.append(1)
        if len(calls) == count:
            done.set()

    return done, hook


# -- What a run takes along that completes itself --------------------------------------------------


async def test_what_waits_and_what_has_left_unread_is_withdrawn(backend: MemoryBackend) -> None:
    held = await running(backend)
    spy, gate = Spied(backend), Gate()

    async def wait(*args: Any, **kwargs: Any) -> None:
        await gate.pass_through()

    spy.before["heartbeat"] = wait
    made = outbox(spy)
    for note in (line(held, "a"), line(OTHER, "b"), line(held, "c")):
        made.put(note)
    flushing = asyncio.create_task(made.flush())
    await gate.wait_reached()
    made.put(line(held, "d"))

    assert [note.data for note in made.withdraw(held)] == [b"a", b"c", b"d"]
    gate.open()
    assert await flushing
    assert await stored(backend, held) == []
    assert made.take(OTHER) == []


async def test_what_the_storage_has_read_is_not_withdrawn(backend: MemoryBackend) -> None:
    held = await running(backend)
    spy, gate = Spied(backend), Gate()

    async def wait(answer: Any) -> None:
        await gate.pass_through()

    spy.after["heartbeat"] = wait
    made = outbox(spy)
    made.put(line(held, "a"))
    flushing = asyncio.create_task(made.flush())
    await gate.wait_reached()
    made.put(line(held, "b"))

    assert [note.data for note in made.withdraw(held)] == [b"b"]
    gate.open()
    assert await flushing
    assert await stored(backend, held) == ["a"]


# -- What is collected ------------------------------------------------------------------------------


async def test_lines_are_kept_in_order_and_of_progress_the_last(backend: MemoryBackend) -> None:
    held, made = await running(backend), outbox(backend)
    for number in range(100):
        made.put(progress(held, f"p{number}"))
        if number % 50 == 0:
            made.put(line(held, f"l{number}"))
    assert await made.flush()
    assert await stored(backend, held) == ["l0", "l50", "p99"]


async def test_of_one_task_the_newest_lines_wait(backend: MemoryBackend) -> None:
    held, made = await running(backend), outbox(backend)
    for number in range(MAX_WAITING + 5):
        made.put(line(held, str(number)))
    assert [note.data for note in made.take(held)][:: MAX_WAITING - 1] == [b"5", b"2004"]


async def test_what_is_taken_is_not_stored(backend: MemoryBackend) -> None:
    held, made = await running(backend), outbox(backend)
    made.put(line(held, "a"))
    made.put(line(OTHER, "b"))
    made.put(progress(held, "c"))
    assert made.take(held) == [line(held, "a"), progress(held, "c")]
    assert made.take(held) == []
    assert await made.flush()
    assert await stored(backend, held) == []


async def test_with_nothing_to_say_the_storage_is_left_alone(backend: MemoryBackend) -> None:
    spied = Spied(backend)
    assert await outbox(spied).flush()
    assert spied.calls == {}


# -- How often --------------------------------------------------------------------------------------


async def test_ten_thousand_notes_are_a_few_writes(
    backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FLUSH_INTERVAL", 0.0)
    spied, held = Spied(backend), await running(backend)
    made, gate = outbox(spied), Gate()

    async def hold_up(*args: Any, **kwargs: Any) -> None:
        await gate.pass_through()

    spied.before["heartbeat"] = hold_up
    async with flowing(made):
        made.put(progress(held, "first"))
        await gate.wait_reached()
        for number in range(10_000):  # while the first one is on its way
            made.put(progress(held, str(number)))
        done, spied.after["heartbeat"] = set_after(2)
        gate.open()
        await asyncio.wait_for(done.wait(), PATIENCE)
    assert spied.calls == {"heartbeat": 2}
    assert await stored(backend, held) == ["9999"]


async def test_between_two_writes_there_is_a_pause(
    backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    async def sleep(delay: float) -> None:
        pauses.append(delay)
        if len(pauses) == 3:
            raise asyncio.CancelledError
        made.put(line(OTHER, "more"))

    monkeypatch.setattr(asyncio, "sleep", sleep)
    made = outbox(backend)
    made.put(line(OTHER, "one"))  # before anybody stores it
    with pytest.raises(asyncio.CancelledError):
        await made.run()
    assert pauses == [module.FLUSH_INTERVAL] * 3


async def test_threads_may_speak_while_it_stores(
    backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FLUSH_INTERVAL", 0.0)
    held, made = await running(backend), outbox(backend)

    def speak(name: str) -> None:
        for number in range(200):
            made.put(line(held, f"{name}{number}"))

    threads = [threading.Thread(target=speak, args=[name]) for name in "abcd"]
    async with flowing(made):
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join)
        await asyncio.wait_for(until_empty(made), PATIENCE)
    said = await stored(backend, held)
    assert sorted(said) == sorted(f"{name}{number}" for name in "abcd" for number in range(200))
    for name in "abcd":
        assert [each for each in said if each[0] == name] == [f"{name}{number}" for number in range(200)]


async def until_empty(made: Outbox) -> None:
    while made._lines or made._flight:
        await asyncio.sleep(0)


# -- When the storage fails -------------------------------------------------------------------------


async def test_what_could_not_be_stored_waits_in_its_place(backend: MemoryBackend) -> None:
    spied, held, events = Spied(backend), await running(backend), list[Any]()
    made = outbox(spied, events)
    made.put(line(held, "a"))
    made.put(progress(held, "old"))

    async def fail(*args: Any, **kwargs: Any) -> None:
        made.put(line(held, "b"))
        made.put(progress(held, "new"))
        raise BackendError("away")

    spied.before["heartbeat"] = fail
    assert not await made.flush()
    assert events == [StorageFailed("w1", "store notes", "away", 1.0)]
    del spied.before["heartbeat"]
    assert await made.flush()
    assert await stored(backend, held) == ["a", "b", "new"]


async def test_notes_that_a_storage_chokes_on_do_not_hold_up_the_others(backend: MemoryBackend) -> None:
    spied, held, events = Spied(backend), await running(backend), list[Any]()
    made = outbox(spied, events)

    async def choke(*args: Any, **kwargs: Any) -> None:
        raise ZeroDivisionError("oh")

    spied.before["heartbeat"] = choke
    made.put(line(held, "a"))
    assert await made.flush()
    assert events == [StorageFailed("w1", "store 1 notes, which are dropped", "oh", 0.0)]
    del spied.before["heartbeat"]
    made.put(line(held, "b"))
    assert await made.flush()
    assert await stored(backend, held) == ["b"]


# -- The end of a run -------------------------------------------------------------------------------


@pytest.mark.parametrize("fails", [False, True])
async def test_an_outcome_does_not_overtake_notes_on_their_way(backend: MemoryBackend, fails: bool) -> None:
    spied, held, gate = Spied(backend), await running(backend), Gate()
    made = outbox(spied)
    completer = Completer("w1", spied, lambda event: None, late=made.late)

    async def hold_up(*args: Any, **kwargs: Any) -> None:
        await gate.pass_through()
        if fails:
            raise BackendError("away")

    spied.before["heartbeat"] = hold_up
    made.put(line(held, "early"))
    flush = asyncio.create_task(made.flush())
    await gate.wait_reached()
    made.put(line(held, "late"))
    completer.put(Succeeded(held, b""), made.take(held))
    await asyncio.sleep(0)
    assert "complete" not in spied.calls
    gate.open()
    await flush
    assert await completer.flush(PATIENCE)
    assert await stored(backend, held) == ["early", "late"]


async def test_an_outcome_does_not_wait_for_a_storage_that_hangs(
    backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.01)
    spied, held, gate = Spied(backend), await running(backend), Gate()
    made = outbox(spied)

    async def hold_up(*args: Any, **kwargs: Any) -> None:
        await gate.pass_through()

    spied.before["heartbeat"] = hold_up
    made.put(line(held, "early"))
    flush = asyncio.create_task(made.flush())
    await gate.wait_reached()
    assert await made.late([OTHER]) == []  # which has nothing on its way
    assert await made.late([held]) == []
    gate.open()
    assert await flush
