"""`sitq schedules`: what repeats is listed, paused, resumed and removed; a worker makes the tasks."""

from datetime import datetime

import pytest

from sitq import call
from tests.cli.conftest import Cli


@pytest.fixture
def scheduled(cli: Cli) -> Cli:
    """An application with one declared schedule and two defined ones."""
    (cli.folder / "repeats.py").write_text(
        "from app import add\n"
        "from sitq import TaskQueue\n"
        "queue = TaskQueue('app.db')\n"
        "@queue.cron('0 3 * * *', tz='Europe/Berlin', name='nightly', queue='low')\n"
        "def clean():\n"
        "    return 'clean'\n"
    )
    cli.run("worker", "repeats:queue", "--burst")
    with cli.queue() as queue:
        queue.schedule("often", call(max, 1, 2), every=90)
        queue.schedule("hourly", call(max, 1, 2), cron="@hourly", misfire="all")
    return cli


def names(cli: Cli) -> list[str]:
    return [one["name"] for one in cli.json("schedules", "list", "--db", "app.db")]


def test_list(scheduled: Cli) -> None:
    header, *rows = [
        line.split() for line in scheduled.run("schedules", "list", "--db", "app.db").splitlines()
    ]
    assert header == ["name", "repeats", "queue", "last", "next"]
    assert rows[0][:3] == ["hourly", "@hourly", "UTC"]
    assert rows[1][:8] == ["nightly", "0", "3", "*", "*", "*", "Europe/Berlin", "low"]
    assert rows[2][:5] == ["often", "every", "90", "s", "default"]
    hourly, nightly, often = scheduled.json("schedules", "list", "--db", "app.db")
    assert (hourly["cron"], hourly["misfire"], hourly["overlap"]) == ("@hourly", "all", "wait")
    assert (nightly["tz"], nightly["task"], nightly["every"]) == ("Europe/Berlin", "repeats.clean", None)
    assert (often["every"], often["cron"], often["paused"]) == (90.0, None, False)
    assert datetime.fromisoformat(hourly["next"]).minute == 0


def test_pause_and_resume(scheduled: Cli) -> None:
    assert scheduled.run("schedules", "pause", "often", "hourly", "--db", "app.db") == ""
    paused = {one["name"]: one["paused"] for one in scheduled.json("schedules", "list", "--db", "app.db")}
    assert paused == {"hourly": True, "nightly": False, "often": True}
    assert scheduled.run("schedules", "list", "--db", "app.db").splitlines()[1].endswith("paused")
    assert scheduled.json("schedules", "resume", "often", "--db", "app.db") == ["often"]
    paused = {one["name"]: one["paused"] for one in scheduled.json("schedules", "list", "--db", "app.db")}
    assert paused == {"hourly": True, "nightly": False, "often": False}


def test_remove(scheduled: Cli) -> None:
    scheduled.run("schedules", "remove", "often", "--db", "app.db")
    assert names(scheduled) == ["hourly", "nightly"]


@pytest.mark.parametrize("verb", ["pause", "resume", "remove"])
def test_an_unknown_name(scheduled: Cli, verb: str) -> None:
    said = scheduled.run("schedules", verb, "nightli", "--db", "app.db", code=1)
    assert "no schedule 'nightli': did you mean 'nightly'?" in said
    assert names(scheduled) == ["hourly", "nightly", "often"]


def test_a_declaration_of_a_synchronous_queue_reaches_the_worker(cli: Cli) -> None:
    (cli.folder / "repeats.py").write_text(
        "from sitq import SyncTaskQueue\n"
        "queue = SyncTaskQueue('app.db')\n"
        "@queue.cron('@daily', name='daily')\n"
        "def clean():\n"
        "    return 'clean'\n"
    )
    cli.run("worker", "repeats:queue", "--burst")
    assert names(cli) == ["daily"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [([], "arguments are required: VERB"), (["pause"], "NAME"), (["lst"], "did you mean list?")],
)
def test_mistakes(cli: Cli, arguments: list[str], message: str) -> None:
    assert message in cli.run("schedules", *arguments, code=2)
