"""SyncTaskQueue: every method does what that of TaskQueue does, from any thread."""

import json
import math
import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sitq import (
    BackendConnectionError,
    QueueClosedError,
    QueueFullError,
    Status,
    SyncTaskHandle,
    SyncTaskQueue,
    TaskCancelledError,
    TaskError,
    TaskFailedError,
    TaskNotFoundError,
    TaskQueue,
    TaskTimeoutError,
    ValidationError,
    Worker,
    call,
    group,
    result_of,
)
from sitq.events import TaskEnqueued, TaskStarted, TaskSucceeded
from tests.support import PATIENCE


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[SyncTaskQueue]:
    with SyncTaskQueue(tmp_path / "app.db") as queue:
        yield queue


async def work_off(path: Path) -> None:
    async with TaskQueue(path) as queue:
        await Worker(queue).run(until_idle=True)


async def test_a_task_goes_through_all_methods(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    with SyncTaskQueue(path) as queue:
        handle = queue.enqueue(math.sqrt, 9.0)
        bad = queue.options(queue="other").enqueue(math.sqrt, -1.0)
        assert isinstance(handle, SyncTaskHandle)
        assert handle.status() is queue.get_status(handle) is Status.PENDING
        with pytest.raises(TaskError, match="not finished"):
            queue.get_result(handle).unwrap()
        await work_off(path)
        assert handle.result(timeout=PATIENCE) == 3.0
        assert queue.get_result(handle).value == 3.0
        assert queue.get(handle).id == handle
        assert [record.id for record in queue.find(queue="other")] == [bad]
        assert [record.id for record in queue.find(status=Status.SUCCESS, limit=1)] == [handle]
        with pytest.raises(TaskFailedError, match="math domain error") as raised:
            bad.result(timeout=PATIENCE)
        assert raised.value.error_type == "ValueError"
        assert {one.queue: dict(one.counts) for one in queue.stats().queues} == {
            "default": {Status.SUCCESS: 1},
            "other": {Status.FAILED: 1},
        }


async def test_tasks_that_depend_on_others(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    with SyncTaskQueue(path) as queue:
        root = queue.enqueue(math.sqrt, 81.0)
        again = queue.enqueue(call(math.sqrt, result_of(root)))
        both = queue.options(depends_on=root).enqueue(group([root, again]))
        await work_off(path)
        assert both.result(timeout=5) == [9.0, 3.0]
        assert queue.get(both).parents == (root, again)


def test_cancel(queue: SyncTaskQueue) -> None:
    handle = queue.enqueue(math.sqrt, 9.0)
    assert handle.cancel() is Status.CANCELLED
    assert queue.cancel(handle) is Status.CANCELLED
    with pytest.raises(TaskCancelledError):
        handle.result(timeout=PATIENCE)


def test_a_cancel_that_waits(queue: SyncTaskQueue) -> None:
    assert queue.enqueue(math.sqrt, 9.0).cancel(timeout=PATIENCE) is Status.CANCELLED
    with pytest.raises(ValidationError, match="timeout"):
        queue.cancel("t1", timeout=-1)


async def test_dead_letters(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    with SyncTaskQueue(path) as queue:
        bad = [queue.enqueue(math.sqrt, -1.0) for _ in range(3)]
        await work_off(path)
        assert len(queue.get(bad[0]).attempts_log) == 1
        assert queue.requeue(bad[0]) == [bad[0]]
        assert set(queue.requeue(status=Status.FAILED)) == set(bad[1:])
        await work_off(path)
        assert queue.discard(bad[:1]) == 1
        assert queue.discard(status="failed") == 2  # type: ignore[arg-type]
        assert queue.find() == []
        with pytest.raises(ValidationError, match="nothing says which tasks"):
            queue.requeue()


async def test_pause_and_resume(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    with SyncTaskQueue(path) as queue:
        queue.pause("default")
        handle = queue.enqueue(math.sqrt, 9.0)
        await work_off(path)
        assert handle.status() is Status.PENDING
        assert [one.paused for one in queue.stats().queues] == [True]
        queue.resume("default")
        await work_off(path)
        assert handle.result(timeout=PATIENCE) == 3.0


def test_a_full_queue(tmp_path: Path) -> None:
    with SyncTaskQueue(tmp_path / "app.db", max_pending={"default": 1}) as queue:
        queue.enqueue(math.sqrt, 1.0)
        with pytest.raises(QueueFullError):
            queue.enqueue(math.sqrt, 1.0)


def test_workers(queue: SyncTaskQueue) -> None:
    assert queue.workers() == []


def test_handlers_run_on_the_loop_of_the_queue(queue: SyncTaskQueue) -> None:
    heard: list[tuple[str, str]] = []

    @queue.on(TaskEnqueued)
    def plain(event: TaskEnqueued) -> None:
        heard.append(("plain", threading.current_thread().name))

    @queue.on(TaskEnqueued)
    async def later(event: TaskEnqueued) -> None:
        heard.append(("async", threading.current_thread().name))

    queue.enqueue(math.sqrt, 1.0)
    queue.close()  # which waits for them
    assert heard == [("plain", "sitq-sync"), ("async", "sitq-sync")]


# -- The stream ------------------------------------------------------------------------------------


async def test_the_events_of_a_task(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    with SyncTaskQueue(path) as queue:
        handle = queue.enqueue(math.sqrt, 9.0)
        await work_off(path)
        entries = list(handle.events())
        assert [type(entry.event) for entry in entries] == [TaskEnqueued, TaskStarted, TaskSucceeded]
        assert list(queue.events(handle, after=entries[0].cursor)) == entries[1:]
        assert list(queue.events(handle, after=entries[-1].cursor)) == []


def test_errors_of_a_stream_come_where_it_is_read(queue: SyncTaskQueue) -> None:
    with pytest.raises(TaskNotFoundError):
        next(queue.events("nobody"))
    handle = queue.enqueue(math.sqrt, 9.0)
    with pytest.raises(ValidationError, match="after is no cursor"):
        next(handle.events(after="x"))


def test_batches(queue: SyncTaskQueue) -> None:
    handles = queue.enqueue_many(call(math.sqrt, float(i)) for i in range(3))
    more = queue.options(priority=-1, delay=60).enqueue_many([call(math.sqrt, 1.0)])
    assert all(type(one) is SyncTaskHandle for one in handles + more)
    assert [record.id for record in queue.find()] == [*more, *reversed(handles)]
    assert queue.get(more[0]).priority == -1


def test_eta(queue: SyncTaskQueue) -> None:
    eta = datetime.now(UTC) + timedelta(hours=1)
    assert queue.get(queue.enqueue(math.sqrt, 1.0, eta=eta)).due_at == eta
    with pytest.raises(ValidationError, match="naive"):
        queue.enqueue(math.sqrt, 1.0, eta=datetime(2030, 1, 1))


def test_errors_are_those_of_the_queue(queue: SyncTaskQueue) -> None:
    with pytest.raises(TaskNotFoundError):
        queue.get_status("nobody")
    with pytest.raises(TaskTimeoutError, match="still pending"):
        queue.enqueue(math.sqrt, 1.0).result(timeout=0.01)
    with pytest.raises(ValidationError, match="did you mean 'priority'"):
        queue.options(prioritty=1)  # type: ignore[call-arg]


def test_a_handle_is_its_id(queue: SyncTaskQueue) -> None:
    handle = queue.options(id="mine").enqueue(math.sqrt, 1.0)
    assert handle == "mine"
    assert json.dumps(handle) == '"mine"'
    assert type(pickle.loads(pickle.dumps(handle))) is str


# -- Open and closed -------------------------------------------------------------------------------


def test_it_opens_itself_at_the_first_use(tmp_path: Path) -> None:
    queue = SyncTaskQueue(tmp_path / "app.db")
    assert not (tmp_path / "app.db").exists()
    assert queue.stats().queues == ()
    queue.close()


def test_closed_and_opened_again(tmp_path: Path) -> None:
    queue = SyncTaskQueue(tmp_path / "app.db")
    queue.open()
    queue.open()
    handle = queue.enqueue(math.sqrt, 1.0)
    queue.close()
    queue.close()
    with pytest.raises(QueueClosedError, match="open it again"):
        queue.enqueue(math.sqrt, 1.0)
    with pytest.raises(QueueClosedError):
        handle.status()
    with queue:
        assert handle.status() is Status.PENDING


def test_a_failed_open_leaves_it_usable(tmp_path: Path) -> None:
    queue = SyncTaskQueue(tmp_path / "folder" / "app.db")
    with pytest.raises(BackendConnectionError, match="does not exist"):
        queue.open()
    (tmp_path / "folder").mkdir()
    with queue:
        queue.enqueue(math.sqrt, 1.0)


def test_closing_what_was_never_opened(tmp_path: Path) -> None:
    SyncTaskQueue(tmp_path / "app.db").close()
    assert not (tmp_path / "app.db").exists()


# -- Threads ---------------------------------------------------------------------------------------


def test_many_threads_enqueue(tmp_path: Path) -> None:
    queue = SyncTaskQueue(tmp_path / "app.db")  # not opened: the threads race for that as well
    with ThreadPoolExecutor(8) as pool:
        handles = list(pool.map(lambda number: queue.enqueue(math.sqrt, float(number)), range(400)))
    assert len(set(handles)) == 400
    assert {record.id for record in queue.find(limit=1000)} == set(handles)
    queue.close()
