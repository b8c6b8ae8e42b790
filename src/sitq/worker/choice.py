"""Which runner runs a call: what the task says, else what its kind of function and the worker say."""

from collections.abc import Awaitable, Mapping
from typing import Any

from sitq.config import WorkerConfig
from sitq.executors import ASYNC, PROCESS, THREAD, Runner, RunnerFactory, check_executor
from sitq.task import Call
from sitq.worker.ownloop import OwnLoop
from sitq.worker.processes import ProcessRunner
from sitq.worker.run import Run
from sitq.worker.runners import AsyncRunner, ThreadRunner, is_coroutine_function, on_this_loop


class Choice:
    """The runners of one worker. Made on its loop.

    Args:
        runners: Those of the queue.
    """

    def __init__(
        self, config: WorkerConfig, runners: Mapping[str, RunnerFactory], processes: ProcessRunner
    ) -> None:
        self._factories = runners
        self._custom: dict[str, Runner] = {
            name: factory(config.concurrency) for name, factory in runners.items()
        }
        self._processes = processes
        self._threads = ThreadRunner(config.concurrency)
        self._coroutines = AsyncRunner()
        self._plain = None if config.executor == THREAD else config.executor

    def run(self, call: Call[Any], run: Run) -> Awaitable[Any]:
        """Run a call in the current context, at its place."""
        name = run.rules.executor
        if name is None:
            if is_coroutine_function(call.func):
                return self._coroutines.run(call)
            if self._plain is None:
                return self._threads.run(call)
            name = self._plain
        return self._run_at(name, call, run)

    def is_elsewhere(self, call: Call[Any], run: Run) -> bool:
        """Whether a call runs in a child process."""
        name = run.rules.executor
        if name is None and self._plain is not None and not is_coroutine_function(call.func):
            name = self._plain
        return name == PROCESS

    def check(self, name: str) -> None:
        """Raise `ValidationError` for an executor that this worker does not know."""
        check_executor(name, self._factories)

    async def close(self) -> None:
        """Let go of threads and processes."""
        self._threads.close()
        self._coroutines.close()
        try:
            for runner in self._custom.values():
                runner.close()
        finally:
            await self._processes.close()

    def _run_at(self, name: str, call: Call[Any], run: Run) -> Awaitable[Any]:
        if name == PROCESS:
            return self._processes.run(run)
        if name == ASYNC:
            return on_this_loop(call)
        if name != THREAD:
            return self._custom[name].run(call)
        if not is_coroutine_function(call.func):
            return self._threads.run(call)
        own = OwnLoop(call)
        return self._threads.run(Call(own.run, (), {}), own.cancel)
