"""Names of executors, runners and settings of child processes are checked where they are given."""

from datetime import timedelta
from typing import Any

import pytest

from sitq import ProcessOptions, TaskQueue, ValidationError, Worker, call
from sitq.config import worker_config
from sitq.executors import MIN_MEMORY
from sitq.rules import RunRules
from sitq.serialization import decode_call


class Anywhere:
    def __init__(self, concurrency: int) -> None:
        self.concurrency = concurrency

    async def run(self, call: Any) -> Any:
        return call.func(*call.args, **call.kwargs)

    def close(self) -> None: ...


def work() -> None: ...


@pytest.mark.parametrize("name", ["async", "thread", "process", "anywhere"])
async def test_an_executor_travels_with_the_task(name: str) -> None:
    async with TaskQueue("memory://", runners={"anywhere": Anywhere}) as queue:
        handle = await queue.options(executor=name).enqueue(work)
        record = await queue.backend.get_result(handle)
        assert record is not None
        assert record.payload is not None
        assert decode_call(record.payload)[2] == RunRules(executor=name)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "gevent",
            "^executor is 'gevent', which nobody knows here: give 'async', 'thread', 'process' or 'own'",
        ),
        (
            "proces",
            "^executor is 'proces', .*did you mean 'process'[?] There are 'async', 'thread', 'process', 'own'",
        ),
        ("", "^executor has 0 characters"),
        (5, "^executor is an int: give a non-empty str"),
    ],
)
async def test_an_unknown_executor_is_refused_and_nothing_is_stored(given: Any, message: str) -> None:
    async with TaskQueue("memory://", runners={"own": Anywhere}) as queue:
        with pytest.raises(ValidationError, match=message):
            await queue.options(executor=given).enqueue(work)
        if given:
            with pytest.raises(ValidationError, match=r"^executor is "):
                await queue.schedule("s", call(work), every=1, executor=given)
            with pytest.raises(ValidationError, match=r"^executor is "):
                Worker(queue, executor=given)
        assert set((await queue.stats()).counts.values()) == {0}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([Anywhere], "^runners is a list: give a mapping of names to factories"),
        ({"": Anywhere}, "^the name of a runner has 0 characters"),
        ({5: Anywhere}, "^the name of a runner is an int"),
        ({"thread": Anywhere}, "^runners has 'thread', which is an executor of sitq: give it another name"),
        ({"own": None}, "^runners.'own'. is None: give a mapping of names to factories"),
    ],
)
def test_runners_are_factories_by_name(given: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TaskQueue("memory://", runners=given)


@pytest.mark.parametrize(
    ("field", "bad", "message"),
    [
        ("children", 0, "^children is out of range: give an int from 1 to 1000"),
        ("children", True, "^children is a bool"),
        ("max_tasks_per_child", 0, "^max_tasks_per_child is out of range"),
        ("max_tasks_per_child", "5", "^max_tasks_per_child is a str"),
        ("memory_limit", MIN_MEMORY - 1, "^memory_limit is out of range: give an int from 67108864"),
        ("memory_limit", 1e9, "^memory_limit is a float"),
        ("grace", -1, "^grace is -1 s, which is out of range"),
        ("grace", 5, "^grace is 5 s, which is out of range: .* to 4 s"),
        ("grace", "soon", "^grace is a str"),
    ],
)
def test_settings_of_processes_are_checked(field: str, bad: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ProcessOptions(**{field: bad})


def test_settings_of_processes_are_kept() -> None:
    options = ProcessOptions(
        children=2, max_tasks_per_child=1, memory_limit=MIN_MEMORY, grace=timedelta(seconds=1)
    )
    assert (options.children, options.max_tasks_per_child, options.memory_limit) == (2, 1, MIN_MEMORY)
    assert options.grace == 1.0


@pytest.mark.parametrize("bad", [0, -1, 1001, 2.0, True, "two"])
def test_processes_are_a_number_or_options(bad: Any) -> None:
    with pytest.raises(
        ValidationError, match=r"^processes is .*: give a number of child processes, 1 to 1,000, or"
    ):
        Worker(TaskQueue("memory://"), processes=bad)


def test_a_number_of_processes_is_short_for_options() -> None:
    queue = TaskQueue("memory://")
    assert Worker(queue, processes=3).config.processes == ProcessOptions(children=3)
    assert Worker(queue).config.processes == ProcessOptions()
    assert Worker(queue, executor="process").config.executor == "process"
    config = worker_config(
        id=None,
        queues=None,
        strict=False,
        concurrency=1,
        lease=1,
        poll_interval=1,
        shutdown_timeout=1,
        max_tasks=None,
    )
    assert (config.executor, config.processes) == (None, ProcessOptions())
