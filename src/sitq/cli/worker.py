"""`sitq worker`: runs tasks until it is told to stop, and sees to it that the process then ends."""

import argparse
import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from sitq.cli import logs
from sitq.cli.arguments import Parser, choice, integer, shares, span
from sitq.cli.exits import CommandError, Exit
from sitq.cli.load import TARGET_FORMS, load_function, load_queue
from sitq.queue import TaskQueue
from sitq.worker.worker import Worker

_LINGER: Final = 5.0
"""How long what a task has left behind (a coroutine that ignores its cancellation, a thread) may keep the process."""

_HASTE: Final = 1.0
"""The same after a forced stop."""

_FLUSH: Final = 1.0
_LOOPS: Final = ("asyncio", "uvloop")

logger = logging.getLogger("sitq.cli")


def add(commands: Any) -> None:
    parser: Parser = commands.add_parser(
        "worker",
        help="run tasks until stopped",
        description="Run tasks until stopped. The first SIGINT or SIGTERM lets running tasks finish, a second one "
        "gives them back at once (exit code 130 or 143), a third one ends the process. In [brackets]: the "
        "environment variable that says the same.",
    )
    parser.add_argument(
        "target", nargs="?", metavar="TARGET", help=f"where tasks come from: {TARGET_FORMS} [SITQ_APP]"
    )
    option = parser.option
    option(
        "-q",
        "--queues",
        env="SITQ_WORKER_QUEUES",
        convert=shares,
        metavar="A,B",
        help="take from these queues only; with weights, A=3,B=1, slots are divided by them",
    )
    parser.flag(
        "--strict",
        env="SITQ_WORKER_STRICT",
        help="take from a queue only what those named before it leave free",
    )
    option("-c", "--concurrency", env="SITQ_WORKER_CONCURRENCY", convert=integer, metavar="N",
           help="run so many tasks at once (10)")  # fmt: skip
    parser.flag("--burst", env="SITQ_WORKER_BURST", help="stop when nothing is due and nothing runs")
    option(
        "--max-tasks",
        env="SITQ_WORKER_MAX_TASKS",
        convert=integer,
        metavar="N",
        help="stop after so many tasks",
    )
    option("--shutdown-timeout", env="SITQ_WORKER_SHUTDOWN_TIMEOUT", convert=span, metavar="S",
           help="how long running tasks may take to finish before they are given back (30)")  # fmt: skip
    option("--lease", env="SITQ_WORKER_LEASE", convert=span, metavar="S",
           help="how long after its death another worker takes over its tasks (30)")  # fmt: skip
    option("--executor", env="SITQ_WORKER_EXECUTOR", metavar="NAME",
           help="where plain functions run that do not say it: thread, process or async (thread)")  # fmt: skip
    option("--processes", env="SITQ_WORKER_PROCESSES", convert=integer, metavar="N",
           help="have so many child processes at most (one for each processor)")  # fmt: skip
    option("--resources", env="SITQ_WORKER_RESOURCES", metavar="MODULE:FUNCTION",
           help="what tasks share: a function that returns a context manager")  # fmt: skip
    option("--loop", env="SITQ_WORKER_LOOP", convert=choice(_LOOPS), metavar="NAME",
           help="the event loop: asyncio, or uvloop if it is installed (asyncio)")  # fmt: skip
    option("--log-level", env="SITQ_WORKER_LOG_LEVEL", convert=choice(logs.LEVELS), metavar="LEVEL",
           help=f"{', '.join(logs.LEVELS)} (info)")  # fmt: skip
    option("--log-format", env="SITQ_WORKER_LOG_FORMAT", convert=choice(logs.FORMATS), metavar="FORMAT",
           help=f"{' or '.join(logs.FORMATS)} (text)")  # fmt: skip
    parser.set_defaults(run=run, parser=parser)


def run(arguments: argparse.Namespace) -> int:
    logs.configure(arguments.log_level or "info", arguments.log_format or "text")
    target = arguments.target or os.environ.get("SITQ_APP")
    if not target:
        raise CommandError(f"say where tasks come from, or set SITQ_APP: {TARGET_FORMS}", Exit.USAGE)
    queue = load_queue(target)
    settings = {
        name: value
        for name in (
            "queues",
            "concurrency",
            "max_tasks",
            "shutdown_timeout",
            "lease",
            "executor",
            "processes",
        )
        if (value := getattr(arguments, name)) is not None
    }
    if arguments.resources is not None:
        settings["resources"] = load_function(arguments.resources)
    worker = Worker(queue, strict=bool(arguments.strict), **settings)
    code: int = Exit.FAILURE
    with asyncio.Runner(loop_factory=_loop_factory(arguments.loop)) as runner:
        try:
            runner.run(_work(queue, worker, until_idle=bool(arguments.burst)))
            code = Exit.OK if worker.forced_by is None else 128 + worker.forced_by
        finally:
            # From here on nothing but leftovers of tasks can take time, of which the runner would wait for some.
            threading.Thread(target=_end, args=(code,), name="sitq-end", daemon=True).start()
    return code


def _loop_factory(name: str | None) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if name != "uvloop":
        return None
    try:
        import uvloop  # noqa: PLC0415  # an extra
    except ImportError as error:
        raise CommandError(
            "--loop uvloop needs the package uvloop, which is not installed: install the extra `uvloop` (not on "
            "Windows), or leave the option out",
            Exit.USAGE,
        ) from error
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def _work(queue: TaskQueue, worker: Worker, *, until_idle: bool) -> None:
    async with queue:
        await worker.run(until_idle=until_idle)


def _end(code: int) -> None:
    """End the process in a while, if it has not ended by itself."""
    time.sleep(_HASTE if code > 128 else _LINGER)
    logger.warning("something that a task left behind does not end: the process ends without it")
    # In a thread, since a lock that is held by what is stuck must not hold this up.
    flush = threading.Thread(target=_flush, name="sitq-flush", daemon=True)
    flush.start()
    flush.join(_FLUSH)
    os._exit(code)


def _flush() -> None:
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
