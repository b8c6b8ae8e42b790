"""Task definitions and calls: what to run, before anything is stored."""
# cloudpickle is not typed:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import copyreg
import inspect
import sys
from collections.abc import Awaitable, Callable, Mapping
from functools import partial, update_wrapper
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, Final, NamedTuple, Unpack, overload
from weakref import WeakKeyDictionary

import cloudpickle  # type: ignore[import-untyped]

from sitq.checks import label
from sitq.errors import ValidationError
from sitq.options import DEFAULT_NAMES, OPTION_NAMES, GivenDefaults, TaskOptions, unknown_option

# The names of the module that a process was started with: in another process they are another module.
MAIN: Final = frozenset({"__main__", "__mp_main__"})

_GENERATOR: Final = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
_PER_CALL: Final = OPTION_NAMES - DEFAULT_NAMES
_LOOK: Final = ("__module__", "__name__", "__qualname__", "__doc__")


# -- Definitions -----------------------------------------------------------------------------------


class Task[**P, R]:
    """A function with a name and default options. Calling it runs the function here and now, as without `@task`.

    It binds to no queue. It can be sent wherever its function can: by reference if its module holds it under its own
    name, otherwise by value. `R` is what calling it returns; for `async def` that is the coroutine.

    Attributes:
        func: The function.
        name: What lists and logs call it.
        options: Defaults for every call; what is given at enqueueing wins.
    """

    __qualname__: str

    def __init__(
        self, func: Callable[P, R], *, name: str | None = None, options: TaskOptions | None = None
    ) -> None:
        check_callable(func)
        self._func = func
        self._name = function_name(func) if name is None else label(name, "name")
        self._options = options or TaskOptions()
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
            f"@task on the method {owner.__qualname__}.{name}, which would never get its instance: decorate a "
            "function, or a static method with @staticmethod above @task"
        )

    def __reduce__(self) -> Any:
        if importable(self):
            return self.__qualname__
        # The state follows the object, because the function may refer to its own definition.
        look = {name: getattr(self, name, None) for name in _LOOK}
        return copyreg.__newobj__, (type(self),), (self._func, self._name, self._options, look)  # type: ignore[attr-defined]

    def __setstate__(self, state: tuple[Callable[P, R], str, TaskOptions, dict[str, Any]]) -> None:
        self._func, self._name, self._options, look = state
        self._look_like(self._func)
        vars(self).update(look)

    def _look_like(self, func: Callable[P, R]) -> None:
        update_wrapper(self, func, updated=())
        if inspect.iscoroutinefunction(func):
            inspect.markcoroutinefunction(self)


class GivenTask(GivenDefaults, total=False):
    """What `@task(...)` takes."""

    name: str | None


class TaskDecorator:
    """`@task(...)`, waiting for its function."""

    def __init__(self, name: str | None, options: TaskOptions) -> None:
        self._name = name
        self._options = options

    def __call__[**P, R](self, func: Callable[P, R], /) -> Task[P, R]:
        return Task(func, name=self._name, options=self._options)


@overload
def task[**P, R](func: Callable[P, R], /) -> Task[P, R]: ...
@overload
def task(**given: Unpack[GivenTask]) -> TaskDecorator: ...
def task(func: Callable[..., Any] | None = None, /, **given: Any) -> Any:
    """Make a definition of a function: `@task`, or `@task(queue=..., priority=..., name=...)`.

    Args:
        given: Options for every call; `TaskOptions` says what there is. All but eta, delay, id and context.
        name: What lists and logs call it; `module.qualname` by default.

    Raises:
        ValidationError: The function cannot be a task, or an option is unknown, unusable or only for a single call.
    """
    for option in given:
        if option in _PER_CALL:
            raise ValidationError(
                f"{option} is no option of @task, because it belongs to a single call: use "
                f"queue.options({option}=...).enqueue(...)"
            )
        if option not in DEFAULT_NAMES and option != "name":
            raise unknown_option(option, {*DEFAULT_NAMES, "name"})
    name = given.pop("name", None)
    decorator = TaskDecorator(None if name is None else label(name, "name"), TaskOptions(**given))
    return decorator if func is None else decorator(func)


# -- Calls -----------------------------------------------------------------------------------------


class Call[R](NamedTuple):
    """A function with its arguments, bound to no queue. `R` is the type of the result that a task will have."""

    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def name(self) -> str:
        """What lists and logs call it: the name of the task, or `module.qualname`."""
        return function_name(self.func)

    def __repr__(self) -> str:
        return f"<Call {self.name}>"  # arguments may be secrets, and this may end up in a log


@overload
def call[**P, R](func: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> Call[R]: ...
@overload
def call[**P, R](func: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Call[R]: ...
def call(func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Call[Any]:
    """Return a call to enqueue later: `queue.enqueue_many([call(resize, name) for name in names])`.

    Raises:
        ValidationError: `func` cannot be a task, or does not take these arguments.
    """
    check_callable(func)
    made: Call[Any] = Call(func, args, kwargs)
    check_arguments(made)
    return made


def checked_call(call: Any) -> Call[Any]:
    """Return what was given among calls. Raises `ValidationError` if it is none."""
    if isinstance(call, Call):
        return call
    raise ValidationError(
        f"enqueue_many got a {type(call).__qualname__}: give calls, as in enqueue_many([call(func, 1), call(func, 2)])"
    )


def made_call(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call[Any]:
    """Return the call of a function with its arguments; a call is one already.

    Raises:
        ValidationError: Arguments beside a call.
    """
    if not isinstance(func, Call):
        return Call(func, args, kwargs)
    if args or kwargs:
        raise ValidationError(
            f"this is a call of {func.name}, which has its arguments: pass the call alone, or the function with all "
            "arguments"
        )
    return func


def function_name(func: Any) -> str:
    """Return what to call a function: `Task.name`, else `module.qualname` of what will run."""
    if type(func) is FunctionType:
        return f"{func.__module__}.{func.__qualname__}"
    while isinstance(func, partial | MethodType):
        func = func.func if isinstance(func, partial) else func.__func__
    if isinstance(func, Task):
        return func.name
    named = func if isinstance(func, FunctionType | BuiltinFunctionType | type) else type(func)
    module = named.__module__ or type(getattr(named, "__self__", None)).__module__
    return f"{module}.{named.__qualname__}"


# -- Checks, on the way of every call --------------------------------------------------------------


class CallCheck:
    """`check_callable` and `check_arguments` for many calls in a row, which are mostly alike. Any thread may use it."""

    def __init__(self) -> None:
        # The last good one, as one value, so that no thread sees half of another. Nothing has -1 arguments.
        self._last: tuple[Any, int, str] = (None, -1, "")

    def __call__(self, call: Call[Any]) -> str:
        """Refuse a call that cannot be run, and return the name of one that can. Raises `ValidationError`."""
        func, args, kwargs = call
        last, count, name = self._last
        if func is last and len(args) == count and not kwargs:
            return name
        check_callable(func)
        check_arguments(call)
        name = function_name(func)
        if type(func) is FunctionType and not kwargs:
            self._last = func, len(args), name
        return name


def check_callable(func: Any) -> None:
    """Refuse what cannot be a task.

    Raises:
        ValidationError: Not callable, already called, or a function that yields.
    """
    if type(func) is FunctionType and not func.__code__.co_flags & _GENERATOR:
        return
    if inspect.iscoroutine(func):
        func.close()  # or Python warns that it was never awaited
        name = func.__name__
        raise ValidationError(f"this is {name}(...), already called: pass {name} and its arguments")
    if isinstance(func, Call):
        raise ValidationError(
            "a Call is for enqueue and enqueue_many; here, pass the function and its arguments"
        )
    if not callable(func):
        kind = type(func).__qualname__
        raise ValidationError(f"cannot call a value of type {kind}: pass a function and its arguments")
    target = _plain(func.func if isinstance(func, partial) else func)[0]
    if type(target) is FunctionType and target.__code__.co_flags & _GENERATOR:
        raise ValidationError(
            f"{function_name(func)} is a generator function, and a task has one result: return a list, or enqueue "
            "one task per item"
        )


def check_arguments(call: Call[Any]) -> None:
    """Refuse arguments that the function does not take, before they are stored.

    What counts is what the function itself declares: a decorator that takes `*args, **kwargs` takes anything. What
    cannot be inspected passes.

    Raises:
        ValidationError: The arguments do not fit.
    """
    func, bound = call.func, 0
    if type(func) is FunctionType and not call.kwargs:  # the usual case, on the way of every call, twice
        code = func.__code__
        if not code.co_kwonlyargcount:
            most = code.co_argcount
            if most - len(func.__defaults__ or ()) <= len(call.args) <= most:
                return
    if type(func) is not FunctionType:
        func, bound = _plain(func)
    if type(func) is FunctionType and _fits(func, len(call.args) + bound, call.kwargs):
        return
    signature = _signature(func)
    if signature is None:
        return
    try:
        signature.bind(*(None,) * bound, *call.args, **call.kwargs)
    except TypeError as error:
        names = list(signature.parameters)[bound:]
        text = f"{call.name} does not take these arguments, {error}: it takes ({', '.join(names)})"
        for name in OPTION_NAMES & call.kwargs.keys():
            text += f"; {name} as an option goes through queue.options({name}=...).enqueue(...)"
        raise ValidationError(text) from None


def _fits(func: FunctionType, given: int, kwargs: Mapping[str, Any]) -> bool:
    """Return whether so many positional arguments and these keywords can be bound.

    As `Signature.bind` would say, in a tenth of its time: this is on the way of every call.
    """
    code = func.__code__
    positional = code.co_argcount
    if given > positional:
        if not code.co_flags & inspect.CO_VARARGS:
            return False
        given = positional
    required = positional - len(func.__defaults__ or ())
    if not kwargs and not code.co_kwonlyargcount:
        return given >= required
    names, by_keyword = code.co_varnames, code.co_posonlyargcount
    end = positional + code.co_kwonlyargcount
    if code.co_flags & inspect.CO_VARKEYWORDS:
        wrong = [name for name in kwargs if name in names[by_keyword:given]]
    else:
        free = names[max(given, by_keyword) : end]
        wrong = [name for name in kwargs if name not in free]
    if wrong or given < min(required, by_keyword):
        return False
    missing = [name for name in names[given:required] if name not in kwargs]
    if not missing and code.co_kwonlyargcount:
        defaults = func.__kwdefaults__ or ()
        missing = [name for name in names[positional:end] if name not in kwargs and name not in defaults]
    return not missing


def has_parameter(func: Any, name: str) -> bool:
    """Return whether a keyword of this name goes to a parameter that the function declares.

    Looks through decorators that keep `__wrapped__`. False for what cannot be inspected.
    """
    inner = func if type(func) is FunctionType else _plain(func)[0]
    if type(inner) is FunctionType and "__wrapped__" in inner.__dict__:
        inner = inspect.unwrap(inner)
    if type(inner) is FunctionType:
        code = inner.__code__
        return name in code.co_varnames[code.co_posonlyargcount : code.co_argcount + code.co_kwonlyargcount]
    signature = _signature(inner)
    found = signature.parameters.get(name) if signature else None
    return found is not None and found.kind in (found.POSITIONAL_OR_KEYWORD, found.KEYWORD_ONLY)


def parameter_names(func: Any) -> list[str]:
    """Return the names of the positional parameters that a caller sees, as far as they are known."""
    inner, bound = _plain(func)
    signature = _signature(inner)
    parameters = list(signature.parameters.values())[bound:] if signature else []
    return [
        each.name for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
    ]


def _plain(func: Any) -> tuple[Any, int]:
    """Return the function that will run, if there is one, and how many arguments it gets before the caller's."""
    if isinstance(func, Task):
        func = func.func
    if type(func) is MethodType:
        return func.__func__, 1
    if not isinstance(func, FunctionType | BuiltinFunctionType | partial | type):
        method = type(func).__call__
        if type(method) is FunctionType:
            return method, 1
    return func, 0


# Only of classes, partials and builtins, which takes 10-20 us to make; None where there is none to be had.
_signatures: "WeakKeyDictionary[Any, inspect.Signature | None]" = WeakKeyDictionary()


def _signature(func: Any) -> inspect.Signature | None:
    kept = type(func) in (type, partial, BuiltinFunctionType)  # a metaclass may have its own idea of a hash
    if kept and func in _signatures:
        return _signatures[func]
    try:
        signature = inspect.signature(func, follow_wrapped=False)
    except (TypeError, ValueError):
        signature = None
    if kept:
        _signatures[func] = signature
    return signature


# -- By reference or by value ----------------------------------------------------------------------


def importable(value: Any) -> bool:
    """Return whether another process finds this very function, class or task by importing its module.

    It does not if it lives in `__main__`, in a module made by hand (which has no spec) or in one that was registered
    with `cloudpickle.register_pickle_by_value`, or if its module holds it under another name or not at all.
    """
    name = value.__module__
    if name in MAIN:
        return False
    found: Any = sys.modules.get(name)
    if getattr(found, "__spec__", None) is None:
        return False
    qualname = value.__qualname__
    if "." not in qualname:  # the usual case, on the way of every call
        found = getattr(found, qualname, None)
    else:
        for part in qualname.split("."):
            found = getattr(found, part, None)
    if found is not value:
        return False
    registered = cloudpickle.list_registry_pickle_by_value()
    return not registered or not any(name == each or name.startswith(f"{each}.") for each in registered)
