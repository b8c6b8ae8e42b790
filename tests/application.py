"""An application that has tables of its own in the file of a queue, with a connection of either kind."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import aiosqlite

type Kind = Literal["sqlite3", "aiosqlite"]
KINDS: tuple[Kind, ...] = ("sqlite3", "aiosqlite")


class Application:
    """Its statements and transactions, for tests that hold with both kinds of connections."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    async def _do(self, name: str, *args: Any) -> Any:
        done = getattr(self.connection, name)(*args)
        return await done if isinstance(self.connection, aiosqlite.Connection) else done

    async def execute(self, sql: str, *parameters: Any) -> list[Any]:
        cursor = await self._do("execute", sql, parameters)
        fetched = cursor.fetchall()
        return list(await fetched if isinstance(self.connection, aiosqlite.Connection) else fetched)

    async def commit(self) -> None:
        await self._do("commit")

    async def rollback(self) -> None:
        await self._do("rollback")

    async def close(self) -> None:
        await self._do("close")

    async def order(self, number: int) -> None:
        """Write a row of business."""
        await self.execute("INSERT INTO orders VALUES (?)", number)

    async def orders(self) -> list[int]:
        return [row[0] for row in await self.execute("SELECT number FROM orders ORDER BY rowid")]


@asynccontextmanager
async def application(path: Path, kind: Kind, **options: Any) -> AsyncIterator[Application]:
    """An application with a table `orders` in the file."""
    connection: Any
    connection = (
        sqlite3.connect(path, **options) if kind == "sqlite3" else await aiosqlite.connect(path, **options)
    )
    app = Application(connection)
    try:
        await app.execute("CREATE TABLE IF NOT EXISTS orders (number INTEGER)")
        await app.commit()
        yield app
    finally:
        await app.close()
