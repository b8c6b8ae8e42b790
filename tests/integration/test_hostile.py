"""Tasks that do their worst. Each test asserts what is recorded, and that the worker goes on to run a good task."""

import asyncio
import contextlib
import contextvars
import json
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import time
import warnings
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from sitq import Status, TaskQueue, Worker, call
from sitq.backends.base import Backend
from sitq.backends.memory import MemoryBackend
from sitq.backends.sqlite import SQLiteBackend
from sitq.errors import PayloadTooLargeError
from sitq.events import BackgroundTasksLeft, TaskStuck, TaskSucceeded
from sitq.model import NewTask
from sitq.worker import services
from tests.integration.support import Gate, Spied, drain, end_group, recorded, run_python, start_python
from tests.support import PATIENCE, FakeClock


@pytest.fixture
async def queue(tmp_path: Path) -> AsyncIterator[TaskQueue]:
    async with TaskQueue(SQLiteBackend(tmp_path / "tasks.db", durability="fast")) as queue:
        yield queue


def good(number: int) -> int:
    return number + 1


async def assert_goes_on(queue: TaskQueue, hostile: Callable[..., Any], *args: Any) -> Any:
    """Run the task before and among good ones, in one worker. Returns its result."""
    before = await queue.enqueue(good, 1)
    task = await queue.enqueue(hostile, *args)
    after = [await queue.enqueue(good, number) for number in range(5)]
    await drain(queue, concurrency=2)
    assert (await queue.get_result(before)).value == 2
    assert [(await queue.get_result(one)).value for one in after] == [1, 2, 3, 4, 5]
    return await queue.get_result(task)


# -- Whatever can be raised ------------------------------------------------------------------------


class OddBase(BaseException):
    pass


RAISED = [
    ValueError("no"),
    SystemExit(3),
    SystemExit(),
    KeyboardInterrupt(),
    GeneratorExit(),
    asyncio.CancelledError("by myself"),
    StopIteration(1),
    StopAsyncIteration(),
    MemoryError(),
    RecursionError("too deep"),
    OddBase("odd"),
    TimeoutError(),
    ExceptionGroup("many", [ValueError(1), OSError(2)]),
    BaseExceptionGroup("base", [SystemExit(1), ValueError(2)]),
]


def raise_it(error: BaseException) -> None:
    raise error


async def raise_it_async(error: BaseException) -> None:
    raise error


async def raise_it_later(error: BaseException) -> None:
    await asyncio.sleep(0)
    raise error


@pytest.mark.parametrize("how", [raise_it, raise_it_async, raise_it_later])
@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
async def test_whatever_a_task_raises_is_its_own_failure(
    queue: TaskQueue, how: Callable[..., Any], error: BaseException
) -> None:
    result = await assert_goes_on(queue, how, error)
    assert result.status is Status.FAILED
    assert result.attempts == 1
    # PEP 479: what leaves a coroutine as StopIteration arrives as RuntimeError; the worker's own are coroutines, too.
    name = "RuntimeError" if isinstance(error, StopIteration | StopAsyncIteration) else type(error).__name__
    assert result.error_type.rpartition(".")[2] in (name, type(error).__name__)
    assert type(error).__name__ in result.traceback
    assert how.__name__ in result.traceback


def recurse_for_ever(depth: int = 0) -> int:
    return recurse_for_ever(depth + 1)


async def recurse_for_ever_async(depth: int = 0) -> int:
    return await recurse_for_ever_async(depth + 1)


@pytest.mark.parametrize("how", [recurse_for_ever, recurse_for_ever_async])
async def test_an_exhausted_stack_is_a_failure(queue: TaskQueue, how: Callable[..., Any]) -> None:
    result = await assert_goes_on(queue, how)
    assert (result.status, result.error_type) == (Status.FAILED, "RecursionError")


def exit_by_sys() -> None:
    sys.exit("good bye")


async def test_sys_exit_in_a_thread_ends_nothing_but_the_task(queue: TaskQueue) -> None:
    result = await assert_goes_on(queue, exit_by_sys)
    assert (result.status, result.error) == (Status.FAILED, "good bye")


# -- Cancellation ----------------------------------------------------------------------------------


async def cancel_myself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(60)


async def cancel_myself_and_return() -> str:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    return "never waited again"


async def test_a_task_that_cancels_its_own_asyncio_task_has_failed(queue: TaskQueue) -> None:
    # Not released: it would do the same again, for ever.
    result = await assert_goes_on(queue, cancel_myself)
    assert (result.status, result.error_type) == (Status.FAILED, "asyncio.exceptions.CancelledError")
    assert (await assert_goes_on(queue, cancel_myself_and_return)).value == "never waited again"


async def cancel_a_child() -> str:
    child = asyncio.ensure_future(asyncio.sleep(60))
    await asyncio.sleep(0)
    child.cancel()
    return await child  # type: ignore[return-value]


async def test_a_cancelled_child_is_a_failure_and_not_a_cancelled_task(queue: TaskQueue) -> None:
    result = await assert_goes_on(queue, cancel_a_child)
    assert (result.status, result.error_type) == (Status.FAILED, "asyncio.exceptions.CancelledError")


started = asyncio.Event()
let_go = asyncio.Event()


async def swallow_cancellation() -> str:
    started.set()
    while not let_go.is_set():
        try:
            await let_go.wait()
        except asyncio.CancelledError:
            pass
    return "as if nothing had happened"


async def test_a_task_that_swallows_cancellation_is_given_back_and_cannot_hold_up_the_end(
    queue: TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "_CANCEL_TIMEOUT", 0.05)
    monkeypatch.setattr(sys.modules[__name__], "started", asyncio.Event())
    monkeypatch.setattr(sys.modules[__name__], "let_go", asyncio.Event())
    task = await queue.enqueue(swallow_cancellation)
    worker = Worker(queue, shutdown_timeout=0)
    recorder = recorded(worker)
    running = asyncio.create_task(worker.run())
    async with asyncio.timeout(PATIENCE):
        await started.wait()
        await worker.stop()
        await running
    assert [event.task_id for event in recorder.of(TaskStuck)] == [task]
    record = await queue.get(task)
    assert (record.status, record.attempt, record.crashes) == (Status.PENDING, 0, 0)
    let_go.set()
    result = await assert_goes_on(queue, good, 41)
    assert result.value == 42
    # Run anew, by somebody else: what the stuck one made of it did not count.
    assert (await queue.get_result(task)).attempts == 1


# -- Results and errors that cannot be stored ------------------------------------------------------


class Unpicklable:
    def __reduce__(self) -> Any:
        raise TypeError("not me")


class Exiting:
    def __reduce__(self) -> Any:
        raise SystemExit("on the way out")


class LoadsNever:
    def __reduce__(self) -> Any:
        return (raise_it, (SystemExit("while loading"),))


class TwoArguments(Exception):
    """Pickles, and cannot be unpickled."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


class NoText(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__


class ExitingText(Exception):
    def __str__(self) -> str:
        raise SystemExit(4)


class WrongText(Exception):
    def __str__(self) -> str:
        return 42  # type: ignore[return-value]  # noqa: PLE0307


def return_unpicklable(kind: str) -> Any:
    return {
        "unpicklable": Unpicklable,
        "exiting": Exiting,
        "loads never": LoadsNever,
        "generator": lambda: (one for one in ()),
        "lock": lambda: __import__("threading").Lock(),
        "file": lambda: Path(__file__).open(),
        "deep": _deep,
    }[kind]()


def _deep() -> list[Any]:
    nest: list[Any] = []
    for _ in range(100_000):
        nest = [nest]
    return nest


@pytest.mark.parametrize("kind", ["unpicklable", "exiting", "loads never", "generator", "lock", "deep"])
async def test_a_result_that_cannot_be_stored_is_a_failure_that_says_so(queue: TaskQueue, kind: str) -> None:
    result = await assert_goes_on(queue, return_unpicklable, kind)
    assert (result.status, result.error_type) == (Status.FAILED, "sitq.errors.TaskSerializationError")
    assert result.error.startswith("the result (")


def raise_kind(kind: str) -> None:
    make: dict[str, Callable[[], Exception]] = {
        "two arguments": lambda: TwoArguments("a", "b"),
        "no text": NoText,
        "exiting text": ExitingText,
        "wrong text": WrongText,
        "unpicklable": lambda: ValueError(Unpicklable()),
        "surrogate": lambda: ValueError("\ud800"),
        "nul": lambda: ValueError("\0"),
        "long": lambda: ValueError("x" * 5_000_000),
        "braces": lambda: ValueError("{task} %s {0}"),
        "self cause": _self_caused,
    }
    raise make[kind]()  # noqa: RSE102


def _self_caused() -> Exception:
    error = ValueError("round")
    error.__cause__ = error
    return error


KINDS = [
    "two arguments", "no text", "exiting text", "wrong text", "unpicklable", "surrogate", "nul", "long", "braces",
    "self cause",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
async def test_an_exception_of_any_make_is_recorded(queue: TaskQueue, kind: str) -> None:
    result = await assert_goes_on(queue, raise_kind, kind)
    assert result.status is Status.FAILED
    assert result.error_type
    assert len(result.error) < 10_000
    json.dumps(result.error).encode()


def return_bytes(size: int) -> bytes:
    return bytes(size)


async def test_a_result_that_is_too_large_is_a_failure(queue: TaskQueue) -> None:
    result = await assert_goes_on(queue, return_bytes, queue.max_payload)
    assert (result.status, result.error_type) == (
        Status.FAILED,
        f"sitq.errors.{PayloadTooLargeError.__name__}",
    )


# -- Payloads that cannot be read ------------------------------------------------------------------


async def test_a_payload_that_cannot_be_read_is_parked(queue: TaskQueue, tmp_path: Path) -> None:
    task = await queue.enqueue(good, 1)
    [record] = [await _with_bytes(queue.backend, task)]
    payload = record.payload
    damaged = [
        bytes([*payload[:at], payload[at] ^ 1 << at % 8, *payload[at + 1 :]]) for at in range(len(payload))
    ]
    damaged += [b"", b"sq", payload[:-1], payload + b"\0", b"\x80\x05."]
    tasks = [NewTask(id=f"bad-{number}", name="bad", payload=data) for number, data in enumerate(damaged)]
    await queue.backend.enqueue(tasks)
    after = await queue.enqueue(good, 5)
    await drain(queue)
    records = await queue.find(name="bad", limit=10_000)
    assert len(records) == len(damaged)
    ends = {record.id: record.status for record in records}
    # The two bytes of the Python version say nothing about a payload that goes by reference.
    survivors = [name for name, status in ends.items() if status is not Status.PENDING]
    assert set(survivors) <= {"bad-4", "bad-5"}
    assert {record.attempt for record in records if record.status is Status.PENDING} == {0}
    assert (await queue.get_result(after)).value == 6


async def _with_bytes(backend: Backend, task_id: str) -> Any:
    record = await backend.get_result(task_id)
    assert record is not None
    return record


class ExitsWhenLoaded:
    def __reduce__(self) -> Any:
        return (sys.exit, ("while loading",))


async def test_an_argument_that_exits_while_it_is_loaded_is_parked(queue: TaskQueue) -> None:
    result = await assert_goes_on(queue, good, ExitsWhenLoaded())
    assert result.status is Status.PENDING
    assert "while loading" in result.error


# -- What is left behind ---------------------------------------------------------------------------

left: list[asyncio.Task[Any]] = []


async def leave_tasks_behind(number: int) -> None:
    left.extend(asyncio.create_task(asyncio.sleep(3600)) for _ in range(number))


async def test_background_tasks_left_behind_are_cancelled_and_reported(queue: TaskQueue) -> None:
    left.clear()
    task = await queue.enqueue(leave_tasks_behind, 3)
    after = await queue.enqueue(good, 1)
    recorder = await drain(queue)
    assert [(event.task_id, event.left) for event in recorder.of(BackgroundTasksLeft)] == [(task, 3)]
    await asyncio.wait(left, timeout=PATIENCE)
    assert [one.cancelled() for one in left] == [True] * 3
    assert (await queue.get_result(after)).value == 2


trace: contextvars.ContextVar[str] = contextvars.ContextVar("trace", default="clean")


def leave_a_mark(mark: str) -> str:
    found = trace.get()
    trace.set(mark)
    return found


async def leave_a_mark_async(mark: str) -> str:
    found = trace.get()
    trace.set(mark)
    await asyncio.sleep(0)
    return found if trace.get() == mark else "lost"


@pytest.mark.parametrize("how", [leave_a_mark, leave_a_mark_async])
async def test_context_variables_do_not_leak_between_tasks(queue: TaskQueue, how: Callable[..., Any]) -> None:
    trace.set("of the caller")
    tasks = [await queue.enqueue(how, f"mark {number}") for number in range(20)]
    await drain(queue, concurrency=3)
    assert {(await queue.get_result(task)).value for task in tasks} == {"clean"}
    assert trace.get() == "of the caller"


def close_the_loop() -> None:
    asyncio.new_event_loop().close()


def replace_the_policy() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated from 3.14 on
        asyncio.set_event_loop_policy(asyncio.DefaultEventLoopPolicy())


async def replace_the_policy_async() -> None:
    replace_the_policy()


@pytest.mark.parametrize("how", [close_the_loop, replace_the_policy, replace_the_policy_async])
async def test_meddling_with_event_loops_hurts_nobody(queue: TaskQueue, how: Callable[..., Any]) -> None:
    assert (await assert_goes_on(queue, how)).status is Status.SUCCESS


# -- What must not be tried in this process --------------------------------------------------------

# The tasks are functions of this module; a worker in a process of its own runs them beside good ones.
RUN = """
import asyncio, sys
from sitq import TaskQueue, Worker
from tests.integration import test_hostile as tasks

async def main(path, names, options):
    async with TaskQueue(path) as queue:
        sent = []
        for name in names:
            sent.append(await queue.enqueue(getattr(tasks, name)))
            sent.append(await queue.enqueue(tasks.good, len(sent)))
        worker = Worker(queue, **options)
        async with asyncio.timeout(30):
            await worker.run(until_idle=True)
        for task in sent:
            result = await queue.get_result(task)
            print(result.status, result.error_type or "-", result.value)

asyncio.run(main(sys.argv[1], sys.argv[2].split(","), {"concurrency": 2}))
"""


def run_hostile(path: Path, *names: str, measured: bool = True) -> list[str]:
    ended = run_python(RUN, path, ",".join(names), measured=measured)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


async def _exit() -> None:
    sys.exit("from the background")


async def _interrupt() -> None:
    raise KeyboardInterrupt


async def exit_in_the_background() -> str:
    child = asyncio.create_task(_exit())
    await asyncio.wait([child])
    return "went on"


async def exit_in_the_background_unheard() -> None:
    left.append(asyncio.create_task(_exit()))


async def exit_in_a_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(_exit())
        group.create_task(asyncio.sleep(60))


async def interrupt_in_a_gather() -> None:
    await asyncio.gather(_interrupt(), asyncio.sleep(0))


BACKGROUND = [
    "exit_in_the_background",
    "exit_in_the_background_unheard",
    "exit_in_a_group",
    "interrupt_in_a_gather",
]


@pytest.mark.parametrize("name", BACKGROUND)
def test_an_exit_in_a_background_task_does_not_end_the_worker(tmp_path: Path, name: str) -> None:
    first, then, *_ = run_hostile(tmp_path / "tasks.db", name)
    assert then == "success - 2"
    assert first.split()[0] == ("success" if "background" in name else "failed")


# Coverage would write its own SQLite file at the end of a forked child. The database thread of the parent may hold one
# of SQLite's locks at the moment of the fork, nobody is left to let go of it there, and the child waits for ever.


def fork_and_exit() -> int:
    child = os.fork()
    if child == 0:
        os._exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


async def fork_and_exit_async() -> int:
    return fork_and_exit()


def fork_and_return() -> int:
    """Both go on; the child must not take itself for the worker."""
    child = os.fork()
    if child == 0:
        return 0
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


async def fork_and_return_async() -> int:
    return fork_and_return()


def fork_and_raise() -> int:
    child = os.fork()
    if child == 0:
        raise ValueError("in the child")
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def fork_with_multiprocessing() -> int:
    process = multiprocessing.get_context("fork").Process(target=good, args=(1,))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


FORKING = ["fork_and_exit", "fork_and_exit_async", "fork_with_multiprocessing"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("name", FORKING)
def test_a_task_may_fork(tmp_path: Path, name: str) -> None:
    first, then = run_hostile(tmp_path / "tasks.db", name, measured=False)
    assert first in ("success - 7", "success - 0")
    assert then == "success - 2"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("name", ["fork_and_return", "fork_and_return_async", "fork_and_raise"])
def test_a_forked_child_that_comes_back_from_the_task_is_ended(tmp_path: Path, name: str) -> None:
    first, then = run_hostile(tmp_path / "tasks.db", name, measured=False)
    assert first == "success - 70"  # EX_SOFTWARE: it had no business to go on
    assert then == "success - 2"


def close_standard_streams() -> None:
    for number in (0, 1, 2):
        os.close(number)
        os.open(os.devnull, os.O_RDWR)


def test_closed_standard_streams_do_not_hurt_the_worker(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    ended = run_python(RUN, path, "close_standard_streams")
    assert ended.returncode == 0
    assert statuses(path) == {"success": 2}


def close_everything(journal: str) -> None:
    note(journal, "run")
    os.closerange(3, 256)


def test_closing_every_descriptor_costs_a_worker_but_no_task_and_no_file(tmp_path: Path) -> None:
    # The event loop, the database and their locks are gone: nothing can go on in that process.
    path, journal = tmp_path / "tasks.db", tmp_path / "journal"
    send(path, ("close_everything", {"max_crashes": 1}, str(journal)), ("good", {}, 1), ("good", {}, 2))
    worker = start_worker(path)
    while worker.poll() is None and not journal.exists():
        time.sleep(0.02)
    assert journal.exists()
    try:
        worker.communicate(timeout=5)
    except subprocess.TimeoutExpired:
        end_group(worker)
        worker.communicate()
    run_workers(path, until=3)
    assert statuses(path)["success"] >= 2
    assert integrity(path) == "ok"


# -- Tasks that kill their worker ------------------------------------------------------------------

SEND = """
import asyncio, json, sys
from sitq import TaskQueue
from tests.integration import test_hostile as tasks

async def main(path, calls):
    async with TaskQueue(path) as queue:
        for name, options, *args in calls:
            print(await queue.options(**options).enqueue(getattr(tasks, name), *args))

asyncio.run(main(sys.argv[1], json.loads(sys.argv[2])))
"""
WORK = """
import asyncio, sys
from sitq import TaskQueue, Worker

async def main(path, concurrency):
    async with TaskQueue(path) as queue:
        await Worker(queue, concurrency=concurrency, poll_interval=0.05).run()

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


def send(path: Path, *calls: tuple[Any, ...]) -> list[str]:
    ended = run_python(SEND, path, json.dumps(calls))
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.split()


def start_worker(path: Path, concurrency: int = 4) -> "subprocess.Popen[str]":
    return start_python(WORK, path, concurrency)


def run_workers(path: Path, until: int, concurrency: int = 4) -> int:
    """Start a worker anew whenever it dies, until so many tasks have finished. Tells how many died."""
    died = 0
    while True:
        end_leases(path)
        with start_worker(path, concurrency) as worker:
            while worker.poll() is None:
                if (
                    sum(count for name, count in statuses(path).items() if name in ("success", "failed"))
                    >= until
                ):
                    worker.terminate()
                    _, err = worker.communicate(timeout=30)
                    assert worker.returncode == 0, err
                    return died
                time.sleep(0.02)
            assert worker.stderr is not None
            assert worker.returncode == -signal.SIGKILL, worker.stderr.read()
            died += 1


def end_leases(path: Path) -> None:
    """Let as much time pass as the leases of workers that have died still last."""
    with contextlib.closing(sqlite3.connect(path, timeout=10)) as db, db:
        db.execute("UPDATE sitq_tasks SET due_at = 0 WHERE status = 'running'")


def statuses(path: Path) -> dict[str, int]:
    with contextlib.closing(sqlite3.connect(path, timeout=10)) as db:
        return dict(db.execute("SELECT status, count(*) FROM sitq_tasks GROUP BY status").fetchall())


def integrity(path: Path) -> str:
    with contextlib.closing(sqlite3.connect(path, timeout=10)) as db:
        return db.execute("PRAGMA integrity_check").fetchone()[0]


def note(path: str, line: str) -> None:
    with open(path, "a") as file:  # noqa: PTH123
        file.write(line + "\n")


def kill_my_worker(journal: str) -> None:
    note(journal, "run")
    os.kill(os.getpid(), signal.SIGKILL)


async def kill_my_worker_async(journal: str) -> None:
    kill_my_worker(journal)


began: list[str] = []


async def suspect(name: str) -> None:
    began.append(name)


async def test_a_suspect_does_not_start_before_the_others_are_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Seen on a slow disk: it started after a second, and those that were on their way back died with it.
    clock, gate = FakeClock(), Gate()
    storage: Any = Spied(MemoryBackend(clock=clock))
    storage.before["complete"] = lambda *_: gate.pass_through()
    began.clear()

    async with TaskQueue(storage) as queue:
        pair = [call(suspect, name) for name in ("first", "second")]
        await queue.options(max_crashes=2).enqueue_many(pair)
        await storage.inner.reserve("a worker that dies", None, 2, timedelta(seconds=1))
        clock.advance(2)
        worker = Worker(queue, concurrency=2)
        events = recorded(worker)
        async with worker:
            await gate.wait_reached()
            loop = asyncio.get_running_loop()
            real_time = loop.time
            monkeypatch.setattr(loop, "time", lambda: real_time() + 3600)
            for _ in range(20):
                await asyncio.sleep(0)
            assert began == []
            gate.open()
            await events.wait_for(TaskSucceeded)
            assert began == ["first"]


async def test_those_who_are_taken_together_with_a_poison_pill_are_not_given_up(tmp_path: Path) -> None:
    # One batch, the pill first: it kills before any of the others gets to run, each time until it is alone.
    path, journal = tmp_path / "tasks.db", tmp_path / "journal"
    pill, *others = send(
        path, ("kill_my_worker_async", {}, str(journal)), *(("good", {}, number) for number in range(4))
    )
    assert run_workers(path, until=5, concurrency=10) == 3
    async with TaskQueue(path) as queue:
        assert (await queue.get_result(pill)).error_type == "worker_lost"
        assert [(await queue.get_result(other)).value for other in others] == [1, 2, 3, 4]
        assert max([(await queue.get(other)).crashes for other in others]) <= 2


@pytest.mark.parametrize("name", ["kill_my_worker", "kill_my_worker_async"])
@pytest.mark.parametrize("max_crashes", [1, 3])
async def test_a_task_that_kills_its_worker_runs_max_crashes_times(
    tmp_path: Path, name: str, max_crashes: int
) -> None:
    path, journal = tmp_path / "tasks.db", tmp_path / "journal"
    options = {} if max_crashes == 3 else {"max_crashes": max_crashes}
    poison, *others = send(
        path, (name, options, str(journal)), *(("good", {}, number) for number in range(10))
    )
    assert run_workers(path, until=11) == max_crashes
    assert journal.read_text().splitlines() == ["run"] * max_crashes
    async with TaskQueue(path) as queue:
        result = await queue.get_result(poison)
        assert (result.status, result.error_type) == (Status.FAILED, "worker_lost")
        assert str(max_crashes) in result.error
        record = await queue.get(poison)
        assert record.crashes == max_crashes
        # The innocent: those that were taken together with it may have crashed with it, but none was given up.
        assert [(await queue.get_result(other)).value for other in others] == list(range(1, 11))
