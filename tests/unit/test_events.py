"""Every event is one log line, with its fields for structured formatters; arguments and results are in none."""

import asyncio
import logging
import threading
from datetime import UTC, datetime
from typing import Any, get_args

import pytest

from sitq import TaskQueue, Worker, events
from sitq.emitter import Emitter, log_event
from sitq.events import Event, TaskStarted, WorkerStopped
from tests.support import PATIENCE
from tests.unit import processes

KINDS: tuple[type[Any], ...] = get_args(Event.__value__)
FIELDS: dict[str, Any] = {
    "task_id": "id-1",
    "task": "app.work",
    "queue": "mail",
    "attempt": 2,
    "worker": "w1",
    "duration": 1.5,
    "error_type": "ValueError",
    "error": "went wrong",
    "left": 3,
    "fence": 17,
    "seconds": 2.25,
    "stack": "line 5",
    "action": "take tasks",
    "retry_in": 4.0,
    "queues": "mail, web",
    "concurrency": 8,
    "running": 6,
    "percent": 41.5,
    "note": "halfway",
    "text": "opened the file",
    "value": "secret",
    "schedule": "nightly",
    "since": datetime(2026, 3, 1, 12, tzinfo=UTC),
    "misfire": "latest",
    "run": 1,
    "tick": datetime(2026, 3, 1, 13, tzinfo=UTC),
    "holder": "nightly@12",
    "provider": "locale",
}
RUN = "app.work[id-1] on mail, attempt 2"
LINES = {
    events.TaskEnqueued: ("DEBUG", "task.enqueued", "enqueued app.work[id-1] on mail"),
    events.TaskStarted: ("DEBUG", "task.started", f"started {RUN}"),
    events.TaskSucceeded: ("INFO", "task.succeeded", f"success {RUN}, 1.500 s"),
    events.TaskFailed: ("ERROR", "task.failed", f"failed {RUN}, 1.500 s: ValueError: went wrong"),
    events.TaskProgressed: ("DEBUG", "task.progressed", "progress of app.work[id-1]: 41.5 % halfway"),
    events.TaskLogged: ("DEBUG", "task.logged", "app.work[id-1] says: opened the file"),
    events.TaskPublished: ("DEBUG", "task.published", "app.work[id-1] published a partial result"),
    events.TaskCrashed: ("ERROR", "task.crashed", f"crashed {RUN}, 1.500 s: went wrong"),
    events.TaskRetried: ("WARNING", "task.retried", f"retry of {RUN}, 1.500 s: ValueError: went wrong"),
    events.TaskParked: ("WARNING", "task.parked", f"parked {RUN}: ValueError: went wrong"),
    events.TaskRequeued: ("INFO", "task.requeued", "requeued app.work[id-1] on mail"),
    events.TaskCancelled: ("INFO", "task.cancelled", f"cancelled {RUN}, 1.500 s"),
    events.TaskReleased: ("INFO", "task.released", f"released {RUN}, 1.500 s"),
    events.TaskLost: ("WARNING", "task.lost", f"lost the lease of {RUN}, 1.500 s"),
    events.TaskStuck: ("ERROR", "task.stuck", f"does not stop: {RUN}, 1.500 s"),
    events.BackgroundTasksLeft: (
        "WARNING",
        "task.background_left",
        "app.work[id-1] left 3 asyncio task(s) running; they were cancelled",
    ),
    events.ContextIgnored: (
        "WARNING",
        "context.ignored",
        "app.work[id-1] carries data of context provider 'locale', which is ignored: this worker has none",
    ),
    events.ContextNotLeft: (
        "ERROR",
        "context.not_left",
        "context provider 'locale' failed after app.work[id-1]: ValueError: went wrong",
    ),
    events.OutcomeRefused: (
        "WARNING",
        "task.refused",
        "outcome of id-1 refused: its lease had been lost",
    ),
    events.ErrorAfterCompletion: (
        "WARNING",
        "task.error_after_completion",
        f"went wrong after its completion, and has succeeded: {RUN}: ValueError: went wrong",
    ),
    events.LoopBlocked: (
        "WARNING",
        "worker.blocked",
        "the event loop is blocked for 2.2 s by task id-1:\nline 5",
    ),
    events.StorageFailed: (
        "WARNING",
        "worker.storage",
        "cannot take tasks, trying again in 4.0 s: went wrong",
    ),
    events.TicksMissed: (
        "WARNING",
        "schedule.missed",
        "schedule nightly missed ticks since 2026-03-01T12:00:00Z: by misfire=latest, 1 run(s) now",
    ),
    events.TickDropped: (
        "INFO",
        "schedule.dropped",
        "schedule nightly drops its tick of 2026-03-01T13:00:00Z: task nightly@12 has not ended",
    ),
    events.ScheduleFailed: ("ERROR", "schedule.failed", "went wrong"),
    events.WorkerStarted: (
        "INFO",
        "worker.started",
        "worker w1 started: queues mail, web, concurrency 8",
    ),
    events.WorkerStopping: ("INFO", "worker.stopping", "worker w1 stopping, 6 task(s) running"),
    events.WorkerStopped: ("INFO", "worker.stopped", "worker w1 stopped"),
}


def sample(kind: type[Any], **fields: Any) -> Any:
    return kind(**{field: FIELDS[field] for field in kind._fields} | fields)


def test_the_table_here_is_complete() -> None:
    assert set(LINES) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_event_is_one_line_with_its_fields(kind: type[Any], caplog: pytest.LogCaptureFixture) -> None:
    level, name, text = LINES[kind]
    event = sample(kind)
    with caplog.at_level(logging.DEBUG, "sitq"):
        log_event(event)
    [record] = caplog.records
    assert (record.name, record.levelname, record.getMessage()) == ("sitq", level, text)
    extra = vars(record)
    assert extra["event"] == name
    fields = set(kind._fields) - {"value"}  # a partial result is nothing for a log
    assert {field: extra[field] for field in fields} == {field: FIELDS[field] for field in fields}
    assert "secret" not in repr(extra)


def test_a_percent_sign_or_brace_in_a_field_is_only_text(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "sitq"):
        log_event(sample(events.TaskFailed, error="100%s {task_id} %(name)s"))
    assert caplog.messages == [f"failed {RUN}, 1.500 s: ValueError: 100%s {{task_id}} %(name)s"]


def test_a_block_by_no_task_is_reported_too(caplog: pytest.LogCaptureFixture) -> None:
    log_event(sample(events.LoopBlocked, task_id=None))
    assert "by task None" in caplog.text


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind is not events.TaskPublished], ids=lambda kind: kind.__name__
)
def test_no_event_has_room_for_an_argument_or_a_result(kind: type[Any]) -> None:
    assert set(kind._fields) <= set(FIELDS)
    assert set(kind._fields).isdisjoint({"args", "kwargs", "call", "payload", "result", "value", "context"})


async def _echo(text: str, *, key: str) -> str:
    return text + key


async def test_arguments_and_results_reach_no_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "sitq"):
        async with TaskQueue("memory://") as queue:
            handle = await queue.enqueue(_echo, "argument-secret", key="keyword-secret")
            await Worker(queue).run(until_idle=True)
            assert await handle.result() == "argument-secretkeyword-secret"
    names = [vars(record)["event"] for record in caplog.records]
    assert {"task.enqueued", "task.started", "task.succeeded", "worker.stopped"} <= set(names)
    assert not [record for record in caplog.records if "secret" in repr(vars(record))]


def test_a_disabled_level_builds_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    built: list[Any] = []
    monkeypatch.setattr(TaskStarted, "_asdict", lambda self: built.append(self) or {})
    with caplog.at_level(logging.INFO, "sitq"):
        log_event(sample(TaskStarted))
        log_event(sample(WorkerStopped))
    assert built == []
    assert caplog.messages == ["worker w1 stopped"]


def test_a_kind_that_nobody_sees_is_not_wanted(caplog: pytest.LogCaptureFixture) -> None:
    made, heard = Emitter(), list[Any]()
    with caplog.at_level(logging.INFO, "sitq"):
        assert [made.wants(kind) for kind in (TaskStarted, WorkerStopped)] == [False, True]
        made.on(TaskStarted, heard.append)
        assert made.wants(TaskStarted)
        made(sample(TaskStarted))
        made(sample(WorkerStopped))
    with caplog.at_level(logging.ERROR, "sitq"):  # levels may change at run time
        assert [made.wants(kind) for kind in (TaskStarted, WorkerStopped)] == [True, False]
    assert heard == [sample(TaskStarted)]
    assert caplog.messages == ["worker w1 stopped"]


def test_an_application_without_logging_hears_nothing() -> None:
    process = processes.start(
        """
        from sitq.emitter import log_event
        from sitq.events import TaskFailed
        log_event(TaskFailed("id-1", "app.work", "mail", 1, "w1", 1.5, "ValueError", "went wrong"))
        print("done")
        """
    )
    out, err = process.communicate(timeout=processes.LIMIT)
    assert (process.returncode, out, err) == (0, "done\n", "")


# -- Handlers ---------------------------------------------------------------------------------------


def stopped(worker: str = "w1") -> WorkerStopped:
    return WorkerStopped(worker)


async def test_handlers_of_a_kind_hear_of_it_in_the_order_they_came() -> None:
    made, heard = Emitter(), list[Any]()
    made.on(WorkerStopped, lambda event: heard.append(("first", event)))
    made.on(WorkerStopped, lambda event: heard.append(("second", event)))
    made.on(TaskStarted, lambda event: heard.append(("other", event)))
    made(stopped())
    assert heard == [("first", stopped()), ("second", stopped())]


@pytest.mark.parametrize(
    "error", [ValueError("oh"), SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()]
)
async def test_what_a_handler_raises_is_logged_and_hurts_nobody(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    made, heard = Emitter(), list[Any]()

    def fail(event: Any) -> None:
        raise error

    async def fail_later(event: Any) -> None:
        await asyncio.sleep(0)
        raise error

    made.bind()
    made.on(WorkerStopped, fail)
    made.on(WorkerStopped, fail_later)
    made.on(WorkerStopped, heard.append)
    made(stopped())
    await made.settle(PATIENCE)
    assert heard == [stopped()]
    said = [message for message in caplog.messages if message == "a handler of WorkerStopped raised"]
    # A coroutine that was cancelled says nothing.
    assert len(said) == (1 if isinstance(error, asyncio.CancelledError) else 2)


async def test_what_a_plain_handler_returns_is_nobodys_concern(caplog: pytest.LogCaptureFixture) -> None:
    made = Emitter()
    made.bind()
    made.on(WorkerStopped, lambda event: 1)
    made(stopped())
    await made.settle(PATIENCE)
    assert "raised" not in caplog.text


async def test_settling_waits_for_coroutines_that_have_not_even_begun() -> None:
    made, heard = Emitter(), list[str]()

    async def handle(event: WorkerStopped) -> None:
        heard.append("begun")
        await asyncio.sleep(0)
        if event.worker == "w1":
            made(stopped("w2"))  # of which it waits, too
        heard.append(f"ended {event.worker}")

    made.bind()
    made.on(WorkerStopped, handle)
    made(stopped())
    await made.settle(PATIENCE)
    assert heard == ["begun", "ended w1", "begun", "ended w2"]


async def test_a_handler_that_takes_too_long_is_cancelled() -> None:
    made, heard = Emitter(), list[str]()

    async def handle(event: WorkerStopped) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            heard.append("cancelled")

    made.bind()
    made.on(WorkerStopped, handle)
    made(stopped())
    await made.settle(0.01)
    assert heard == ["cancelled"]


async def test_a_handler_that_settles_does_not_wait_for_itself() -> None:
    made, heard = Emitter(), list[str]()

    async def handle(event: WorkerStopped) -> None:
        await made.settle(PATIENCE)
        heard.append("done")

    made.bind()
    made.on(WorkerStopped, handle)
    async with asyncio.timeout(PATIENCE / 2):
        made(stopped())
        await made.settle(PATIENCE)
    assert heard == ["done"]


async def test_coroutines_run_on_the_loop_wherever_the_event_happened() -> None:
    made, threads = Emitter(), list[int]()

    async def handle(event: WorkerStopped) -> None:
        threads.append(threading.get_ident())

    made.bind()
    made.on(WorkerStopped, handle)
    await asyncio.to_thread(made, stopped())
    await made.settle(PATIENCE)
    assert threads == [threading.get_ident()]


def test_a_coroutine_without_a_loop_is_said_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    made = Emitter()

    async def handle(event: WorkerStopped) -> None:
        raise AssertionError

    made.on(WorkerStopped, handle)
    made(stopped())  # never opened
    asyncio.run(_bind(made))
    made(stopped())  # its loop is closed
    assert caplog.messages == [
        "an async handler of WorkerStopped was not run: the queue was never opened",
        "an async handler of WorkerStopped was not run: Event loop is closed",
    ]


async def _bind(made: Emitter) -> None:
    made.bind()


async def test_a_parent_hears_of_it_too(caplog: pytest.LogCaptureFixture) -> None:
    parent, heard = Emitter(), list[Any]()
    made = Emitter(parent)
    parent.on(WorkerStopped, heard.append)
    parent.on(TaskStarted, heard.append)
    with caplog.at_level(logging.INFO, "sitq"):
        assert made.wants(TaskStarted)
        made(stopped())
    assert heard == [stopped()]
    assert caplog.messages == ["worker w1 stopped"]  # once
