"""Who is woken by commits of the application: after them, in every process, and at no cost without them."""

import asyncio
import gc
import sqlite3
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from sitq.backends.base import finished
from sitq.backends.sqlite import SQLiteBackend
from sitq.backends.sqlite import watch as watch_module
from sitq.backends.sqlite.rings import Rings
from sitq.backends.sqlite.watch import Watch, is_free
from sitq.model import QueueTopic
from tests.application import application
from tests.support import PATIENCE, FakeClock, found_ids, new_task
from tests.unit import processes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tasks.db"


@pytest.fixture
async def backend(path: Path) -> AsyncIterator[SQLiteBackend]:
    backend = SQLiteBackend(path, clock=FakeClock(), durability="fast", busy_timeout=0.05)
    await backend.open()
    yield backend
    await backend.close()


@pytest.fixture
def db(backend: SQLiteBackend, path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        yield db


def write(backend: SQLiteBackend, db: sqlite3.Connection, queue: str = "default") -> None:
    """Enqueue a task in a transaction that stays open."""
    if not db.in_transaction:
        db.execute("BEGIN")
    finished(backend.within(db).enqueue([new_task(queue=queue)]))


class Looks:
    """Counts the looks of a watch."""

    def __init__(self, backend: SQLiteBackend, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.pauses: list[float] = []
        self._looked = asyncio.Event()
        look, sleep = backend._watch._look, asyncio.sleep

        async def counted() -> bool:
            found = await look()
            self.count += 1
            self._looked.set()
            return found

        async def noted(span: float) -> None:
            self.pauses.append(span)
            await sleep(min(span, 0.01))

        monkeypatch.setattr(backend._watch, "_look", counted)
        monkeypatch.setattr(watch_module.asyncio, "sleep", noted)

    async def more(self, number: int) -> None:
        wanted = self.count + number
        async with asyncio.timeout(PATIENCE):
            while self.count < wanted:
                self._looked.clear()
                await self._looked.wait()


async def ended(backend: SQLiteBackend) -> None:
    """Wait until the watch has ended."""
    async with asyncio.timeout(PATIENCE):
        while backend._watch._task is None:
            await asyncio.sleep(0)
        await asyncio.wait([backend._watch._task])


@pytest.fixture
def looks(backend: SQLiteBackend, monkeypatch: pytest.MonkeyPatch) -> Looks:
    return Looks(backend, monkeypatch)


async def test_it_rings_after_the_commit_and_ends(
    backend: SQLiteBackend, db: sqlite3.Connection, looks: Looks
) -> None:
    async with backend.listen([QueueTopic("mail")]) as mail, backend.listen([QueueTopic("other")]) as other:
        write(backend, db, "mail")
        await looks.more(5)
        assert not mail._rung
        db.execute("COMMIT")
        assert await mail.wait(PATIENCE)
        assert not other._rung
    await ended(backend)
    assert not backend._watch._waiting


@pytest.mark.parametrize("how", ["rollback", "close", "drop"])
async def test_it_ends_when_the_transaction_does(
    backend: SQLiteBackend, path: Path, looks: Looks, how: str
) -> None:
    db = sqlite3.connect(path, isolation_level=None)
    write(backend, db)
    await looks.more(2)
    if how == "rollback":
        db.execute("ROLLBACK")
    if how == "drop":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one that is recorded would keep it open
            del db  # nobody here keeps it open
            gc.collect()
    else:
        db.close()

    await ended(backend)
    assert await found_ids(backend) == []
    await backend.enqueue([new_task("a")])


async def test_it_looks_less_and_less_often(
    backend: SQLiteBackend, db: sqlite3.Connection, looks: Looks
) -> None:
    write(backend, db)
    await looks.more(15)
    db.execute("COMMIT")
    await ended(backend)

    assert looks.pauses[0] == watch_module.FIRST_PAUSE
    assert looks.pauses[:12] == sorted(looks.pauses[:12])
    assert looks.pauses[12] == watch_module.LONGEST_PAUSE


async def test_many_transactions_share_one_watch(backend: SQLiteBackend, path: Path, looks: Looks) -> None:
    topics = [QueueTopic(f"queue-{number}") for number in range(20)]
    async with asyncio.TaskGroup() as group, application(path, "aiosqlite") as app:

        async def hear(topic: QueueTopic) -> None:
            async with backend.listen([topic]) as signal:
                heard.release()
                assert await signal.wait(PATIENCE)

        heard = asyncio.Semaphore(0)
        for topic in topics:
            group.create_task(hear(topic))
        for _ in topics:
            await heard.acquire()
        for topic in topics:
            await backend.within(app.connection).enqueue([new_task(queue=str(topic.queue))])
            watching = backend._watch._task
            await app.commit()
            assert sum(task.get_name() == "sitq-watch" for task in asyncio.all_tasks()) <= 1
    del watching
    await ended(backend)


async def test_it_is_not_there_without_a_transaction(backend: SQLiteBackend, looks: Looks) -> None:
    await backend.enqueue([new_task()])
    assert backend._watch._task is None
    assert looks.count == 0


async def test_what_writes_nothing_is_not_watched(
    backend: SQLiteBackend, db: sqlite3.Connection, looks: Looks
) -> None:
    await backend.enqueue([new_task("a")])
    db.execute("BEGIN")
    finished(backend.within(db).enqueue([new_task("a")]))
    db.execute("COMMIT")
    assert not backend._watch._waiting
    assert backend._watch._task is None


async def test_a_transaction_without_an_end_is_not_watched_for_ever(
    backend: SQLiteBackend, db: sqlite3.Connection, looks: Looks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "PATIENCE", 0.0)
    write(backend, db)
    await ended(backend)
    assert looks.count == 1
    assert not backend._watch._waiting
    db.execute("COMMIT")

    write(backend, db)  # the next one is
    db.execute("COMMIT")
    await looks.more(1)


async def test_the_close_looks_once_more(backend: SQLiteBackend, path: Path, db: sqlite3.Connection) -> None:
    """A program that commits and ends at once is heard all the same."""
    other = SQLiteBackend(path, durability="fast")
    await other.open()
    async with other.listen([QueueTopic()]) as signal:
        write(backend, db)
        db.execute("COMMIT")
        await backend.close()
        assert await signal.wait(PATIENCE)
    await other.close()


async def test_a_close_does_not_wait_for_the_application(
    backend: SQLiteBackend, db: sqlite3.Connection, path: Path
) -> None:
    write(backend, db)
    await backend.close()
    assert backend._watch._task is None
    db.execute("COMMIT")
    await backend.open()
    assert len(await found_ids(backend)) == 1


async def test_who_adds_when_the_loop_has_ended_is_not_hurt(backend: SQLiteBackend) -> None:
    watch = await asyncio.to_thread(asyncio.run, made(backend))
    watch.add(Rings({"mail"}))
    await watch.stop()
    assert not watch._waiting


async def made(backend: SQLiteBackend) -> Watch:
    return Watch(backend._writer, backend._ring)


async def test_what_others_have_set_up_on_the_writer_stays(
    backend: SQLiteBackend, db: sqlite3.Connection
) -> None:
    async def timeout() -> int:
        [[span]] = await backend._writer.aside(lambda db: db.execute("PRAGMA busy_timeout").fetchall())
        return int(span)

    before = await timeout()
    assert await backend._writer.aside(is_free)
    db.execute("BEGIN IMMEDIATE")
    assert not await backend._writer.aside(is_free)
    db.execute("ROLLBACK")
    assert await timeout() == before == 50
    assert not await backend._writer.aside(lambda db: db.in_transaction)


LISTENER = """
import asyncio, sys
from sitq.backends.sqlite import SQLiteBackend
from sitq.model import QueueTopic, TaskQuery

async def main():
    backend = SQLiteBackend(sys.argv[1])
    await backend.open()
    async with backend.listen([QueueTopic("mail")]) as signal:
        print("listening", flush=True)
        rung = await signal.wait(30)
        found = await backend.find(TaskQuery())
    await backend.close()
    print(rung, len(found), flush=True)

asyncio.run(main())
"""


async def test_a_listener_in_another_process_wakes(backend: SQLiteBackend, path: Path, looks: Looks) -> None:
    process = processes.start(LISTENER, path)
    await asyncio.to_thread(processes.says, process, "listening")
    async with application(path, "aiosqlite") as app:
        await backend.within(app.connection).enqueue([new_task(queue="mail")])
        await looks.more(3)
        assert process.poll() is None
        await app.commit()

        assert await asyncio.to_thread(processes.finish, process) == "True 1\n"
