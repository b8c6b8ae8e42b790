"""A handle is the id of its task, as text, and asks its queue; a result says how the task ended."""

import copy
import json
import pickle
from collections.abc import AsyncGenerator, Generator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from sitq.checks import MAX_DURATION
from sitq.errors import (
    ResultExpiredError,
    TaskCancelledError,
    TaskError,
    TaskFailedError,
    TaskNotFoundError,
    TaskRetryExhaustedError,
)
from sitq.events import TaskEnqueued
from sitq.handle import SyncTaskHandle, TaskHandle
from sitq.model import Status
from sitq.result import Result
from sitq.stream import Streamed

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
STREAMED = Streamed("0.0.pending", NOW, TaskEnqueued("id-1", "app.work", "default"))
KINDS: list[Any] = [TaskHandle, SyncTaskHandle]


def result(status: Status = Status.SUCCESS, **fields: Any) -> Result[Any]:
    return Result(id="id-1", status=status, enqueued_at=NOW, **fields)


class Tasks:
    """A queue that answers, and keeps what it was asked."""

    def __init__(self, answer: Result[Any]) -> None:
        self.answer = answer
        self.asked: list[tuple[Any, ...]] = []

    async def get_result(self, task_id: str, timeout: Any = None) -> Result[Any]:
        self.asked.append(("get_result", task_id, timeout))
        return self.answer

    async def get_status(self, task_id: str) -> Status:
        self.asked.append(("get_status", task_id))
        return self.answer.status

    async def cancel(self, task_id: str, timeout: Any = None) -> Status:
        self.asked.append(("cancel", task_id, timeout))
        return Status.CANCELLED

    async def events(self, task_id: str, *, after: str | None = None) -> AsyncGenerator[Streamed]:
        self.asked.append(("events", task_id, after))
        yield STREAMED


class SyncTasks:
    def __init__(self, answer: Result[Any]) -> None:
        self.answer = answer
        self.asked: list[tuple[Any, ...]] = []

    def get_result(self, task_id: str, timeout: Any = None) -> Result[Any]:
        self.asked.append(("get_result", task_id, timeout))
        return self.answer

    def get_status(self, task_id: str) -> Status:
        self.asked.append(("get_status", task_id))
        return self.answer.status

    def cancel(self, task_id: str, timeout: Any = None) -> Status:
        self.asked.append(("cancel", task_id, timeout))
        return Status.CANCELLED

    def events(self, task_id: str, *, after: str | None = None) -> Generator[Streamed]:
        self.asked.append(("events", task_id, after))
        yield STREAMED


# -- The id -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_handle_is_its_id(kind: Any) -> None:
    handle = kind("id-1", object())
    assert isinstance(handle, str)
    assert handle == "id-1"
    assert hash(handle) == hash("id-1")
    assert {"id-1": 5}[handle] == 5
    assert f"{handle}" == str(handle) == "id-1"
    assert handle == kind("id-1", object())
    assert handle != kind("id-2", object())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_handle_pickles_as_its_plain_id(kind: Any, protocol: int) -> None:
    back = pickle.loads(pickle.dumps([kind("id-1", object())], protocol))[0]
    assert type(back) is str
    assert back == "id-1"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy])
def test_a_copy_is_the_plain_id(kind: Any, how: Any) -> None:
    back = how(kind("id-1", object()))
    assert (type(back), back) == (str, "id-1")


@pytest.mark.parametrize("kind", KINDS)
def test_a_handle_is_json(kind: Any) -> None:
    handle = kind("id-1", object())
    assert json.dumps({"task": handle, handle: 1}) == '{"task": "id-1", "id-1": 1}'


@pytest.mark.parametrize("kind", KINDS)
def test_a_handle_has_no_room_for_attributes(kind: Any) -> None:
    with pytest.raises(AttributeError):
        kind("id-1", object()).note = 1


# -- The task ---------------------------------------------------------------------------------------


async def test_a_handle_asks_its_queue() -> None:
    tasks = Tasks(result(value=5))
    handle: TaskHandle[int] = TaskHandle("id-1", tasks)
    assert await handle.result() == 5
    assert await handle.result(timeout=2) == 5
    assert await handle.status() is Status.SUCCESS
    assert await handle.cancel() is Status.CANCELLED
    assert await handle.cancel(timeout=3) is Status.CANCELLED
    assert [entry async for entry in handle.events()] == [STREAMED]
    assert [entry async for entry in handle.events(after="7.1.running")] == [STREAMED]
    assert tasks.asked == [
        ("get_result", "id-1", MAX_DURATION),  # as long as it takes
        ("get_result", "id-1", 2),
        ("get_status", "id-1"),
        ("cancel", "id-1", None),
        ("cancel", "id-1", 3),
        ("events", "id-1", None),
        ("events", "id-1", "7.1.running"),
    ]


def test_a_handle_without_a_loop_asks_its_queue() -> None:
    tasks = SyncTasks(result(value=5))
    handle: SyncTaskHandle[int] = SyncTaskHandle("id-1", tasks)
    assert handle.result() == 5
    assert handle.result(timeout=0) == 5
    assert handle.status() is Status.SUCCESS
    assert handle.cancel() is Status.CANCELLED
    assert handle.cancel(timeout=3) is Status.CANCELLED
    assert list(handle.events()) == [STREAMED]
    assert list(handle.events(after="7.1.running")) == [STREAMED]
    assert tasks.asked == [
        ("get_result", "id-1", MAX_DURATION),
        ("get_result", "id-1", 0),
        ("get_status", "id-1"),
        ("cancel", "id-1", None),
        ("cancel", "id-1", 3),
        ("events", "id-1", None),
        ("events", "id-1", "7.1.running"),
    ]


async def test_waiting_for_a_task_that_failed_raises() -> None:
    answer = result(Status.FAILED, error="no", error_type="ValueError")
    with pytest.raises(TaskFailedError, match="ValueError: no"):
        await TaskHandle("id-1", Tasks(answer)).result()
    with pytest.raises(TaskFailedError, match="ValueError: no"):
        SyncTaskHandle("id-1", SyncTasks(answer)).result()


class Gone:
    async def get_result(self, task_id: str, timeout: Any = None) -> Result[Any]:
        raise TaskNotFoundError(task_id)


class SyncGone:
    def get_result(self, task_id: str, timeout: Any = None) -> Result[Any]:
        raise TaskNotFoundError(task_id)


async def test_a_task_that_was_there_and_is_gone_has_expired() -> None:
    tasks: Any = Gone()
    with pytest.raises(ResultExpiredError, match="no task 'id-1': its result has expired") as caught:
        await TaskHandle("id-1", tasks).result()
    assert caught.value.task_id == "id-1"
    assert caught.value.__cause__ is None
    sync: Any = SyncGone()
    with pytest.raises(ResultExpiredError):
        SyncTaskHandle("id-1", sync).result()


@pytest.mark.parametrize(
    "error",
    [
        ResultExpiredError("id-1"),
        TaskFailedError("id-1", "ValueError", "no", "line 5"),
        TaskRetryExhaustedError("id-1", "ValueError", "no", "line 5", 4),
    ],
)
def test_an_error_comes_back(error: Exception) -> None:
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), str(back), vars(back)) == (type(error), str(error), vars(error))


# -- The result -------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [5, None, [], ""])
def test_a_success_unwraps_to_its_value(value: Any) -> None:
    assert result(value=value).unwrap() == value


def test_a_failure_raises_what_the_worker_recorded() -> None:
    failed = result(Status.FAILED, error="no", error_type="app.Odd", traceback="line 5")
    with pytest.raises(TaskFailedError) as caught:
        failed.unwrap()
    error = caught.value
    assert (error.task_id, error.error_type, error.message, error.traceback) == (
        "id-1",
        "app.Odd",
        "no",
        "line 5",
    )
    assert "line 5" in str(error)


def test_the_last_of_several_attempts_raises_an_error_of_its_own() -> None:
    failed = result(Status.FAILED, error="no", error_type="OSError", traceback="line 5", attempts=4)
    with pytest.raises(TaskFailedError) as once:
        failed.unwrap()
    assert type(once.value) is TaskFailedError
    with pytest.raises(TaskRetryExhaustedError) as caught:
        replace(failed, exhausted=True).unwrap()
    assert str(caught.value).startswith("task id-1 failed for good in attempt 4: OSError: no\n")
    assert (caught.value.attempts, caught.value.traceback) == (4, "line 5")


def test_a_cancelled_task_has_no_value() -> None:
    with pytest.raises(TaskCancelledError) as caught:
        result(Status.CANCELLED).unwrap()
    assert str(caught.value) == "task id-1 was cancelled"
    with pytest.raises(TaskCancelledError, match=r"^task id-1 was cancelled: while it cleaned up$"):
        result(Status.CANCELLED, error="while it cleaned up").unwrap()


@pytest.mark.parametrize("status", [status for status in Status if not status.finished])
def test_a_task_that_has_not_finished_has_no_value_yet(status: Status) -> None:
    with pytest.raises(TaskError, match=f"^task id-1 is {status}, not finished: wait with") as caught:
        result(status).unwrap()
    assert type(caught.value) is TaskError
