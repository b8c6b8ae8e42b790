"""Where tasks run: the names of executors, what a runner is, and the settings of child processes."""

import difflib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Protocol

from sitq.checks import Duration, integer, kind, label, seconds
from sitq.errors import ValidationError
from sitq.task import Call

ASYNC: Final = "async"
THREAD: Final = "thread"
PROCESS: Final = "process"
OWN: Final = (ASYNC, THREAD, PROCESS)
"""The executors that every worker has."""

MAX_CHILDREN: Final = 1_000
MIN_MEMORY: Final = 64 * 1024 * 1024
MAX_GRACE: Final = 4.0
_UNBOUNDED: Final = 2**62


class Runner(Protocol):
    """Runs calls in one worker. To add an executor, write one and give its factory to `TaskQueue(runners=...)`."""

    def run(self, call: Call[Any]) -> Awaitable[Any]:
        """Run the call; what is awaited gives its value or raises what it raises, and so may `run` itself.

        Called on the worker's loop, in the context of the task: what runs elsewhere takes `contextvars.copy_context()`
        along, so that `current_task()` works there. A task that is to stop is cancelled: what awaits gets a
        `CancelledError`, and should be back soon; the slot is free when it is.
        """
        ...

    def close(self) -> None:
        """Let go of idle resources, when the worker stops. Does not wait for what still runs."""
        ...


type RunnerFactory = Callable[[int], Runner]
"""Makes the runner of one worker, on its loop. Gets the worker's concurrency."""


def check_runners(given: Mapping[str, RunnerFactory] | None) -> Mapping[str, RunnerFactory]:
    """Return the runners of a queue by name.

    Raises:
        ValidationError: Not a mapping of names to callables, or a name that sitq has already.
    """
    fix = "give a mapping of names to factories, as in {'gevent': GeventRunner}"
    if given is None:
        return MappingProxyType({})
    if not isinstance(given, Mapping):
        raise ValidationError(f"runners is {kind(given)}: {fix}")
    for name, factory in given.items():
        if label(name, "the name of a runner") in OWN:
            raise ValidationError(f"runners has {name!r}, which is an executor of sitq: give it another name")
        if not callable(factory):
            raise ValidationError(f"runners[{name!r}] is {kind(factory)}: {fix}")
    return MappingProxyType(dict(given))


def check_executor(name: object, runners: Mapping[str, RunnerFactory]) -> str:
    """Return the name of an executor that this queue has.

    Raises:
        ValidationError: Not a name, or one that nobody knows; with the list of those that are known.
    """
    known = [*OWN, *runners]
    fix = f"give {', '.join(map(repr, known[:-1]))} or {known[-1]!r}"
    if not isinstance(name, str):
        raise ValidationError(f"executor is {kind(name)}: {fix}")
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}? There are {', '.join(map(repr, known))}" if near else fix
        raise ValidationError(
            f"executor is {name!r}, which nobody knows here: {hint}; others come with TaskQueue(runners=...)"
        )
    return str.__str__(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessOptions:
    """The child processes of a worker, for tasks with `executor="process"`. They start when they are needed.

    Attributes:
        children: How many there are at most, 1 to 1,000; by default one for each processor, and no more than the
            worker's `concurrency`. Each runs one task at a time; a task that finds none waits in its worker, which is
            no time of its `timeout`.
        max_tasks_per_child: A child is replaced after so many tasks; never if not given.
        memory_limit: Bytes that a child may use, 64 MiB or more; no limit if not given. On Linux what goes beyond it
            raises `MemoryError`. Everywhere a child that holds more than half of it after a task is replaced, as far as
            its size is known (Linux, or with `psutil`).
        grace: How long a task that is to stop may take to see that by itself, 0 to 4 s (seconds or a timedelta): a
            coroutine is cancelled, a plain function sees it in `current_task().cancelled`. Then, by default at once,
            its process is killed.

    Raises:
        ValidationError: An attribute is out of range; the message names it.
    """

    children: int | None = None
    max_tasks_per_child: int | None = None
    memory_limit: int | None = None
    grace: Duration = 0.0

    def __post_init__(self) -> None:
        for name, minimum, maximum in (
            ("children", 1, MAX_CHILDREN),
            ("max_tasks_per_child", 1, _UNBOUNDED),
            ("memory_limit", MIN_MEMORY, _UNBOUNDED),
        ):
            if getattr(self, name) is not None:
                checked = integer(getattr(self, name), name, minimum=minimum, maximum=maximum)
                object.__setattr__(self, name, checked)
        object.__setattr__(self, "grace", seconds(self.grace, "grace", maximum=MAX_GRACE))


def process_options(given: int | ProcessOptions | None) -> ProcessOptions:
    """Return what `Worker(processes=...)` was given, a number of children or options.

    Raises:
        ValidationError: Something else, or a number that is out of range.
    """
    if isinstance(given, ProcessOptions):
        return given
    if given is None:
        return ProcessOptions()
    if not isinstance(given, int) or isinstance(given, bool) or not 1 <= given <= MAX_CHILDREN:
        what = f"is {given}" if type(given) is int else f"is {kind(given)}"
        raise ValidationError(
            f"processes {what}: give a number of child processes, 1 to {MAX_CHILDREN:,}, or ProcessOptions(...)"
        )
    return ProcessOptions(children=given)
