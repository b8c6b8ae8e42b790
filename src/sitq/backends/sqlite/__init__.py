"""The SQLite backend."""

from sitq.backends.sqlite.backend import Durability, SQLiteBackend

__all__ = ["Durability", "SQLiteBackend"]
