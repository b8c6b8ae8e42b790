"""A stop signal is passed on while somebody wants it, and afterwards goes where it went before."""

import asyncio
import os
import signal
import sys
import threading
from asyncio.selector_events import BaseSelectorEventLoop
from collections.abc import Iterator
from typing import Any

import pytest

from sitq.worker.signals import STOP_SIGNALS, stop_signals
from tests.support import PATIENCE

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a process cannot send itself these signals")


class Listener:
    """Counts signals, and lets a test wait for them."""

    def __init__(self) -> None:
        self.heard: list[int] = []
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()

    def __call__(self, number: int) -> None:
        assert threading.current_thread() is threading.main_thread()
        self.heard.append(number)
        self._loop.call_soon_threadsafe(self._changed.set)

    async def hears(self, *numbers: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while len(self.heard) < len(numbers):
                self._changed.clear()
                await self._changed.wait()
        assert self.heard == list(numbers)


@pytest.fixture
def former() -> Iterator[list[int]]:
    """The signals that reach the handlers which were there before."""
    heard: list[int] = []

    def handle(number: int, frame: Any) -> None:
        heard.append(number)

    before = {number: signal.signal(number, handle) for number in STOP_SIGNALS}
    yield heard
    for number, handler in before.items():
        signal.signal(number, handler)


def handlers() -> list[Any]:
    return [signal.getsignal(number) for number in STOP_SIGNALS]


def test_interrupt_and_terminate_are_stop_signals() -> None:
    assert {signal.SIGINT, signal.SIGTERM} <= set(STOP_SIGNALS)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_is_passed_on_and_the_former_handler_comes_back(
    former: list[int], number: signal.Signals
) -> None:
    before, listener = handlers(), Listener()
    with stop_signals(listener):
        os.kill(os.getpid(), number)
        await listener.hears(number)
        os.kill(os.getpid(), number)
        await listener.hears(number, number)
    assert handlers() == before
    assert former == []
    signal.raise_signal(number)
    assert former == [number]
    assert listener.heard == [number, number]


async def test_a_signal_is_passed_on_while_the_loop_is_blocked(former: list[int]) -> None:
    listener = Listener()
    with stop_signals(listener):
        signal.raise_signal(signal.SIGTERM)
        assert listener.heard == [signal.SIGTERM]  # without a turn of the loop
    assert former == []


async def test_handlers_come_back_after_an_error(former: list[int]) -> None:
    before = handlers()

    def fail() -> None:
        with stop_signals(Listener()):
            assert handlers() != before
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert handlers() == before


async def test_each_is_told_and_the_last_one_to_leave_puts_the_handlers_back(former: list[int]) -> None:
    before = handlers()
    one, other = Listener(), Listener()
    first, second = stop_signals(one), stop_signals(other)
    first.__enter__()
    second.__enter__()
    signal.raise_signal(signal.SIGTERM)
    first.__exit__(None, None, None)  # not the one that came last
    signal.raise_signal(signal.SIGINT)
    assert one.heard == [signal.SIGTERM]
    assert other.heard == [signal.SIGTERM, signal.SIGINT]
    assert former == []
    second.__exit__(None, None, None)
    assert handlers() == before


async def test_it_works_again_afterwards(former: list[int]) -> None:
    before = handlers()
    for _ in range(2):
        listener = Listener()
        with stop_signals(listener):
            signal.raise_signal(signal.SIGTERM)
            await listener.hears(signal.SIGTERM)
        assert handlers() == before
    assert former == []


async def test_an_ignored_signal_is_ignored_again_afterwards(former: list[int]) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    listener = Listener()
    with stop_signals(listener):
        signal.raise_signal(signal.SIGTERM)
        await listener.hears(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


async def test_outside_the_main_thread_nothing_is_installed(former: list[int]) -> None:
    before, listener, inside = handlers(), Listener(), []

    def in_a_thread() -> None:
        async def main() -> None:
            with stop_signals(listener):
                inside.extend(handlers())

        asyncio.run(main())

    await asyncio.to_thread(in_a_thread)
    assert inside == before == handlers()
    signal.raise_signal(signal.SIGTERM)
    assert (former, listener.heard) == ([signal.SIGTERM], [])


def test_a_loop_that_takes_no_signal_handlers_passes_them_on_too(former: list[int]) -> None:
    """The loops of Windows are of this kind."""

    async def work() -> None:
        before, listener = handlers(), Listener()
        with stop_signals(listener):
            signal.raise_signal(signal.SIGTERM)
            await listener.hears(signal.SIGTERM)
        assert handlers() == before

    with asyncio.Runner(loop_factory=BaseSelectorEventLoop) as runner:
        runner.run(work())
    assert former == []
