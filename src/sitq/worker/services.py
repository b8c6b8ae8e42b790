"""The services of one run of a worker: how they are wired, and the staged shutdown."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, Final

from sitq.backends.base import Backend
from sitq.carrying import ContextProvider
from sitq.clock import Clock, SystemClock
from sitq.config import WorkerConfig
from sitq.emitter import Emitter
from sitq.errors import WorkerBusyError, WorkerError, WorkerStoppedError
from sitq.events import WorkerStarted, WorkerStopped, WorkerStopping
from sitq.executors import RunnerFactory
from sitq.model import ReservedTask, TaskId
from sitq.resources import Lifespan, Resources
from sitq.serialization import Codec
from sitq.worker.choice import Choice
from sitq.worker.completer import Completer
from sitq.worker.completion import Completion
from sitq.worker.executor import Executor
from sitq.worker.fetcher import Fetcher
from sitq.worker.heartbeat import Heartbeat
from sitq.worker.inputs import read_inputs
from sitq.worker.maintenance import Pruner
from sitq.worker.outbox import Outbox
from sitq.worker.portrait import SelfPortrait
from sitq.worker.processes import ProcessRunner
from sitq.worker.run import Run, Stop
from sitq.worker.slots import Slots
from sitq.worker.surroundings import Surroundings, surroundings_setup
from sitq.worker.ticker import Ticker

_CANCEL_TIMEOUT: Final = 5.0
"""How long a cancelled task may take to clean up before it is given back without it."""

_FLUSH_TIMEOUT: Final = 10.0
"""How long the last outcomes may take to reach the storage."""


class Services:
    """The services of one run of a worker, wired together, with their start and their end."""

    def __init__(
        self,
        config: WorkerConfig,
        backend: Backend,
        *,
        runners: Mapping[str, RunnerFactory],
        codec: Codec,
        until_idle: bool,
        providers: Sequence[ContextProvider],
        make_resources: Resources | None,
        resources: Lifespan | None,
        emit: Emitter,
    ) -> None:
        clock: Clock = SystemClock()
        self._backend = backend
        self._config = config
        self._emit = emit
        self._lease = timedelta(seconds=config.lease)
        self._resources = resources
        children = config.processes.children or min(os.process_cpu_count() or 1, config.concurrency)
        processes = ProcessRunner(
            config.processes,
            size=children,
            codec=codec,
            surroundings=partial(surroundings_setup, providers, make_resources),
            clock=clock,
            begin=self._begin,
        )
        self._choice = Choice(config, runners, processes)
        self._slots = Slots(config.concurrency)
        self._outbox = Outbox(config.id, backend, emit)
        self._completer = Completer(
            config.id, backend, emit, late=self._outbox.late, seal=codec.seal if codec.seals else None
        )
        self.executor = Executor(
            config.id,
            run_call=self._choice.run,
            check_executor=self._choice.check,
            is_elsewhere=self._choice.is_elsewhere,
            read_inputs=partial(read_inputs, backend, codec),
            report=self._completer.put,
            settled=self._completer.settled,
            interrupted=self._interrupted,
            slots=self._slots,
            outbox=self._outbox,
            codec=codec,
            surroundings=Surroundings(config.id, providers, resources, emit),
            completion=Completion(config.id, backend, self._outbox, clock, emit),
            clock=clock,
            emit=emit,
        )
        self._fetcher = Fetcher(
            config,
            backend,
            slots=self._slots,
            congested=self._completer.congested,
            unsettled=self._completer.unsettled,
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
            describe=SelfPortrait(config, clock, self.executor.held),
            beside=self._outbox.run,
            clock=clock,
            emit=emit,
        )
        self._pruner = Pruner(config.id, backend, emit)
        self._ticker = Ticker(config.id, backend, clock, emit, rebind=codec.rebind if codec.seals else None)
        self._slots.on_free = self._fetcher.slot_freed
        self._completer.on_settled = self._fetcher.settled
        self._loops: list[asyncio.Task[None]] = []
        self._stop_requested = asyncio.Event()
        self._hurry = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._signals = 0
        self.forced_by: int | None = None
        self._failure: BaseException | None = None
        self._taking: set[asyncio.Task[Any]] = set()
        if resources is not None:
            resources.on_end = self._on_resources_end

    def _begin(self, run: Run) -> None:
        self.executor.begin(run)

    async def start(self, *, fetch: bool) -> None:
        await self._heartbeat.start()
        if fetch:
            loop = asyncio.get_running_loop()
            self._loops = [
                loop.create_task(self._fetcher.run(), name="sitq-fetcher"),
                loop.create_task(self._pruner.run(), name="sitq-pruner"),
                loop.create_task(self._ticker.run(), name="sitq-ticker"),
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

    def _on_resources_end(self, error: WorkerError) -> None:
        if self._failure is None:
            self._failure = WorkerError(f"worker {self._config.id}: {error}")
            self._failure.__cause__ = error.__cause__
        else:
            self._failure.add_note(str(error))
        self.request_stop()

    def raise_failure(self) -> None:
        """Raise what ended a service or the resources that were not meant to end, or what came of taking them down."""
        if isinstance(self._failure, WorkerError):
            raise self._failure
        if self._failure is not None:
            raise WorkerError(
                f"worker {self._config.id} stopped because of an unexpected error: {self._failure!r}"
            ) from self._failure

    async def process(self, task_id: TaskId) -> bool:
        """Run this task and wait until its outcome is stored. False if it could not be had."""
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
        if run is not None:
            await asyncio.wait([run])
        if found:
            await self._completer.flush(_FLUSH_TIMEOUT)
        return found

    async def _take(self, task_id: TaskId) -> tuple[bool, asyncio.Task[None] | None]:
        tasks: list[ReservedTask] = []
        try:
            tasks, _ = await self._backend.reserve(self._config.id, None, 1, self._lease, ids=[task_id])
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
                if not await self.executor.drain(_CANCEL_TIMEOUT, to_the_last=True):
                    self.executor.give_up()
            self.executor.cancel_leftovers()
            await self._completer.flush(_FLUSH_TIMEOUT)
            await self._completer.close()
            # Last, since what runs until then may use them.
            if self._resources is not None:
                await self._take_down(self._resources)
        finally:
            await self._heartbeat.stop()
            await self._choice.close()
            if self._loops:
                self._emit(WorkerStopped(self._config.id))

    async def _take_down(self, resources: Lifespan) -> None:
        try:
            await resources.close()
        except WorkerError as error:
            self._on_resources_end(error)

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
