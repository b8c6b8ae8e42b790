"""Operating-system signals that ask a worker to stop, on every platform."""

import asyncio
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# SIGBREAK is what Windows sends for Ctrl-Break, and to a process group that is asked to end.
STOP_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)]


@contextmanager
def stop_signals(handle: Callable[[int], None]) -> Generator[None]:
    """Call `handle` for each stop signal, and put the former handlers back at the end.

    It is called on the main thread between two instructions, whatever runs there, also when the loop is blocked; so it
    may only count and use `call_soon_threadsafe`. Outside the main thread signals cannot be handled, and nothing is
    installed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _handlers.append(handle)
    try:
        if len(_handlers) == 1:
            _install()
        yield
    finally:
        _handlers.remove(handle)
        if not _handlers:
            _restore()


# Signals belong to the process, and a process may have several workers: each is told, and the last one to leave puts
# the former handlers back. Used in the main thread only.
_handlers: list[Callable[[int], None]] = []
_former: dict[int, Any] = {}


def _on_signal(number: int, frame: FrameType | None) -> None:
    for handle in _handlers:
        handle(number)


def _install() -> None:
    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        _former[number] = signal.getsignal(number)
        try:
            # For its side effect: the loop wakes up whichever thread the system gives the signal to.
            loop.add_signal_handler(number, _nothing)
        except NotImplementedError:  # Windows, where the loop always does
            pass
        signal.signal(number, _on_signal)


def _restore() -> None:
    loop = asyncio.get_running_loop()
    for number, handler in _former.items():
        try:
            loop.remove_signal_handler(number)
        except NotImplementedError:
            pass
        if handler is not None:  # None: it was installed by something other than Python
            signal.signal(number, handler)


def _nothing() -> None:
    pass
