"""A worker whose tasks do what they are told from outside."""

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

from sitq.backends.base import Backend
from sitq.clock import Clock
from sitq.emitter import Emitter
from sitq.model import Held, Outcome
from sitq.serialization.codec import make_codec
from sitq.task import Call
from sitq.worker.completion import Completion
from sitq.worker.executor import Executor
from sitq.worker.outbox import Outbox
from sitq.worker.run import Run
from sitq.worker.slots import Slots
from sitq.worker.surroundings import Surroundings

CODEC = make_codec()
MANNERS = ["obeys", "obeys", "returns", "raises", "hangs", "hangs"]
"""What a task does when it is cancelled."""


def work() -> None:
    """What all tasks call. Never runs: see `Desk`."""


class Desk(NamedTuple):
    """What a task does, from outside."""

    manner: str
    end: asyncio.Future[Any]

    async def sit(self) -> Any:
        while True:
            try:
                return await asyncio.shield(self.end)
            except asyncio.CancelledError:
                if self.manner == "obeys":
                    raise
                if self.manner == "returns":
                    return "late"
                if self.manner == "raises":
                    raise ValueError("while it cleaned up") from None
                # it hangs


def make_executor(
    backend: Backend, clock: Clock, seat: Callable[[Held], Desk], report: Callable[[Outcome], None]
) -> Executor:
    """The executor of a worker, with what it reports going to `report` and nowhere else.

    Args:
        seat: Makes the desk at which a run sits.
    """
    emit = Emitter()
    outbox = Outbox("w", backend, emit)

    async def run_call(_: Call[Any], run: Run) -> Any:
        return await seat(run.held).sit()

    async def settled() -> bool:
        return True

    async def no_inputs(*_: Any) -> dict[int, Any]:
        raise AssertionError("no task here depends on another")

    slots = Slots(10_000)
    slots.take(9_000)  # all are given back by what takes none
    return Executor(
        "w",
        run_call=run_call,
        check_executor=lambda name: None,
        is_elsewhere=lambda call, run: False,
        read_inputs=no_inputs,
        report=lambda outcome, notes: report(outcome),
        settled=settled,
        interrupted=lambda: False,
        slots=slots,
        outbox=outbox,
        surroundings=Surroundings("w", (), None, emit),
        completion=Completion("w", backend, outbox, clock, emit),
        codec=CODEC,
        clock=clock,
        emit=emit,
    )
