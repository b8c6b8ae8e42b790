"""`Worker`: builds the services, and owns the staged shutdown. It has no logic of its own."""

import asyncio
import os
from collections.abc import Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any, Final, Self

from sitq.clock import Clock, SystemClock
from sitq.config import (
    DEFAULT_CONCURRENCY,
    DEFAULT_LEASE,
    DEFAULT_POLL_INTERVAL,
    DEFAULT_SHUTDOWN_TIMEOUT,
    WorkerConfig,
    worker_config,
)
from sitq.errors import QueueEmptyError, WorkerBusyError, WorkerError, WorkerStoppedError
from sitq.events import Emit, WorkerStarted, WorkerStopped, WorkerStopping, log_event
from sitq.handle import Result
from sitq.model import ReservedTask, TaskId
from sitq.options import Duration, seconds
from sitq.queue import TaskQueue
from sitq.task import Call
from sitq.worker.completer import Completer
from sitq.worker.executor import Executor, Stop
from sitq.worker.fetcher import Fetcher
from sitq.worker.heartbeat import Heartbeat
from sitq.worker.maintenance import Pruner
from sitq.worker.runners import AsyncRunner, ThreadRunner, is_coroutine_function
from sitq.worker.signals import stop_signals
from sitq.worker.slots import Slots

_CANCEL_TIMEOUT: Final = 5.0
"""How long a cancelled task may take to clean up before it is given back without it."""

_FLUSH_TIMEOUT: Final = 10.0
"""How long the last outcomes may take to reach the storage."""


class Worker:
    """Takes tasks from a queue and runs them: coroutine functions on the event loop, plain functions on threads.

    Run it in a process of its own with `await worker.run()`, or beside an application with `async with Worker(queue):`.
    A worker object runs once.

    Args:
        queue: Where tasks come from. Opened if it is not open; never closed.
        queues: Names of the queues to take from; all of them by default.
        concurrency: How many tasks run at once, 1 to 10,000. It never reserves more than can start.
        lease: How long a reservation lasts without a sign of life (seconds or timedelta, at least 0.1 s). The
            shorter, the sooner another worker takes over the tasks of a dead one.
        poll_interval: How often to look for work when nothing rings.
        shutdown_timeout: How long a stopping worker waits for running tasks before it cancels them and gives them back.
        max_tasks: Stop after so many tasks.
        id: Name of the worker; host, process and a random part by default.

    Raises:
        ValidationError: An argument is out of range; the message names it.
    """

    def __init__(
        self,
        queue: TaskQueue,
        *,
        queues: Sequence[str] | None = None,
        concurrency: int = DEFAULT_CONCURRENCY,
        lease: Duration = DEFAULT_LEASE,
        poll_interval: Duration = DEFAULT_POLL_INTERVAL,
        shutdown_timeout: Duration = DEFAULT_SHUTDOWN_TIMEOUT,
        max_tasks: int | None = None,
        id: str | None = None,
    ) -> None:
        self.config: Final = worker_config(
            id=id,
            queues=queues,
            concurrency=concurrency,
            lease=lease,
            poll_interval=poll_interval,
            shutdown_timeout=shutdown_timeout,
            max_tasks=max_tasks,
        )
        self._queue = queue
        self._emit: Emit = log_event
        self._services: _Services | None = None
        self._used = False
        self._stop_wanted = False
        self._ended = asyncio.Event()
        self._forced_by: int | None = None

    @property
    def id(self) -> str:
        """Its name in the storage and in logs."""
        return self.config.id

    @property
    def running(self) -> int:
        """How many tasks run right now."""
        return self._services.executor.running if self._services is not None else 0

    @property
    def forced_by(self) -> int | None:
        """The signal that made `run` give its tasks back at once; None if it waited for them."""
        return self._forced_by

    async def run(self, duration: Duration | None = None, until_idle: bool = False) -> None:
        """Work until `stop()`, SIGINT or SIGTERM, then shut down in order.

        The first signal waits for running tasks, a second one gives them back at once, a third one ends the process.

        Args:
            duration: Stop after this time (seconds or timedelta).
            until_idle: Stop when nothing is due and nothing runs. Tasks scheduled for later are not waited for.

        Raises:
            WorkerStoppedError: It has been run before.
            BackendConnectionError: The storage cannot be opened.
        """
        limit = None if duration is None else seconds(duration, "duration")
        services = await self._start(until_idle=until_idle)
        try:
            with stop_signals(services.on_signal):
                try:
                    await services.wait_for_end(limit)
                except asyncio.CancelledError:
                    services.hurry()
                    raise
                finally:
                    await self._shut_down(services)
        finally:
            self._forced_by = services.forced_by
            services.raise_failure()

    async def stop(self) -> None:
        """Stop taking tasks, wait for running ones within `shutdown_timeout`, then give back the rest. Idempotent.

        Before `run` it makes that return at once.
        """
        self._stop_wanted = True
        if self._services is not None:
            self._services.request_stop()
        if self._used:
            await self._ended.wait()

    async def __aenter__(self) -> Self:
        await self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        services = self._services
        assert services is not None
        await self._shut_down(services)
        services.raise_failure()

    async def process_task(self, task_id: TaskId) -> Result[Any]:
        """Run one task here and now and return its result. Works beside `run`, and without it.

        Raises:
            TaskNotFoundError: Unknown id.
            QueueEmptyError: It is running elsewhere, or not due yet.
            WorkerBusyError: Every slot is taken.
            WorkerStoppedError: The worker is stopping or has stopped.
        """
        if self._services is not None:
            return await self._services.process(task_id)
        if self._used:
            raise WorkerStoppedError(f"worker {self.id} has stopped: make a new Worker")
        services = _Services(self._queue, self.config, self._emit, until_idle=False)
        await self._queue.open()
        await services.start(fetch=False)
        try:
            return await services.process(task_id)
        finally:
            await services.shut_down()

    async def _start(self, *, until_idle: bool = False) -> "_Services":
        if self._used:
            raise WorkerStoppedError(f"worker {self.id} has been run before: make a new Worker")
        self._used = True
        try:
            await self._queue.open()
            services = _Services(self._queue, self.config, self._emit, until_idle=until_idle)
            await services.start(fetch=True)
        except BaseException:
            self._ended.set()
            raise
        self._services = services
        if self._stop_wanted:
            services.request_stop()
        return services

    async def _shut_down(self, services: "_Services") -> None:
        """Shut down in order. Being cancelled meanwhile does not cut that short: it makes it hurry."""
        ending = asyncio.create_task(services.shut_down(), name="sitq-shutdown")
        cancelled: BaseException | None = None
        while not ending.done():
            try:
                await asyncio.wait([ending])
            except asyncio.CancelledError as error:
                cancelled = error
                services.hurry()
        self._services = None
        self._ended.set()
        ending.result()
        if cancelled is not None:
            raise cancelled


class _Services:
    """The services of one run of a worker, wired together, with their start and their end."""

    def __init__(self, queue: TaskQueue, config: WorkerConfig, emit: Emit, *, until_idle: bool) -> None:
        clock: Clock = SystemClock()
        backend = queue.backend
        self._queue = queue
        self._config = config
        self._emit = emit
        self._lease = timedelta(seconds=config.lease)
        self._threads = ThreadRunner(config.concurrency)
        self._coroutines = AsyncRunner()
        self._slots = Slots(config.concurrency)
        self._completer = Completer(config.id, backend, emit)
        self.executor = Executor(
            config.id,
            run_call=self._run_call,
            report=self._completer.put,
            interrupted=self._interrupted,
            slots=self._slots,
            max_payload=queue.max_payload,
            emit=emit,
        )
        self._fetcher = Fetcher(
            config,
            backend,
            slots=self._slots,
            congested=self._completer.congested,
            start=self.executor.start_all,
            idle=self.request_stop if until_idle else None,
            exhausted=self.request_stop,
            clock=clock,
            emit=emit,
        )
        self._heartbeat = Heartbeat(
            config,
            backend,
            held=self.executor.held,
            lost=lambda held: self.executor.stop(held, Stop.LOST),
            cancelled=lambda held: self.executor.stop(held, Stop.CANCEL),
            clock=clock,
            emit=emit,
        )
        self._pruner = Pruner(config.id, backend, emit)
        self._slots.on_free = self._fetcher.slot_freed
        self._loops: list[asyncio.Task[None]] = []
        self._stop_requested = asyncio.Event()
        self._hurry = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._signals = 0
        self.forced_by: int | None = None
        self._failure: BaseException | None = None
        self._taking: set[asyncio.Task[Any]] = set()

    def _run_call(self, call: Call[Any]) -> Any:
        runner = self._coroutines if is_coroutine_function(call.func) else self._threads
        return runner.run(call)

    async def start(self, *, fetch: bool) -> None:
        await self._heartbeat.start()
        if fetch:
            loop = asyncio.get_running_loop()
            self._loops = [
                loop.create_task(self._fetcher.run(), name="sitq-fetcher"),
                loop.create_task(self._pruner.run(), name="sitq-pruner"),
            ]
            for task in self._loops:
                task.add_done_callback(self._on_loop_end)
            queues = ", ".join(self._config.queues or ("all",))
            self._emit(WorkerStarted(self._config.id, queues, self._config.concurrency))

    def _interrupted(self) -> bool:
        # The worker itself never cancels its fetcher while anything runs: it was somebody who cancels all he can find.
        return any(task.cancelling() for task in self._loops[:1])

    def _on_loop_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._failure = self._failure or task.exception()
            self.request_stop()

    def raise_failure(self) -> None:
        """Raise what ended a service that was not meant to end."""
        if self._failure is not None:
            raise WorkerError(
                f"worker {self._config.id} stopped because of an unexpected error: {self._failure!r}"
            ) from self._failure

    async def process(self, task_id: TaskId) -> Result[Any]:
        if self._stop_requested.is_set():
            raise WorkerStoppedError(f"worker {self._config.id} is stopping: make a new Worker")
        if self._slots.free == 0:
            raise WorkerBusyError(
                f"all {self._config.concurrency} slots of worker {self._config.id} are taken: try later"
            )
        self._slots.take()
        # A caller that is cancelled abandons the wait and not the reservation: what is taken is run.
        taking = self._loop.create_task(self._take(task_id), name="sitq-process-task")
        self._taking.add(taking)
        taking.add_done_callback(self._taking.discard)
        found, run = await asyncio.shield(taking)
        if not found:
            result = await self._queue.get_result(task_id)
            if not result.status.finished:
                raise QueueEmptyError(
                    f"task {task_id} is {result.status}: it runs elsewhere or is not due yet"
                )
            return result
        if run is not None:
            await asyncio.wait([run])
        await self._completer.flush(_FLUSH_TIMEOUT)
        return await self._queue.get_result(task_id)

    async def _take(self, task_id: TaskId) -> tuple[bool, asyncio.Task[None] | None]:
        tasks: list[ReservedTask] = []
        try:
            tasks, _ = await self._queue.backend.reserve(self._config.id, None, 1, self._lease, ids=[task_id])
        finally:
            if not tasks:
                self._slots.give_back()
        return bool(tasks), self.executor.start(tasks[0]) if tasks else None

    # -- The end -----------------------------------------------------------------------------------

    def request_stop(self) -> None:
        self._stop_requested.set()

    def on_signal(self, number: int) -> None:
        """Called by the signal handler itself, so that a third signal ends the process when a task blocks the loop."""
        self._signals += 1
        if self._signals > 2:
            os._exit(128 + number)
        if self._signals == 2:
            self.forced_by = number
            self._loop.call_soon_threadsafe(self.hurry)
        self._loop.call_soon_threadsafe(self.request_stop)

    def hurry(self) -> None:
        """Do not wait for running tasks: give them back now."""
        self._hurry.set()

    async def wait_for_end(self, duration: float | None) -> None:
        """Wait until somebody or something asks for the end."""
        try:
            async with asyncio.timeout(duration):
                await self._stop_requested.wait()
        except TimeoutError:
            pass

    async def shut_down(self) -> None:
        """Stop in stages, each with a deadline. Leases are renewed and cancellations delivered until the last one."""
        try:
            self.request_stop()
            if self._loops:
                self._emit(WorkerStopping(self._config.id, self.executor.running))
            await self._stop_loops()
            if not await self._drain_unless_hurried():
                self.executor.release_all()
                if not await self.executor.drain(_CANCEL_TIMEOUT):
                    self.executor.give_up()
            self.executor.cancel_leftovers()
            await self._completer.flush(_FLUSH_TIMEOUT)
            await self._completer.close()
        finally:
            await self._heartbeat.stop()
            self._threads.close()
            self._coroutines.close()
            if self._loops:
                self._emit(WorkerStopped(self._config.id))

    async def _stop_loops(self) -> None:
        self._fetcher.stop()
        for pruning in self._loops[1:]:
            pruning.cancel()
        if reserving := {*self._loops, *self._taking}:
            _, late = await asyncio.wait(reserving, timeout=_FLUSH_TIMEOUT)
            for task in late:  # the storage does not answer
                task.cancel()

    async def _drain_unless_hurried(self) -> bool:
        draining = asyncio.ensure_future(self.executor.drain(self._config.shutdown_timeout))
        hurrying = asyncio.ensure_future(self._hurry.wait())
        await asyncio.wait([draining, hurrying], return_when=asyncio.FIRST_COMPLETED)
        hurrying.cancel()
        if not draining.done():
            draining.cancel()
            return False
        return draining.result()
