"""Whose fault it is that a call cannot be written: its parts are tried one by one."""
# What comes in here is of any type:
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from types import FunctionType
from typing import Any

from sitq.errors import TaskSerializationError
from sitq.failure import reason, type_name
from sitq.rules import RunRules
from sitq.task import Call, Task, importable, parameter_names

type Trial = Callable[[Any], object]
"""Writes one part; raises if it cannot."""


def blame(
    call: Call[Any],
    context: Mapping[str, Any],
    rules: RunRules,
    error: BaseException,
    trial: Trial,
    done: str,
    *,
    by_value: bool = False,
) -> TaskSerializationError:
    """Return an error that names the first part that cannot be written.

    Args:
        done: What cannot be done to it, as in `pickled`.
        by_value: Functions may go by value, so what they take along is looked at, too.
    """
    with suppress(Exception):  # inspect stumbles over empty closures and odd signatures: then without a name
        for label, part, fix in _parts(call, context, rules, by_value=by_value):
            cause = _failure(trial, part)
            if cause is not None:
                return TaskSerializationError(f"{label} cannot be {done}: {reason(cause)}. {fix}")
    return TaskSerializationError(f"the call of {call.name} cannot be {done}: {reason(error)}")


def _parts(
    call: Call[Any], context: Mapping[str, Any], rules: RunRules, *, by_value: bool
) -> Iterator[tuple[str, Any, str]]:
    name, names = call.name, parameter_names(call.func)
    fix = "Pass plain data, such as a path or an id, and open or look up the rest inside the task"
    for index, value in enumerate(call.args):
        known = f"`{names[index]}`: " if index < len(names) else ""
        yield f"argument {index + 1} ({known}{type_name(value)}) of {name}", value, fix
    for key, value in call.kwargs.items():
        yield f"argument `{key}` ({type_name(value)}) of {name}", value, fix
    for key, value in context.items():
        yield f"context[{key!r}] ({type_name(value)})", value, "Give plain data"
    for key, value in (rules.carried or {}).items():
        # Of the parts of a mapping the one that is to blame, as a provider that carries many names them.
        parts: Mapping[Any, Any] = value if isinstance(value, Mapping) else {}
        for each, part in parts.items():
            carrier = f"captured by context provider {key!r},"
            yield f"{each!r} ({type_name(part)}), {carrier}", part, "Carry plain data"
        yield f"what context provider {key!r} captured ({type_name(value)})", value, "Capture plain data"
    if rules.retry is not None:
        policy, move = rules.retry, "Define it in a module that the worker can import"
        yield f"the backoff of retry ({type_name(policy.backoff)})", policy.backoff, move
        for option in ("on", "give_up_on"):
            for each in getattr(policy, option):
                yield f"{option} of retry has {each.__qualname__} in it, which", each, move
    if by_value:
        fix = "Pass it as plain data, or move the function into a module, where it goes by reference"
        for key, value in _captured(call.func).items():
            yield f"{name} goes by value, and its `{key}` ({type_name(value)})", value, fix
        yield f"the function {name}", call.func, "Use a function of a module"


def _captured(func: Any) -> dict[str, Any]:
    """Return what a function that goes by value takes along."""
    inner = func.func if isinstance(func, Task) else func
    if type(inner) is not FunctionType or importable(func):
        return {}
    found = inspect.getclosurevars(inner)
    return {**found.globals, **found.nonlocals}


def _failure(trial: Trial, part: Any) -> BaseException | None:
    try:
        trial(part)
    except BaseException as error:
        return error
    return None
