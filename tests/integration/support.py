"""What the tests of queue and worker share: a recorder of events, a backend that can be watched, and real processes."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, get_args

from sitq import TaskQueue, Worker
from sitq.backends.base import Backend
from sitq.events import Event
from tests.support import PATIENCE

ROOT = Path(__file__).parents[2]


class Recorder:
    """Hears of everything that a worker does: keeps every event, from any thread, and lets a test wait for one."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()

    def __call__(self, event: Any) -> None:
        self.events.append(event)
        self._loop.call_soon_threadsafe(self._changed.set)

    def of[E](self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    async def wait_for[E](self, kind: type[E], count: int = 1) -> E:
        """The last of the first `count` events of a kind."""
        async with asyncio.timeout(PATIENCE):
            while len(self.of(kind)) < count:
                self._changed.clear()
                await self._changed.wait()
        return self.of(kind)[count - 1]


def recorded(worker: Worker) -> Recorder:
    """Record the events of a worker that has not started yet."""
    recorder = Recorder()
    for kind in get_args(Event.__value__):
        worker._emit.on(kind, recorder)
    return recorder


class Gate:
    """A point where a test holds somebody up: `reached` says that somebody came, `open` lets everybody through."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self._open = asyncio.Event()

    def open(self) -> None:
        self._open.set()

    async def pass_through(self) -> None:
        self.reached.set()
        await self._open.wait()

    async def wait_reached(self) -> None:
        async with asyncio.timeout(PATIENCE):
            await self.reached.wait()


class Spied:
    """A backend that counts calls, and calls a hook before (or instead of) the real thing."""

    def __init__(self, inner: Backend) -> None:
        self.inner = inner
        self.calls: dict[str, int] = {}
        self.before: dict[str, Callable[..., Awaitable[None]]] = {}
        self.after: dict[str, Callable[..., Awaitable[None]]] = {}

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.inner, name)
        if name not in ("enqueue", "reserve", "heartbeat", "complete", "cancel", "find", "prune", "stats"):
            return method

        async def call(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] = self.calls.get(name, 0) + 1
            if name in self.before:
                await self.before[name](*args, **kwargs)
            answer = await method(*args, **kwargs)
            if name in self.after:
                await self.after[name](answer)
            return answer

        return call


def spied_queue(backend: Backend, **options: Any) -> tuple[TaskQueue, Spied]:
    spy = Spied(backend)
    return TaskQueue(spy, **options), spy


async def drain(queue: TaskQueue, **options: Any) -> Recorder:
    """Run everything that is due with a worker of its own, and return what it reported."""
    worker = Worker(queue, **options)
    recorder = recorded(worker)
    async with asyncio.timeout(60):
        await worker.run(until_idle=True)
    return recorder


def start_python(code: str, *args: object, measured: bool = True, **popen: Any) -> "subprocess.Popen[str]":
    """A fresh interpreter that can import sitq and the tests, and whose coverage is measured unless told otherwise."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    if not measured:
        environment.pop("COVERAGE_PROCESS_CONFIG", None)
    command = [sys.executable, "-c", code, *map(str, args)]
    # A session of its own, so that whatever it forked can be ended with it.
    popen.setdefault("start_new_session", True)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=environment, cwd=ROOT, text=True, **{**pipes, **popen})


def end_group(process: "subprocess.Popen[str]") -> None:
    """Kill a process of `start_python`, and those that it forked."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def run_python(
    code: str, *args: object, timeout: float = 60, **popen: Any
) -> "subprocess.CompletedProcess[str]":
    """Run it to its end; one that hangs is killed and fails the test."""
    with start_python(code, *args, **popen) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            end_group(process)
            out, err = process.communicate()
            raise AssertionError(f"hung; stdout: {out}\nstderr: {err}") from None
        finally:
            end_group(process)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)
