"""`Worker`: the face of the services. It opens the queue, starts them, and passes on what is asked of them."""

import asyncio
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

from sitq.checks import Duration, seconds
from sitq.config import (
    DEFAULT_CONCURRENCY,
    DEFAULT_LEASE,
    DEFAULT_POLL_INTERVAL,
    DEFAULT_SHUTDOWN_TIMEOUT,
    worker_config,
)
from sitq.emitter import Emitter
from sitq.errors import QueueEmptyError, WorkerError, WorkerStoppedError
from sitq.executors import PROCESS, ProcessOptions, check_executor
from sitq.model import TaskId
from sitq.query import check_task_id
from sitq.queue import TaskQueue
from sitq.resources import Lifespan, Resources, check_resources
from sitq.result import Result
from sitq.worker.services import Services
from sitq.worker.signals import stop_signals
from sitq.worker.surroundings import surroundings_setup


class Worker:
    """Takes tasks from a queue and runs them: coroutine functions on the event loop, plain functions on threads, and
    either in child processes where that is asked for.

    Run it in a process of its own with `await worker.run()`, or beside an application with `async with Worker(queue):`.
    A worker object runs once.

    Args:
        queue: Where tasks come from. Opened if it is not open; never closed.
        queues: Names of the queues to take from; all of them by default. A mapping of names to weights divides the
            slots: `{"mail": 3, "reports": 1}`. What one queue leaves is for the others.
        strict: Take from a queue only what those named before it leave free. Otherwise priority and due time count
            over all queues.
        concurrency: How many tasks run at once, 1 to 10,000. It never reserves more than can start.
        lease: How long a reservation lasts without a sign of life (seconds or timedelta, at least 0.1 s). The
            shorter, the sooner another worker takes over the tasks of a dead one.
        poll_interval: How often to look for work when nothing rings.
        shutdown_timeout: How long a stopping worker waits for running tasks before it cancels them and gives them back.
        max_tasks: Stop after so many tasks.
        executor: Where plain functions run that were enqueued without `executor=`: `"thread"` (if not given),
            `"process"`, `"async"`, or the name of a runner of the queue.
        processes: How many child processes there are at most, or `ProcessOptions`.
        resources: A function that returns a context manager, async or plain, such as one with `@asynccontextmanager`.
            It is entered before the worker takes tasks, and left when it has stopped, all in one asyncio task; what it
            gives, tasks get with `resource(Kind)`.
        id: Name of the worker; host, process and a random part by default.

    Raises:
        ValidationError: An argument is out of range; the message names it.
    """

    def __init__(
        self,
        queue: TaskQueue,
        *,
        queues: Sequence[str] | Mapping[str, int] | None = None,
        strict: bool = False,
        concurrency: int = DEFAULT_CONCURRENCY,
        lease: Duration = DEFAULT_LEASE,
        poll_interval: Duration = DEFAULT_POLL_INTERVAL,
        shutdown_timeout: Duration = DEFAULT_SHUTDOWN_TIMEOUT,
        max_tasks: int | None = None,
        executor: str | None = None,
        processes: int | ProcessOptions | None = None,
        resources: Resources | None = None,
        id: str | None = None,
    ) -> None:
        self.config: Final = worker_config(
            id=id,
            queues=queues,
            strict=strict,
            concurrency=concurrency,
            lease=lease,
            poll_interval=poll_interval,
            shutdown_timeout=shutdown_timeout,
            max_tasks=max_tasks,
            executor=None if executor is None else check_executor(executor, queue.runners),
            processes=processes,
        )
        self._queue = queue
        self._resources = check_resources(resources)
        self._emit = Emitter(queue.emitter)
        self._services: Services | None = None
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
            WorkerError: Its resources cannot be set up, and it did nothing; they cannot be taken down after it has
                stopped; or something ended that was not meant to end, and it has stopped in order.
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
        check_task_id(task_id)
        found = await self._process(task_id)
        result = await self._queue.get_result(task_id)
        if not found and not result.status.finished:
            raise QueueEmptyError(f"task {task_id} is {result.status}: it runs elsewhere or is not due yet")
        return result

    async def _process(self, task_id: TaskId) -> bool:
        if self._services is not None:
            return await self._services.process(task_id)
        if self._used:
            raise WorkerStoppedError(f"worker {self.id} has stopped: make a new Worker")
        services = await self._make_services(fetch=False)
        try:
            found = await services.process(task_id)
        finally:
            await services.shut_down()
        services.raise_failure()
        return found

    async def _make_services(self, *, fetch: bool, until_idle: bool = False) -> Services:
        """Open the queue, set up the resources, start the services."""
        queue = self._queue
        await queue.open()
        if self.config.executor == PROCESS:
            surroundings_setup(
                queue.context_providers, self._resources
            )  # raises for what no child could find
        resources = None if self._resources is None else await self._set_up(self._resources)
        services = Services(
            self.config,
            queue.backend,
            runners=queue.runners,
            codec=queue.codec,
            until_idle=until_idle,
            providers=queue.context_providers,
            make_resources=self._resources,
            resources=resources,
            emit=self._emit,
        )
        try:
            await services.start(fetch=fetch)
        except BaseException:
            if resources is not None:
                await resources.close()
            raise
        return services

    async def _set_up(self, make: Resources) -> Lifespan:
        resources = Lifespan(make)
        try:
            await resources.start()
        except WorkerError as error:
            raise WorkerError(f"worker {self.id}: {error}") from error.__cause__
        return resources

    async def _start(self, *, until_idle: bool = False) -> Services:
        if self._used:
            raise WorkerStoppedError(f"worker {self.id} has been run before: make a new Worker")
        self._used = True
        try:
            services = await self._make_services(fetch=True, until_idle=until_idle)
        except BaseException:
            self._ended.set()
            raise
        self._services = services
        if self._stop_wanted:
            services.request_stop()
        return services

    async def _shut_down(self, services: Services) -> None:
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
