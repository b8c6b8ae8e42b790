"""`sitq worker`: where tasks come from, its options and variables, and how it ends."""

import json
import os
import signal
import subprocess
import sys

import pytest

from sitq import Status
from tests.cli.conftest import PATIENCE, Cli, wait_until

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, err = process.communicate(timeout=PATIENCE)
    return process.returncode, err


def status_of(cli: Cli, task_id: str) -> Status:
    with cli.queue() as queue:
        return queue.get_status(task_id)


# -- Where tasks come from -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "file"),
    [
        ("app:queue", "app.db"),
        ("app:make()", "made.db"),
        ("single", "single.db"),
        ("single:mine", "single.db"),
        ("app.db", "app.db"),
        ("./data", "data"),
        ("sqlite:///url.db", "url.db"),
    ],
)
def test_each_form_of_a_target(cli: Cli, target: str, file: str) -> None:
    task_id = cli.run("enqueue", "app:add", 1, 2, "--db", file).strip()
    cli.run("worker", target, "--burst")
    assert cli.run("result", task_id, "--db", file) == "3\n"


def test_a_bare_name_that_is_a_file_is_a_database(cli: Cli) -> None:
    cli.run("enqueue", "app:add", 1, "--db", "./data", "--id", "t1")
    cli.run("worker", "data", "--burst")
    assert cli.run("result", "t1", "--db", "./data") == "1\n"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nowhere", "no module named 'nowhere'"),
        ("nowhere:queue", "no module named 'nowhere'"),
        ("app:queu", "did you mean 'queue'?"),
        ("app:make", "To call it, write app:make()"),
        ("app:queue()", "it cannot be called, leave out the ()"),
        ("app:add()", "app:add() failed: TypeError"),
        ("json", "module json holds no queue"),
        ("two", "module two holds 2 queues, choose one: two:a, two:b"),
        ("broken", "cannot import broken: ZeroDivisionError: division by zero"),
        ("needs", "cannot import needs: it imports 'not_installed', which is missing"),
        ("nats://localhost", "is not a storage"),
    ],
)
def test_a_target_that_is_none(cli: Cli, target: str, message: str) -> None:
    (cli.folder / "broken.py").write_text("1 / 0")
    (cli.folder / "needs.py").write_text("import not_installed")
    (cli.folder / "two.py").write_text("from sitq import TaskQueue\na, b = TaskQueue(), TaskQueue()")
    assert message in cli.run("worker", target, code=2)


def test_without_a_target(cli: Cli) -> None:
    assert "SITQ_APP" in cli.run("worker", code=2)
    cli.run("worker", "--burst", SITQ_APP="app:queue")


def test_a_traceback_for_those_who_ask(cli: Cli) -> None:
    (cli.folder / "broken.py").write_text("1 / 0")
    code, err = ended(cli.start("worker", "broken", "--log-level", "debug"))
    assert code == 2
    assert 'broken.py", line 1' in err


def test_a_database_that_cannot_be_opened(cli: Cli) -> None:
    assert "does not exist" in cli.run("worker", "missing/app.db", code=3)
    (cli.folder / "text.db").write_text("no database " * 1000)
    code, err = ended(cli.start("worker", "text.db"))
    assert code == 3
    assert "not a SQLite database" in err


# -- Options and variables -------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["flag", "variable"])
def test_queues_and_max_tasks(cli: Cli, how: str) -> None:
    with cli.queue() as queue:
        for name in ("a", "b", "c", "a"):
            queue.options(queue=name, id=f"{name}{len(queue.find())}").enqueue(max, 1, 2)
    if how == "flag":
        cli.run("worker", "app.db", "-q", "a,b", "--max-tasks", 3)
    else:
        cli.run("worker", "app.db", SITQ_WORKER_QUEUES="a, b", SITQ_WORKER_MAX_TASKS="3")
    assert {
        record["queue"] for record in cli.json("tasks", "list", "--db", "app.db", "--status", "pending")
    } == {"c"}


@pytest.mark.parametrize(
    ("flags", "env", "order"),
    [
        (["-q", "low,high", "--strict"], {}, "llllhhhh"),
        ([], {"SITQ_WORKER_QUEUES": "high,low", "SITQ_WORKER_STRICT": "1"}, "hhhhllll"),
        (["-q", "high=3, low=1"], {}, "hhlhhlll"),
    ],
)
def test_order_and_weights(cli: Cli, flags: list[str], env: dict[str, str], order: str) -> None:
    with cli.queue() as queue:
        for name in ("low", "high") * 4:
            queue.options(queue=name).enqueue(max, 1, 2)
    cli.run("worker", "app.db", "-c", 1, "--burst", *flags, **env)
    with cli.queue() as queue:
        ran = sorted(queue.find(), key=lambda task: task.fence)
    assert "".join(task.queue[0] for task in ran) == order


@pytest.mark.parametrize("how", ["flag", "variable"])
def test_resources(cli: Cli, how: str) -> None:
    task_id = cli.run("enqueue", "app:size", "--db", "app.db").strip()
    if how == "flag":
        cli.run("worker", "app.db", "--burst", "--resources", "app:lifespan")
    else:
        cli.run("worker", "app.db", "--burst", SITQ_WORKER_RESOURCES="app:lifespan")
    assert cli.run("result", task_id, "--db", "app.db") == "3\n"
    assert (cli.folder / "down").exists()


@pytest.mark.parametrize(
    ("target", "code", "message"),
    [
        ("app", 2, "'app' does not name a function: write module:function"),
        ("app:lifespa", 2, "did you mean 'lifespan'?"),
        (
            "app:patient",
            2,
            "resources is a coroutine function: give a function that returns a context manager",
        ),
        ("app:no_pool", 1, "its resources could not be set up, so it was not started: OSError: no database"),
    ],
)
def test_resources_that_cannot_be_had(cli: Cli, target: str, code: int, message: str) -> None:
    _, err = process = ended(cli.start("worker", "app.db", "--burst", "--resources", target))
    assert process[0] == code
    assert message in err.splitlines()[-1]


def test_a_sync_queue_keeps_its_context_providers(cli: Cli) -> None:
    (cli.folder / "carrying.py").write_text(CARRYING)
    subprocess.run(
        [sys.executable, "-c", "import carrying; carrying.main()"], cwd=cli.folder, env=cli.env, check=True
    )
    cli.run("worker", "carrying:queue", "--burst")
    assert cli.run("result", "t1", "--db", "carrying.db") == "r1\n"


CARRYING = """
from contextvars import ContextVar
from sitq import ContextVars, SyncTaskQueue

request_id = ContextVar("request_id")
queue = SyncTaskQueue("carrying.db", context_providers=[ContextVars(request_id)])


def ask():
    return request_id.get()


def main():
    request_id.set("r1")
    with queue:
        queue.options(id="t1").enqueue(ask)
"""


@pytest.mark.parametrize(
    ("flags", "env"),
    [
        (["-c", "3", "--log-format", "json", "--burst"], {}),
        (["--concurrency", "3", "--log-format", "JSON", "--burst"], {"SITQ_WORKER_CONCURRENCY": "5"}),
        ([], {"SITQ_WORKER_CONCURRENCY": "3", "SITQ_WORKER_LOG_FORMAT": "json", "SITQ_WORKER_BURST": "yes"}),
    ],
)
def test_concurrency_burst_and_json_logs(cli: Cli, flags: list[str], env: dict[str, str]) -> None:
    task_id = cli.run("enqueue", "app:add", 1, "--db", "app.db").strip()
    code, err = ended(cli.start("worker", "app.db", *flags, **env))
    assert code == 0
    lines = [json.loads(line) for line in err.splitlines()]
    assert all({"timestamp", "level", "logger", "message"} <= line.keys() for line in lines)
    [started] = [line for line in lines if line.get("event") == "worker.started"]
    assert started["concurrency"] == 3
    [succeeded] = [line for line in lines if line.get("event") == "task.succeeded"]
    assert succeeded["task_id"] == task_id
    assert succeeded["level"] == "info"


@pytest.mark.parametrize(
    ("flags", "env"),
    [
        (["--executor", "process", "--processes", 1], {}),
        ([], {"SITQ_WORKER_EXECUTOR": "process", "SITQ_WORKER_PROCESSES": "1"}),
    ],
)
def test_child_processes(cli: Cli, flags: list[object], env: dict[str, str]) -> None:
    ids = [cli.run("enqueue", "os:getpid", "--db", "app.db").strip() for _ in range(2)]
    process = cli.start("worker", "app.db", "--burst", *flags, **env)
    assert ended(process)[0] == 0
    pids = {cli.run("result", task_id, "--db", "app.db") for task_id in ids}
    assert len(pids) == 1
    assert pids != {f"{process.pid}\n"}


@pytest.mark.parametrize("how", ["flag", "variable"])
def test_the_log_level(cli: Cli, how: str) -> None:
    cli.run("enqueue", "app:fail", "loudly", "--db", "app.db")
    cli.run("enqueue", "app:add", 1, "--db", "app.db")
    if how == "flag":
        process = cli.start("worker", "app.db", "--burst", "--log-level", "error")
    else:
        process = cli.start("worker", "app.db", "--burst", SITQ_WORKER_LOG_LEVEL="ERROR")
    code, err = ended(process)
    assert code == 0
    assert "loudly" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "env", "message"),
    [
        (
            ["--concurency", "3"],
            {},
            "unknown option --concurency: did you mean --concurrency? (see sitq worker --help)",
        ),
        (["--brust"], {}, "did you mean --burst?"),
        (["-c", "many"], {}, "'many' is not a whole number"),
        (["-c", "0"], {}, "concurrency is 0"),
        (
            ["--executor", "proces"],
            {},
            "executor is 'proces', which nobody knows here: did you mean 'process'?",
        ),
        (["--processes", "0"], {}, "processes is 0: give a number of child processes"),
        ([], {"SITQ_WORKER_PROCESSES": "many"}, "SITQ_WORKER_PROCESSES is 'many'"),
        (["--lease", "soon"], {}, "'soon' is not a duration"),
        (["--lease", "0.01"], {}, "lease is 0.01 s"),
        (["--log-level", "inof"], {}, "did you mean info?"),
        (["-q", "a,,b"], {}, "queues"),
        (["-q", "a=3,b"], {}, "'b' has no weight: write b=1, or give weights to none"),
        (["-q", "a=many"], {}, "'many' is not a whole number"),
        (["-q", "a=0"], {}, "the weight of queue 'a' is 0"),
        (["--strict"], {}, "strict needs an order"),
        (["-q", "a=3", "--strict"], {}, "strict needs an order"),
        (["--loop", "uvlop"], {}, "did you mean uvloop?"),
        (["more"], {}, "unexpected argument 'more'"),
        ([], {"SITQ_WORKER_CONCURRENCY": "many"}, "SITQ_WORKER_CONCURRENCY is 'many'"),
        ([], {"SITQ_WORKER_BURST": "maybe"}, "SITQ_WORKER_BURST is 'maybe'"),
        ([], {"SITQ_WORKER_LEASE": "0"}, "lease is 0 s"),
        ([], {"SITQ_WORKER_SHUTDOWN_TIMEOUT": "x"}, "SITQ_WORKER_SHUTDOWN_TIMEOUT"),
    ],
)
def test_mistakes(cli: Cli, arguments: list[str], env: dict[str, str], message: str) -> None:
    assert message in cli.run("worker", "app.db", *arguments, code=2, **env)
    assert not (cli.folder / "app.db").exists()


def test_every_variable_is_in_the_help(cli: Cli) -> None:
    text = cli.run("worker", "--help")
    for name in (
        "QUEUES",
        "STRICT",
        "CONCURRENCY",
        "BURST",
        "MAX_TASKS",
        "SHUTDOWN_TIMEOUT",
        "LEASE",
        "EXECUTOR",
        "PROCESSES",
        "RESOURCES",
        "LOOP",
        "LOG_LEVEL",
        "LOG_FORMAT",
    ):
        assert f"SITQ_WORKER_{name}" in text
    assert "SITQ_APP" in text


# -- The event loop --------------------------------------------------------------------------------


@pytest.fixture(params=["asyncio", "uvloop"])
def on_each_loop(request: pytest.FixtureRequest, cli: Cli) -> None:
    cli.env["SITQ_WORKER_LOOP"] = request.param


@posix
@pytest.mark.parametrize(
    ("flags", "env"),
    [
        (["--loop", "uvloop"], {}),
        (["--executor", "process", "--processes", 1], {"SITQ_WORKER_LOOP": "uvloop"}),
    ],
)
def test_uvloop_runs_every_kind_of_task(cli: Cli, flags: list[object], env: dict[str, str]) -> None:
    coroutine, plain = (
        cli.run("enqueue", name, "--db", "app.db").strip() for name in ("app:loop", "os:getpid")
    )
    process = cli.start("worker", "app.db", "--burst", *flags, **env)
    assert ended(process)[0] == 0
    assert cli.run("result", coroutine, "--db", "app.db") == "uvloop\n"
    elsewhere = cli.run("result", plain, "--db", "app.db") != f"{process.pid}\n"
    assert elsewhere is bool(env)


@posix
def test_uvloop_that_is_not_installed(cli: Cli) -> None:
    (cli.folder / "uvloop.py").write_text("raise ImportError('no such package')")
    message = cli.run("worker", "app.db", "--loop", "uvloop", code=2)
    assert "needs the package uvloop, which is not installed: install the extra `uvloop`" in message
    assert not (cli.folder / "app.db").exists()


# -- The end ---------------------------------------------------------------------------------------


@posix
@pytest.mark.usefixtures("on_each_loop")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_lets_tasks_finish(cli: Cli, number: signal.Signals) -> None:
    task_id = cli.run("enqueue", "app:patient", "--db", "app.db").strip()
    process = cli.start("worker", "app:queue")
    cli.wait_for("running")
    process.send_signal(number)
    assert process.stderr is not None
    while "stopping, 1 task(s) running" not in process.stderr.readline():
        pass
    (cli.folder / "finish").touch()
    assert ended(process)[0] == 0
    assert status_of(cli, task_id) is Status.SUCCESS


@posix
@pytest.mark.usefixtures("on_each_loop")
@pytest.mark.parametrize(("number", "expected"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_second_signal_gives_tasks_back(cli: Cli, number: signal.Signals, expected: int) -> None:
    task_id = cli.run("enqueue", "app:patient", "--db", "app.db").strip()
    process = cli.start("worker", "app:queue")
    cli.wait_for("running")
    process.send_signal(signal.SIGTERM)
    assert process.stderr is not None
    while "stopping" not in process.stderr.readline():
        pass
    process.send_signal(number)
    assert ended(process)[0] == expected
    with cli.queue() as queue:
        record = queue.get(task_id)
    assert (record.status, record.attempt) == (Status.PENDING, 0)


@posix
@pytest.mark.usefixtures("on_each_loop")
def test_the_third_signal_ends_the_process_even_if_a_task_blocks_the_loop(cli: Cli) -> None:
    cli.run("enqueue", "app:blocking", "--db", "app.db")
    process = cli.start("worker", "app:queue")
    cli.wait_for("running")

    def ends() -> bool:
        process.send_signal(signal.SIGTERM)  # one that comes too soon after another is the same signal
        return process.poll() is not None

    wait_until(ends)
    assert ended(process)[0] == 143


@posix
@pytest.mark.usefixtures("on_each_loop")
@pytest.mark.parametrize("task", ["deaf", "stuck"])
@pytest.mark.parametrize("forced", [False, True], ids=["timeout", "forced"])
def test_a_task_that_does_not_stop_cannot_keep_the_process(cli: Cli, task: str, forced: bool) -> None:
    task_id = cli.run("enqueue", f"app:{task}", "--db", "app.db").strip()
    process = cli.start("worker", "app:queue", *([] if forced else ["--shutdown-timeout", "0.1"]))
    cli.wait_for("running")
    process.send_signal(signal.SIGINT)
    if forced:
        assert process.stderr is not None
        while "stopping" not in process.stderr.readline():
            pass
        process.send_signal(signal.SIGINT)
    code, err = ended(process)
    assert code == (130 if forced else 0)
    assert "does not stop" in err
    assert status_of(cli, task_id) is Status.PENDING


def test_a_thread_that_a_task_left_cannot_keep_the_process(cli: Cli) -> None:
    task_id = cli.run("enqueue", "app:left", "--db", "app.db").strip()
    code, err = ended(cli.start("worker", "app:queue", "--burst", SITQ_WORKER_SHUTDOWN_TIMEOUT="1"))
    assert code == 0
    assert "something that a task left behind does not end" in err
    assert status_of(cli, task_id) is Status.SUCCESS


@posix
def test_a_short_lease_and_a_killed_worker(cli: Cli) -> None:
    task_id = cli.run("enqueue", "app:patient", "--db", "app.db").strip()
    # With a slot to spare it would take over its own task, should it stall for a lease.
    process = cli.start("worker", "app.db", "--concurrency", 1, SITQ_WORKER_LEASE="0.3")
    cli.wait_for("running")
    process.kill()
    process.wait()
    (cli.folder / "finish").touch()
    cli.run("worker", "app.db", "--max-tasks", 1)
    assert cli.run("result", task_id, "--db", "app.db") == "finished\n"
    assert cli.json("tasks", "show", task_id, "--db", "app.db")["crashes"] == 1
