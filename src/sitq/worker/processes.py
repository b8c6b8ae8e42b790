"""Tasks in child processes: who gets which child, and what becomes of a child afterwards."""

import asyncio
import os
import sys
from collections.abc import Callable
from typing import Final

from sitq.clock import Clock
from sitq.errors import ProcessStartError, SitqError
from sitq.executors import ProcessOptions
from sitq.model import Succeeded
from sitq.serialization import Codec, to_child
from sitq.worker.children import Answer, Child, Died, Unbegun, Unstarted
from sitq.worker.judge import judge_crash, killed, park
from sitq.worker.run import Judged, Run, Stop
from sitq.worker.surroundings import SurroundingsSetup
from sitq.worker.wire import ChildSetup, Ended, Job

_TRIES: Final = 3
"""How many children may die before they begin with a task, until it is put off."""
_REST: Final = 5.0
"""How long then other tasks are put off without trying."""
_END_TIMEOUT: Final = 12.0


class ProcessRunner:
    """Child processes, started when needed and used again. For one worker, on its loop.

    Args:
        size: How many children there are at most.
        surroundings: What a child needs to have those of its worker; raises `ValidationError`.
        begin: Called when a run has left the queue for a child: its time begins.
    """

    def __init__(
        self,
        options: ProcessOptions,
        *,
        size: int,
        codec: Codec,
        surroundings: Callable[[], SurroundingsSetup],
        clock: Clock,
        begin: Callable[[Run], object],
    ) -> None:
        self._options = options
        self._codec = codec
        self._surroundings = surroundings
        self._now = clock.now
        self._begin = begin
        self._free = asyncio.Semaphore(size)
        self._idle: list[Child] = []
        self._alive: set[Child] = set()
        self._gone = asyncio.Event()
        self._rest_until = 0.0
        self._why: ProcessStartError | None = None

    async def run(self, run: Run) -> Judged:
        """Run the task in a child and return what follows from it. If it is to stop, its process is killed.

        Raises:
            CancelledError: It was stopped by somebody else than its worker, or before it had a process.
        """
        run.wait()
        async with self._free:
            for _ in range(_TRIES):
                if self._why is not None and asyncio.get_running_loop().time() < self._rest_until:
                    break
                try:
                    child = self._take()
                except SitqError as unfit:  # of what no other process could find
                    return Judged(park(run.reserved, unfit, self._now))
                match await self._run_in(child, run):
                    case Ended(outcome):
                        return Judged(outcome)
                    case Died(how):
                        return Judged(judge_crash(run, f"its process {how} while it ran"))
                    case Unstarted(error):
                        self._why = error
                    case Unbegun():
                        self._why = ProcessStartError("child processes are dead before they get a task")
                    case None:
                        return Judged(killed(run, self._now))
            else:
                self._rest_until = asyncio.get_running_loop().time() + _REST
        assert self._why is not None
        return Judged(park(run.reserved, self._why, self._now))

    async def close(self) -> None:
        """End all children, and wait until they are gone."""
        for child in self._idle:
            child.retire()
        for child in self._alive.difference(self._idle):
            child.kill()
        self._idle.clear()
        try:
            async with asyncio.timeout(_END_TIMEOUT):
                while self._alive:
                    self._gone.clear()
                    await self._gone.wait()
        except TimeoutError:  # not even SIGKILL ends what hangs in the kernel
            pass

    def _take(self) -> Child:
        if self._idle:
            return self._idle.pop()
        # Of this moment: a task may have added to the path.
        setup = ChildSetup(
            tuple(map(str, sys.path)),
            os.getpid(),
            to_child(self._codec.serializer),
            self._surroundings(),
            self._codec.max_payload,
            self._options.memory_limit,
        )
        child = Child(setup, begin=self._begin, gone=self._forget)
        self._alive.add(child)
        return child

    def _forget(self, child: Child) -> None:
        self._alive.discard(child)
        self._gone.set()

    async def _run_in(self, child: Child, run: Run) -> Answer | None:
        """What a child made of a run; None if it was killed over it."""
        answer = child.run(run, Job(run.reserved, dict(run.inputs)))
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            ended = await self._stop(child, answer, run)
            if run.stop is None:
                raise
            return ended
        finally:
            self._give_back(child, answer)

    async def _stop(self, child: Child, answer: asyncio.Future[Answer], run: Run) -> Ended | None:
        """Stop a run, and wait for its end. Returns what it made of it, if it came to that and still counts."""
        try:
            if self._options.grace and not answer.done():
                child.ask_to_stop(run)
                await asyncio.wait([answer], timeout=float(self._options.grace))  # type: ignore[arg-type]
        finally:
            if not answer.done():
                child.kill()
        await asyncio.wait([answer])
        ended = answer.result()
        if not isinstance(ended, Ended):
            return None
        # It may not have known that its time was up.
        late = run.stop is Stop.TIMEOUT and isinstance(ended.outcome, Succeeded)
        return None if late else ended

    def _give_back(self, child: Child, answer: asyncio.Future[Answer]) -> None:
        ended = answer.result() if answer.done() else None
        if not isinstance(ended, Ended):
            child.kill()  # if it is not dead; its thread sees to the rest
        elif self._is_spent(child, ended):
            child.retire()
        else:
            self._idle.append(child)

    def _is_spent(self, child: Child, ended: Ended) -> bool:
        most, limit = self._options.max_tasks_per_child, self._options.memory_limit
        if most is not None and child.served >= most:
            return True
        return limit is not None and ended.resident is not None and ended.resident > limit / 2
