"""Definitions, calls, and what is refused before anything is stored."""

import asyncio
import functools
import gc
import inspect
import json
import math
import operator
import pickle
import sys
import types
import warnings
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import cloudpickle
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sitq.errors import ValidationError
from sitq.options import TaskOptions
from sitq.retry import RetryPolicy
from sitq.task import (
    Call,
    CallCheck,
    Task,
    call,
    check_arguments,
    check_callable,
    function_name,
    has_parameter,
    importable,
    parameter_names,
    task,
)

# A busy machine is no failure.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
HERE = __name__


def resize(key: str, width: int = 100, *, crop: bool = False) -> int:
    """Make it smaller."""
    return len(key) * width


async def fetch(key: str) -> int:
    return len(key)


def numbers() -> Iterator[int]:
    yield 1


async def stream() -> AsyncIterator[int]:
    yield 1


def awaitable(key: str) -> Awaitable[int]:
    return fetch(key)


@task(queue="images", priority=3, result_ttl=None, metadata={"team": "a"}, max_crashes=1, name="shrink")
def shrink(key: str, width: int = 100) -> int:
    """Shrink it."""
    return width


@task
async def download(key: str) -> int:
    return len(key)


other_name = task(resize)


class Service:
    def __init__(self, url: str = "") -> None:
        self.url = url

    def send(self, text: str, eta: int = 0) -> str:
        return text

    @classmethod
    def make(cls, url: str) -> "Service":
        return cls(url)

    @staticmethod
    def check(url: str) -> bool:
        return True

    @staticmethod
    @task
    def ping(url: str) -> bool:
        return True

    def items(self) -> Iterator[int]:
        yield 1

    def __call__(self, text: str) -> str:
        return text


class Async:
    async def __call__(self, text: str) -> str:
        return text

    __hash__ = None  # type: ignore[assignment]


class Yields:
    def __call__(self) -> Iterator[int]:
        yield 1


class Meta(type):
    def __eq__(cls, other: object) -> bool:
        raise RuntimeError

    __hash__ = None  # type: ignore[assignment]


class Odd(metaclass=Meta):
    def __init__(self, size: int) -> None:
        pass


def wrapped(func: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(func)
    def inner(*args: Any, **kwargs: Any) -> Any:
        return func(*args, **kwargs)

    return inner


# -- Definitions -----------------------------------------------------------------------------------


def test_a_definition_is_called_like_its_function() -> None:
    assert shrink("a", width=7) == 7
    assert asyncio.run(download("abc")) == 3


def test_a_definition_looks_like_its_function() -> None:
    assert (shrink.__name__, shrink.__qualname__, shrink.__module__) == ("shrink", "shrink", HERE)
    assert shrink.__doc__ == "Shrink it."
    assert inspect.signature(shrink) == inspect.signature(shrink.func)
    assert inspect.iscoroutinefunction(download)
    assert not inspect.iscoroutinefunction(shrink)
    assert repr(shrink) == "<Task shrink>"


def test_options_and_name() -> None:
    assert shrink.name == "shrink"
    assert shrink.options == TaskOptions(
        queue="images", priority=3, result_ttl=None, metadata={"team": "a"}, max_crashes=1
    )
    assert download.name == f"{HERE}.download"
    assert download.options == TaskOptions()


def test_options_of_its_life() -> None:
    made = task(retry=2, timeout=5, unique_key="a", rate_limit="1/s")(len)
    assert made.options == TaskOptions(
        retry=RetryPolicy(max_attempts=3), timeout=5, unique_key="a", rate_limit="1/s"
    )


@pytest.mark.parametrize("attribute", ["func", "name", "options"])
def test_a_definition_is_frozen(attribute: str) -> None:
    with pytest.raises(AttributeError):
        setattr(shrink, attribute, None)


@pytest.mark.parametrize("option", ["id", "eta", "delay", "context"])
def test_options_of_a_single_call_are_refused(option: str) -> None:
    with pytest.raises(ValidationError, match=rf"{option} is no option of @task.*queue\.options\({option}="):
        task(**{option: None})  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"prioritee": 1}, "'prioritee' is not an option: did you mean 'priority'"),
        ({"nam": "x"}, "did you mean 'name'"),
        ({"priority": 99}, "from -9 to 9"),
        ({"name": ""}, "name has 0 characters"),
        ({"name": 5}, "name is an int"),
        ({"timeout": 0}, "timeout is 0 s"),
        ({"retry": 1, "max_retries": 1}, "retry and max_retries both say"),
    ],
)
def test_unusable_options_are_refused_where_they_stand(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        task(**given)


def test_what_cannot_be_a_task() -> None:
    with pytest.raises(ValidationError, match="generator function"):
        task(numbers)
    with pytest.raises(ValidationError, match="cannot call a value of type int"):
        task(5)  # type: ignore[call-overload]


def test_a_method_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"@task on the method .*Bad\.run.*@staticmethod"):

        class Bad:
            @task
            def run(self) -> None: ...


@pytest.mark.parametrize("definition", [shrink, download, Service.ping], ids=lambda each: each.name)
def test_a_definition_of_a_module_pickles_as_its_name(definition: Task[..., Any]) -> None:
    data = pickle.dumps(definition)
    assert pickle.loads(data) is definition
    assert len(data) < 100


def test_a_definition_under_another_name_pickles_by_value() -> None:
    copy = pickle.loads(pickle.dumps(other_name))
    assert copy is not other_name
    assert (copy.func, copy.name, copy.options) == (resize, other_name.name, other_name.options)
    assert copy("ab", 2) == 4


def test_a_local_definition_pickles_by_value() -> None:
    @task(priority=2, name="local")
    async def count(depth: int) -> int:
        """Count."""
        return 0 if depth == 0 else 1 + await count(depth - 1)

    for data in (cloudpickle.dumps(count), cloudpickle.dumps(count.func)):
        copy = pickle.loads(data)
        assert asyncio.run(copy(3)) == 3
    copy = pickle.loads(cloudpickle.dumps(count))
    assert (copy.name, copy.options, copy.__doc__, copy.__qualname__) == (
        count.name,
        count.options,
        "Count.",
        count.__qualname__,
    )
    assert inspect.iscoroutinefunction(copy)


# -- Calls -----------------------------------------------------------------------------------------


def test_a_call() -> None:
    made = call(resize, "a", width=3)
    assert made == Call(resize, ("a",), {"width": 3})
    assert made.name == f"{HERE}.resize"


def test_calls_in_a_row_are_each_checked() -> None:
    check = CallCheck()
    for nothing in (None, 3):
        with pytest.raises(ValidationError):
            check(Call[Any](nothing, (), {}))
    for _ in range(2):
        check(Call(shrink.func, ("a.png", 2), {}))
        check(Call(shrink.func, ("a.png",), {"width": 2}))
        for bad in (
            Call[Any](shrink.func, (), {}),
            Call[Any](shrink.func, ("a.png", 2), {"depth": 1}),
            Call[Any](3, ("a.png", 2), {}),
        ):
            with pytest.raises(ValidationError):
                check(bad)


def test_a_call_does_not_show_its_arguments() -> None:
    assert repr(call(resize, "secret")) == f"<Call {HERE}.resize>"


def test_a_call_is_checked() -> None:
    with pytest.raises(ValidationError):
        call(resize)  # type: ignore[call-overload]
    with pytest.raises(ValidationError):
        call(numbers)


class Plain:
    pass


@pytest.mark.parametrize(
    ("func", "name"),
    [
        (resize, f"{HERE}.resize"),
        (shrink, "shrink"),
        (download, f"{HERE}.download"),
        (functools.partial(resize, "a"), f"{HERE}.resize"),
        (functools.partial(functools.partial(shrink, "a"), 1), "shrink"),
        (Service().send, f"{HERE}.Service.send"),
        (functools.partial(Service().send, "a"), f"{HERE}.Service.send"),
        (Service.make, f"{HERE}.Service.make"),
        (Service.check, f"{HERE}.Service.check"),
        (Service, f"{HERE}.Service"),
        (Service(), f"{HERE}.Service"),
        (types.MethodType(Service(), 1), f"{HERE}.Service"),
        (len, "builtins.len"),
        (int, "builtins.int"),
        (math.sqrt, "math.sqrt"),
        ([].append, "builtins.list.append"),
        (str.upper, "builtins.method_descriptor"),
        (operator.itemgetter(1), "operator.itemgetter"),
        (wrapped(resize), f"{HERE}.resize"),
        (functools.lru_cache(resize), "functools._lru_cache_wrapper"),
    ],
)
def test_names(func: Any, name: str) -> None:
    assert function_name(func) == name


def test_the_name_of_a_lambda() -> None:
    assert function_name(lambda: 1) == f"{HERE}.test_the_name_of_a_lambda.<locals>.<lambda>"


# -- Callables -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "func",
    [
        resize,
        fetch,
        awaitable,
        shrink,
        lambda: 1,
        functools.partial(resize, "a"),
        functools.partial(functools.partial(fetch), "a"),
        Service().send,
        Service.make,
        Service,
        Service(),
        Async(),
        Odd,
        len,
        int,
        [].append,
        str.upper,
        wrapped(resize),
        operator.itemgetter(1),
        functools.lru_cache(resize),
    ],
)
def test_callables_pass(func: Any) -> None:
    check_callable(func)


@pytest.mark.parametrize(
    ("func", "words"),
    [
        (5, "cannot call a value of type int"),
        ("app.resize", "cannot call a value of type str"),
        (None, "cannot call a value of type NoneType"),
        (Plain(), "cannot call a value of type Plain"),
        (Call(resize, ("a",), {}), "a Call is for enqueue and enqueue_many"),
        (numbers, "numbers is a generator function.*return a list"),
        (stream, "stream is a generator function"),
        (functools.partial(functools.partial(numbers)), "numbers is a generator function"),
        (Service().items, "Service.items is a generator function"),
        (Yields(), "Yields is a generator function"),
        (functools.partial(Yields()), "Yields is a generator function"),
    ],
)
def test_what_is_no_task_is_refused(func: Any, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        check_callable(func)


def test_a_coroutine_is_refused_and_closed() -> None:
    coroutine = fetch("a")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(
            ValidationError, match=r"fetch\(\.\.\.\), already called: pass fetch and its arguments"
        ):
            check_callable(coroutine)
        assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED
        del coroutine
        gc.collect()


# -- Arguments -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("func", "args", "kwargs"),
    [
        (resize, ("a",), {}),
        (resize, ("a", 1), {"crop": True}),
        (resize, (), {"key": "a", "width": 1}),
        (shrink, ("a",), {"width": 1}),
        (Service().send, ("a",), {}),
        (Service(), ("a",), {}),
        (Service, (), {"url": "a"}),
        (functools.partial(resize, width=1), ("a",), {}),
        (functools.partial(resize, width=1), ("a",), {"width": 2}),
        (len, ([],), {}),
        (int, ("1",), {"base": 10}),
        (print, (1, 2), {"sep": ""}),
        (max, (1, 2), {}),
        (wrapped(resize), (1, 2, 3, 4), {"anything": 1}),
        (Odd, (1,), {}),
        (types.MethodType(Service(), "a"), (), {}),
    ],
)
def test_arguments_that_fit(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    check_arguments(Call(func, args, kwargs))


@pytest.mark.parametrize(
    ("func", "args", "kwargs", "words"),
    [
        (resize, (), {}, f"{HERE}.resize does not take these arguments, missing a required argument: 'key'"),
        (resize, ("a", 1, 2), {}, "too many positional arguments.*it takes (key, width, crop)"),
        (resize, ("a",), {"key": "b"}, "multiple values for argument 'key'"),
        (resize, ("a",), {"size": 1}, "unexpected keyword argument 'size'"),
        (resize, ("a",), {"delay": 5}, "delay as an option goes through queue.options(delay=...)"),
        (shrink, (), {}, "shrink does not take these arguments"),
        (Service().send, (), {}, "missing a required argument: 'text': it takes (text, eta)"),
        (Service(), (), {}, "Service does not take these arguments, missing a required argument: 'text'"),
        (Async(), ("a", "b"), {}, "too many"),
        (Service, (1, 2), {}, "too many"),
        (functools.partial(resize, "a"), (1, 2), {}, "too many"),
        (len, (), {}, "builtins.len does not take these arguments"),
        (Odd, (), {}, "missing a required argument: 'size'"),
    ],
)
def test_arguments_that_do_not_fit(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        check_arguments(Call(func, args, kwargs))
    first, _, second = words.partition(".*")
    assert first in str(caught.value)
    assert second in str(caught.value)


def test_messages_show_no_values() -> None:
    def login(user: str, password: str = "secret-default") -> None: ...

    with pytest.raises(ValidationError) as caught:
        call(login, "a", "secret-argument", 3)  # type: ignore[call-overload]
    assert "secret" not in str(caught.value)


names = st.lists(st.sampled_from("abcdefg"), unique=True, max_size=5)


@st.composite
def signatures(draw: st.DrawFn) -> str:
    """The parameters of a function, in every mix of kinds and defaults."""
    positional, keyword_only = draw(names), draw(names)
    keyword_only = [name for name in keyword_only if name not in positional]
    slash = draw(st.integers(0, len(positional)))
    defaults = draw(st.integers(0, len(positional)))
    parts = [f"{name}=0" if i >= len(positional) - defaults else name for i, name in enumerate(positional)]
    if slash:
        parts.insert(slash, "/")
    star = draw(st.sampled_from(["", "*args"]))
    if star or keyword_only:
        parts.append(star or "*")
    parts += [f"{name}=0" if draw(st.booleans()) else name for name in keyword_only]
    if draw(st.booleans()):
        parts.append("**kwargs")
    return ", ".join(parts)


@unhurried
@given(signatures(), st.integers(0, 6), st.lists(st.sampled_from("abcdefgz"), unique=True, max_size=4))
def test_the_quick_check_agrees_with_inspect(parameters: str, given: int, keywords: list[str]) -> None:
    func = eval(f"lambda {parameters}: 0")
    made = Call[Any](func, (0,) * given, dict.fromkeys(keywords, 0))
    try:
        inspect.signature(func).bind(*made.args, **made.kwargs)
    except TypeError:
        with pytest.raises(TypeError):
            func(*made.args, **made.kwargs)
        with pytest.raises(ValidationError):
            check_arguments(made)
    else:
        check_arguments(made)


# -- Looking at functions --------------------------------------------------------------------------


def takes_eta(eta: int) -> None: ...
def keyword_eta(*, eta: int) -> None: ...
def positional_eta(eta: int, /) -> None: ...
def any_keyword(**kwargs: int) -> None: ...
def named_star(*eta: int) -> None: ...


def local_eta() -> None:
    eta = 1
    del eta


class TakesEta:
    def __init__(self, eta: int) -> None: ...


@pytest.mark.parametrize(
    ("func", "expected"),
    [
        (takes_eta, True),
        (keyword_eta, True),
        (positional_eta, False),
        (any_keyword, False),
        (named_star, False),
        (local_eta, False),
        (resize, False),
        (wrapped(takes_eta), True),
        (wrapped(wrapped(takes_eta)), True),
        (wrapped(resize), False),
        (task(takes_eta), True),
        (functools.partial(takes_eta), True),
        (Service().send, True),
        (Service(), False),
        (TakesEta, True),
        (Service, False),
        (len, False),
        (max, False),
        (Odd, False),
        (5, False),
    ],
)
def test_has_parameter(func: Any, expected: bool) -> None:
    assert has_parameter(func, "eta") is expected


@pytest.mark.parametrize(
    ("func", "expected"),
    [
        (resize, ["key", "width"]),
        (Service().send, ["text", "eta"]),
        (Service(), ["text"]),
        (shrink, ["key", "width"]),
        (any_keyword, []),
        (max, []),
    ],
)
def test_parameter_names(func: Any, expected: list[str]) -> None:
    assert parameter_names(func) == expected


def test_signatures_are_kept_weakly() -> None:
    bound = functools.partial(resize, "a")
    check_arguments(Call(bound, (), {}))
    gone = weakref.ref(bound)
    del bound
    gc.collect()
    assert gone() is None


# -- By reference or by value ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (resize, True),
        (Service, True),
        (Service.send, True),
        (Service.check, True),
        (shrink, True),
        (shrink.func, False),
        (other_name, False),
        (wrapped(resize), False),
        (lambda: 1, False),
        (int, True),
        (type(None), False),
        (json.loads, True),
    ],
)
def test_importable(value: Any, expected: bool) -> None:
    assert importable(value) is expected


def test_local_functions_are_not_importable() -> None:
    def local() -> None: ...

    class Local: ...

    assert not importable(local)
    assert not importable(Local)


@pytest.mark.parametrize("name", ["__main__", "__mp_main__", "no.such.module", None])
def test_functions_of_no_usable_module_are_not_importable(name: Any) -> None:
    def function() -> None: ...

    function.__module__ = name
    assert not importable(function)


@pytest.fixture
def by_hand(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module that nobody else can import: it stands in sys.modules, but has no spec."""
    module = types.ModuleType("made_by_hand")
    exec("def run(): return 1", vars(module))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def test_functions_of_a_module_made_by_hand_are_not_importable(by_hand: types.ModuleType) -> None:
    assert pickle.loads(pickle.dumps(by_hand.run)) is by_hand.run  # pickle itself does not mind
    assert not importable(by_hand.run)


def test_functions_of_a_module_registered_by_value_are_not_importable() -> None:
    registered = sys.modules[HERE]
    cloudpickle.register_pickle_by_value(registered)
    try:
        assert not importable(resize)
        assert not importable(shrink)
    finally:
        cloudpickle.unregister_pickle_by_value(registered)
    assert importable(resize)
