"""A child process of a worker: takes jobs, one at a time, and says what became of each.

It decides what follows from an attempt, since the exception object is here, with the functions that the worker itself
decides with. User code runs on the main thread.
"""

import asyncio
import inspect
import os
import queue
import socket
import sys
import threading
import time
from base64 import b64decode
from contextlib import suppress
from typing import Any, Final

from sitq.carrying import Restored
from sitq.clock import SystemClock
from sitq.context import bind
from sitq.emitter import Emitter
from sitq.model import Held, NewNote, NoteKind, Outcome
from sitq.serialization import from_parent, make_codec
from sitq.task import Call, check_arguments, check_callable
from sitq.worker import bounds
from sitq.worker.fork import end_if_forked
from sitq.worker.inputs import with_inputs
from sitq.worker.judge import judge_error, judge_value, park
from sitq.worker.ownloop import OwnLoop, awaited
from sitq.worker.run import Run, Stop, current_of
from sitq.worker.runners import is_coroutine_function
from sitq.worker.surroundings import Surroundings, load_surroundings
from sitq.worker.wire import ChildSetup, Ended, Job, Said, Sign, StopAsked, Wire

_PROGRESS_INTERVAL: Final = 0.05

_now: Final = SystemClock().now


def main(link: int | str) -> None:
    """Serve until told to end. `link` is the number of a socket, or one that was shared with this process."""
    wire = Wire(_socket(link))
    try:
        _serve(wire, wire.receive())
    except (OSError, EOFError):  # pragma: no cover: the worker is gone, and this process ends at once
        bounds.end_now()


def _serve(wire: Wire, setup: ChildSetup) -> None:
    bounds.die_with(setup.worker)
    bounds.outlast_signals()
    bounds.limit_memory(setup.memory_limit)
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # there may be none
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    child = _Child(setup, wire)
    child.open()
    threading.Thread(target=child.listen, name="sitq-listen", daemon=True).start()
    wire.send(Sign.READY)
    try:
        child.serve()
    finally:
        child.close()


def _socket(link: int | str) -> socket.socket:
    if isinstance(link, str):  # pragma: no cover: Windows
        return socket.fromshare(b64decode(link))  # type: ignore[attr-defined,no-any-return]  # Windows
    made = socket.socket(fileno=link)
    made.set_inheritable(False)
    return made


class _Child:
    """One attempt at a time. `listen` runs on a thread of its own, everything else on the main thread."""

    def __init__(self, setup: ChildSetup, wire: Wire) -> None:
        providers, self._resources = load_surroundings(setup.surroundings)
        lifespan = None if self._resources is None else self._resources.lifespan
        self._around = Surroundings(f"child process {os.getpid()}", providers, lifespan, _SILENT)
        self._codec = make_codec(from_parent(setup.serializer), (), setup.max_payload)
        self._wire = wire
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._voice = _Voice(wire)
        self._run: Run | None = None
        self._loop: OwnLoop | None = None

    def open(self) -> None:
        """Set up the resources. Raises `WorkerError`."""
        if self._resources is not None:
            self._resources.open()

    def close(self) -> None:
        """Take down the resources. Raises `WorkerError`."""
        if self._resources is not None:
            self._resources.close()

    def listen(self) -> None:
        """Take what the worker sends. When it is gone, this process ends at once, whatever runs here."""
        try:
            while True:
                match self._wire.receive():
                    case StopAsked(held, why):
                        self._stop(held, why)
                    case job:
                        self._jobs.put(job)
                        if job is None:
                            return
        except EOFError:  # pragma: no cover: the worker is gone, and this process ends at once
            bounds.end_now()

    def serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._wire.send(Sign.BEGAN)
            outcome = self._attempt(job)
            del job
            self._voice.flush()
            for stream in (sys.stdout, sys.stderr):
                with suppress(Exception):
                    stream.flush()
            self._wire.send(Ended(outcome, bounds.resident()))

    def _attempt(self, job: Job) -> Outcome:
        reserved = job.reserved
        try:
            call, context, rules = self._codec.decode_call(reserved.payload, reserved.id)
            check_callable(call.func)
            check_arguments(call)
            call = with_inputs(call, job.inputs, self._codec)
            channel = self._voice.put, _SILENT, self._codec
            run = Run(reserved, reserved.held, rules, time.monotonic(), *channel)
            current = current_of(run, context)
            own = bind(current)
            restored = self._around.begin(own, current, rules)
        except Exception as error:  # of whatever has this name by now, too
            return park(reserved, error, _now)
        self._run = run
        try:
            return own.run(self._judged, run, call, restored)
        finally:
            run.reported = True  # what it left behind has no say any more
            self._run = self._loop = None

    def _judged(self, run: Run, call: Call[Any], restored: Restored | None) -> Outcome:
        pid = os.getpid()
        try:
            try:
                value = self._call(run, call)
            finally:
                end_if_forked(pid)
        except BaseException as error:
            if restored is not None:
                restored.leave(error)
            return judge_error(run, error, _now)
        if restored is not None:
            restored.leave(None)
        return judge_value(run, value, _now)

    def _call(self, run: Run, call: Call[Any]) -> Any:
        if not is_coroutine_function(call.func):
            value = call.func(*call.args, **call.kwargs)
            if not inspect.isawaitable(value):
                return value
            call = Call(awaited, (value,), {})
        self._loop = OwnLoop(call, None if self._resources is None else self._resources.runner)
        if run.stopping:  # it was asked before there was a loop
            raise asyncio.CancelledError
        return self._loop.run()

    def _stop(self, held: Held, why: Stop) -> None:
        run = self._run
        if run is not None and run.held == held and run.stop is None:
            run.stop = why
            if (loop := self._loop) is not None:
                loop.cancel()


class _Voice:
    """What a task says, on its way to the worker. Of progress the last, a few times a second, the rest at once."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._lock = threading.Lock()
        self._progress: Said | None = None
        self._said = threading.Event()
        self._thread: threading.Thread | None = None

    def put(self, note: NewNote) -> None:
        said = Said(note.kind, note.data)
        if note.kind is not NoteKind.PROGRESS:
            self._wire.send(said)
            return
        with self._lock:
            self._progress = said
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="sitq-progress", daemon=True)
                self._thread.start()
        self._said.set()

    def flush(self) -> None:
        with self._lock:
            said, self._progress = self._progress, None
            if said is not None:  # inside, so that the next one does not overtake it
                self._wire.send(said)

    def _serve(self) -> None:
        while True:
            self._said.wait()
            self._said.clear()
            with suppress(OSError):  # the worker is gone, and this process soon
                self.flush()
            time.sleep(_PROGRESS_INTERVAL)


class _Silent(Emitter):
    """The worker tells of what happens here."""

    def wants(self, kind: type[Any]) -> bool:
        return False


_SILENT: Final = _Silent()
