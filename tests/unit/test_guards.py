"""Two guards of the SQLite storage that hold whatever else holds as well: against a fork, and around a migration."""

import sqlite3
from contextlib import closing
from pathlib import Path

from sitq.backends.sqlite import schema
from tests.unit import processes

FORK = """
import asyncio, os, sys
from sitq.backends.sqlite import SQLiteBackend
from sitq.errors import BackendConnectionError

async def main():
    backend = SQLiteBackend(sys.argv[1])
    await backend.open()
    pid = os.fork()
    if not pid:
        # Nothing is awaited: the threads that would answer are not there.
        try:
            backend._lane("write").check()
        except BackendConnectionError as error:
            os._exit(0 if "fork" in str(error) else 2)
        os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    await backend.close()
    print(code)

asyncio.run(main())
"""


def test_a_forked_child_is_refused_before_it_waits_for_a_thread_that_is_not_there(tmp_path: Path) -> None:
    assert processes.run(FORK, tmp_path / "tasks.db").strip() == "0"


def test_nobody_else_can_write_while_a_migration_looks_at_the_version(tmp_path: Path) -> None:
    """Without the help of the lock beside the file, which another user's process may not be able to take."""
    refused: list[bool] = []
    path = tmp_path / "tasks.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as other:

            def intrude(statement: str) -> None:
                if db.in_transaction and "sqlite_master" in statement:
                    try:
                        other.execute("BEGIN IMMEDIATE")
                        other.execute("ROLLBACK")
                        refused.append(False)
                    except sqlite3.OperationalError:
                        refused.append(True)

            db.set_trace_callback(intrude)
            schema.migrate(db)
            db.set_trace_callback(None)
    assert refused == [True]
