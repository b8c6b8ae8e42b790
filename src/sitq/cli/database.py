"""The database that a command works on: which one it is, and whether it is there."""

import argparse
import asyncio
import os
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

from sitq.backends.base import Backend
from sitq.cli import logs
from sitq.cli.arguments import Parser, choice
from sitq.cli.exits import CommandError, Exit
from sitq.cli.load import load_queue, use_current_directory
from sitq.queue import DEFAULT_PATH, TaskQueue


def add_options(parser: Parser) -> None:
    """The options of every command that looks into a database."""
    parser.option(
        "--db",
        env="SITQ_DB",
        metavar="PATH|URL",
        help=f"the database; without it that of SITQ_APP, or {DEFAULT_PATH}",
    )
    parser.add_argument("--json", action="store_true", help="write JSON")
    parser.add_argument(
        "--log-level",
        type=choice(logs.LEVELS),
        default="error",
        metavar="LEVEL",
        help=f"{', '.join(logs.LEVELS)} (error)",
    )


def find_queue(arguments: argparse.Namespace) -> TaskQueue:
    """The queue of `--db`, SITQ_DB, SITQ_APP or the default path, not opened yet.

    Raises:
        CommandError: What was given is not usable.
    """
    logs.configure(arguments.log_level)
    use_current_directory()  # results may be of types that live there
    if arguments.db is not None:
        return TaskQueue(arguments.db)
    return load_queue(os.environ.get("SITQ_APP") or DEFAULT_PATH)


def ask[T](arguments: argparse.Namespace, question: Callable[[TaskQueue], Awaitable[T]]) -> T:
    """Open the queue, which must be there already, and return what `question` makes of it.

    Raises:
        CommandError: The database does not exist. It is not created.
    """
    queue = find_queue(arguments)
    check_exists(queue.backend)

    async def run() -> T:
        async with queue:
            return await question(queue)

    return asyncio.run(run())


def sqlite_path(backend: Backend) -> Path:
    """The file of a backend.

    Raises:
        CommandError: It keeps its tasks in the memory of its process, where no command can see them.
    """
    path = getattr(backend, "path", ":memory:")
    if path == ":memory:":
        raise CommandError(
            "this storage lives in the memory of its own process: give the path of a file", Exit.USAGE
        )
    return Path(path).absolute()


def existing(backend: Backend) -> Path:
    """The file of a backend.

    Raises:
        CommandError: It does not exist, or has a name that none can have.
    """
    path = sqlite_path(backend)
    try:
        found = path.exists()
    except OSError as error:
        raise CommandError(
            f"{str(path)[:100]!r} cannot be a database: {error.strerror}", Exit.UNREACHABLE
        ) from None
    if not found:
        raise CommandError(
            f"there is no database {path}: name another one with --db or SITQ_DB", Exit.UNREACHABLE
        )
    return path


def check_exists(backend: Backend) -> None:
    """Refuse a file that is missing or holds no tasks, since opening it would create them."""
    path = existing(backend)
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
            found = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'sitq_meta'").fetchone()
    except sqlite3.Error:
        return  # opening it says what is wrong with it
    if found is None:
        raise CommandError(f"{path} has no sitq tables: nothing was ever enqueued in it", Exit.UNREACHABLE)
