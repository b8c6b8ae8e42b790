"""Signs of life, from a thread of their own.

Tasks are user code and may block the event loop; a lease that depended on that loop would be lost with it. So
this thread has a loop of its own, renews the leases, and when the worker's loop does not answer names the
task and the line that blocks.
"""

import asyncio
import sys
import threading
import traceback
from collections.abc import Callable, Coroutine, Iterable
from datetime import timedelta
from types import FrameType
from typing import Any, Final

from sitq.backends.base import Backend, Signal
from sitq.clock import Clock
from sitq.config import WorkerConfig
from sitq.context import running_here
from sitq.events import Emit, LoopBlocked, StorageFailed
from sitq.model import CancelTopic, Held, WorkerInfo

BLOCKED_AFTER: Final = 1.0
_RENEWALS_PER_LEASE: Final = 3
_SECOND_LOOK: Final = 0.1
"""A task that was reserved while the bell rang may not be known here yet, so what rang is looked at twice."""
_PATIENCE: Final = 5.0


class Heartbeat:
    """Renews what the worker holds.

    Args:
        held: The reservations to renew and when they began (monotonic); called on the heartbeat's thread.
        lost: Called on the worker's loop with the reservations that are gone.
        cancelled: Called on the worker's loop with those that somebody asked to cancel.
        describe: What the worker says of itself; called on the heartbeat's thread.
        beside: Runs on the heartbeat's loop, too, and until its end: what must go on while user code blocks the
            worker's.
    """

    def __init__(
        self,
        config: WorkerConfig,
        backend: Backend,
        *,
        held: Callable[[], dict[Held, float]],
        lost: Callable[[Iterable[Held]], None],
        cancelled: Callable[[Iterable[Held]], None],
        describe: Callable[[], WorkerInfo],
        beside: Callable[[], Coroutine[Any, Any, None]],
        clock: Clock,
        emit: Emit,
    ) -> None:
        self._describe = describe
        self._beside = beside
        self._config = config
        self._backend = backend
        self._held = held
        self._lost = lost
        self._cancelled = cancelled
        self._clock = clock
        self._emit = emit
        self._worker_loop = asyncio.get_running_loop()
        self._worker_thread = threading.get_ident()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._serving: asyncio.Task[None] | None = None
        self._started = asyncio.Event()
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._serve, name="sitq-heartbeat", daemon=True)
        # Both are written by the heartbeat's thread only.
        self._renewed: dict[Held, float] = {}
        self._answered = self._reported = True
        self._asked = 0.0

    async def start(self) -> None:
        """Start the thread and wait until it serves."""
        self._thread.start()
        await self._started.wait()

    async def stop(self) -> None:
        """End the thread, wait for it, and take the worker off the list. Call it once, after `start`."""
        assert self._loop is not None
        assert self._serving is not None
        # Also when it waits for a storage that does not answer.
        self._loop.call_soon_threadsafe(self._serving.cancel)
        await self._ended.wait()
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._backend.heartbeat(self._config.id, [], timedelta(), info=self._describe())
        except Exception as error:  # it is given up for dead when its lease has passed
            self._emit(StorageFailed(self._config.id, "leave the list of workers", str(error), 0.0))

    # -- On the heartbeat's thread -----------------------------------------------------------------

    def _serve(self) -> None:
        try:
            asyncio.run(self._main())
        except asyncio.CancelledError:
            pass
        except RuntimeError:
            if not self._worker_loop.is_closed():  # then nobody is left to be told
                raise
        finally:
            try:
                self._worker_loop.call_soon_threadsafe(self._ended.set)
            except RuntimeError:  # the worker's loop is closed
                pass

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._serving = asyncio.current_task()
        self._worker_loop.call_soon_threadsafe(self._started.set)
        beside = asyncio.create_task(self._beside(), name="sitq-beside")
        try:
            while True:
                await self._listen_and_beat()
        finally:
            beside.cancel()

    async def _listen_and_beat(self) -> None:
        """Beat while the bell for cancellations can be heard; without it at least as often as leases need."""
        try:
            async with self._backend.listen([CancelTopic()]) as bell:
                await self._beat(bell)
        except Exception as error:  # whatever it is, this thread has to go on
            pause = min(BLOCKED_AFTER, self._config.lease / _RENEWALS_PER_LEASE)
            self._emit(StorageFailed(self._config.id, "listen", str(error), pause))
            await self.renew_once()
            self._watch_loop()
            await asyncio.sleep(pause)

    async def _beat(self, bell: Signal) -> None:
        interval = self._config.lease / _RENEWALS_PER_LEASE
        due, rung = 0.0, True  # what rang before it could be heard
        while True:
            if rung or self._clock.monotonic() >= due:
                await self.renew_once()
                due = self._clock.monotonic() + (min(_SECOND_LOOK, interval) if rung else interval)
            rung = await bell.wait(min(interval, BLOCKED_AFTER, max(due - self._clock.monotonic(), 0.0)))
            self._watch_loop()

    async def renew_once(self) -> None:
        """Renew everything held, and pass on what the storage says. Gives up what could not be renewed for a lease.

        An idle worker beats as well, so that it is known to be alive.
        """
        began = self._held()
        held = list(began)
        now = self._clock.monotonic()
        self._renewed = {one: self._renewed.get(one, began[one]) for one in held}
        try:
            async with asyncio.timeout(self._config.lease):
                answer = await self._backend.heartbeat(
                    self._config.id,
                    held,
                    timedelta(seconds=self._config.lease),
                    info=self._describe(),
                )
        except Exception as error:  # whatever it is, this thread has to go on
            self._emit(StorageFailed(self._config.id, "renew leases", str(error), self._config.lease / 3))
            # By our own clock somebody else may have these by now.
            late = self._clock.monotonic() - self._config.lease
            expired = [one for one in held if self._renewed[one] <= late]
            self._tell(self._lost, expired)
            return
        self._renewed.update(dict.fromkeys(held, now))
        self._tell(self._lost, answer.lost)
        self._tell(self._cancelled, answer.cancelled)

    def _tell(self, callback: Callable[[Iterable[Held]], None], held: Iterable[Held]) -> None:
        if held:
            self._worker_loop.call_soon_threadsafe(callback, held)

    def _watch_loop(self) -> None:
        """Ask the worker's loop for an answer, and report it once when it has not come for `BLOCKED_AFTER`."""
        now = self._clock.monotonic()
        if self._answered:
            self._answered, self._reported, self._asked = False, False, now
            self._worker_loop.call_soon_threadsafe(self._answer)
        elif not self._reported and now - self._asked >= BLOCKED_AFTER:
            self._reported = True
            frame = sys._current_frames().get(self._worker_thread)  # pyright: ignore[reportPrivateUsage]
            task = asyncio.current_task(self._worker_loop)
            current = running_here(task.get_context()) if task is not None else None
            task_id = current.id if current is not None else None
            self._emit(LoopBlocked(self._config.id, now - self._asked, task_id, _stack(frame)))

    def _answer(self) -> None:
        self._answered = True


def _stack(frame: FrameType | None) -> str:
    return "".join(traceback.format_stack(frame, limit=20)) if frame is not None else "(the thread is gone)"
