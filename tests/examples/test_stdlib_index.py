"""The demonstration on a tenth of the standard library, with a real kill, and a look into what it leaves behind."""

import io
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from examples.stdlib_index import progress
from examples.stdlib_index.__main__ import new_database
from examples.stdlib_index.analyse import Report, Unparsable, analyse, analyse_small_file
from examples.stdlib_index.proof import prove, read_all
from examples.stdlib_index.sources import STDLIB, source_files
from sitq import Status, TaskQueue, Worker

ROOT = Path(__file__).parents[2]
FILES = 150


def demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "examples.stdlib_index", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)


async def test_survives_the_death_of_its_worker(tmp_path: Path) -> None:
    db = tmp_path / "index.db"
    done = demo("--db", str(db), "--limit", str(FILES), "--concurrency", "4")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""

    killed = re.search(r"the worker was killed after (\d+) tasks, while it ran (\d+)", done.stdout)
    assert killed is not None
    finished, running = map(int, killed.groups())
    assert FILES // 2 <= finished < FILES
    for line in (
        f"{FILES} source files of Python",
        f"{FILES} tasks stored in ",
        "yes  every file has one task, and there are no others",
        "yes  every task has a result",
        "yes  every result is about the file of its task",
        "yes  every start but one ended with the death of its worker",
        f"{finished} results are from worker ",
        f"{FILES - finished} results are from worker ",
    ):
        assert line in done.stdout
    assert "NO " not in done.stdout
    # On a machine that is so busy that the second worker misses its own lease it may be more.
    again = re.search(r"(\d+)  tasks were started again", done.stdout)
    assert again is not None
    assert int(again[1]) >= running > 0

    async with TaskQueue(db) as queue:
        records = await read_all(queue)
        outcomes = [(await queue.get_result(record.id)).unwrap() for record in records]
    assert {record.status for record in records} == {Status.SUCCESS}
    assert {outcome.path for outcome in outcomes} == {str(path) for path in source_files(FILES)}
    assert sum(record.crashes > 0 for record in records) == int(again[1])
    # Both kinds of function were at work.
    assert {record.name.rpartition(".")[2] for record in records} == {
        "analyse_small_file",
        "analyse_large_file",
    }

    # What it says about looking into the database works as it stands there.
    looks = [line.strip() for line in done.stdout.splitlines() if f" {db}" in line and " -m " in line]
    listed, grouped = map(pasted, looks)
    assert "analyse_small_file" in listed
    assert "analyse_large_file" in grouped


def pasted(line: str) -> str:
    """Run a line as somebody would who pastes it into a shell. Return what it printed."""
    return subprocess.run(
        line, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    ).stdout


def test_a_single_file_is_enough(tmp_path: Path) -> None:
    done = demo("--db", str(tmp_path / "index.db"), "--limit", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "yes  every file has one task" in done.stdout


def test_replaces_its_own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("stdlib_index.db", "stdlib_index.db-wal", "stdlib_index.db.bak"):
        Path(name).write_text("old")
    assert new_database(None) == Path("stdlib_index.db")
    assert [path.name for path in tmp_path.iterdir()] == ["stdlib_index.db.bak"]


def test_refuses_a_file_that_somebody_may_need(tmp_path: Path) -> None:
    db = tmp_path / "precious.db"
    db.write_text("precious")
    done = demo("--db", str(db))
    assert done.returncode == 1
    assert "remove it, or name a new file" in done.stderr
    assert db.read_text() == "precious"


class TestProof:
    async def test_fails_for_a_task_without_a_result(self, tmp_path: Path) -> None:
        path = str(STDLIB / "this.py")
        async with TaskQueue(tmp_path / "q.db") as queue:
            task_id = await queue.enqueue(analyse_small_file, path)
            assert not (await prove(queue, {task_id: path})).holds
            await Worker(queue).run(until_idle=True)
            assert (await prove(queue, {task_id: path})).holds

    async def test_fails_for_lost_surplus_and_mixed_up_tasks(self, tmp_path: Path) -> None:
        paths = [str(STDLIB / "this.py"), str(STDLIB / "bisect.py")]
        async with TaskQueue(tmp_path / "q.db") as queue:
            ids = [await queue.enqueue(analyse_small_file, path) for path in paths]
            await Worker(queue).run(until_idle=True)
            assert (await prove(queue, dict(zip(ids, paths, strict=True)))).holds
            assert not (await prove(queue, {**dict(zip(ids, paths, strict=True)), "lost": "x.py"})).holds
            assert not (await prove(queue, {ids[0]: paths[0]})).holds
            assert not (await prove(queue, dict(zip(ids, reversed(paths), strict=True)))).holds


class TestAnalyse:
    @pytest.mark.parametrize(
        ("body", "complexity"),
        [
            ("pass", 1),
            ("if a: pass", 2),
            ("if a: pass\n    elif b: pass\n    else: pass", 3),
            ("return a if b else c", 2),
            ("return a and b and c or d", 4),
            ("for a in b: pass\n    else: pass", 2),
            ("while a: pass", 2),
            ("try: pass\n    except A: pass\n    except B: pass\n    finally: pass", 3),
            ("return [a for a in b if c if d for e in a]", 5),
            ("match a:\n        case 1: pass\n        case _: pass", 3),
            ("return lambda: a or b", 2),
            ("assert a\n    with b: pass", 1),
        ],
    )
    def test_complexity(self, body: str, complexity: int) -> None:
        report = analyse("x.py", f"def f():\n    {body}\n".encode())
        assert isinstance(report, Report)
        [function] = report.most_complex
        assert function.complexity == complexity

    def test_counts_and_names(self) -> None:
        source = dedent("""
            class A:
                async def method(self):
                    if self:
                        def inner():
                            return 1 and 2
                        return inner
        """)
        report = analyse("x.py", source.encode())
        assert isinstance(report, Report)
        assert (report.lines, report.classes, report.functions, report.complexity) == (7, 1, 2, 4)
        assert {(each.name, each.line, each.lines, each.complexity) for each in report.most_complex} == {
            ("A.method", 3, 5, 2),
            ("A.method.inner", 5, 2, 2),
        }
        assert report.longest is not None
        assert report.longest.name == "A.method"

    @pytest.mark.parametrize("source", [b"def", b"\xff", b"# coding: no-such\n", b"a\0b"])
    def test_what_is_no_python_is_a_finding(self, source: bytes) -> None:
        found = analyse("x.py", source)
        assert isinstance(found, Unparsable)
        assert found.reason


class TestProgress:
    def test_redraws_one_line_on_a_terminal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Terminal(io.StringIO):
            def isatty(self) -> bool:
                return True

        monkeypatch.setattr(sys, "stdout", screen := Terminal())
        with progress.Progress(200) as bar:
            bar.show(0)
            bar.show(100)
            bar.say("half of it")
            bar.show(200)
        assert "\rhalf of it\n" in screen.getvalue()
        assert screen.getvalue().endswith("\r[" + "#" * progress.WIDTH + "] 200 of 200\n")

    def test_prints_a_line_for_every_tenth_elsewhere(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "stdout", file := io.StringIO())
        with progress.Progress(200) as bar:
            for done in range(201):
                bar.show(done)
        assert file.getvalue().splitlines() == [f"  {done} of 200" for done in range(0, 201, 20)]
