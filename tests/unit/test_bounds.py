"""What a child process knows of its size, on systems with and without /proc."""

import sys
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from sitq.worker import bounds


def without_proc(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(bounds, "Path", lambda path: folder / str(path).lstrip("/"))


@pytest.mark.parametrize("proc", [True, False], ids=["proc", "psutil"])
def test_the_size_is_that_which_the_system_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proc: bool
) -> None:
    if not proc:
        without_proc(monkeypatch, tmp_path)
    size = bounds.resident()
    assert size is not None
    counted = psutil.Process().memory_info().rss
    assert counted / 2 < size < counted * 2


def test_a_size_that_nobody_knows_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_proc(monkeypatch, tmp_path)
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert bounds.resident() is None
