"""Task definitions and calls: what to run, before anything is stored."""

import inspect
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial, update_wrapper
from types import FunctionType, MethodType
from typing import Any, Final, Unpack, cast, overload
from weakref import WeakKeyDictionary

import cloudpickle  # type: ignore[import-untyped]

from sitq.errors import ValidationError
from sitq.options import GivenDefaults, TaskOptions, label, unknown_option

_GENERATOR: Final = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
_VARIADIC: Final = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS

# Signatures of what is no plain function (classes, partials, builtins, wrappers); None where there is none to be had.
_signatures: "WeakKeyDictionary[Any, inspect.Signature | None]" = WeakKeyDictionary()


# -- Definitions -----------------------------------------------------------------------------------


class Task[**P, R]:
    """A function with a name and default options. Calling it runs the function here and now, as without `@task`.

    A definition binds to no queue. It can be sent wherever its function can: by reference if a module holds it under
    its own name, otherwise by value.

    Attributes:
        func: The function.
        name: What lists and logs call it; `module.qualname` unless given.
        options: Defaults for every call; what is given at enqueueing wins.
    """

    __qualname__: str

    def __init__(
        self, func: Callable[P, R], *, name: str | None = None, options: TaskOptions | None = None
    ) -> None:
        check_callable(func)
        self._func = func
        self._name = function_name(func) if name is None else name
        self._options = TaskOptions() if options is None else options
        self._look_like(func)

    @property
    def func(self) -> Callable[P, R]:
        return self._func

    @property
    def name(self) -> str:
        return self._name

    @property
    def options(self) -> TaskOptions:
        return self._options

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._func(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Task {self._name}>"

    def __set_name__(self, owner: type, name: str) -> None:
        raise ValidationError(
            f"@task on the method {owner.__qualname__}.{name}: it would never see its instance. Decorate a function, "
            "or a static method with @staticmethod above @task"
        )

    def _look_like(self, func: Callable[P, R]) -> None:
        update_wrapper(self, func, updated=())
        if inspect.iscoroutinefunction(func):
            inspect.markcoroutinefunction(self)

    def __reduce__(self) -> Any:
        if importable(self):
            return self.__qualname__
        # The state follows the object, because the function may hold the definition in its globals.
        look = {
            name: getattr(self, name, None) for name in ("__module__", "__name__", "__qualname__", "__doc__")
        }
        return object.__new__, (type(self),), (self._func, self._name, self._options, look)

    def __setstate__(self, state: tuple[Callable[P, R], str, TaskOptions, dict[str, Any]]) -> None:
        self._func, self._name, self._options, look = state
        self._look_like(self._func)
        vars(self).update(look)


class GivenTask(GivenDefaults, total=False):
    """What `@task(...)` takes; see `TaskOptions`."""

    name: str | None


class _Decorator:
    """`@task(...)` waiting for its function."""

    def __init__(self, name: str | None, options: TaskOptions) -> None:
        self._name = name
        self._options = options

    def __call__[**P, R](self, func: Callable[P, R], /) -> Task[P, R]:
        return Task(func, name=self._name, options=self._options)


@overload
def task[**P, R](func: Callable[P, R], /) -> Task[P, R]: ...
@overload
def task(**given: Unpack[GivenTask]) -> _Decorator: ...
def task(func: Callable[..., Any] | None = None, /, **given: Any) -> Any:
    """Make a definition of a function: `@task` or `@task(queue=..., priority=..., name=...)`.

    Args:
        queue, priority, result_ttl, metadata, max_crashes: Defaults for every call; see `TaskOptions`.
        name: What lists and logs call it; `module.qualname` by default.

    Raises:
        ValidationError: The function cannot be a task, or an option is unknown, unusable or only for a single call.
    """
    for option, reason in _PER_CALL.items():
        if option in given:
            raise ValidationError(
                f"{option} is not an option of @task, since {reason}: use queue.options({option}=...).enqueue(...)"
            )
    known = GivenTask.__annotations__.keys() | GivenDefaults.__annotations__.keys()
    if unknown := given.keys() - known:
        raise unknown_option(min(unknown), known)
    name = given.pop("name", None)
    decorator = _Decorator(None if name is None else label(name, "name"), TaskOptions(**given))
    return decorator if func is None else decorator(func)


_PER_CALL: Final[Mapping[str, str]] = {
    "id": "it belongs to a single call",
    "eta": "an instant belongs to a single call",
    "delay": "when to start belongs to a single call",
    "context": "it travels with a single call",
}


# -- Calls -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Call[R]:
    """A function with its arguments, bound to no queue. `R` is what awaiting or calling it gives in the end."""

    func: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What lists and logs call it: the name of the task, or `module.qualname`."""
        return function_name(self.func)


@overload
def call[**P, R](func: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> Call[R]: ...
@overload
def call[**P, R](func: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Call[R]: ...
def call(func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Call[Any]:
    """Return a call to enqueue later: `queue.enqueue_many([call(resize, name) for name in names])`.

    Raises:
        ValidationError: `func` cannot be a task, or does not take these arguments.
    """
    made: Call[Any] = Call(func, args, kwargs)
    check_callable(func)
    check_arguments(made)
    return made


def function_name(func: object) -> str:
    """Return what to call a function: `Task.name`, else `module.qualname` of what will run."""
    while isinstance(func, partial):
        func = func.func
    if isinstance(func, Task):
        return func.name
    if isinstance(func, MethodType):
        func = func.__func__
    if not isinstance(func, FunctionType | type) and not inspect.isbuiltin(func):
        func = type(func)
    module = getattr(func, "__module__", None)
    name = getattr(func, "__qualname__", None) or type(func).__qualname__
    return f"{module or 'builtins'}.{name}"


# -- Checks ----------------------------------------------------------------------------------------


def check_callable(func: object) -> None:
    """Refuse what cannot be a task.

    Raises:
        ValidationError: Not callable, the result of a call, or a function that yields.
    """
    if type(func) is FunctionType:
        if not func.__code__.co_flags & _GENERATOR:
            return
    elif isinstance(func, Task):
        return
    _refuse_uncallable(func)
    inner = func
    while isinstance(inner, partial | MethodType):
        inner = inner.func if isinstance(inner, partial) else inner.__func__
    if isinstance(inner, FunctionType) and inner.__code__.co_flags & _GENERATOR:
        raise ValidationError(
            f"{function_name(func)} is a generator function, and a task has a single result: return a list, or "
            "enqueue one task per item"
        )


def _refuse_uncallable(func: object) -> None:
    if inspect.iscoroutine(func):
        func.close()  # or Python warns that it was never awaited
        name = func.__name__
        raise ValidationError(
            f"got a coroutine, the result of {name}(...): pass {name} and its arguments, not {name}(...)"
        )
    if isinstance(func, Call):
        raise ValidationError("got a Call: pass it to enqueue_many, or pass its function and arguments")
    if not callable(func):
        raise ValidationError(f"{type(func).__qualname__} is not callable: pass a function and its arguments")


def check_arguments(call: Call[Any]) -> None:
    """Refuse arguments that the function does not take, before they are stored.

    What the function itself declares counts: a decorator that takes `*args, **kwargs` takes anything. Functions that
    cannot be inspected pass.

    Raises:
        ValidationError: The arguments do not fit the signature.
    """
    func = call.func._func if isinstance(call.func, Task) else call.func
    bound = 0
    if isinstance(func, MethodType):
        func, bound = func.__func__, 1
    if type(func) is FunctionType and _fits(func, len(call.args) + bound, call.kwargs):
        return
    signature = _signature(func)
    if signature is None:
        return
    try:
        signature.bind(*(None,) * bound, *call.args, **call.kwargs)
    except TypeError as error:
        raise ValidationError(
            f"{call.name} does not take these arguments: {error}; it takes {signature}"
        ) from None


def _fits(func: FunctionType, given: int, kwargs: Mapping[str, Any]) -> bool:
    """The common cases without `Signature.bind`, which costs 20 times as much. False means: look closer."""
    code = func.__code__
    if code.co_flags & _VARIADIC:
        return False
    positional = code.co_argcount
    if given > positional:
        return False
    required = positional - len(func.__defaults__ or ())
    if not kwargs and not code.co_kwonlyargcount:
        return given >= required
    names = code.co_varnames
    for name in kwargs:
        if name not in names[max(given, code.co_posonlyargcount) : positional + code.co_kwonlyargcount]:
            return False
    for name in names[given:required]:
        if name not in kwargs:
            return False
    defaults = func.__kwdefaults__ or ()
    for name in names[positional : positional + code.co_kwonlyargcount]:
        if name not in kwargs and name not in defaults:
            return False
    return True


def has_parameter(func: object, name: str) -> bool:
    """Return whether the function has a parameter of this name that a keyword can reach.

    Looks through decorators that keep `__wrapped__`. False for what cannot be inspected.
    """
    if type(func) is FunctionType and "__wrapped__" not in func.__dict__:
        code = func.__code__
        return name in code.co_varnames[code.co_posonlyargcount : code.co_argcount + code.co_kwonlyargcount]
    signature = _signature(inspect.unwrap(cast("Callable[..., Any]", func)))
    if signature is None or name not in signature.parameters:
        return False
    kind = signature.parameters[name].kind
    return kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def _signature(func: Any) -> inspect.Signature | None:
    try:
        return _signatures[func]
    except (KeyError, TypeError):
        pass
    try:
        signature = inspect.signature(func, follow_wrapped=False)
    except (TypeError, ValueError):
        signature = None
    try:
        _signatures[func] = signature
    except TypeError:  # not hashable, or no weak references
        pass
    return signature


def importable(value: Any) -> bool:
    """Return whether another process finds this very function, class or task by importing its module.

    Not what lives in `__main__`, in a module made by hand (it has no spec), or in one that was registered with
    `cloudpickle.register_pickle_by_value`; nor what the module holds under another name or not at all.
    """
    name = value.__module__
    if name in MAIN:
        return False
    found: Any = sys.modules.get(name)
    if found is None or found.__spec__ is None:
        return False
    qualname = value.__qualname__
    if "." not in qualname:
        found = getattr(found, qualname, None)
    else:
        for part in qualname.split("."):
            found = getattr(found, part, None)
    if found is not value:
        return False
    registered = cloudpickle.list_registry_pickle_by_value()
    return not registered or not any(name == each or name.startswith(f"{each}.") for each in registered)


MAIN: Final = frozenset({"__main__", "__mp_main__"})


def parameter_names(func: object) -> tuple[str, ...]:
    """Return the names of the positional parameters, as far as they are known."""
    inner = func.func if isinstance(func, Task) else func
    signature = _signature(inner)
    if signature is None:
        return ()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(name for name, each in signature.parameters.items() if each.kind in positional)
