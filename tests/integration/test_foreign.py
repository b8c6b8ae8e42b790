"""Files that are damaged, not whole or of somebody else: a typed error with the way out, and nothing is written."""

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from sitq import BackendConnectionError, SitqError
from sitq.backends.sqlite import SQLiteBackend
from sitq.errors import BackendSchemaError
from sitq.model import Concurrency, Edge, NewNote, NoteKind, Succeeded, TaskQuery
from tests.support import LEASE, new_task, new_tasks

PAGE = 4096


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tasks.db"


async def made(path: Path) -> bytes:
    """A file with something in each of the larger tables. What it holds."""
    backend = SQLiteBackend(path)
    await backend.open()
    await backend.enqueue([new_task("parent"), new_task("child", edges=(Edge("parent"),)), *new_tasks(30)])
    await backend.enqueue(new_tasks(5, payload=b"x" * 10_000, concurrency=Concurrency("key", 1)))
    taken = (await backend.reserve("w1", None, 10, LEASE)).tasks
    notes = [NewNote(task.held, NoteKind.LOG, b"line" * 100) for task in taken]
    await backend.complete([Succeeded(task.held, b"result") for task in taken], notes=notes)
    await backend.save({"a": b"b" * 5_000})
    await backend.close()
    return path.read_bytes()


async def use(path: Path) -> list[SitqError]:
    """Open it and do a bit of everything. What was said against it; anything but a SitqError comes out."""
    said: list[SitqError] = []
    backend = SQLiteBackend(path)
    try:
        await backend.open()
    except SitqError as error:
        return [error]
    for call in (
        lambda: backend.find(TaskQuery(with_bytes=True)),
        backend.stats,
        lambda: backend.enqueue(new_tasks(3)),
        lambda: backend.reserve("w2", None, 100, LEASE),
        lambda: backend.prune(10),
        lambda: backend.load(""),
        lambda: backend.notes("parent"),
    ):
        try:
            await call()
        except SitqError as error:
            said.append(error)
    await backend.close()
    return said


@pytest.mark.parametrize("how", ["rubbish", "zeros", "a bit in each"])
async def test_a_damaged_page_is_never_met_by_anything_but_a_typed_error(path: Path, how: str) -> None:
    whole = await made(path)
    rng = random.Random(how)
    told = 0
    for number in range(len(whole) // PAGE):
        for leftover in path.parent.iterdir():
            leftover.unlink()
        content = bytearray(whole)
        first, last = number * PAGE, (number + 1) * PAGE
        match how:
            case "rubbish":
                content[first:last] = rng.randbytes(PAGE)
            case "zeros":
                content[first:last] = bytes(PAGE)
            case _:
                for at in range(first, min(first + 120, last), 8):
                    content[at] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        said = await use(path)
        told += any("sitq doctor" in str(error) or "not a SQLite database" in str(error) for error in said)
    assert told > len(whole) // PAGE / 3


@pytest.mark.parametrize("kind", ["empty", "missing"])
async def test_a_log_without_its_database_is_not_deleted(path: Path, kind: str) -> None:
    """SQLite deletes the log of an empty database without a word, whatever is in it."""
    backend = SQLiteBackend(path)
    await backend.open()
    await backend.enqueue([new_task("acknowledged")])
    log = path.with_name("tasks.db-wal").read_bytes()
    await backend.close()
    path.unlink()
    path.with_name("tasks.db-wal").write_bytes(log)
    if kind == "empty":
        path.touch()

    with pytest.raises(
        BackendConnectionError, match=r"tasks\.db-wal.*put the database back.*or remove"
    ) as caught:
        await SQLiteBackend(path).open()

    assert str(path) in str(caught.value)
    assert path.with_name("tasks.db-wal").read_bytes() == log
    assert path.exists() is (kind == "empty")


DAMAGES = {
    "a table": "DROP TABLE sitq_limits",
    "an index": "DROP INDEX sitq_due",
    "the index that keeps keys unique": "DROP INDEX sitq_unique",
    "a column": "ALTER TABLE sitq_notes DROP COLUMN attempt",
    "the version": "DELETE FROM sitq_meta WHERE key = 'schema_version'",
    "the table with the version": "DROP TABLE sitq_meta",
    "a counter": "DELETE FROM sitq_meta WHERE key = 'fence'",
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_file_that_lacks_something_is_refused_and_left_as_it_is(path: Path, damage: str) -> None:
    await made(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(DAMAGES[damage])
    before = path.read_bytes()

    with pytest.raises(BackendSchemaError, match=r"lacks .*sitq doctor.*Nothing was changed"):
        await SQLiteBackend(path).open()

    assert path.read_bytes() == before


async def test_what_an_application_adds_is_no_damage(path: Path) -> None:
    await made(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("CREATE INDEX mine ON sitq_tasks (name)")
        db.execute("CREATE TABLE users (id)")

    assert await use(path) == []
