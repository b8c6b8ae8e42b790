"""What bounds the life and the size of a child process, as far as its system can."""

import os
import signal
import sys
from pathlib import Path
from typing import Any, Final

_PR_SET_PDEATHSIG: Final = 1


def die_with(worker: int) -> None:
    """Let the system kill this process when the thread that started it ends (Linux)."""
    if sys.platform != "linux":  # pragma: no cover: the death signal is Linux's
        return
    import ctypes  # noqa: PLC0415  # 10 ms that no worker has to pay

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != worker:  # pragma: no cover: it was faster, and this process ends at once
        end_now()


def end_now() -> None:  # pragma: no cover: it ends this process at once, which then tells nothing
    """End this process and those of its group, whatever else they are at."""
    if sys.platform != "win32" and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def outlast_signals() -> None:
    """Leave it to the worker what a signal to all of them means. A handler, since ignoring them would be inherited."""
    for name in ("SIGINT", "SIGTERM", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _nothing)


def _nothing(number: int, frame: Any) -> None:
    pass


def limit_memory(limit: int | None) -> None:
    """Let what goes beyond `limit` bytes fail with `MemoryError` (Linux, where these are the bytes that count)."""
    if limit is None or sys.platform != "linux":
        return
    import resource  # noqa: PLC0415  # not everywhere

    # Not the address space: allocators and thread stacks reserve far more of that than they use.
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def resident() -> int | None:
    """How many bytes this process holds; None if that cannot be known here."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        pass
    try:
        import psutil  # type: ignore[import-untyped]  # noqa: PLC0415  # an extra

        return int(psutil.Process().memory_info().rss)
    except Exception:  # it is missing, or this system is not one that it knows
        return None
