"""`current_task()` works inside a task, in what the task starts, and nowhere else."""

import asyncio
import contextvars
import threading

import pytest

from sitq.context import CurrentTask, bind, current_task
from sitq.errors import TaskError

own = contextvars.ContextVar[str]("own")


def current(task_id: str = "a") -> CurrentTask:
    return CurrentTask(id=task_id, name="app.resize", queue="default", attempt=1)


def test_outside_a_task() -> None:
    with pytest.raises(TaskError, match="outside a task"):
        current_task()


def test_inside_a_task() -> None:
    task = current()
    assert bind(task).run(current_task) is task


def test_the_context_is_fresh() -> None:
    own.set("of the worker")
    first = bind(current())
    assert own not in first
    first.run(own.set, "of the first task")
    assert own not in bind(current())
    assert own.get() == "of the worker"
    with pytest.raises(TaskError):
        current_task()


async def test_tasks_do_not_see_each_other() -> None:
    async def run() -> str:
        await asyncio.sleep(0)
        return current_task().id

    async with asyncio.TaskGroup() as group:
        runs = [group.create_task(run(), context=bind(current(name))) for name in "abc"]
    assert [run.result() for run in runs] == ["a", "b", "c"]


async def test_threads_that_copy_the_context_see_it() -> None:
    async def run() -> str:
        return (await asyncio.to_thread(current_task)).id

    assert await asyncio.create_task(run(), context=bind(current())) == "a"


def test_other_threads_do_not() -> None:
    seen: list[str] = []

    def look() -> None:
        try:
            current_task()
        except TaskError as error:
            seen.append(str(error))

    def run() -> None:
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()

    bind(current()).run(run)
    assert ["copy_context" in each for each in seen] == [True]


def test_is_frozen_and_keeps_secrets_to_itself() -> None:
    task = CurrentTask(id="a", name="n", queue="q", attempt=1, context={"token": "secret"})
    with pytest.raises(AttributeError):
        task.attempt = 2  # type: ignore[misc]
    assert "secret" not in repr(task)
    assert (task.crashes, task.metadata, task.context["token"]) == (0, {}, "secret")
