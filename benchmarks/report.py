"""The table and the JSON."""

import math
import os
import platform
import sqlite3
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.measure import Figure
from sitq.backends.sqlite.files import file_system

_HEAD = ("figure", "sitq", "limit", "unit", "ratio", "target", "")


def number(value: float | None) -> str:
    """Three significant digits, with thousands separated."""
    if value is None or not math.isfinite(value):
        return "-"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 1 else f"{value:.{2 if abs(value) < 10 else 1}f}"


def cells(figure: Figure) -> tuple[str, ...]:
    """One line of the table."""
    target = figure.target
    promise = (
        "" if target is None else f"{target.sign} {target.bound:g}" + (" x" if target.of == "ratio" else "")
    )
    verdict = {None: "", True: "met", False: "missed"}[figure.met]
    ratio = "-" if figure.ratio is None else f"{figure.ratio:.2f}"
    return figure.name, number(figure.value), number(figure.limit), figure.unit, ratio, promise, verdict


def lines(figures: Iterable[Figure], widths: tuple[int, ...] = (58, 8, 8, 8, 6, 8, 6)) -> Iterable[str]:
    """The lines of the table as they become known, the head first."""
    yield _line(_HEAD, widths)
    yield _line(tuple("-" * width for width in widths), widths)
    for figure in figures:
        yield _line(cells(figure), widths)


def _line(texts: tuple[str, ...], widths: tuple[int, ...]) -> str:
    numeric = {1, 2, 4}
    return "  ".join(
        text.rjust(width) if index in numeric else text.ljust(width)
        for index, (text, width) in enumerate(zip(texts, widths, strict=True))
    ).rstrip()


def markdown(figures: Iterable[Figure]) -> str:
    """The table for documentation."""
    rows = [_HEAD[:-1], ("---", "--:", "--:", "---", "--:", "---")]
    rows += [(*one[:5], " ".join(filter(None, one[5:]))) for one in map(cells, figures)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def facts(folder: Path | None = None) -> dict[str, Any]:
    """What one has to know about the machine to read the figures."""
    place = folder or Path(tempfile.gettempdir())
    return {
        "cores": os.process_cpu_count(),
        "processor": _processor(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "implementation": sys.implementation.name,
        "sqlite": sqlite3.sqlite_version,
        "aiosqlite": version("aiosqlite"),
        "file_system": file_system(place),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def as_json(
    figures: Iterable[Figure], machine: dict[str, Any], *, quick: bool, seconds: float
) -> dict[str, Any]:
    """Everything, for programs."""
    return {
        "machine": machine,
        "quick": quick,
        "seconds": round(seconds, 1),
        "figures": [
            {name: _finite(value) for name, value in asdict(figure).items()} | {"met": figure.met}
            for figure in figures
        ],
    }


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
