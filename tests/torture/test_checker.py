"""The judge has to be judged: each broken promise, one at a time, must be noticed."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.torture.checker import check
from tests.torture.entries import Final, History, Ran, Reported, Reserved, Seen
from tests.torture.history import Journal, whole_lines


def good() -> History:
    """A task that ran twice, one that was given up, and one that nobody acknowledged."""
    return History(
        acknowledged={"a", "b"},
        reserved=[
            Reserved("a", 1, 1, 0),
            Reserved("a", 4, 2, 1),
            Reserved("b", 2, 1, 0),
            Reserved("b", 5, 2, 1),
            Reserved("c", 6, 1, 0),
        ],
        ran=[Ran("a", 1, "a1"), Ran("a", 2, "a2"), Ran("b", 1, "b1"), Ran("c", 1, "c1")],
        reported=[
            Reported("a", 4, "Succeeded", True),
            Reported("a", 1, "Succeeded", False),
            Reported("b", 5, "Failed", True),
            Reported("c", 6, "Succeeded", True),
        ],
        seen=[Seen("a", "success", 4)],
        final=[
            Final("a", "success", 4, 1, 1000, False, "a2"),
            Final("b", "failed", 5, 1, 1, False, None, "worker_lost"),
            Final("c", "success", 6, 0, 3, False, "c1"),
        ],
    )


def test_a_good_history_is_not_blamed() -> None:
    assert check(good()) == []
    assert check(History()) == []


def final(task_id: str, **changed: Any) -> Any:
    def change(history: History) -> None:
        history.final = [task._replace(**changed) if task.id == task_id else task for task in history.final]

    return change


def add(name: str, entry: Any) -> Any:
    return lambda history: getattr(history, name).append(entry)


BROKEN = {
    "an acknowledged task is gone": (lambda history: history.final.pop(0), "acknowledged and is gone"),
    "a task is stored twice": (lambda history: history.final.append(history.final[0]), "stored 2 times"),
    "a task never ends": (final("a", status="running"), "is running at the end"),
    "a finished task is due": (final("a", due=True), "would be reserved again"),
    "a success without a run": (
        lambda history: history.ran.remove(Ran("c", 1, "c1")) or history.reported.pop(),
        "never ran",
    ),
    "a fence that repeats": (add("reserved", Reserved("a", 4, 3, 2)), "twice under fence 4"),
    "a fence that goes back": (add("reserved", Reserved("a", 3, 3, 2)), "fence 4 came with attempt 2"),
    "an attempt that is used up for nothing": (
        add("reserved", Reserved("c", 7, 2, 0)),
        "attempt 2 after 0 crashes",
    ),
    "an attempt that is given back for nothing": (
        add("reserved", Reserved("a", 9, 2, 2)),
        "attempt 2 after 2",
    ),
    "a fence that is forgotten": (final("a", fence=3), "ends with fence 3, and 4 was handed out"),
    "the result of an older run": (final("a", result="a1"), "has the result of fence 1"),
    "the result of another task": (final("a", result="c1"), "none of its runs returned"),
    "no result": (final("a", result=None), "none of its runs returned"),
    "two outcomes are accepted": (add("reported", Reported("a", 1, "Succeeded", True)), "of several fences"),
    "a stale outcome is accepted": (
        lambda history: history.reported.__setitem__(0, Reported("a", 1, "Succeeded", True)),
        "an outcome of fence 1 was accepted",
    ),
    "an outcome that changes nothing": (add("reported", Reported("c", 6, "Failed", True)), "ends as success"),
    "a finished task changes": (add("seen", Seen("a", "failed", 4)), "was failed under fence 4"),
    "a finished task runs again": (add("seen", Seen("a", "success", 1)), "was success under fence 1"),
    "too many runs": (add("ran", Ran("b", 2, "b2")), "ran 2 times, and 1 crashes"),
    "another failure": (final("b", error_type="ValueError"), "failed with ValueError"),
    "given up too early": (final("b", max_crashes=3), "given up after 1 crashes of 3"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_broken_promise_is_noticed(name: str) -> None:
    history = good()
    break_it, words = BROKEN[name]
    break_it(history)
    problems = check(history)
    assert [problem for problem in problems if words in problem], problems


def test_a_task_that_was_given_back_without_a_run_is_not_blamed() -> None:
    history = good()
    history.reserved.append(Reserved("a", 3, 2, 1))
    history.reported.append(Reported("a", 3, "Released", True))
    assert check(history) == []


def test_a_damaged_file_is_noticed() -> None:
    assert check(replace(good(), integrity="row 3 missing from index")) == [
        "integrity_check says row 3 missing from index"
    ]


# -- The journal -----------------------------------------------------------------------------------


def test_a_line_that_was_cut_off_hides_nothing_of_what_others_wrote(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    entry = Ran("a", 1, "a1")
    journal = Journal(str(path))
    journal.write(entry, entry)
    whole = path.read_bytes()
    for length in range(1, len(whole) + 1):
        path.write_bytes(whole[:length])
        journal.write(Ran("b", 1, "b1"))
        *mine, theirs = whole_lines(path.read_text())
        assert theirs == ["Ran", "b", 1, "b1"]
        assert mine == [["Ran", "a", 1, "a1"]] * len(mine)
        assert len(mine) == whole[:length].count(b"]")
    os.close(journal._fd)


def test_a_line_that_is_not_a_journals_is_not_passed_over() -> None:
    with pytest.raises(AssertionError, match="Traceback"):
        list(whole_lines("Traceback (most recent call last):\n"))
