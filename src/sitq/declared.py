"""What is scheduled, before it is stored: a schedule, its call, and the options of the tasks that it makes."""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from sitq.errors import ValidationError
from sitq.options import TaskOptions
from sitq.schedule import Schedule
from sitq.task import Call, Task, check_arguments, check_callable, function_name

# They belong to one task at one moment, or say what a schedule says itself.
_NOT_REPEATED: Final = {
    "eta": "the schedule says when",
    "delay": "the schedule says when",
    "id": "each tick has an id of its own",
    "expires": "it would count from now on for all ticks: misfire='skip' leaves out ticks that come too late",
    "unique_key": "each tick is unique: overlap= says what becomes of one that comes too early",
    "unique_until": "each tick is unique: overlap= says what becomes of one that comes too early",
    "debounce": "the schedule says when",
    "throttle": "the schedule says when",
    "depends_on": "a task of a tick depends on none: enqueue what depends on each other inside the task",
    "on_parent_failure": "a task of a tick depends on none",
}


class Declared(NamedTuple):
    """A call that a schedule makes again and again. Encoded when it is stored: then its module is complete."""

    schedule: Schedule
    call: Call[Any]
    options: TaskOptions


def declared(schedule: Schedule, call: Call[Any], options: TaskOptions) -> Declared:
    """Check what is to be scheduled.

    Raises:
        ValidationError: Not a call, arguments that do not fit, or an option that cannot be repeated.
    """
    if not isinstance(call, Call):
        raise ValidationError(
            f"call is a {type(call).__qualname__}: give call(func, ...), the function with its arguments"
        )
    check_callable(call.func)
    check_arguments(call)
    func: Any = call.func
    given = options.over(func.options) if isinstance(func, Task) else options
    for name in given.given():
        if name in _NOT_REPEATED:
            raise ValidationError(f"{name} is no option of a schedule: {_NOT_REPEATED[name]}")
    return Declared(schedule, call, options)


def declare(known: dict[str, Declared], new: Declared) -> None:
    """Add a declaration. That of the same function under the same name takes its place, as when a cell is run again.

    Raises:
        ValidationError: Another function has this name.
    """
    name = new.schedule.name
    old = known.get(name)
    if old is not None and old.call.name != new.call.name:
        raise ValidationError(
            f"name is {name!r}, and so is the name of the schedule of {old.call.name}: give another one"
        )
    known[name] = new


def schedule_name(func: Callable[..., Any], name: str | None) -> str:
    """What a schedule is called that was given no name: as its tasks are."""
    if name is not None:
        return name
    check_callable(func)
    return function_name(func)
