"""Where tasks are kept. One protocol (`base`), one module a storage; `open_backend` finds the module for a URL."""

import os
from urllib.parse import unquote, urlsplit

from sitq.backends.base import Backend
from sitq.errors import ValidationError

__all__ = ["Backend", "open_backend"]


def open_backend(where: str | os.PathLike[str]) -> Backend:
    """The backend for a path or URL. It is not opened yet.

    `app.db`, `sqlite:///relative.db`, `sqlite:////absolute.db` and `:memory:` are SQLite; `memory://` keeps
    tasks in this process only.

    Raises:
        ValidationError: for a scheme that this version does not know.
    """
    text = os.fspath(where)
    if not isinstance(text, str):
        raise ValidationError(
            f"the path of the database is {type(text).__name__}: give a str or a pathlib.Path"
        )
    scheme, separator, _ = text.partition("://")
    if not separator or isinstance(where, os.PathLike):
        return _sqlite(text)
    match scheme:
        case "sqlite":
            # As in SQLAlchemy: three slashes for a relative path, four for an absolute one.
            return _sqlite(unquote(urlsplit(text).path.removeprefix("/")) or ":memory:")
        case "memory":
            from sitq.backends.memory import MemoryBackend

            return MemoryBackend()
        case _:
            raise ValidationError(
                f"{scheme}:// is not a storage that this version of sitq knows: use a file path, "
                f"sqlite:///file.db or memory://"
            )


def _sqlite(path: str) -> Backend:
    from sitq.backends.sqlite import SQLiteBackend

    if not path:
        raise ValidationError(
            "the path of the database is empty: give the path of a file, or leave it out for sitq.db"
        )
    return SQLiteBackend(path)
