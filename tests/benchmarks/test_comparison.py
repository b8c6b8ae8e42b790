"""The comparison with other task queues: its adapters, what it makes of a run, and the page. No test asserts a time."""

import asyncio
import inspect
import json
import threading
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import __main__ as everything
from benchmarks.comparison import chart, cli, environments, measures, observe, runner, servers, table, usage
from benchmarks.comparison.load import Fill
from benchmarks.comparison.measures import MEASURES, Row
from benchmarks.comparison.page import drawn, publish
from benchmarks.peers import LEFT_OUT, NAMES, work
from benchmarks.peers.interface import RUNS_AGAIN, SYNCED, Client, Place, load

STORED = cli.PAGE.with_suffix(".json")


@pytest.fixture
def told() -> dict[str, object]:
    found: dict[str, object] = json.loads(STORED.read_text(encoding="utf-8"))
    return found


@pytest.fixture
def measuring(tmp_path: Path) -> Iterator[runner.Runner]:
    with ExitStack() as stack:
        yield runner.Runner(tmp_path, [], 0.1, stack)


# -- adapters --------------------------------------------------------------------------------------


def test_every_module_is_a_peer_and_the_other_way_round() -> None:
    folder = Path(load("sitq").__file__).parent  # type: ignore[attr-defined]
    assert {each.stem for each in folder.glob("*.py")} - {"__init__", "interface", "work"} == set(NAMES)
    assert not set(LEFT_OUT) & set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_peer_is_known_without_its_package(name: str) -> None:
    adapter = load(name)
    peer = adapter.PEER
    assert peer.name == name
    assert peer.packages
    settings = [each.name for each in peer.settings]
    assert settings
    assert len(settings) == len(set(settings))
    assert all(each.durability for each in peer.settings)
    assert peer.runs in {"coroutines", "threads", "one at a time"}
    assert (peer.most == 1) is (peer.runs == "one at a time")
    assert [*inspect.signature(adapter.prepare).parameters] == ["place"]
    assert [*inspect.signature(adapter.client).parameters] == ["place"]
    assert [*inspect.signature(adapter.work).parameters] == ["place", "concurrency"]


@pytest.mark.parametrize("setting", ["full", "fast"])
async def test_what_sitq_enqueues_its_worker_runs(setting: str, tmp_path: Path) -> None:
    adapter, place = load("sitq"), Place(tmp_path, setting)
    work.make(place.marks)
    adapter.prepare(place)
    async with adapter.client(place) as client:
        fill = Fill(client)
        await fill.one_by_one("noop", 60.0, 3)
        await fill.at_once("noop", 60.0, 4)
        await fill.in_batches("burn", 60.0, 5)
    assert fill.next == 12
    marks = observe.Marks(place)
    assert marks.found(12) == []
    with observe.workers("sitq", place, 5) as [pid]:
        while not marks.all_below(12):
            await asyncio.sleep(0.01)
        assert usage.memory(pid) > 1
        assert usage.processor_time(pid) > 0
    assert usage.tree(pid) == [pid]
    assert len(marks.found(20)) == 12
    assert work.mark_of(work.opened(place.marks), 12) == 0


def test_a_place_survives_the_way_to_another_process(tmp_path: Path) -> None:
    place = Place(tmp_path, "full", "redis://127.0.0.1:1/2")
    assert Place.from_json(place.as_json()) == place


# -- putting tasks in, and seeing them run ---------------------------------------------------------


async def test_plain_functions_are_called_by_a_hundred_threads() -> None:
    seen: list[int] = []
    threads: set[int] = set()
    together = threading.Barrier(100)

    def enqueue(task: str, number: int) -> None:
        if number < 100:
            together.wait(60)
        threads.add(threading.get_ident())
        seen.append(number)

    fill = Fill(Client(enqueue))
    assert await fill.at_once("noop", 60.0, 300) > 0
    assert sorted(seen) == list(range(300))
    assert len(threads) == 100
    assert await fill.in_batches("noop", 60.0) is None
    await fill.quickly("noop", 60.0, 150)
    assert fill.next == 450


async def test_a_thread_that_fails_is_no_rate() -> None:
    def enqueue(task: str, number: int) -> None:
        raise OSError("the disk is full")

    with pytest.raises(RuntimeError, match="the disk is full"):
        await Fill(Client(enqueue)).at_once("noop", 60.0, 300)


async def test_numbers_do_not_run_out_of_marks() -> None:
    fill = Fill(Client(lambda task, number: None), next=work.MOST - 10_001)
    fill.numbers(1)
    with pytest.raises(RuntimeError, match="no room"):
        fill.numbers(1)


def test_a_rate_is_that_of_the_middle() -> None:
    steady = [1_000_000_000 + number * 1_000_000 for number in range(101)]
    assert observe.rate_of(steady, 101, 1) == pytest.approx(1000)
    late_end = [*steady[:-5], *(mark + 10**12 for mark in steady[-5:])]
    assert observe.rate_of(late_end, 101, 1) == pytest.approx(1000)
    assert observe.rate_of([10**9, 2 * 10**9], 50, 1) == pytest.approx(1)
    with pytest.raises(RuntimeError, match="only 1 of 50"):
        observe.rate_of([1], 50, 1)
    with pytest.raises(RuntimeError, match="too few for 100"):
        observe.rate_of(steady, 101, 100)


# -- a run -----------------------------------------------------------------------------------------


def test_sitq_is_measured(measuring: runner.Runner, tmp_path: Path) -> None:
    peer = load("sitq").PEER
    row = measuring.measure(peer, peer.settings[1])
    assert row.problem is None, row
    assert row.versions.keys() == set(peer.packages)
    wanted = {each.name for each in MEASURES} - {"idle server"}
    assert set(row.values) | set(row.reasons) >= wanted
    # On a machine that stalls a drain may be too short to tell; to enqueue is always possible.
    assert row.values["enqueue"] > 0
    assert row.values["enqueue many"] > 0
    assert list(tmp_path.iterdir()) == []


def test_who_does_not_end_is_given_up(measuring: runner.Runner) -> None:
    peer = load("sitq").PEER
    row = replace_limit(measuring, 0.2).measure(peer, peer.settings[0])
    assert row.problem == "not done within 0.2 s"
    assert not [each for each in Path("/proc").glob("[0-9]*") if str(measuring.folder) in command_of(each)]


def replace_limit(one: runner.Runner, limit: float) -> runner.Runner:
    one.limit = limit
    return one


def command_of(process: Path) -> str:
    try:
        return (process / "cmdline").read_text(errors="replace")
    except OSError:
        return ""


def test_who_is_not_installed_says_so(measuring: runner.Runner) -> None:
    peer = replace(load("sitq").PEER, packages=("no-such-package",), missing="there are no wheels")
    row = measuring.measure(peer, peer.settings[0])
    assert row.problem == "not installed: there are no wheels"


def test_who_breaks_says_why(measuring: runner.Runner) -> None:
    peer = replace(load("sitq").PEER, name="no_such_module")
    row = measuring.measure(peer, peer.settings[0])
    assert row.problem == "ModuleNotFoundError: No module named 'benchmarks.peers.no_such_module'"


@pytest.mark.parametrize("kind", ["Redis", "PostgreSQL"])
def test_a_server_that_is_not_installed_says_how_to_get_it(
    kind: str, measuring: runner.Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers.shutil, "which", lambda _name: None)
    monkeypatch.setattr(servers, "POSTGRESQL", Path("/nowhere"))
    peer = replace(load("sitq").PEER, storage=kind)  # type: ignore[arg-type]
    row = measuring.measure(peer, peer.settings[0])
    assert row.problem is not None
    assert "apt install" in row.problem
    assert measuring.measure(peer, peer.settings[0]).problem == row.problem


def test_an_environment_without_a_package_is_passed_over(tmp_path: Path) -> None:
    peer = load("sitq").PEER
    assert environments.found_for(peer, [tmp_path]) is not None
    assert environments.found_for(replace(peer, packages=("no-such-package",)), []) is None


def test_several_rounds_are_one_row_of_medians() -> None:
    rows = [
        Row("a", "", "SQLite", SYNCED, True, RUNS_AGAIN, "threads", "", values={"enqueue": value})
        for value in (1, 9, 2)
    ]
    rows[0].reasons["drain 1"] = "it stalled"
    rows[1].values["drain 1"] = 4.0
    found = measures.merged(rows)
    assert found.values == {"enqueue": 2, "drain 1": 4.0}
    assert found.reasons == {}


def test_a_part_that_fails_is_the_reason_of_all_its_measures() -> None:
    row = Row("a", "", "SQLite", SYNCED, True, RUNS_AGAIN, "threads", "")
    row.hear({"measure": "enqueue", "value": 3.0, "reason": None})
    row.hear({"measure": "enqueue_and_drain", "value": None, "reason": "OSError: no"})
    assert row.values == {"enqueue": 3.0}
    assert row.reasons == dict.fromkeys(("enqueue 100", "enqueue many", "drain 100", "memory"), "OSError: no")
    assert table.why([row]) == [
        "a, enqueue, 100 callers; enqueue, in bulk; drain, 100 at a time; memory, after a drain: OSError: no"
    ]
    assert (table.cell(row, "enqueue"), table.cell(row, "drain 100"), table.cell(row, "idle")) == (
        "3.00",
        "failed",
        "-",
    )


# -- table, chart and page of a stored run ---------------------------------------------------------


def test_stored_figures_name_every_peer(told: dict[str, object]) -> None:
    rows = table.from_json(told)
    expected = [(name, each.name) for name in NAMES for each in load(name).PEER.settings]
    assert [(row.peer, row.setting) for row in rows] == expected
    for row in rows:
        missing = {each.name for each in MEASURES} - row.values.keys() - row.reasons.keys() - {"idle server"}
        assert row.problem or not missing, (row.name, missing)
    assert table.as_json(rows, {})["rows"] == told["rows"]


def test_the_table_has_every_row_and_every_reason(told: dict[str, object]) -> None:
    rows = table.from_json(told)
    broken = replace(rows[0], peer="broken", setting="", problem="it does not start")
    text = table.markdown([*rows, broken])
    throughput, _cost, settings, notes = text.split("\n\n")
    names = [line.split("|")[1].strip().strip("*") for line in settings.splitlines()[2:]]
    assert names == [*(row.name for row in rows), "broken"]
    assert len(throughput.splitlines()) == 2 + len([row for row in rows if not row.problem])
    assert "- Could not be measured. broken: it does not start." in notes
    for name, reason in LEFT_OUT.items():
        assert f"{name}: {reason}" in notes
    assert table.line(broken) == "broken                    it does not start"


def test_the_chart_is_text_that_everybody_can_read(told: dict[str, object]) -> None:
    text = drawn(told)
    root = ET.fromstring(text)
    space = "{http://www.w3.org/2000/svg}"
    said = [each.text or "" for each in root.iter(f"{space}text")]
    rows = [row for row in table.from_json(told) if not row.problem]
    assert {row.name for row in rows} <= {each.rstrip(" *\N{DAGGER}") for each in said}
    described = root.findtext(f"{space}desc") or ""
    for row in rows:
        assert f"{row.name}: " in described
    _, _, width, height = map(float, (root.get("viewBox") or "").split())
    for each in root.iter(f"{space}rect"):
        assert float(each.get("x") or 0) + float(each.get("width") or 0) <= width
        assert float(each.get("y") or 0) + float(each.get("height") or 0) <= height
    assert "prefers-color-scheme: dark" in text
    assert "://" not in text.replace('xmlns="http://www.w3.org/2000/svg"', "")


def test_a_chart_of_nothing_is_a_chart() -> None:
    row = Row("a", "", "Redis", SYNCED, True, RUNS_AGAIN, "threads", "", reasons={"drain 100": "has none"})
    assert ET.fromstring(chart.svg([row], "<&>")) is not None
    assert ET.fromstring(chart.svg([], "")) is not None


def test_the_page_is_what_the_stored_figures_give(told: dict[str, object], tmp_path: Path) -> None:
    page = tmp_path / cli.PAGE.name
    page.write_text(cli.PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    publish(told, page)
    for suffix in (".md", ".json", ".svg"):
        assert page.with_suffix(suffix).read_text() == cli.PAGE.with_suffix(suffix).read_text(), suffix


# -- the command line ------------------------------------------------------------------------------


def test_list_names_every_peer(capsys: pytest.CaptureFixture[str]) -> None:
    assert everything.main(["peers", "--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(NAMES)


def test_unknown_peer_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["quickest"])
    assert ended.value.code == 2
    assert "unknown: quickest" in capsys.readouterr().err


def test_figures_of_a_run_become_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {name: tmp_path / f"x.{name}" for name in ("json", "markdown", "chart")}
    words = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    assert cli.main(["--figures", str(STORED), *words]) == 0
    assert json.loads(files["json"].read_text()) == json.loads(STORED.read_text())
    assert files["markdown"].read_text() in cli.PAGE.read_text()
    assert files["chart"].read_text() == cli.PAGE.with_suffix(".svg").read_text()
    assert cli.main(["--figures", str(STORED)]) == 0
    assert capsys.readouterr().out == files["markdown"].read_text()


def test_a_run_of_one_peer_is_written_down(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = table.from_json(json.loads(STORED.read_text()))[0]
    monkeypatch.setattr(
        runner.Runner, "measure", lambda _self, _peer, _setting: replace(row, values={"enqueue": 7.0})
    )
    found = tmp_path / "x.json"
    assert cli.main(["sitq", "--dir", str(tmp_path), "--rounds", "2", "--json", str(found)]) == 0
    told = json.loads(found.read_text())
    assert [each["values"] for each in told["rows"]] == [{"enqueue": 7.0}] * 2
    assert told["again"] == {"enqueue": 7.0}
    assert told["machine"]["cores"] >= 1
    assert "sitq, full, again" in capsys.readouterr().out
