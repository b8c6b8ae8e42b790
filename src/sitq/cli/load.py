"""From what was typed to a queue: a module with a queue in it, a factory, a database path or a URL."""

import difflib
import importlib
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from sitq.cli.exits import CommandError, Exit
from sitq.queue import TaskQueue
from sitq.sync import SyncTaskQueue

TARGET_FORMS: Final = (
    "module:queue, module:factory(), a module with one queue in it, a database path or a URL"
)

_TARGET: Final = re.compile(r"(?P<module>[^\W\d][\w.]*)(?::(?P<attribute>[^\W\d][\w.]*)(?P<call>\(\))?)?")
_DATABASE_SUFFIXES: Final = frozenset({".db", ".sqlite", ".sqlite3"})


def load_queue(target: str) -> TaskQueue:
    """The queue that a target names; not opened yet. A new one, if the target is a database or a `SyncTaskQueue`.

    Raises:
        CommandError: It cannot be imported, or is not a queue.
        ValidationError: The URL is of an unknown kind.
    """
    use_current_directory()
    found = None if is_database(target) else _TARGET.fullmatch(target)
    if found is None:
        return TaskQueue(target)
    module = import_module(found["module"], target)
    if found["attribute"] is None:
        return _as_queue(_only_queue(module), target)
    value = attribute(module, found["attribute"], target)
    if found["call"]:
        value = _call(value, target)
    return _as_queue(value, target)


def is_database(target: str) -> bool:
    """Whether a target is a path or URL and not a module. `module:attribute` always is a module."""
    found = _TARGET.fullmatch(target)
    if found is None:
        return True
    return found["attribute"] is None and (
        Path(target).suffix in _DATABASE_SUFFIXES or Path(target).is_file()
    )


def load_function(target: str) -> Any:
    """The function that `module:function` names.

    Raises:
        CommandError: It cannot be imported, or is not callable.
    """
    use_current_directory()
    found = _TARGET.fullmatch(target)
    if found is None or found["attribute"] is None or found["call"]:
        raise CommandError(f"{target!r} does not name a function: write module:function", Exit.USAGE)
    value = attribute(import_module(found["module"], target), found["attribute"], target)
    if not callable(value):
        raise CommandError(f"{target} is of type {type(value).__name__}, which cannot be called", Exit.USAGE)
    return value


def use_current_directory() -> None:
    """Let modules of the current directory be imported, as `python -m` does."""
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)


def import_module(name: str, target: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name == missing or name.startswith(missing + "."):
            hint = f"looked in {Path.cwd()} and the Python path"
            if ":" not in target:
                hint += f"; a database is given as a path, such as ./{target}, or a URL"
            raise CommandError(f"no module named {missing!r}: {hint}", Exit.USAGE) from error
        raise CommandError(
            f"cannot import {name}: it imports {missing!r}, which is missing", Exit.USAGE
        ) from error
    except Exception as error:
        raise CommandError(
            f"cannot import {name}: {type(error).__name__}: {_one_line(error)} (--log-level debug shows where)",
            Exit.USAGE,
        ) from error


def attribute(module: ModuleType, path: str, target: str) -> Any:
    value: Any = module
    for name in path.split("."):
        try:
            value = getattr(value, name)
        except AttributeError as error:
            near = difflib.get_close_matches(name, [one for one in dir(value) if one[0] != "_"], n=1)
            hint = f": did you mean {near[0]!r}?" if near else ""
            raise CommandError(f"{target}: {module.__name__} has no {path!r}{hint}", Exit.USAGE) from error
    return value


def _only_queue(module: ModuleType) -> Any:
    queues = {
        name: value for name, value in vars(module).items() if isinstance(value, TaskQueue | SyncTaskQueue)
    }
    if len({id(value) for value in queues.values()}) == 1:
        return next(iter(queues.values()))
    name = module.__name__
    if not queues:
        raise CommandError(f"module {name} holds no queue: write {name}:name or {name}:factory()", Exit.USAGE)
    choices = ", ".join(f"{name}:{one}" for one in queues)
    raise CommandError(f"module {name} holds {len(queues)} queues, choose one: {choices}", Exit.USAGE)


def _call(factory: Any, target: str) -> Any:
    if not callable(factory):
        raise CommandError(f"{target}: it cannot be called, leave out the ()", Exit.USAGE)
    try:
        return factory()
    except Exception as error:
        raise CommandError(
            f"{target} failed: {type(error).__name__}: {_one_line(error)}", Exit.USAGE
        ) from error


def _as_queue(value: Any, target: str) -> TaskQueue:
    match value:
        case TaskQueue():
            return value
        case SyncTaskQueue():
            queue = TaskQueue(
                value.backend,
                max_payload=value.max_payload,
                runners=value.runners,
                serializer=value.codec.serializer,
                context_providers=value.context_providers,
            )
            queue.declared.update(value.declared)
            return queue
        case _:
            hint = f". To call it, write {target}()" if callable(value) else ""
            raise CommandError(
                f"{target} is of type {type(value).__name__}, not a TaskQueue{hint}", Exit.USAGE
            )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
