"""The doorbell between processes: who is rung, what is ignored, and what happens where it does not work."""

import asyncio
import socket
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sitq.backends.base import Bells
from sitq.backends.sqlite import SQLiteBackend
from sitq.backends.sqlite.doorbell import Doorbell
from sitq.model import CancelTopic, NewNote, NoteKind, QueueTopic, Released, Succeeded, TaskTopic
from tests.support import LEASE, PATIENCE, FakeClock, everything, new_task, new_tasks, running
from tests.unit import processes


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def pair(tmp_path: Path, clock: FakeClock) -> AsyncIterator[tuple[SQLiteBackend, SQLiteBackend]]:
    """Two backend objects on one file, as two processes have them: they hear each other by datagrams only."""
    pair = tuple(SQLiteBackend(tmp_path / "tasks.db", clock=clock) for _ in range(2))
    for backend in pair:
        await backend.open()
    yield pair[0], pair[1]
    for backend in pair:
        await backend.close()


async def listeners(backend: SQLiteBackend) -> list[tuple[Any, ...]]:
    def read(db: sqlite3.Connection) -> list[tuple[Any, ...]]:
        return db.execute("SELECT port, queues, tasks, cancels FROM sitq_listeners ORDER BY port").fetchall()

    return await backend._writer.run(read)


class Received:
    """Everything that a doorbell is told."""

    def __init__(self, backend: SQLiteBackend, monkeypatch: pytest.MonkeyPatch) -> None:
        self.datagrams: asyncio.Queue[bytes] = asyncio.Queue()
        bell = backend._listeners.doorbell
        hear = bell.datagram_received

        def listen(data: bytes, address: object) -> None:
            self.datagrams.put_nowait(data)
            hear(data, address)

        monkeypatch.setattr(bell, "datagram_received", listen)

    async def next(self) -> bytes:
        return await asyncio.wait_for(self.datagrams.get(), PATIENCE)


# -- Who is rung -----------------------------------------------------------------------------------


async def test_a_new_task_rings_who_listens_to_its_queue(pair: tuple[SQLiteBackend, SQLiteBackend]) -> None:
    here, there = pair
    async with here.listen([QueueTopic("mail")]) as mail, here.listen([QueueTopic("other")]) as other:
        await there.enqueue([new_task(queue="mail")])

        assert await mail.wait(PATIENCE)
        assert not other._rung


async def test_a_finished_task_rings_who_waits_for_it(pair: tuple[SQLiteBackend, SQLiteBackend]) -> None:
    here, there = pair
    held = await running(there)
    async with here.listen([TaskTopic(held.id)]) as mine, here.listen([TaskTopic("another")]) as another:
        await there.complete([Succeeded(held, b"")])

        assert await mine.wait(PATIENCE)
        assert not another._rung


async def test_work_that_is_given_back_rings_too(pair: tuple[SQLiteBackend, SQLiteBackend]) -> None:
    here, there = pair
    held = await running(there)
    async with here.listen([QueueTopic()]) as signal:
        await there.complete([Released(held)])

        assert await signal.wait(PATIENCE)


async def test_only_those_are_rung_whom_it_concerns(
    pair: tuple[SQLiteBackend, SQLiteBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that waits for results hears nothing of new tasks."""
    here, there = pair
    heard = Received(here, monkeypatch)
    held = await running(there)
    async with here.listen([TaskTopic(held.id)]) as signal:
        await there.enqueue(new_tasks(3))
        await there.complete([Succeeded(held, b"")])
        assert await signal.wait(PATIENCE)

    # Datagrams on the loopback interface keep their order: one for the new tasks would have come first.
    first = await heard.next()
    assert first == here._listeners.doorbell.token.encode() + b"t" + held.id.encode()
    assert heard.datagrams.empty()


async def test_a_request_to_cancel_rings_who_listens_for_it_and_nobody_else(
    pair: tuple[SQLiteBackend, SQLiteBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = pair
    heard = Received(here, monkeypatch)
    held = await running(there)
    await there.enqueue([new_task("pending")])
    async with here.listen([CancelTopic()]) as signal:
        await there.cancel(["pending"])  # no request: it is over
        await there.complete([Released(held)])
        again = await running(there, new_task("again"))
        await there.cancel([again.id])
        assert await signal.wait(PATIENCE)

    assert await heard.next() == here._listeners.doorbell.token.encode() + b"c"
    assert heard.datagrams.empty()


async def test_a_note_rings_who_waits_for_its_task(pair: tuple[SQLiteBackend, SQLiteBackend]) -> None:
    here, there = pair
    held = await running(there)
    async with here.listen([TaskTopic(held.id)]) as mine, here.listen([TaskTopic("another")]) as another:
        await there.heartbeat("w1", [], LEASE, notes=[NewNote(held, NoteKind.LOG, b"line")])

        assert await mine.wait(PATIENCE)
        assert not another._rung


async def test_a_queue_that_goes_on_rings(pair: tuple[SQLiteBackend, SQLiteBackend]) -> None:
    here, there = pair
    await there.set_paused("mail", True)
    async with here.listen([QueueTopic("mail")]) as mail, here.listen([QueueTopic("other")]) as other:
        await there.set_paused("mail", False)

        assert await mail.wait(PATIENCE)
        assert not other._rung


async def test_one_that_listens_to_all_hears_all(pair: tuple[SQLiteBackend, SQLiteBackend]) -> None:
    here, there = pair
    async with here.listen([QueueTopic()]), here.listen([TaskTopic("a")]), here.listen([CancelTopic()]):
        [(_, queues, tasks, cancels)] = await listeners(there)

    assert (queues, tasks, cancels) == (1, 1, 1)


async def test_a_process_does_not_ring_itself_by_datagram(
    pair: tuple[SQLiteBackend, SQLiteBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = pair
    heard = Received(here, monkeypatch)
    async with here.listen([QueueTopic()]) as signal:
        await here.enqueue([new_task(queue="own")])
        assert await signal.wait(PATIENCE)
        await there.enqueue([new_task(queue="foreign")])
        first = await heard.next()

    assert first.endswith(b"foreign")


# -- Two real processes ----------------------------------------------------------------------------

LISTENER = """
import asyncio, sys
from datetime import timedelta
from sitq.backends.sqlite import SQLiteBackend
from sitq.model import QueueTopic

async def main():
    backend = SQLiteBackend(sys.argv[1])
    await backend.open()
    async with backend.listen([QueueTopic("mail")]) as signal:
        print("listening", flush=True)
        rung = await signal.wait(30)
    tasks = (await backend.reserve("w", ["mail"], 10, timedelta(seconds=30))).tasks
    await backend.close()
    print(rung, [task.id for task in tasks], flush=True)

asyncio.run(main())
"""


async def test_an_idle_listener_in_another_process_wakes(tmp_path: Path) -> None:
    backend = SQLiteBackend(tmp_path / "tasks.db")
    await backend.open()
    process = processes.start(LISTENER, tmp_path / "tasks.db")
    await asyncio.to_thread(processes.says, process, "listening")

    await backend.enqueue([new_task("a", queue="mail")])

    assert await asyncio.to_thread(processes.finish, process) == "True ['a']\n"
    assert await listeners(backend) == []
    await backend.close()


# -- What is ignored, and what stands for everything -----------------------------------------------


class Rung(Bells):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []

    def ring_queues(self, queues: Any) -> None:
        self.calls.append(("queues", list(queues)))

    def ring_tasks(self, task_ids: Any) -> None:
        self.calls.append(("tasks", list(task_ids)))

    def ring_cancels(self) -> None:
        self.calls.append("cancels")

    def ring_all(self) -> None:
        self.calls.append("all")


@pytest.mark.parametrize(
    "data",
    [b"", b"q", b"x" * 16 + b"qdefault", b"\xff" * 40, b"q\ndefault"],
    ids=["empty", "short", "another token", "not text", "no token"],
)
async def test_a_datagram_without_the_token_is_ignored(data: bytes) -> None:
    bells = Rung()

    Doorbell(bells).datagram_received(data, ("127.0.0.1", 1))

    assert bells.calls == []


@pytest.mark.parametrize(
    ("rest", "call"),
    [
        (b"qmail\nother", ("queues", ["mail", "other"])),
        (b"ta\nb", ("tasks", ["a", "b"])),
        (b"c", "cancels"),
        (b"cwhatever", "cancels"),
        (b"q", "all"),
        (b"t", "all"),
        (b"", "all"),
        (b"?what", "all"),
        (b"q\xff", ("queues", ["\N{REPLACEMENT CHARACTER}"])),
    ],
)
async def test_a_datagram_with_the_token_rings(rest: bytes, call: Any) -> None:
    bells = Rung()
    bell = Doorbell(bells)

    bell.datagram_received(bell.token.encode() + rest, ("127.0.0.1", 1))

    assert bells.calls == [call]


async def test_a_stranger_who_knows_the_port_rings_nobody(
    pair: tuple[SQLiteBackend, SQLiteBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = pair
    heard = Received(here, monkeypatch)
    async with here.listen([QueueTopic()]) as signal:
        assert here._listeners.doorbell.port is not None
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.sendto(b"f" * 16 + b"qdefault", ("127.0.0.1", here._listeners.doorbell.port))
        await heard.next()
        assert not signal._rung

        await there.enqueue([new_task()])
        assert await signal.wait(PATIENCE)


async def test_too_many_names_for_a_datagram_ring_everybody(
    pair: tuple[SQLiteBackend, SQLiteBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = pair
    heard = Received(here, monkeypatch)
    async with here.listen([QueueTopic("mail")]) as signal:
        await there.enqueue([new_task(queue=f"queue-{number:0100}") for number in range(100)])

        assert await signal.wait(PATIENCE)
    assert await heard.next() == here._listeners.doorbell.token.encode() + b"q"


# -- Listeners that come and go --------------------------------------------------------------------


async def test_a_row_stands_while_somebody_may_listen_and_goes_with_the_close(
    pair: tuple[SQLiteBackend, SQLiteBackend],
) -> None:
    here, there = pair
    assert await listeners(there) == []
    async with here.listen([QueueTopic()]):
        pass
    assert await listeners(there) == [(here._listeners.doorbell.port, 1, 0, 0)]

    await here.close()

    assert await listeners(there) == []


async def test_a_listener_that_died_is_taken_off_the_list(
    pair: tuple[SQLiteBackend, SQLiteBackend],
) -> None:
    here, there = pair
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    await there._writer.run(
        lambda db: db.execute(
            "INSERT INTO sitq_listeners VALUES (?, 'token', 1, 1, 1, ?)", (port, 2**60)
        ).close()
    )
    async with here.listen([QueueTopic()]) as signal:
        # The first datagram is answered by a refusal, the second meets it, the third change forgets the listener.
        for _ in range(3):
            await there.enqueue([new_task()])
        assert await signal.wait(PATIENCE)

    assert await listeners(there) == [(here._listeners.doorbell.port, 1, 0, 0)]


async def test_one_who_took_over_the_port_of_a_dead_listener_stays_on_the_list(
    pair: tuple[SQLiteBackend, SQLiteBackend],
) -> None:
    _, there = pair
    there._listeners.ringer._gone.append((4711, "of the dead"))
    await there._writer.run(
        lambda db: db.execute("INSERT INTO sitq_listeners VALUES (4711, 'of the living', 1, 1, 0, 1)").close()
    )

    await there.enqueue([new_task()])

    assert (4711, 1, 1, 0) in await listeners(there)


async def test_a_heartbeat_keeps_the_row_and_drops_what_nobody_renews(
    pair: tuple[SQLiteBackend, SQLiteBackend], clock: FakeClock
) -> None:
    here, _ = pair
    for backend in pair:
        async with backend.listen([QueueTopic()]):
            pass
    assert len(await listeners(here)) == 2

    clock.advance(3600)
    await here.heartbeat("w1", [], LEASE)

    assert await listeners(here) == [(here._listeners.doorbell.port, 1, 0, 0)]


# -- Without a loopback interface ------------------------------------------------------------------


async def test_without_a_loopback_interface_polling_does_the_work(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*args: Any, **kwargs: Any) -> Any:
        raise OSError("no loopback")

    monkeypatch.setattr(asyncio.get_running_loop(), "create_datagram_endpoint", refuse)
    here, there = (SQLiteBackend(tmp_path / "tasks.db", clock=clock) for _ in range(2))
    await here.open()
    await there.open()
    async with here.listen([QueueTopic()]) as signal:
        await there.enqueue([new_task("a")])
        assert here._listeners.doorbell.port is None
        assert not signal._rung
        assert [task.id for task in await everything(here)] == ["a"]
        await here.enqueue([new_task("b")])
        assert await signal.wait(PATIENCE)  # inside one process it rings all the same
    assert await listeners(here) == []
    await here.close()
    await there.close()


async def test_a_datagram_that_cannot_be_sent_is_a_lost_ring_and_no_error(
    pair: tuple[SQLiteBackend, SQLiteBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = pair

    def refuse(port: int) -> socket.socket:
        raise OSError("no network")

    monkeypatch.setattr(there._listeners.ringer, "_connect", refuse)
    async with here.listen([QueueTopic()]):
        assert (await there.enqueue([new_task()]))[0].created

    assert len(await listeners(there)) == 1
