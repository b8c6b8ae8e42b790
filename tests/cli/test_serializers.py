"""Commands and queues with another serializer: a target brings its own, a bare path has the usual one."""

import textwrap
from typing import Any

from tests.cli.conftest import Cli

APP = """
    from sitq import JSONSerializer, Signed, SyncTaskQueue, TaskQueue


    def add(a, b=0):
        return a + b


    def fail(text):
        raise ValueError(text)


    serializer = Signed(JSONSerializer(tasks=[add, fail]), {"k": b"k" * 32})
    queue = TaskQueue("signed.db", serializer=serializer)
    sync = SyncTaskQueue("signed.db", serializer=serializer)
"""


def test_a_target_brings_its_serializer_and_a_path_says_what_it_lacks(cli: Cli) -> None:
    (cli.folder / "signed.py").write_text(textwrap.dedent(APP))
    app: dict[str, Any] = {"SITQ_APP": "signed:queue"}
    bare: dict[str, Any] = {"SITQ_DB": "signed.db"}
    added = cli.run("enqueue", "signed:add", 1, 2, **app).strip()
    failed = cli.run("enqueue", "signed:fail", "it broke", SITQ_APP="signed:sync").strip()
    cli.run("worker", "signed:queue", "--burst")
    assert cli.run("result", added, **app).strip() == "3"
    assert cli.run("result", added, SITQ_APP="signed:sync").strip() == "3"
    assert cli.json("tasks", "show", failed, **app)["error"]["message"] == "it broke"

    why = cli.run("result", added, code=1, **bare)
    assert "this result was written by the serializer signed, and here cloudpickle reads" in why
    error = cli.json("tasks", "show", failed, **bare)["error"]
    assert error["type"] == "unreadable"
    assert "written by the serializer signed" in error["message"]
    assert [task["status"] for task in cli.json("tasks", "list", **bare)] == ["failed", "success"]
    # What needs no bytes works: a task is started again, and refused by a worker that cannot verify it.
    assert cli.json("tasks", "requeue", failed, **bare) == [failed]
    cli.run("worker", "signed.db", "--burst")
    assert cli.json("tasks", "show", failed, **bare)["status"] == "pending"
    assert "cloudpickle" in cli.json("tasks", "show", failed, **bare)["error"]["message"]
