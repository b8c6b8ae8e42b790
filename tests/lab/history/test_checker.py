"""The judge has to be judged: each broken promise, one at a time, must be noticed."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.lab.history.checker import INVARIANTS, check
from tests.lab.history.entries import (
    Beside,
    Final,
    History,
    Looked,
    Noted,
    Ran,
    Reported,
    Requeued,
    Reserved,
    Seen,
    Sent,
    Stopped,
    Stored,
    Wanted,
)
from tests.lab.history.journal import Journal, whole_lines


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
        sent=[Sent("a", 4, "Succeeded"), Sent("b", 5, "Failed"), Sent("c", 6, "Succeeded")],
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


def held(history: History, task_id: str, fence: int, since: float, kind: str, **what: Any) -> None:
    """Add a reservation at an instant, which ends half a second later."""
    attempt, due = what.get("attempt", 1), what.get("due")
    history.reserved.append(Reserved(task_id, fence, attempt, what.get("crashes", 0), 7, since, since + 0.1))
    history.ran.append(Ran(task_id, attempt, f"{task_id}{fence}", 7, since + 0.2))
    history.sent.append(Sent(task_id, fence, kind, since + 0.5, due))
    history.reported.append(Reported(task_id, fence, kind, True))


def ended(history: History, task_id: str, fence: int, since: float, **meta: Any) -> None:
    """Add a task that succeeded at once. One with a key took it a second before."""
    if "unique" in meta or "throttle" in meta:
        history.stored.append(Stored(task_id, True, since - 1.1, since - 1))
    held(history, task_id, fence, since, "Succeeded")
    history.final.append(Final(task_id, "success", fence, 0, 3, False, f"{task_id}{fence}", None, 1, meta))


def full() -> History:
    """Besides those: tasks that were retried, put off, requeued, bounded and scheduled."""
    history = good()
    held(history, "r", 10, 1, "Retried", due=1.7)
    held(history, "r", 11, 2, "Retried", due=2.7, attempt=2)
    held(history, "r", 12, 3, "Succeeded", attempt=3)
    meta = {"fails": 2, "max_attempts": 3}
    history.final.append(Final("r", "success", 12, 0, 3, False, "r12", None, 3, meta))
    history.noted += [Noted("r", "r10"), Noted("r", "r11"), Noted("r", "r11")]
    held(history, "s", 20, 1, "Released", due=1.6)
    held(history, "s", 21, 2, "Succeeded")
    history.final.append(Final("s", "success", 21, 0, 3, False, "s21"))
    held(history, "q", 30, 1, "Failed")
    history.wanted.append(Wanted("q", 30))
    history.requeued.append(Requeued("q", 30, 1.9))
    held(history, "q", 31, 2, "Failed")
    meta = {"fails": 2, "max_attempts": 1}
    history.final.append(Final("q", "failed", 31, 0, 3, False, None, "crew.Planned", 1, meta))
    history.seen.append(Seen("q", "failed", 30))
    held(history, "d", 35, 1, "Crashed")
    held(history, "d", 36, 2, "Succeeded", attempt=2, crashes=1)
    history.final.append(Final("d", "success", 36, 1, 3, False, "d36", None, 2))
    for number, since in enumerate([1.0, 1.1, 2.0]):
        ended(history, f"k{number}", 40 + number, since, concurrency=["two", 2])
        ended(history, f"p{number}", 50 + number, since, rate=["fast", 2, 1.0])
        ended(history, f"t{number}", 60 + number, 10 + number, throttle=["rare", 0.8])
        ended(history, f"u{number}", 70 + number, 10 + 2 * number, unique="u", until="end")
        ended(history, f"v{number}", 80 + number, 10 + 1.2 * number, unique="v", until="start")
        ended(history, f"x{number}", 90 + number, 20, tick=100.0 + number)
    ended(history, "e0", 100, 22, strict=True)
    ended(history, "e1", 101, 23, strict=False)
    dead = Final("z", "cancelled", 0, 0, 3, False, meta={"strict": True}, parents=("q",), cancelled_by="q")
    ended(history, "w0", 110, 24, order=True)
    ended(history, "w1", 111, 25, effect=True)
    history.beside = [Beside("w0"), Beside("w1", "w1111")]
    history.unwanted.add("w2")
    history.stopped.append(Stopped("w2", 26.0))
    history.final.append(Final("w2", "cancelled", 0, 0, 3, False))
    history.acknowledged.add("w3")
    history.forgone.add("w3")
    history.looked += [Looked("a", True), Looked("w3", False)]
    history.refused.add("w4")
    history.seen.append(Seen("a", "running", 1, due=True))
    kin = {"e0": ("r", "s"), "e1": ("e0", "q"), "w1": ("w3",)}
    history.final = [one._replace(parents=kin.get(one.id, ())) for one in history.final] + [dead]
    history.asked = {one.id for one in history.final} | {"w3", "w4"}
    return history


def test_a_good_history_is_not_blamed() -> None:
    assert check(good()) == []
    assert check(full()) == []
    assert check(History()) == []


def final(task_id: str, **changed: Any) -> Any:
    def change(history: History) -> None:
        history.final = [task._replace(**changed) if task.id == task_id else task for task in history.final]

    return change


def add(name: str, entry: Any) -> Callable[[History], None]:
    def apply(history: History) -> None:
        getattr(history, name).append(entry)

    return apply


def in_turn(*changes: Callable[[History], None]) -> Callable[[History], None]:
    def apply(history: History) -> None:
        for one in changes:
            one(history)

    return apply


def change(name: str, task_id: str, fence: int, **changed: Any) -> Any:
    """Change the entries of one reservation."""

    def apply(history: History) -> None:
        entries = [
            entry._replace(**changed) if entry[:2] == (task_id, fence) else entry
            for entry in getattr(history, name)
        ]
        setattr(history, name, entries)

    return apply


BROKEN: dict[str, tuple[Callable[[History], object], str]] = {
    "I1: an acknowledged task is gone": (lambda history: history.final.pop(0), "acknowledged and is gone"),
    "I1: a task is stored twice": (lambda history: history.final.append(history.final[0]), "stored 2 times"),
    "I1: a task never ends": (final("a", status="running"), "is running at the end"),
    "I7: a finished task is due": (final("a", due=True), "would be reserved again"),
    "I1: a success without a run": (
        lambda history: history.ran.remove(Ran("c", 1, "c1")),
        "never ran",
    ),
    "I3: a fence that repeats": (add("reserved", Reserved("a", 4, 3, 2)), "twice under fence 4"),
    "I6: a fence that goes back": (
        add("reserved", Reserved("a", 3, 3, 2)),
        "fence 4 came as attempt 2 after 1",
    ),
    "I6: an attempt that is used up for nothing": (
        add("reserved", Reserved("c", 7, 2, 0)),
        "fence 7 came as attempt 2 after 0 crashes",
    ),
    "I6: an attempt that is given back for nothing": (
        add("reserved", Reserved("a", 9, 2, 2)),
        "fence 9 came as attempt 2 after 2",
    ),
    "I3: a fence that is forgotten": (final("a", fence=3), "ends with fence 3, and 4 was handed out"),
    "I2: the result of an older run": (final("a", result="a1"), "has the result of fence 1"),
    "I2: the result of another task": (final("a", result="c1"), "none of its runs returned"),
    "I2: no result": (final("a", result=None), "none of its runs returned"),
    "I4: two outcomes are accepted": (
        add("reported", Reported("a", 1, "Succeeded", True)),
        "of several fences",
    ),
    "I4: a stale outcome is accepted": (
        lambda history: history.reported.__setitem__(0, Reported("a", 1, "Succeeded", True)),
        "an outcome of fence 1 was accepted",
    ),
    "I4: an outcome that changes nothing": (
        add("reported", Reported("c", 6, "Failed", True)),
        "ends as success",
    ),
    "I5: a finished task changes": (add("seen", Seen("a", "failed", 4)), "was failed under fence 4"),
    "I5: a finished task runs again": (add("seen", Seen("a", "success", 1)), "was success under fence 1"),
    "I6: too many runs": (
        in_turn(
            add("reserved", Reserved("b", 3, 2, 1)),
            add("ran", Ran("b", 2, "b2")),
            lambda history: history.sent.remove(Sent("b", 5, "Failed")),
        ),
        "ran 2 times without an end, and 1 crashes",
    ),
    "I6: another failure": (final("b", error_type="ValueError"), "failed with ValueError"),
    "I6: given up too early": (final("b", max_crashes=3), "given up after 1 crashes of 3"),
    "I6: a retry that is no attempt": (change("reserved", "r", 12, attempt=2), "fence 12 came as attempt 2"),
    "I6: a retry that is two attempts": (
        change("reserved", "r", 11, attempt=3),
        "fence 11 came as attempt 3",
    ),
    "I6: a retry that comes too early": (change("sent", "r", 11, due=3.5), "0.400 s before it was due"),
    "I6: a snooze that is an attempt": (change("reserved", "s", 21, attempt=2), "fence 21 came as attempt 2"),
    "I6: a snooze that is over too early": (change("sent", "s", 20, due=2.5), "before it was due"),
    "I6: handed out while it is held": (
        change("sent", "s", 20, due=None, kind="Succeeded"),
        "fence 21 came as attempt 1",
    ),
    "I6: crashes that go back": (change("reserved", "r", 11, crashes=1), "and nothing was to come"),
    "I6: more attempts than allowed": (
        final("r", meta={"fails": 2, "max_attempts": 2}),
        "and 2 were allowed",
    ),
    "I6: given up before the last attempt": (
        final("q", meta={"fails": 2, "max_attempts": 2}),
        "in attempt 1 of 2",
    ),
    "I6: a failure that nobody planned": (final("q", meta={"max_attempts": 1}), "does not do that by itself"),
    "I2: an attempt succeeds that was to fail": (
        final("r", meta={"fails": 3, "max_attempts": 3}),
        "which was to fail",
    ),
    "I6: requeued and never run": (
        in_turn(add("requeued", Requeued("q", 31, 2.9)), add("wanted", Wanted("q", 31))),
        "was requeued after fence 31, and ends under 31",
    ),
    "I6: requeued in the middle of its attempts": (
        change("reserved", "q", 31, attempt=2),
        "fence 31 came as attempt 2",
    ),
    "I6: a new run that nobody asked for": (
        in_turn(lambda history: history.wanted.clear(), lambda history: history.requeued.clear()),
        "fence 31 came as attempt 1",
    ),
    "I4: a note of an older fence": (
        add("noted", Noted("r", "r10")),
        "a note of fence 10 that was stored after",
    ),
    "I4: a note of nobody": (add("noted", Noted("r", "q30")), "a note that none of its runs wrote"),
    "I10: too many run at once": (
        lambda history: ended(history, "k9", 49, 1.2, concurrency=["two", 2]),
        "3 tasks of two ran at once, and 2 were allowed: ['k0', 'k1', 'k9']",
    ),
    "I10: too many run at once because one was taken over": (
        in_turn(
            lambda history: history.sent.remove(Sent("k0", 40, "Succeeded", 1.5)),
            lambda history: held(history, "k0", 45, 2.2, "Succeeded", attempt=2, crashes=1),
            lambda history: ended(history, "k9", 49, 2.1, concurrency=["two", 2]),
        ),
        "3 tasks of two ran at once",
    ),
    "I10: too many start in a period": (
        lambda history: ended(history, "p9", 59, 1.5, rate=["fast", 2, 1.0]),
        "3 tasks of fast started within 1.0 s",
    ),
    "I8: two hold a key": (
        lambda history: ended(history, "u9", 79, 12.2, unique="u", until="end"),
        "u was held by 2 tasks at once: ['u1', 'u9']",
    ),
    "I8: two wait under a key": (
        lambda history: ended(history, "v9", 89, 11.0, unique="v", until="start"),
        "v was held by 2 tasks at once",
    ),
    "I8: requeued while another holds the key": (
        in_turn(
            add("requeued", Requeued("u0", 70, 11.2)),
            add("wanted", Wanted("u0", 70)),
            lambda history: held(history, "u0", 75, 11.5, "Succeeded"),
        ),
        "u was held by 2 tasks at once: ['u0', 'u1']",
    ),
    "I8: two within a throttled span": (
        lambda history: ended(history, "t9", 69, 11.5, throttle=["rare", 0.8]),
        "rare let in t1 and t9",
    ),
    "I6: a crash that is not counted": (
        in_turn(
            lambda history: held(history, "d", 37, 3, "Crashed", attempt=3, crashes=2),
            lambda history: held(history, "d", 38, 4, "Succeeded", attempt=3, crashes=2),
        ),
        "d: fence 38 came as attempt 3 after 2 crashes",
    ),
    "I6: more crashes than allowed": (
        in_turn(final("d", max_crashes=1), lambda history: held(history, "d", 34, 0, "Crashed")),
        "d ran 2 times without an end, and 1 crashes were allowed",
    ),
    "I11: a tick that comes twice": (
        lambda history: ended(history, "x9", 99, 20, tick=101.0),
        "the tick of 101.0 came twice",
    ),
    "I12: a child that starts before its parent has succeeded": (
        change("sent", "s", 21, at=23.0),
        "e0 was handed out under fence 100 before s had succeeded",
    ),
    "I12: a child whose parent never succeeded": (final("e0", parents=("q",)), "before q had succeeded"),
    "I12: a child that runs though its parent failed": (
        final("e0", parents=("r", "q")),
        "e0 is success, and q is failed",
    ),
    "I12: a child that was to run and is cancelled": (
        final("e1", status="cancelled", result=None),
        "e1 was to run whatever became of its parents, and is cancelled",
    ),
    "I12: a child that nobody cancelled": (
        final("z", cancelled_by=None),
        "z is cancelled, and nobody did that",
    ),
    "I12: a child that is cancelled for one that succeeded": (
        final("z", cancelled_by="r"),
        "z was cancelled because of r, which is success",
    ),
    "I12: a parent that is gone": (
        final("e1", parents=("gone",)),
        "e1 depends on ['gone'], of whom nothing is known",
    ),
    "I12: a parent that is removed too early": (
        final("e1", parents=("w3",), status="cancelled", result=None, cancelled_by="q"),
        "e1 depends on ['w3'], of whom nothing is known",
    ),
    "I1: a child that waits for ever": (final("z", status="waiting"), "z is waiting at the end"),
    "I1: a task that nobody asked for": (
        lambda history: history.asked.discard("c"),
        "c is there, and nobody asked for it",
    ),
    "I1: a refused task is there": (
        lambda history: history.refused.add("c"),
        "c was refused and is there",
    ),
    "I1: an acknowledged task is not found": (add("looked", Looked("a", False)), "did not find it"),
    "I5: a task is cancelled by nobody": (
        final("c", status="cancelled"),
        "c is cancelled, and nobody did that",
    ),
    "I5: a cancelled task ends otherwise": (
        add("stopped", Stopped("c", 9.0)),
        "c was cancelled, and ends as success",
    ),
    "I5: a cancelled task starts": (
        in_turn(add("stopped", Stopped("s", 0.5)), final("s", status="cancelled")),
        "s was cancelled, and handed out after that under fence 20",
    ),
    "I7: a task runs without a lease": (add("seen", Seen("a", "running", 1, due=False)), "without a lease"),
    "I7: a finished task has a lease": (add("seen", Seen("a", "success", 4, due=True)), "be reserved again"),
    "I9: a damaged file": (
        lambda history: setattr(history, "integrity", "row 3 missing from index"),
        "integrity_check says row 3 missing from index",
    ),
    "I9: a log that nobody needs any more": (
        lambda history: history.leftovers.append("tasks.db-wal is there after the last close"),
        "tasks.db-wal is there",
    ),
    "I13: an effect without a success": (
        add("beside", Beside("c", "c1")),
        "what they committed with it, differ: [('c', 'c1')]",
    ),
    "I13: an effect that is there twice": (
        add("beside", Beside("w1", "w1111")),
        "differ: [('w1', 'w1111'), ('w1', 'w1111')]",
    ),
    "I13: a success without its effect": (
        lambda history: history.beside.remove(Beside("w1", "w1111")),
        "what they committed with it, differ: [('w1', 'w1111')]",
    ),
    "I13: an order without its task": (
        add("beside", Beside("lost")),
        "lost: the row that was written with its task is there",
    ),
    "I13: a task without its order": (
        lambda history: history.beside.remove(Beside("w0")),
        "w0: the task that was written with its row is there",
    ),
    "I13: an order that is there twice": (add("beside", Beside("w0")), "there twice, for ['w0']"),
    "I11: a tick that never comes": (
        lambda history: ended(history, "x9", 99, 20, tick=104.0),
        "no tick came between 102.0 and 104.0",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_broken_promise_is_noticed(name: str) -> None:
    """By the check of the invariant with which the name begins."""
    history = full()
    break_it, words = BROKEN[name]
    break_it(history)
    problems = check(history)
    number = name.split(":", maxsplit=1)[0]
    assert [problem for problem in problems if problem.startswith(f"{number}: ") and words in problem], (
        problems
    )


def test_each_invariant_was_broken() -> None:
    assert {name.split(":")[0] for name in BROKEN} == set(INVARIANTS)


def test_a_requeued_task_may_be_cancelled_before_it_runs_again() -> None:
    history = full()
    final("q", status="cancelled", fence=31, error_type=None)(history)
    history.wanted.append(Wanted("q", 31))
    history.requeued.append(Requeued("q", 31, 3.0))
    assert [problem for problem in check(history) if problem.split()[1].startswith("q")]
    history.unwanted.add("q")
    assert check(history) == []


def test_a_task_that_was_given_back_without_a_run_is_not_blamed() -> None:
    history = good()
    history.reserved.append(Reserved("a", 3, 2, 1))
    history.sent.append(Sent("a", 3, "Released", 0.0, 0.0))
    history.reported.append(Reported("a", 3, "Released", True))
    assert check(history) == []


def test_a_key_is_let_go_of_although_the_answer_to_its_enqueue_comes_late() -> None:
    """The first run began before the producer heard that the task is stored, and was given back later."""
    history = History()
    meta = {"unique": "late", "until": "start"}
    history.stored.append(Stored("first", True, 0.9, 1.2))
    held(history, "first", 90, 1, "Released", due=1.5)
    held(history, "first", 92, 3, "Succeeded")
    history.final.append(Final("first", "success", 92, 0, 3, False, "first92", None, 1, meta))
    ended(history, "second", 91, 2.9, **meta)
    assert check(history) == []


def test_who_was_stopped_and_begins_with_a_task_that_others_have_ended_does_not_count() -> None:
    """Its reservation was answered long after its lease had ended, and another task has the room since."""
    history = History()
    limit = ["one", 1]
    history.reserved.append(Reserved("late", 1, 1, 0, 8, 1.0, 3.0))
    history.ran.append(Ran("late", 1, "late1", 8, 3.1))
    history.sent.append(Sent("late", 1, "Succeeded", 3.5, None))
    history.reported.append(Reported("late", 1, "Succeeded", False))
    held(history, "late", 2, 2, "Succeeded", attempt=2, crashes=1)
    meta = {"concurrency": limit}
    history.final.append(Final("late", "success", 2, 1, 3, False, "late2", None, 2, meta))
    ended(history, "next", 3, 3.1, concurrency=limit)
    assert check(history) == []


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
        assert theirs == ["Ran", *Ran("b", 1, "b1")]
        assert mine == [["Ran", *entry]] * len(mine)
        assert len(mine) == whole[:length].count(b"]")
    os.close(journal._fd)


def test_a_line_that_is_not_a_journals_is_not_passed_over() -> None:
    with pytest.raises(AssertionError, match="Traceback"):
        list(whole_lines("Traceback (most recent call last):\n"))
