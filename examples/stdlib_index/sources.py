"""The input: the source files of the standard library of this interpreter."""

import sysconfig
from pathlib import Path

STDLIB = Path(sysconfig.get_path("stdlib"))

# Packages that somebody installed live inside the standard library's folder, and are not part of it.
INSTALLED = {"site-packages", "dist-packages"}


def source_files(limit: int | None = None) -> list[Path]:
    """Return every `.py` file of the standard library, its own tests included where they are installed.

    Args:
        limit: Return only so many, from all over the library.
    """
    found = STDLIB.rglob("*.py")
    files = sorted(file for file in found if INSTALLED.isdisjoint(file.relative_to(STDLIB).parts))
    if limit is None:
        return files
    return files[:: max(1, len(files) // limit)][:limit]


def short_name(path: str | Path) -> str:
    """Return the path of a file as seen from the standard library's folder."""
    return Path(path).relative_to(STDLIB).as_posix()
