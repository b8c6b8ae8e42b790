"""The connection of sitq's own: one that hands values to the statements that run on it."""

import sqlite3
from typing import Any, Final

RESULT_OF: Final = "sitq_result_of"
"""The SQL function that gives what `Database.results` has for an id."""


class Database(sqlite3.Connection):
    """A connection whose statements can store a result for each of many rows.

    As parameters they would need a statement for each row, in half as much time again.

    Attributes:
        results: By the ids of their tasks; filled for one statement, and empty after it.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.results: dict[str, bytes] = {}
        # A method of the dict and not of this object: what SQLite holds must not keep the connection alive.
        self.create_function(RESULT_OF, 1, self.results.__getitem__)
