"""The benchmarks run and say what they promise to say. No test here asserts a time."""

import json
import os
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import __main__ as cli
from benchmarks import footprint, limits, report
from benchmarks.drain import drain_once, fill_for_sitq
from benchmarks.limited import put_in_front
from benchmarks.measure import Figure, Run, Scale, Target, compare, percentile
from benchmarks.stored import opened
from benchmarks.tasks import noop, noop_sync
from sitq import TaskQueue, call
from sitq.backends.sqlite import SQLiteBackend
from sitq.model import Concurrency, NewTask
from sitq.serialization import encode_call
from sitq.task import Call

FIGURE = Figure("a", "tasks/s", 30.0, 60.0, 0.5, Target("ratio", ">=", 0.6), samples=3)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """As little of everything as there can be, once."""
    monkeypatch.setattr(Scale, "rounds", 1)
    monkeypatch.setattr(Scale, "seconds", 0.0)
    monkeypatch.setattr(Scale, "count", lambda _self, full, _quick=None: min(full, 10))


@pytest.mark.usefixtures("small")
def test_table_and_json_of_a_real_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = tmp_path / "figures.json"
    table = tmp_path / "figures.md"
    wanted = ["enqueue", "drain", "wakeup"]
    files = ["--json", str(found), "--markdown", str(table), "--dir", str(tmp_path)]
    code = cli.main([*wanted, "--quick", *files])
    assert code == 0
    told = json.loads(found.read_text())
    assert told.keys() == {"machine", "quick", "seconds", "figures"}
    assert told["machine"]["cores"] >= 1
    assert {"python", "sqlite", "aiosqlite", "system", "file_system"} <= told["machine"].keys()
    names = [figure["name"] for figure in told["figures"]]
    assert len(set(names)) == len(names) == 10 + 10 + 8
    assert "wake-up p99, other process, full" in names
    for figure in told["figures"]:
        assert figure["value"] > 0
        assert figure["limit"] > 0
        assert figure["ratio"] == pytest.approx(figure["value"] / figure["limit"])
        assert figure["samples"] > 0
        assert figure["met"] is None or isinstance(figure["met"], bool)
        assert (figure["target"] is None) is (figure["met"] is None)
    printed = capsys.readouterr().out.splitlines()
    assert printed[1].split() == ["figure", "sitq", "limit", "unit", "ratio", "target"]
    assert [line for line in printed if line.startswith("enqueue, 100 callers, full")]
    assert len(printed) == 3 + len(names)
    assert table.read_text().count("\n") == 2 + len(names)


@pytest.mark.usefixtures("small")
async def test_tasks_that_wait_are_compared_with_some_that_do_not(tmp_path: Path) -> None:
    figures = [figure async for figure in cli.BENCHMARKS["dependent"](Scale(True, tmp_path))]
    assert [figure.name for figure in figures] == ["a fan-in of 10", "a chain of 10"]
    assert all(figure.value > 0 and figure.limit for figure in figures)


@pytest.mark.usefixtures("small")
async def test_stored_rows_are_compared_with_none(tmp_path: Path) -> None:
    figures = [figure async for figure in cli.BENCHMARKS["stored"](Scale(True, tmp_path))]
    assert [figure.name.split(", ")[1] for figure in figures] == [
        "1,000 finished stored",
        "100,000 finished stored",
        "1,000 far-future stored",
        "100,000 far-future stored",
    ]
    assert all(figure.ratio is not None and figure.ratio > 0 for figure in figures)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "unique",
            ["enqueue with unique keys, 100 callers, full", "enqueue with unique keys, 100 callers, fast"],
        ),
        (
            "limited",
            ["reserve 10 and complete, 1,000 keys with limits", "put 10 of a full key in line, once"],
        ),
        (
            "progress",
            [
                "progress, 10,000 calls a second, stored",
                "drain, concurrency 100, beside 10,000 progress calls a second",
            ],
        ),
        (
            "serializers",
            [
                f"round trip of {size}, {name}"
                for size in ("an int", "200 dicts")
                for name in (
                    "cloudpickle",
                    "json",
                    "msgpack",
                    "Compressed(json), zlib",
                    "Compressed(json), zstd",
                    "Signed(cloudpickle)",
                    "Signed(json)",
                    "Encrypted(cloudpickle)",
                    "Versioned(cloudpickle)",
                )
            ],
        ),
        ("due", ["10 tasks due at once, first start", "10 tasks due at once, all drained"]),
        ("processes", ["CPU-bound, 1 child process", "CPU-bound, 2 child processes"]),
    ],
)
async def test_what_the_life_of_a_task_costs(name: str, expected: list[str], tmp_path: Path) -> None:
    figures = [figure async for figure in cli.BENCHMARKS[name](Scale(True, tmp_path))]
    assert [figure.name for figure in figures] == expected
    for figure in figures:
        assert figure.value > 0
        assert figure.note
        assert figure.target is None
        assert figure.ratio is None or figure.ratio > 0
        assert (figure.limit is None) is (figure.ratio is None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="Linux tells what a process has used")
def test_footprint_of_this_process() -> None:
    size, peak = footprint.resident()
    assert 1_000_000 < size <= peak
    assert 0 < footprint.processor_time(os.getpid()) < 10_000


def test_list_names_every_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--list"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == list(cli.BENCHMARKS)
    assert all(len(line.split()) > 3 for line in printed)


def test_unknown_name_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["speed"])
    assert ended.value.code == 2
    assert "unknown: speed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("figure", "met"),
    [
        (FIGURE, False),
        (replace(FIGURE, ratio=0.6), True),
        (replace(FIGURE, ratio=None), False),
        (replace(FIGURE, ratio=float("nan")), False),
        (replace(FIGURE, target=None), None),
        (replace(FIGURE, target=Target("value", "<=", 30.0)), True),
        (replace(FIGURE, target=Target("value", "<=", 29.0)), False),
    ],
)
def test_a_target_is_met_or_not(figure: Figure, met: bool | None) -> None:
    assert figure.met is met


def test_json_has_no_nan() -> None:
    told = report.as_json([replace(FIGURE, value=float("nan"), limit=None)], {}, quick=True, seconds=1.0)
    assert told["figures"][0]["value"] is None
    json.dumps(told, allow_nan=False)
    assert "missed" in list(report.lines([FIGURE]))[-1]


def test_percentile_is_the_nearest_rank() -> None:
    values = [float(number) for number in range(1, 101)]
    assert percentile(values, 0.5) == 50.0
    assert percentile(values, 0.99) == 99.0
    assert percentile([7.0], 0.99) == 7.0


async def test_the_two_take_turns_and_the_median_of_ratios_counts(tmp_path: Path) -> None:
    turns: list[tuple[str, int]] = []

    def run(name: str, answers: list[float]) -> Run:
        async def one(count: int) -> float:
            turns.append((name, count))
            return answers.pop(0)

        return one

    ours, limit = run("ours", [1.0, 100.0, 400.0, 900.0]), run("limit", [1000.0, 200.0, 400.0, 1000.0])
    scale = Scale(quick=True, folder=tmp_path)
    figure = await compare("x", ours, limit, scale, step=2)
    assert turns[:2] == [("ours", 10), ("limit", 10)]
    assert [name for name, _ in turns[2:]] == ["ours", "limit", "limit", "ours", "ours", "limit"]
    assert {count for _, count in turns[2:]} == {round(1000 * scale.seconds)}
    assert (figure.value, figure.limit, figure.ratio, figure.samples) == (400.0, 400.0, 0.9, 3)


# -- A limit is one only if it does the same work --------------------------------------------------

_EXACT = (
    "name",
    "queue",
    "status",
    "priority",
    "fence",
    "attempt",
    "crashes",
    "max_crashes",
    "result_ttl",
    "metadata",
    "unique_key",
    "unique_until",
    "unique_bound",
    "unique_replace",
    "limited",
)
_PRESENT = ("id", "due_at", "worker", "enqueued_at", "started_at", "finished_at", "expires_at")


def rows(path: Path) -> list[tuple[object, ...]]:
    """What a file holds: values where both programs must write the same ones, else whether there is a value."""
    present = ", ".join(f"t.{name} IS NOT NULL" for name in _PRESENT)
    exact = ", ".join(f"t.{name}" for name in _EXACT)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        return db.execute(
            f"SELECT t.seq, length(t.id), {exact}, {present}, p.payload IS NOT NULL, t.result IS NOT NULL, t.error "
            "FROM sitq_tasks t LEFT JOIN sitq_payloads p USING (seq) ORDER BY seq"
        ).fetchall()


def limits_of(path: Path) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute("SELECT * FROM sitq_limits ORDER BY seq").fetchall()


async def test_enqueue_limits_leave_the_rows_that_sitq_leaves(tmp_path: Path) -> None:
    async with TaskQueue(SQLiteBackend(tmp_path / "sitq.db")) as queue:
        await queue.enqueue_many([call(noop, number) for number in range(12)])
    calls = [(number,) for number in range(12)]
    async with limits.aconnect(tmp_path / "limit.db", "full") as db:
        await limits.enqueue_by_statement(db, noop, calls[:2])
        await limits.enqueue_by_transaction(db, noop, calls[2:4])
        await limits.enqueue_in_batches(db, noop, calls[4:6], 2)
    with closing(limits.connect(tmp_path / "limit.db", "full")) as plain:
        limits.enqueue_in_this_thread(plain, noop, calls[6:8], 2)
        limits.enqueue_in_this_thread(plain, noop, calls[8:], 3, limits.store_by_hundreds)
    assert rows(tmp_path / "limit.db") == rows(tmp_path / "sitq.db")


async def test_unique_limit_answers_and_leaves_the_rows_as_sitq_does(tmp_path: Path) -> None:
    keys = ["a", "a", "b", "c", "b"]
    async with TaskQueue(SQLiteBackend(tmp_path / "sitq.db")) as queue:
        handles = [
            await queue.options(unique_key=key).enqueue(noop, number) for number, key in enumerate(keys)
        ]
    async with limits.aconnect(tmp_path / "limit.db", "full") as db:
        calls = [(key, (number,)) for number, key in enumerate(keys)]
        holders = await limits.enqueue_unique(db, noop, calls, 3)
    assert [holders.index(each) for each in holders] == [0, 0, 2, 3, 2]
    assert [handles.index(each) for each in handles] == [0, 0, 2, 3, 2]
    # Not `seq`: an insert that meets a holder has used up a number.
    left, expected = (rows(tmp_path / name) for name in ("limit.db", "sitq.db"))
    assert [row[1:] for row in left] == [row[1:] for row in expected]


async def test_tasks_in_front_are_stored_as_sitq_does(tmp_path: Path) -> None:
    full = Concurrency("saturated", 1)
    payload = encode_call(Call(noop, (1,), {}), None, max_payload=1024)
    for name in ("sitq.db", "front.db"):
        async with opened(tmp_path / name) as backend:
            await backend.enqueue([NewTask("0" * 36, "benchmarks.tasks.noop", payload)])
            if name == "sitq.db":
                new = NewTask("", "benchmarks.tasks.noop", payload, priority=-5, concurrency=full)
                await backend.enqueue([new._replace(id=f"{number:036d}") for number in (2, 3)])
    put_in_front(tmp_path / "front.db", 2)
    assert rows(tmp_path / "front.db") == rows(tmp_path / "sitq.db")
    assert limits_of(tmp_path / "front.db") == limits_of(tmp_path / "sitq.db")


@pytest.mark.parametrize("func", [noop, noop_sync])
async def test_drain_limits_leave_the_rows_that_sitq_leaves(func: object, tmp_path: Path) -> None:
    fill_for_sitq(tmp_path / "sitq.db", func, 5)
    await drain_once(tmp_path / "sitq.db", "full", 5)
    limits.fill(tmp_path / "limit.db", func, 5)  # type: ignore[arg-type]
    async with limits.aconnect(tmp_path / "limit.db", "full") as db:
        done = await (limits.drain if func is noop else limits.drain_in_threads)(db, 5)
    assert done == 5
    assert limits.results(tmp_path / "limit.db") == list(range(5))
    assert rows(tmp_path / "limit.db") == rows(tmp_path / "sitq.db")


@pytest.mark.parametrize("durability", ["full", "fast"])
async def test_limits_sync_as_sitq_does(durability: str, tmp_path: Path) -> None:
    with closing(limits.connect(tmp_path / "limit.db", durability)) as db:  # type: ignore[arg-type]
        assert db.execute("PRAGMA synchronous").fetchone() == (2 if durability == "full" else 1,)


def test_a_scratch_file_is_gone_afterwards(tmp_path: Path) -> None:
    with Scale(quick=True, folder=tmp_path).file() as path:
        path.touch()
    assert list(tmp_path.iterdir()) == []
