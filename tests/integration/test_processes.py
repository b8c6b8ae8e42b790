"""Tasks in child processes: what runs there, what stops it, and what becomes of a task whose process dies."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from sitq import (
    CloudpickleSerializer,
    ContextVars,
    ProcessOptions,
    RetryPolicy,
    Signed,
    Status,
    TaskCancelledError,
    TaskFailedError,
    TaskQueue,
    ValidationError,
    Worker,
)
from sitq.backends.base import Backend
from sitq.events import (
    TaskCrashed,
    TaskFailed,
    TaskLogged,
    TaskLost,
    TaskParked,
    TaskProgressed,
    TaskPublished,
    TaskReleased,
    TaskRetried,
    TaskStarted,
    TaskStuck,
    TaskSucceeded,
)
from sitq.model import Succeeded
from sitq.worker import executor
from tests.integration import process_tasks as tasks
from tests.integration.support import ROOT, Recorder, end_group, recorded, start_python

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and groups of processes")

# What a storage has no part in is seen on one of them.
in_memory = pytest.mark.parametrize("backend", ["memory"], indirect=True)

PATIENCE = 60.0
"""Seconds that a child may take to start on a busy machine. Never waited for otherwise."""


@asynccontextmanager
async def working(queue: TaskQueue, **options: Any) -> AsyncGenerator[tuple[Worker, Recorder]]:
    options = {"processes": 1, "executor": "process", **options}
    worker = Worker(queue, **options)
    recorder = recorded(worker)
    async with asyncio.timeout(2 * PATIENCE), worker:
        yield worker, recorder


async def result(handle: Any) -> Any:
    return await handle.result(timeout=PATIENCE)


async def came(marker: Path, *, empty: bool = False) -> str:
    """Wait for a file that a task writes, and return what is in it."""
    async with asyncio.timeout(PATIENCE):
        while not marker.exists() or not (empty or marker.read_text()):
            await asyncio.sleep(0.005)
    return marker.read_text()


async def gone(pid: int) -> None:
    """Wait until a process has ended. One that is not ours may stay a zombie if nobody reaps it."""
    async with asyncio.timeout(PATIENCE):
        while lives(pid):
            await asyncio.sleep(0.005)


def lives(pid: int) -> bool:
    try:
        found = psutil.Process(pid)
        return bool(found.status() != psutil.STATUS_ZOMBIE or found.ppid() == os.getpid())
    except psutil.NoSuchProcess:
        return False


others: set[int] = set()


@pytest.fixture(autouse=True)
def _others_do_not_count() -> None:
    # Earlier tests of the same run may have left a process that serves all of them, such as a resource tracker.
    others.clear()
    others.update(child.pid for child in psutil.Process().children())


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if child.pid not in others]


# -- What runs there -------------------------------------------------------------------------------


@in_memory
async def test_a_child_runs_one_task_after_another_and_stays(queue: TaskQueue) -> None:
    async with working(queue) as (_, events):
        pids = [await result(await queue.enqueue(tasks.pid)) for _ in range(2)]
        assert pids[0] == pids[1] != os.getpid()
        in_process = queue.options(executor="process", metadata={"a": 1}, context={"b": [2]}, queue="x")
        assert await result(await in_process.enqueue(tasks.loop_and_pid, 5)) == (5, pids[0], False)
        assert await result(await in_process.enqueue(tasks.about)) == (
            "tests.integration.process_tasks.about", "x", 1, 0, {"a": 1}, {"b": [2]},
        )  # fmt: skip
        on_the_loop = await result(await queue.enqueue(tasks.loop_and_pid, 5))
        assert on_the_loop[1] == os.getpid(), "a coroutine function that says nothing"
        by_value = await queue.enqueue(lambda number: number + 1, 1)
        assert await result(by_value) == 2
        large = os.urandom(1_000_000)
        assert await result(await queue.enqueue(tasks.echo, large)) == large
        assert len(children()) == 1
        assert not events.of(TaskCrashed)
    assert children() == [], "no child and no zombie is left"


@in_memory
async def test_what_a_child_says_is_heard_here(queue: TaskQueue, capfd: pytest.CaptureFixture[str]) -> None:
    async with working(queue) as (_, events):
        handle = await queue.enqueue(tasks.talk)
        assert await result(handle) is None
        told = [entry.event async for entry in handle.events()]
    assert [event.text for event in events.of(TaskLogged)] == ["a line"]
    assert [event.value for event in events.of(TaskPublished)] == [{"half": 0.5}]
    last = events.of(TaskProgressed)[-1]
    assert (last.percent, last.note, last.task_id) == (100, "done", handle)
    assert len(events.of(TaskProgressed)) < 100, "of a flood the last ones are sent"
    kinds = {type(event) for event in told}
    assert {TaskProgressed, TaskLogged, TaskPublished, TaskSucceeded} <= kinds
    out, err = capfd.readouterr()
    assert "out of the child" in out
    assert "err of the child" in err


@in_memory
async def test_what_a_task_raises_is_judged_where_it_is(queue: TaskQueue, tmp_path: Path) -> None:
    odd = RetryPolicy(max_attempts=2, base=0, on=tasks.Odd)
    other = RetryPolicy(max_attempts=2, base=0, on=ConnectionError)
    async with working(queue) as (_, events):
        retried = await queue.options(retry=odd).enqueue(tasks.fail_oddly)
        failed = await queue.options(retry=other).enqueue(tasks.fail_oddly)
        again = await queue.enqueue(tasks.say_verb, "retry")
        snoozed = await queue.enqueue(tasks.say_verb, str(tmp_path / "snoozed"))
        cancelled = await queue.enqueue(tasks.say_verb, "cancel")
        unfit = await queue.enqueue(tasks.unpicklable)
        with pytest.raises(TaskFailedError, match="on purpose") as caught:
            await result(retried)
        assert "in fail_oddly" in caught.value.traceback
        assert "sitq" not in caught.value.traceback.split("in fail_oddly")[0].replace(str(ROOT), "")
        with pytest.raises(TaskFailedError, match="on purpose"):
            await result(failed)
        assert await result(again) == await result(snoozed) == "again"
        with pytest.raises(TaskCancelledError, match="no need"):
            await result(cancelled)
        with pytest.raises(TaskFailedError, match="cannot be"):
            await result(unfit)
    assert [(await queue.get(one)).attempt for one in (retried, failed, again, snoozed)] == [2, 1, 2, 1]
    assert len(events.of(TaskReleased)) == 1


# -- What stops it ---------------------------------------------------------------------------------


async def test_cancel_kills_what_hears_nothing_and_another_child_takes_its_place(
    queue: TaskQueue, tmp_path: Path
) -> None:
    async with working(queue) as (worker, events):
        handle = await queue.enqueue(tasks.hold, str(tmp_path / "began"))
        pid = int(await came(tmp_path / "began"))
        assert await queue.cancel(handle, timeout=PATIENCE) is Status.CANCELLED
        await gone(pid)
        assert await result(await queue.enqueue(tasks.pid)) != pid
        assert worker.running == 0
    assert not events.of(TaskStuck)
    assert not events.of(TaskCrashed), "that was us"


async def test_a_timeout_kills_what_hears_nothing(queue: TaskQueue, tmp_path: Path) -> None:
    again = RetryPolicy(max_attempts=10, base=0, on=TimeoutError)  # a busy machine may be late more than once
    async with working(queue) as (_, events):
        handle = await queue.options(timeout=0.3).enqueue(tasks.hold, str(tmp_path / "first"))
        with pytest.raises(
            TaskFailedError, match=r"its timeout of 0\.3 s, and its process was killed"
        ) as caught:
            await result(handle)
        assert caught.value.error_type == "TimeoutError"
        second = await queue.options(timeout=0.5, retry=again).enqueue(tasks.hold_once, str(tmp_path / "2"))
        assert await result(second) == "in time"
    assert {event.error_type for event in events.of(TaskRetried)} == {"TimeoutError"}
    assert not events.of(TaskStuck)


@in_memory
async def test_what_a_task_has_started_is_killed_with_it(queue: TaskQueue, tmp_path: Path) -> None:
    async with working(queue):
        handle = await queue.enqueue(tasks.with_a_child_of_its_own, str(tmp_path / "own"))
        own = int(await came(tmp_path / "own"))
        await handle.cancel()
        with pytest.raises(TaskCancelledError):
            await result(handle)
        await gone(own)


async def test_a_worker_that_stops_gives_back_and_leaves_no_child(queue: TaskQueue, tmp_path: Path) -> None:
    async with working(queue, shutdown_timeout=0) as (_, events):
        handle = await queue.enqueue(tasks.hold, str(tmp_path / "began"))
        pid = int(await came(tmp_path / "began"))
    assert not psutil.pid_exists(pid)
    assert children() == []
    record = await queue.get(handle)
    assert (record.status, record.attempt, record.crashes) == (Status.PENDING, 0, 0)
    assert [event.task_id for event in events.of(TaskReleased)] == [handle]


@in_memory
async def test_a_lost_lease_kills(queue: TaskQueue, backend: Backend, tmp_path: Path) -> None:
    async with working(queue) as (worker, events):
        handle = await queue.enqueue(tasks.hold, str(tmp_path / "began"))
        pid = int(await came(tmp_path / "began"))
        [held] = worker._services.executor.held()  # type: ignore[union-attr]
        await backend.complete([Succeeded(held, b"")])  # somebody else has it and is done with it
        backend._bells.ring_cancels()  # type: ignore[attr-defined]  # so that the worker looks now
        assert (await events.wait_for(TaskLost)).task_id == handle
        await gone(pid)
    assert (await queue.stats()).stale_outcomes == 0


@in_memory
async def test_with_grace_a_task_may_end_by_itself(queue: TaskQueue, tmp_path: Path) -> None:
    options = ProcessOptions(children=1, grace=4)
    object.__setattr__(options, "grace", PATIENCE)  # a busy machine may stand still for longer
    async with working(queue, processes=options) as (_, events):
        plain = await queue.enqueue(tasks.see_the_wish, str(tmp_path / "plain"))
        await came(tmp_path / "plain", empty=True)
        assert await queue.cancel(plain, timeout=PATIENCE) is Status.CANCELLED
        assert (tmp_path / "plain.seen").exists()
        in_process = queue.options(executor="process")
        coroutine = await in_process.enqueue(tasks.be_cancelled, str(tmp_path / "coroutine"))
        await came(tmp_path / "coroutine", empty=True)
        assert await queue.cancel(coroutine, timeout=PATIENCE) is Status.CANCELLED
        assert (tmp_path / "coroutine.seen").exists()
        late = await queue.options(timeout=0.2).enqueue(tasks.see_the_wish, str(tmp_path / "late"))
        with pytest.raises(TaskFailedError, match=r"its timeout of 0\.2 s"):
            await result(late)
        pids = {child.pid for child in children()}
        assert {await result(await queue.enqueue(tasks.pid))} == pids, "it needed no other child"
    assert not events.of(TaskStuck)


@in_memory
async def test_a_wait_for_a_child_is_no_time_of_the_task(
    queue: TaskQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late: list[Any] = []
    monkeypatch.setattr(executor.Executor, "_time_is_up", lambda _, run: late.append(run.reserved.id))
    async with working(queue) as (_, events):
        first = await queue.enqueue(tasks.wait_for, str(tmp_path / "began"), str(tmp_path / "go"))
        await came(tmp_path / "began")
        second = await queue.options(timeout=0.001).enqueue(tasks.pid)
        third = await queue.options(timeout=3600).enqueue(tasks.pid)
        await events.wait_for(TaskStarted, 3)
        await asyncio.sleep(0.05)
        assert late == []
        await queue.cancel(third, timeout=PATIENCE)
        (tmp_path / "go").touch()
        assert await result(first) == "waited"
        await result(second)
    assert (await queue.get(third)).status is Status.CANCELLED


# -- What dies -------------------------------------------------------------------------------------


async def test_the_death_of_a_process_is_that_of_its_task_alone(queue: TaskQueue, tmp_path: Path) -> None:
    async with working(queue, processes=2) as (_, events):
        bystander = await queue.enqueue(tasks.wait_for, str(tmp_path / "began"), str(tmp_path / "go"))
        await came(tmp_path / "began")
        twice = queue.options(max_crashes=1)
        killers = {how: await twice.enqueue(tasks.die, how) for how in ("exit", "segfault", "kill")}
        for how, told in {"exit": "exit code 3", "segfault": "SIGSEGV", "kill": "SIGKILL"}.items():
            with pytest.raises(TaskFailedError, match="lost its lease 1 times") as caught:
                await result(killers[how])
            assert caught.value.error_type == "worker_lost"
            [crash, last] = (await queue.get(killers[how])).attempts_log
            assert (crash.error.type, crash.attempt, crash.last, last.last) == ("worker_lost", 1, False, True)
            assert told in crash.error.message
        survivor = await queue.enqueue(tasks.die, "exit", 1)
        assert await result(survivor) == "alive"
        assert (await queue.get(survivor)).crashes == 1
        (tmp_path / "go").touch()
        assert await result(bystander) == "waited"
    crashed = [event.task_id for event in events.of(TaskCrashed)]
    assert sorted(crashed) == sorted([*killers.values(), survivor])
    assert len(events.of(TaskFailed)) == len(killers)


@in_memory
async def test_a_child_that_dies_while_it_is_idle_costs_no_task_anything(queue: TaskQueue) -> None:
    async with working(queue) as (_, events):
        pid = await result(await queue.enqueue(tasks.pid))
        os.kill(pid, signal.SIGKILL)
        handle = await queue.enqueue(tasks.pid)
        assert await result(handle) != pid
        assert (await queue.get(handle)).crashes == 0
    assert not events.of(TaskCrashed)


WORK_UNTIL_KILLED = """
import asyncio, sys
from sitq import TaskQueue, Worker
from tests.integration import process_tasks as tasks
async def main(database, marker):
    async with TaskQueue(database) as queue:
        await queue.enqueue(tasks.hold, marker)
        await Worker(queue, executor="process").run()
asyncio.run(main(*sys.argv[1:]))
"""


async def test_no_child_outlives_its_worker(tmp_path: Path) -> None:
    with start_python(WORK_UNTIL_KILLED, tmp_path / "tasks.db", tmp_path / "began") as process:
        try:
            pid = int(await came(tmp_path / "began"))
            process.send_signal(signal.SIGKILL)
            await gone(pid)
        finally:
            end_group(process)
            process.communicate()


# -- What cannot begin -----------------------------------------------------------------------------


@in_memory
@pytest.mark.parametrize("interpreter", ["/no/such/python", "/bin/false"])
async def test_a_task_waits_when_no_child_can_start(
    queue: TaskQueue, monkeypatch: pytest.MonkeyPatch, interpreter: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", interpreter)
        async with working(queue, concurrency=1) as (_, events):
            handles = [await queue.enqueue(tasks.pid) for _ in range(3)]
            async with asyncio.timeout(PATIENCE):
                while len(events.of(TaskParked)) < 3:
                    await asyncio.sleep(0.005)
            assert {event.error_type for event in events.of(TaskParked)} == {"sitq.errors.ProcessStartError"}
            assert "cannot be started" in events.of(TaskParked)[0].error
            assert len({event.error for event in events.of(TaskParked)}) == 1
    for handle in handles:
        record = await queue.get(handle)
        assert (record.status, record.attempt, record.crashes) == (Status.PENDING, 0, 0)


@in_memory
async def test_a_task_that_its_child_cannot_import_waits(
    queue: TaskQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_here.py").write_text("def work(): return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    import only_here  # type: ignore[import-not-found]

    monkeypatch.undo()  # the worker has imported it, and nobody else will
    try:
        async with working(queue) as (_, events):
            handle = await queue.enqueue(only_here.work)
            parked = await events.wait_for(TaskParked)
            assert "only_here" in parked.error
            assert parked.error_type == "sitq.errors.TaskSerializationError"
        record = await queue.get(handle)
        assert (record.status, record.attempt) == (Status.PENDING, 0)
    finally:
        del sys.modules["only_here"]


# -- Bounds ----------------------------------------------------------------------------------------


@in_memory
async def test_a_child_is_replaced_after_so_many_tasks(queue: TaskQueue) -> None:
    async with working(queue, processes=ProcessOptions(children=1, max_tasks_per_child=2)):
        pids = [await result(await queue.enqueue(tasks.pid)) for _ in range(3)]
        assert pids[0] == pids[1] != pids[2]
        await gone(pids[0])


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is one of Linux")
@in_memory
async def test_memory_is_bounded(queue: TaskQueue) -> None:
    mebi = 1024 * 1024
    async with working(queue, processes=ProcessOptions(children=1, memory_limit=256 * mebi)) as (_, events):
        with pytest.raises(TaskFailedError) as caught:
            await result(await queue.enqueue(tasks.use, 1024 * mebi))
        assert caught.value.error_type == "MemoryError"
        first = await result(await queue.enqueue(tasks.pid))
        assert await result(await queue.enqueue(tasks.keep, 10 * mebi)) == first
        assert await result(await queue.enqueue(tasks.keep, 150 * mebi)) == first
        assert await result(await queue.enqueue(tasks.pid)) != first, "it held more than half of the limit"
    assert not events.of(TaskCrashed)


async def test_values_of_parents_reach_a_child_process(queue: TaskQueue) -> None:
    async with working(queue):
        fine = await queue.enqueue(tasks.echo, 3)
        bad = await queue.options(executor="thread").enqueue(tasks.fail_oddly)
        both = await queue.options(on_parent_failure="run").enqueue(tasks.names_of, [fine, bad])
        assert await both.result(timeout=PATIENCE) == ["int", "TaskFailedError"]


async def test_all_that_a_child_writes_is_sealed(backend: Backend) -> None:
    async with TaskQueue(backend, serializer=Signed(CloudpickleSerializer(), {"one": bytes(32)})) as queue:
        async with working(queue) as (_, events):
            told = await queue.enqueue(tasks.talk)
            failed = await queue.enqueue(tasks.fail_oddly)
            parent = await queue.enqueue(tasks.echo, 3)
            names = await queue.enqueue(tasks.names_of, [parent])
            assert await names.result(timeout=PATIENCE) == ["int"]
            await told.result(timeout=PATIENCE)
            with pytest.raises(TaskFailedError):
                await failed.result(timeout=PATIENCE)
        assert events.of(TaskLogged)
        streamed = {type(entry.event) for entry in [entry async for entry in told.events()]}
        assert {TaskLogged, TaskProgressed, TaskPublished, TaskSucceeded} <= streamed


async def test_a_child_has_context_and_resources_of_its_own(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_CLOSED", str(tmp_path / "closed"))
    queue = TaskQueue(backend, context_providers=[ContextVars(tasks.REQUEST_ID)])
    async with queue, working(queue, resources=tasks.open_shop):
        tasks.REQUEST_ID.set("one")
        coroutine = await queue.options(executor="process").enqueue(tasks.leave_one_behind)
        tasks.REQUEST_ID.set("two")
        plain = await queue.enqueue(tasks.request_and_shop)
        left = await queue.options(executor="process").enqueue(tasks.count_left)
        request, child, own_loop = await coroutine.result(timeout=PATIENCE)
        assert (request, own_loop) == ("one", True)
        assert child != os.getpid()
        assert await plain.result(timeout=PATIENCE) == ("two", child)
        assert await left.result(timeout=PATIENCE) == 0, "what a task leaves behind ends with it"
        (tmp_path / "closed").unlink(missing_ok=True)
    written = (tmp_path / "closed").read_text()
    assert written in (str(child), str(os.getpid())), "both take down theirs"


async def test_a_child_without_its_resources_does_not_start(
    queue: TaskQueue,
) -> None:
    async with working(queue, executor=None, resources=partial(tasks.shop_of, os.getpid())) as (_, events):
        handle = await queue.options(executor="process").enqueue(tasks.pid)
        assert (await events.wait_for(TaskParked)).error_type == "sitq.errors.ProcessStartError"
        await handle.cancel()


async def test_resources_that_no_child_can_find_are_refused_at_the_start(queue: TaskQueue) -> None:
    with pytest.raises(ValidationError, match="resources"):
        async with working(queue, resources=lambda: tasks.open_shop()):
            pass
