"""The commands that look into a database, and those that put something in."""

import json
import os
import re
import sqlite3
import stat
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sitq import Status, call
from tests.cli.conftest import PATIENCE, Cli, wait_until

READS = [
    ("status",),
    ("tasks", "list"),
    ("tasks", "show", "t1"),
    ("tasks", "cancel", "t1"),
    ("tasks", "requeue", "t1"),
    ("tasks", "discard", "--status", "failed"),
    ("queues", "pause", "mail"),
    ("queues", "resume", "mail"),
    ("workers",),
    ("result", "t1"),
    ("schedules", "list"),
    ("schedules", "pause", "s1"),
    ("doctor",),
]


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"__pycache__"}


# -- Which database --------------------------------------------------------------------------------


@pytest.mark.parametrize("command", READS, ids=" ".join)
def test_a_missing_file_is_said_and_not_created(cli: Cli, command: tuple[str, ...]) -> None:
    before = files(cli.folder)
    assert "there is no database" in cli.run(*command, code=3)
    assert "gone.db" in cli.run(*command, "--db", "gone.db", "--json", code=3)
    assert files(cli.folder) == before


@pytest.mark.parametrize("command", [one for one in READS if one != ("doctor",)], ids=" ".join)
def test_a_database_of_somebody_else_is_left_alone(cli: Cli, command: tuple[str, ...]) -> None:
    with closing(sqlite3.connect(cli.folder / "other.db")) as db:
        db.execute("CREATE TABLE theirs (x)")
    content = (cli.folder / "other.db").read_bytes()
    assert "no sitq tables" in cli.run(*command, "--db", "other.db", code=3)
    assert (cli.folder / "other.db").read_bytes() == content


def test_the_order_of_database_settings(cli: Cli) -> None:
    for name in ("flag.db", "variable.db", "app.db", "sitq.db"):
        cli.run("enqueue", "app:add", 1, "--db", name, "--queue", name)

    def queue(*arguments: str, **env: str) -> str:
        [one] = cli.json("status", *arguments, **env)["queues"]
        return str(one["queue"])

    assert queue("--db", "flag.db", SITQ_DB="variable.db", SITQ_APP="app:queue") == "flag.db"
    assert queue(SITQ_DB="variable.db", SITQ_APP="app:queue") == "variable.db"
    assert queue(SITQ_APP="app:queue") == "app.db"
    assert queue() == "sitq.db"
    assert queue("--db", "sqlite:///flag.db") == "flag.db"


def test_a_storage_in_memory_is_no_use(cli: Cli) -> None:
    for where in ("memory://", ":memory:"):
        assert "memory of its own process" in cli.run("status", "--db", where, code=2)


def test_a_damaged_file(cli: Cli) -> None:
    (cli.folder / "app.db").write_text("no database " * 1000)
    assert "not a SQLite database" in cli.run("status", "--db", "app.db", code=3)
    assert "unhealthy" in cli.run("doctor", "--db", "app.db", code=4)


# -- enqueue ---------------------------------------------------------------------------------------


def test_arguments_are_json_or_text(cli: Cli) -> None:
    words = ["1", "-2.5", "true", "null", '"5"', '{"a": [1]}', "plain text", "NaN", "007", ""]
    task_id = cli.run("enqueue", "app:show", *words, "--kwarg", "key=[1, 2]", "--kwarg", "text=a=b").strip()
    cli.run("worker", "sitq.db", "--burst")
    expected = [1, -2.5, True, None, "5", {"a": [1]}, "plain text", "NaN", "007", ""]
    assert cli.json("result", task_id)["value"] == [expected, {"key": [1, 2], "text": "a=b"}]


def test_arguments_around_options(cli: Cli) -> None:
    task_id = cli.run("enqueue", "app:show", 1, "--queue", "q", 2, -3, "--kwarg", "a=1").strip()
    dashes = cli.run("enqueue", "app:show", "--", "--queue", "x").strip()
    cli.run("worker", "sitq.db", "--burst")
    assert json.loads(cli.run("result", task_id)) == [[1, 2, -3], {"a": 1}]
    assert json.loads(cli.run("result", dashes)) == [["--queue", "x"], {}]


def test_options_of_a_task(cli: Cli) -> None:
    before = datetime.now(UTC)
    assert (
        cli.run("enqueue", "app:add", 1, "--id", "t1", "--queue", "q", "--priority", -3, "--delay", "2h")
        == "t1\n"
    )
    record = cli.json("tasks", "show", "t1")
    assert (record["queue"], record["priority"], record["name"]) == ("q", -3, "app.add")
    due = datetime.fromisoformat(record["due_at"])
    assert timedelta(hours=2) <= due - before < timedelta(hours=2, minutes=1)
    assert cli.json("enqueue", "app:add", 1, "--id", "t2", "--eta", "2030-01-01T12:00+01:00") == {"id": "t2"}
    assert cli.json("tasks", "show", "t2")["due_at"] == "2030-01-01T11:00:00+00:00"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["app:ad", "1"], "did you mean 'add'?"),
        (["app", "1"], "write module:function"),
        (["app.db"], "write module:function"),
        (["app:queue"], "cannot be called"),
        (["nowhere:f"], "no module named 'nowhere'"),
        (["app:add"], "does not take these arguments, missing a required argument: 'a'"),
        (["app:add", "1", "--kwarg", "b"], "write key=value"),
        (["app:add", "1", "--kwarg", "c=1"], "does not take these arguments"),
        (["app:add", "1", "--eta", "2030-01-01"], "in which zone"),
        (["app:add", "1", "--eta", "tomorrow"], "is not a time"),
        (["app:add", "1", "--delay", "-1"], "out of range"),
        (["app:add", "1", "--priority", "100"], "priority is out of range"),
        (["app:add", "1", "--prioritty", "1"], "did you mean --priority?"),
        (["app:add", "1", "--delay", "1", "--eta", "2030-01-01T00:00Z"], "give one of them"),
    ],
)
def test_mistakes_when_enqueueing(cli: Cli, arguments: list[str], message: str) -> None:
    assert message in cli.run("enqueue", *arguments, code=2)


# -- status, tasks, result -------------------------------------------------------------------------


def test_status(cli: Cli) -> None:
    cli.run("enqueue", "app:add", 1, "--id", "t1")
    cli.run("enqueue", "app:add", 1, "--queue", "later", "--delay", 60)
    cli.run("worker", "sitq.db", "--burst")
    data = cli.json("status")
    counts = {one["queue"]: one["counts"] for one in data["queues"]}
    assert counts["default"]["success"] == counts["later"]["pending"] == 1
    assert counts["default"].keys() == set(Status)
    assert data["stale_outcomes"] == 0
    header, *rows = [line.split() for line in cli.run("status").splitlines()]
    assert header[:7] == ["queue", *Status]
    assert [row[0] for row in rows] == ["default", "later"]


def test_list_filters(cli: Cli) -> None:
    with cli.queue("sitq.db") as queue:
        for number in range(5):
            queue.options(id=f"t{number}", queue="ab"[number % 2]).enqueue(max, 1, 2)
        queue.options(id="t5").enqueue(min, 1, 2)
        queue.cancel("t1")

    def ids(*arguments: object) -> list[str]:
        return [record["id"] for record in cli.json("tasks", "list", *arguments)]

    assert ids() == ["t5", "t4", "t3", "t2", "t1", "t0"]
    assert ids("--queue", "b") == ["t3", "t1"]
    assert ids("--status", "cancelled") == ["t1"]
    assert ids("--status", "pending,cancelled", "--queue", "b") == ["t3", "t1"]
    assert ids("--name", "builtins.min") == ["t5"]
    assert ids("--since", "1h", "--limit", 2) == ["t5", "t4"]
    assert ids("--until", "1h") == []
    assert ids("--since", "2999-01-01T00:00Z") == []
    page = cli.json("tasks", "list", "--limit", 2)
    assert ids("--limit", 2, "--before", page[-1]["seq"]) == ["t3", "t2"]


def test_a_full_page_says_how_to_go_on(cli: Cli) -> None:
    for _ in range(3):
        cli.run("enqueue", "app:add", 1)
    process = cli.start("tasks", "list", "--limit", 2)
    out, err = process.communicate()
    assert len(out.splitlines()) == 3
    assert err == "there may be more: --before 2\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--status", "pendin"], "did you mean pending?"),
        (["--limit", "0"], "limit is 0"),
        (["--since", "yesterday"], "is not a time"),
        (["--since", "9999999999d"], "too long ago"),
        (["--statu", "pending"], "did you mean --status?"),
    ],
)
def test_mistakes_when_listing(cli: Cli, arguments: list[str], message: str) -> None:
    cli.run("enqueue", "app:add", 1)
    assert message in cli.run("tasks", "list", *arguments, code=2)


def test_a_task_that_was_cancelled_with_another(cli: Cli) -> None:
    with cli.queue("sitq.db") as queue:
        parents = [queue.options(id=f"p{number:02}").enqueue(len, "abc") for number in range(12)]
        queue.options(id="child", depends_on=parents).enqueue(len, "abc")
        queue.cancel("p03")
    data = cli.json("tasks", "show", "child")
    assert (data["status"], data["cancelled_by"], len(data["parents"])) == ("cancelled", "p03", 12)
    text = cli.run("tasks", "show", "child")
    assert re.search(r"^cancelled_by: +p03$", text, re.MULTILINE)
    assert re.search(r"^parents: +p00, p01, .*p09, and 2 more$", text, re.MULTILINE)
    assert "parents" not in cli.run("tasks", "show", "p00")
    why = "because task p03, on which it depends, was cancelled"
    assert cli.run("result", "child", code=1) == f"sitq: task child was cancelled {why}\n"
    assert cli.json("status")["queues"][0]["counts"]["waiting"] == 0


def test_a_failed_task(cli: Cli) -> None:
    cli.run("enqueue", "app:fail", "out of paper", "--id", "t1")
    cli.run("worker", "sitq.db", "--burst")
    assert cli.run("result", "t1", code=1) == "sitq: task t1 failed: ValueError: out of paper\n"
    data = cli.json("tasks", "show", "t1")
    assert data["error"]["type"] == "ValueError"
    assert "Traceback" in data["error"]["traceback"]
    text = cli.run("tasks", "show", "t1")
    assert "ValueError: out of paper" in text
    assert "in fail" in text
    process = cli.start("result", "t1", "--json")
    out, err = process.communicate()
    assert (process.returncode, json.loads(out)["status"]) == (1, "failed")
    assert err == "sitq: task t1 failed: ValueError: out of paper\n"


def test_results(cli: Cli) -> None:
    cli.run("enqueue", "app:show", "a", "--id", "data")
    cli.run("enqueue", "builtins:str", '"text"', "--id", "text")
    cli.run("enqueue", "pathlib:PurePosixPath", "a/b", "--id", "object")
    cli.run("enqueue", "app:add", 1, "--queue", "other", "--id", "waits")
    cli.run("worker", "sitq.db", "--burst", "-q", "default")
    assert cli.run("result", "data") == '[["a"], {}]\n'
    assert cli.run("result", "text") == "text\n"
    assert cli.run("result", "object") == "PurePosixPath('a/b')\n"
    assert cli.json("result", "object")["value"] == "PurePosixPath('a/b')"
    assert "wait with --timeout" in cli.run("result", "waits", code=1)
    assert "pending" in cli.run("result", "waits", "--timeout", 0.05, code=1)
    assert "no task 'nobody'" in cli.run("result", "nobody", code=1)
    assert "no task 'nobody'" in cli.run("tasks", "show", "nobody", code=1)


def test_result_waits(cli: Cli) -> None:
    cli.run("enqueue", "app:patient", "--id", "t1")
    worker = cli.start("worker", "sitq.db", "--max-tasks", "1")
    cli.wait_for("running")
    waiting = cli.start("result", "t1", "--timeout", PATIENCE)
    (cli.folder / "finish").touch()
    assert waiting.communicate(timeout=PATIENCE)[0] == "finished\n"
    assert worker.wait(PATIENCE) == 0


def test_cancel(cli: Cli) -> None:
    cli.run("enqueue", "app:add", 1, "--id", "t1")
    cli.run("enqueue", "app:add", 1, "--id", "t2")
    assert cli.json("tasks", "cancel", "t1", "t2") == {"t1": "cancelled", "t2": "cancelled"}
    assert "was cancelled" in cli.run("result", "t1", code=1)
    assert "no such task: nobody" in cli.run("tasks", "cancel", "t1", "nobody", code=1)


# -- Dead letters ----------------------------------------------------------------------------------


def fail_some(cli: Cli) -> None:
    with cli.queue("sitq.db") as queue:
        for number in range(3):
            queue.options(id=f"t{number}", queue="ab"[number % 2]).enqueue(int, "x")
        queue.options(id="ok").enqueue(int, "1")
    cli.run("worker", "sitq.db", "--burst")


def test_requeue_by_id(cli: Cli) -> None:
    fail_some(cli)
    assert cli.run("tasks", "requeue", "t0", "--json", "t2").split() == ["[", '"t0",', '"t2"', "]"]
    shown = cli.json("tasks", "show", "t0")
    assert (shown["status"], shown["attempt"], shown["requeued"], shown["error"]) == ("pending", 0, 1, None)
    assert [(one["attempt"], one["type"], one["last"]) for one in shown["attempts_log"]] == [
        (1, "ValueError", False)
    ]
    assert "errors of earlier attempts" in cli.run("tasks", "show", "t0")
    message = cli.run("tasks", "requeue", "t1", "ok", "nobody", code=1)
    assert message.endswith("their key is taken: ok, nobody\n")
    assert cli.json("tasks", "show", "t1")["status"] == "pending"


def test_requeue_by_filter(cli: Cli) -> None:
    fail_some(cli)
    assert cli.run("tasks", "requeue", "--queue", "b") == "t1\n"
    assert set(cli.json("tasks", "requeue", "--status", "failed,cancelled")) == {"t0", "t2"}
    assert cli.json("tasks", "requeue", "--since", "1h") == []


def test_discard(cli: Cli) -> None:
    fail_some(cli)
    assert cli.run("tasks", "discard", "t0", "ok", "nobody") == "1\n"
    assert cli.json("tasks", "discard", "--name", "builtins.int") == {"discarded": 2}
    assert [one["id"] for one in cli.json("tasks", "list")] == ["ok"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say which tasks: give ids, or an option"),
        (["t1", "--queue", "a"], "ids and --queue both say which tasks"),
        (["--status", "pending"], "choose from failed, cancelled"),
        (["--status", "faild"], "did you mean failed?"),
        (["--since", "yesterday"], "is not a time"),
        (["--quee", "a"], "did you mean --queue?"),
    ],
)
@pytest.mark.parametrize("verb", ["requeue", "discard"])
def test_mistakes_with_dead_letters(cli: Cli, verb: str, arguments: list[str], message: str) -> None:
    fail_some(cli)
    assert message in cli.run("tasks", verb, *arguments, code=2)
    assert cli.json("tasks", "show", "t1")["status"] == "failed"


def test_show_tells_progress_and_limits(cli: Cli) -> None:
    with cli.queue("sitq.db") as queue:
        queue.options(
            id="t1",
            unique_key="k",
            unique_until=60,
            concurrency_key="c",
            concurrency_limit=2,
            rate_limit="5/s",
        ).enqueue(int, "1")
    cli.run("enqueue", "app:tell", "--id", "t2")
    cli.run("worker", "sitq.db", "--burst")
    shown = cli.json("tasks", "show", "t1")
    assert shown["unique"]["key"] == "k"
    assert shown["concurrency"] == {"key": "c", "limit": 2}
    assert shown["rate"] == {"key": "sitq:queue:default", "limit": 5, "period": 1.0}
    assert '"limit": 2' in cli.run("tasks", "show", "t1")
    assert cli.json("tasks", "show", "t2")["progress"] == {"percent": 40, "note": "halfway"}
    assert "progress:         40 % halfway\n" in cli.run("tasks", "show", "t2")


# -- Queues and workers ----------------------------------------------------------------------------


def test_pause_and_resume(cli: Cli) -> None:
    cli.run("enqueue", "app:add", 1, "--queue", "mail", "--id", "t1")
    assert cli.run("queues", "pause", "mail", "web") == "mail: paused\nweb: paused\n"
    assert {one["queue"]: one["paused"] for one in cli.json("status")["queues"]} == {
        "mail": True,
        "web": True,
    }
    assert cli.run("status").count("  paused\n") == 2
    cli.run("worker", "sitq.db", "--burst")
    assert cli.json("tasks", "show", "t1")["status"] == "pending"
    assert cli.json("queues", "resume", "mail") == {"mail": {"paused": False}}
    cli.run("worker", "sitq.db", "--burst")
    assert cli.run("result", "t1") == "1\n"
    assert "queue has 0 characters" in cli.run("queues", "pause", "", code=2)


def test_workers(cli: Cli) -> None:
    task_id = cli.run("enqueue", "app:patient").strip()
    assert cli.json("workers") == []
    worker = cli.start("worker", "sitq.db", "-q", "default", "-c", 3)
    cli.wait_for("running")
    wait_until(lambda: [one["running"] for one in cli.json("workers")] == [[task_id]])
    [one] = cli.json("workers")
    assert (one["pid"], one["alive"], one["queues"], one["concurrency"]) == (worker.pid, True, ["default"], 3)
    header, row = cli.run("workers").splitlines()
    assert header.split()[:5] == ["id", "state", "queues", "running", "slots"]
    assert row.split()[1:5] == ["alive", "default", "1", "3"]
    worker.kill()
    worker.wait(PATIENCE)
    with closing(sqlite3.connect(cli.folder / "sitq.db")) as db, db:  # as if its lease had passed
        db.execute("UPDATE sitq_workers SET alive_until = seen_at")
    assert not cli.json("workers")[0]["alive"]
    assert "dead for 0:" in cli.run("workers")


def test_a_worker_that_stops_leaves_the_list(cli: Cli) -> None:
    cli.run("enqueue", "app:add", 1)
    cli.run("worker", "sitq.db", "--burst")
    assert cli.json("workers") == []


# -- doctor ----------------------------------------------------------------------------------------


def test_a_healthy_database(cli: Cli) -> None:
    cli.run("enqueue", "app:add", 1)
    for arguments in ([], ["--full"]):
        data = cli.json("doctor", *arguments)
        assert data["healthy"]
        verdicts = {finding["check"]: finding["verdict"] for finding in data["findings"]}
        assert verdicts.pop("sqlite") in ("ok", "warning")
        assert set(verdicts.values()) == {"ok"}
        assert {"file system", "folder", "permissions", "log", "schema", "integrity", "write lock"} == set(
            verdicts
        )
    assert "integrity_check found nothing" in cli.run("doctor", "--full")


def test_what_doctor_finds(cli: Cli) -> None:
    cli.run("enqueue", "app:add", 1)
    path = cli.folder / "sitq.db"

    def verdicts() -> dict[str, str]:
        process = cli.start("doctor", "--json")
        data = json.loads(process.communicate()[0])
        assert process.returncode == (0 if data["healthy"] else 4)
        return {
            finding["check"]: f"{finding['verdict']}: {finding['detail']}" for finding in data["findings"]
        }

    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        assert verdicts()["write lock"].startswith("error: held by another process")
        db.execute("ROLLBACK")
        db.execute("UPDATE sitq_meta SET value = 99 WHERE key = 'schema_version'")
        assert verdicts()["schema"].startswith("error: version 99")
        db.execute("DROP TABLE sitq_meta")
        assert verdicts()["schema"].startswith("error: no sitq tables")


def test_a_damaged_index_is_found(cli: Cli) -> None:
    with cli.queue("sitq.db") as queue:
        for _ in range(3):
            queue.enqueue(max, 1, 2)
    path = cli.folder / "sitq.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA writable_schema = ON")
        db.execute("UPDATE sqlite_master SET sql = replace(sql, '(queue', '(name') WHERE name = 'sitq_due'")
    assert "unhealthy" in cli.run("doctor", "--full", "--json", code=4).splitlines()[-1]


@pytest.mark.skipif(os.name != "posix", reason="needs file modes")
def test_a_file_that_others_can_read(cli: Cli) -> None:
    cli.run("enqueue", "app:add", 1)
    (cli.folder / "sitq.db").chmod(0o644)
    assert "chmod 600" in cli.run("doctor")


def test_doctor_changes_nothing(cli: Cli) -> None:
    cli.run("enqueue", "app:add", 1)
    before = {
        path: (path.stat().st_mtime_ns, stat.S_IMODE(path.stat().st_mode))
        for path in cli.folder.glob("sitq.db")
    }
    cli.run("doctor", "--full")
    assert {path: (path.stat().st_mtime_ns, stat.S_IMODE(path.stat().st_mode)) for path in before} == before


# -- The command itself ----------------------------------------------------------------------------


def test_versions(cli: Cli) -> None:
    assert cli.json("version")["sqlite"] == sqlite3.sqlite_version
    assert cli.run("--version") == cli.run("version")


def test_help(cli: Cli) -> None:
    text = cli.run("--help")
    for line in ("0  done", "1  failure", "2  usage", "3  the database", "4  doctor", "130, 143"):
        assert line in text
    for command in ("worker", "enqueue", "status", "tasks", "result", "doctor", "version"):
        assert command in text
        cli.run(command, "--help")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say what to do"),
        (["statsu"], "did you mean status?"),
        (["nonsense"], "choose from worker, workers, enqueue"),
        (["tasks"], "required: VERB"),
        (["tasks", "lits"], "did you mean list?"),
        (["status", "more"], "unexpected argument 'more'"),
        (["--jsn"], "unknown option --jsn"),
    ],
)
def test_mistakes(cli: Cli, arguments: list[str], message: str) -> None:
    assert message in cli.run(*arguments, code=2)


def test_output_that_nobody_reads(cli: Cli) -> None:
    with cli.queue("sitq.db") as queue:
        queue.enqueue_many([call(max, 1, 2)] * 2000)
    process = cli.start("tasks", "list", "--limit", "2000", "--json")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(PATIENCE) in (0, 1)
    assert process.stderr is not None
    assert process.stderr.read() == ""
