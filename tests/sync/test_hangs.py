"""Nothing hangs: closing, Ctrl-C, a forgotten close, a fork, a call from the inside."""

import asyncio
import math
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sitq import QueueClosedError, QueueError, Status, SyncTaskQueue
from sitq.backends.base import Signal
from sitq.backends.memory import MemoryBackend
from tests.support import PATIENCE

LONG = 600
posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX")


class WatchedBackend(MemoryBackend):
    """Says when somebody waits."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = threading.Semaphore(0)

    def listen(self, topics: Any) -> Any:
        context = super().listen(topics)
        waiting = self.waiting

        class Listening:
            async def __aenter__(self) -> Signal:
                signal = await context.__aenter__()
                waiting.release()
                return signal

            async def __aexit__(self, *error: Any) -> bool | None:
                return await context.__aexit__(*error)

        return Listening()


def script(text: str, *args: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(text), *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_close_ends_calls_that_wait_in_other_threads() -> None:
    backend = WatchedBackend()
    queue = SyncTaskQueue(backend)
    queue.open()
    handle = queue.enqueue(math.sqrt, 1.0)
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(handle.result) for _ in range(4)]
        for _ in waiting:
            assert backend.waiting.acquire(timeout=PATIENCE)
        queue.close()
        for one in waiting:
            with pytest.raises(QueueClosedError):
                one.result(timeout=PATIENCE)


def test_close_ends_a_reader_that_waits_in_another_thread() -> None:
    backend = WatchedBackend()
    queue = SyncTaskQueue(backend)
    queue.open()
    handle = queue.enqueue(math.sqrt, 1.0)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(list, handle.events())
        assert backend.waiting.acquire(timeout=PATIENCE)
        queue.close()
        with pytest.raises(QueueClosedError):
            reading.result(timeout=PATIENCE)


@pytest.mark.parametrize("how", ["close", "drop", "after the close of the queue"])
def test_a_reader_may_leave_early(how: str) -> None:
    backend = WatchedBackend()
    with SyncTaskQueue(backend) as queue:
        entries = queue.enqueue(math.sqrt, 1.0).events()
        next(entries)
        assert backend._bells._tasks
        match how:
            case "close":
                entries.close()
                assert not backend._bells._tasks
            case "drop":
                del entries
                queue.stats()  # behind it on the loop
                assert not backend._bells._tasks
            case _:
                queue.close()
                assert not backend._bells._tasks
                entries.close()


def test_a_reader_that_is_collected_on_the_loop_itself_hurts_nobody() -> None:
    with SyncTaskQueue(WatchedBackend()) as queue:
        cell = [queue.enqueue(math.sqrt, 1.0).events()]
        next(cell[0])
        assert queue._thread is not None

        async def drop() -> None:
            cell.clear()

        queue._thread.call(drop)
        assert queue.stats().counts[Status.PENDING] == 1


def test_close_races_with_calls(tmp_path: Path) -> None:
    """Each call either happens or ends with QueueClosedError; what was answered is stored."""
    answered: list[str] = []

    def enqueue_until_closed() -> str:
        while True:
            try:
                answered.append(queue.enqueue(math.sqrt, 1.0))
            except QueueClosedError:
                return "closed"

    for _ in range(5):
        queue = SyncTaskQueue(tmp_path / "app.db")
        queue.open()
        with ThreadPoolExecutor(4) as pool:
            running = [pool.submit(enqueue_until_closed) for _ in range(4)]
            before = len(answered)
            while len(answered) < before + 20:
                time.sleep(0.001)
            queue.close()
            assert [one.result(timeout=PATIENCE) for one in running] == ["closed"] * 4
    with SyncTaskQueue(tmp_path / "app.db") as queue:
        stored = {record.id for record in queue.find(limit=10_000)}
    assert stored >= set(answered)


class StubbornBackend(MemoryBackend):
    """Its `stats` never ends, whatever happens."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()
        self.free = threading.Event()

    async def stats(self) -> Any:
        self.entered.set()
        while not self.free.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                pass


def test_close_does_not_wait_for_a_backend_that_ignores_cancellation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sitq.loop._JOIN_TIMEOUT", 0.01)
    backend = StubbornBackend()
    queue = SyncTaskQueue(backend)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(queue.stats)
        assert backend.entered.wait(PATIENCE)
        queue.close()
        with pytest.raises(QueueClosedError):
            waiting.result(timeout=PATIENCE)
        backend.free.set()


def test_a_call_from_its_own_loop_is_refused(tmp_path: Path) -> None:
    class Inner:
        """Pickled on the loop's thread."""

        def __reduce__(self) -> Any:
            with pytest.raises(QueueError, match="use TaskQueue"):
                queue.stats()
            with pytest.raises(QueueError, match="use TaskQueue"):
                queue.close()
            return (int, ())

    with SyncTaskQueue(tmp_path / "app.db") as queue:
        queue.enqueue(math.sqrt, Inner())  # type: ignore[arg-type]
        assert len(queue.find()) == 1


async def test_it_works_beside_a_running_loop(tmp_path: Path) -> None:
    with SyncTaskQueue(tmp_path / "app.db") as queue:
        assert queue.enqueue(math.sqrt, 1.0).status().value == "pending"


def test_an_exit_raised_inside_reaches_the_caller_and_nobody_else() -> None:
    class Leaving(MemoryBackend):
        async def stats(self) -> Any:
            raise SystemExit(3)

    with SyncTaskQueue(Leaving()) as queue:
        with pytest.raises(SystemExit):
            queue.stats()
        assert queue.find() == []


@posix
@pytest.mark.parametrize("wait", ["result", "events"])
def test_ctrl_c_ends_a_wait(tmp_path: Path, wait: str) -> None:
    process = script(
        """
        import math, signal, sys, threading, time
        from sitq import SyncTaskQueue

        # A shell starts what it puts into the background with SIGINT ignored, and children inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)

        def watch():
            while not queue._thread._calls:
                time.sleep(0.001)
            print("waiting", flush=True)

        with SyncTaskQueue(sys.argv[1]) as queue:
            handle = queue.enqueue(math.sqrt, 1.0)
            try:
                threading.Thread(target=watch, daemon=True).start()
                handle.result() if sys.argv[2] == "result" else list(handle.events())
            except KeyboardInterrupt:
                print("interrupted", queue.get_status(handle), flush=True)
        """,
        tmp_path / "app.db",
        wait,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert out.startswith("interrupted pending"), err
    assert process.returncode == 0


@pytest.mark.parametrize(
    "ending",
    [
        "",
        "sys.exit(7)",
        "queue.close()",
        "threading.Thread(target=wait, daemon=True).start(); started.wait()",
    ],
)
def test_the_interpreter_exits_without_a_close(tmp_path: Path, ending: str) -> None:
    process = script(
        f"""
        import math, sys, threading
        from sitq import SyncTaskQueue

        queue = SyncTaskQueue(sys.argv[1])
        handle = queue.enqueue(math.sqrt, 1.0)
        started = threading.Event()

        def wait():
            started.set()
            handle.result()

        print("enqueued", flush=True)
        {ending}
        """,
        tmp_path / "app.db",
    )
    out, err = process.communicate(timeout=PATIENCE * 2)
    assert out == "enqueued\n"
    assert err == ""
    assert process.returncode == (7 if "exit" in ending else 0)
    with SyncTaskQueue(tmp_path / "app.db") as queue:
        assert len(queue.find()) == 1


@posix
def test_after_a_fork_the_child_is_told(tmp_path: Path) -> None:
    process = script(
        """
        import math, os, sys, warnings
        from sitq import BackendConnectionError, SyncTaskQueue

        warnings.simplefilter("ignore", DeprecationWarning)
        queue = SyncTaskQueue(sys.argv[1])
        unopened = SyncTaskQueue(sys.argv[1])
        handle = queue.enqueue(math.sqrt, 1.0)
        if os.fork() == 0:
            for use in (queue.stats, queue.open, handle.status):
                try:
                    use()
                except BackendConnectionError as error:
                    assert "fork" in str(error)
                else:
                    raise AssertionError(use)
            queue.close()
            with unopened:
                unopened.enqueue(math.sqrt, 2.0)
            os._exit(0)
        _, status = os.wait()
        assert status == 0, status
        assert len(queue.find()) == 2
        queue.close()
        print("done")
        """,
        tmp_path / "app.db",
    )
    out, err = process.communicate(timeout=PATIENCE * 2)
    assert out == "done\n", err


def test_an_interrupted_call_is_cancelled_on_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Ctrl-C does, without a signal: the exception leaves the wait, and the coroutine does not stay behind."""
    entered, ended = threading.Event(), threading.Event()

    class Waiting(MemoryBackend):
        async def stats(self) -> Any:
            entered.set()
            try:
                await asyncio.sleep(LONG)
            finally:
                ended.set()

    def interrupt(*args: object) -> None:
        assert entered.wait(PATIENCE)
        raise KeyboardInterrupt

    with SyncTaskQueue(Waiting()) as queue:
        queue.find()
        with monkeypatch.context() as patched:
            patched.setattr("sitq.loop._wait", interrupt)
            with pytest.raises(KeyboardInterrupt):
                queue.stats()
        assert ended.wait(PATIENCE)


def test_a_signal_handler_may_use_the_queue(tmp_path: Path) -> None:
    if not hasattr(signal, "SIGUSR1"):
        pytest.skip("needs SIGUSR1")
    seen: list[int] = []
    with SyncTaskQueue(tmp_path / "app.db") as queue:
        former: Callable[..., Any] | int | None = signal.signal(
            signal.SIGUSR1, lambda *_: seen.append(len(queue.find()))
        )
        try:
            for number in range(50):
                signal.raise_signal(signal.SIGUSR1)
                queue.enqueue(math.sqrt, float(number))
                os.kill(os.getpid(), signal.SIGUSR1)
        finally:
            signal.signal(signal.SIGUSR1, former)
    assert len(seen) == 100
