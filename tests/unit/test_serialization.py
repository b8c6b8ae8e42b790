"""Calls, values and errors as bytes: by reference, by value, and every way in which it can go wrong."""

import asyncio
import collections
import copyreg
import dataclasses
import decimal
import enum
import functools
import importlib
import json
import math
import operator
import pathlib
import pickle
import sqlite3
import subprocess
import sys
import textwrap
import threading
import types
import typing
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zlib import crc32

import cloudpickle
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sitq.errors import PayloadTooLargeError, TaskSerializationError
from sitq.failure import MAX_MESSAGE, MAX_TRACEBACK, ErrorInfo, decode_error, encode_error
from sitq.retry import RetryPolicy
from sitq.rules import NO_RULES, RunRules
from sitq.serialization import decode_call, decode_value, encode_call, encode_value
from sitq.task import Call, call, task

# A busy machine is no failure.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
HERE = __name__
MAX = 1024 * 1024
BY_REFERENCE, BY_VALUE = 1, 2

encode = functools.partial(encode_call, context=None, max_payload=MAX)
encode_result = functools.partial(encode_value, max_payload=MAX)


def codec(data: bytes) -> int:
    return data[3]


def there_and_back(func: Any, *args: Any, **kwargs: Any) -> Call[Any]:
    return decode_call(encode(Call(func, args, kwargs)))[0]


def resize(key: Any, width: Any = 100, **more: Any) -> Any:
    return key


@task(queue="images")
def shrink(key: Any) -> Any:
    return key


@dataclasses.dataclass
class Point:
    x: int
    y: int


class Colour(enum.Enum):
    RED = 1


class Pair(typing.NamedTuple):
    a: int
    b: int


class Slotted:
    __slots__ = ("a",)

    def __init__(self, a: int) -> None:
        self.a = a

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Slotted) and other.a == self.a

    __hash__ = None  # type: ignore[assignment]

    def method(self) -> int:
        return self.a


class Text(str):
    __slots__ = ()


class Needs(Exception):
    """Pickles, and then cannot be loaded: its arguments are lost."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")


# -- Calls there and back --------------------------------------------------------------------------

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers(), inner)
        | st.frozensets(st.integers())
    ),
    max_leaves=20,
)


@unhurried
@given(st.lists(plain), st.dictionaries(st.text(), plain), st.dictionaries(st.text(), plain))
def test_plain_data_comes_back(args: list[Any], kwargs: dict[str, Any], context: dict[str, Any]) -> None:
    made = Call[Any](resize, tuple(args), kwargs)
    data = encode_call(made, context, max_payload=MAX)
    assert decode_call(data) == (made, context, NO_RULES)
    assert codec(data) == BY_REFERENCE


def steps(attempt: int) -> float:
    return attempt * 1.5


rules_given = st.builds(
    RunRules,
    st.none()
    | st.builds(
        RetryPolicy,
        max_attempts=st.integers(1, 10**6),
        backoff=st.sampled_from(["linear", "constant", steps]),
        base=st.floats(0, 600),
        on=st.sampled_from([OSError, Needs, (Needs, ValueError)]),
    ),
    st.none() | st.floats(0.001, 10**6),
    st.none() | st.datetimes(timezones=st.just(UTC)),
    st.none() | st.floats(0, 10**6),  # given: drawn as any float it may be no number, which equals nothing
    carried=st.none() | st.dictionaries(st.text(), plain, min_size=1),
)


@unhurried
@given(rules_given, st.lists(plain), st.dictionaries(st.text(), plain))
def test_rules_come_back(rules: RunRules, args: list[Any], context: dict[str, Any]) -> None:
    made = Call[Any](resize, tuple(args), {})
    data = encode_call(made, context, max_payload=MAX, rules=rules)
    assert decode_call(data) == (made, context, rules)
    assert codec(data) == BY_REFERENCE


def test_no_rules_add_nothing() -> None:
    bare = encode(Call(resize, (1,), {}))
    assert encode(Call(resize, (1,), {}), rules=RunRules()) == bare
    assert len(encode(Call(resize, (1,), {}), rules=RunRules(timeout=5.0))) < len(bare) + 30
    assert decode_call(bare)[2] is NO_RULES


@pytest.mark.parametrize("rest", [(), ({"a": 1},)])
def test_calls_from_before_there_were_rules(rest: tuple[Any, ...]) -> None:
    data = sealed(pickle.dumps((resize, (1,), {"width": 2}, *rest)))
    context = rest[0] if rest else {}
    assert decode_call(data) == (Call(resize, (1,), {"width": 2}), context, NO_RULES)


@pytest.mark.parametrize("rest", [(), (5.0,), (5.0, None, None)])
def test_rules_of_another_version(rest: tuple[Any, ...]) -> None:
    data = sealed(pickle.dumps((resize, (), {}, {}, (None, *rest))))
    assert decode_call(data)[2] == RunRules(timeout=rest[0] if rest else None)


def test_rules_that_are_not_known_are_not_passed_over() -> None:
    data = sealed(pickle.dumps((resize, (), {}, {}, (*NO_RULES, "sideways"))))
    with pytest.raises(TaskSerializationError, match="rules that this sitq does not know"):
        decode_call(data)


@unhurried
@given(plain)
def test_plain_values_come_back(value: Any) -> None:
    data = encode_result(value)
    assert decode_value(data) == value
    assert codec(data) == BY_REFERENCE


SOME = [
    Point(1, 2),
    Colour.RED,
    Pair(1, 2),
    Slotted(3),
    Text("a"),
    datetime(2026, 1, 1, tzinfo=UTC),
    decimal.Decimal("1.5"),
    uuid.UUID(int=1),
    pathlib.PurePosixPath("a"),
    collections.OrderedDict(a=1),
    collections.Counter("aab"),
    {1, 2},
    bytearray(b"a"),
    range(3),
    1 + 2j,
    10**4000,
    ValueError("a"),
    Point,
    len,
    math.sqrt,
    resize,
    shrink,
    ...,
    int,
    list[int],
    operator.itemgetter(1),
    [Point(1, 2), {"a": (Colour.RED,)}],
]


@pytest.mark.parametrize("value", SOME, ids=lambda value: type(value).__name__)
def test_what_can_be_imported_goes_by_reference(value: Any) -> None:
    data = encode(Call(resize, (value,), {"key": value}))
    assert codec(data) == BY_REFERENCE
    found, context, _ = decode_call(data)
    assert found.func is resize
    if not isinstance(value, Exception | operator.itemgetter):
        assert found.args == (value,)
        assert found.kwargs == {"key": value}
        assert decode_value(encode_result(value)) == value
    assert type(found.args[0]) is type(value)
    assert context == {}


def captured() -> tuple[Callable[[int], int], Any]:
    step = 5

    class Local:
        def __init__(self, a: int) -> None:
            self.a = a + step

    def add(a: int) -> int:
        return Local(a).a

    return add, Local


ADD, LOCAL = captured()


@pytest.mark.parametrize(
    "value",
    [
        ADD,
        LOCAL,
        LOCAL(1),
        [{"a": (LOCAL(1),)}],
        lambda: 1,
        functools.partial(ADD, 1),
        LOCAL(1).__init__,
        sys,
        memoryview(b"a"),
        {}.keys(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_goes_by_value(value: Any) -> None:
    data = encode(Call(resize, (value,), {}))
    assert codec(data) == BY_VALUE
    assert decode_call(data)[0].func is resize


def test_a_local_function_runs_with_what_it_captured() -> None:
    assert there_and_back(ADD).func(1) == 6
    assert there_and_back(resize, LOCAL(1)).args[0].a == 6


@pytest.mark.parametrize(
    ("func", "args", "result"),
    [
        (resize, ("a",), "a"),
        (shrink, ("a",), "a"),
        (Slotted(4).method, (), 4),
        (functools.partial(resize, "b"), (), "b"),
        (Point, (1, 2), Point(1, 2)),
        (len, ("abc",), 3),
        ("abc".upper, (), "ABC"),
        (lambda a: a * 2, (4,), 8),
        (task(name="local")(lambda a: a * 3), (4,), 12),
    ],
)
def test_every_kind_of_callable(func: Any, args: tuple[Any, ...], result: Any) -> None:
    found = there_and_back(func, *args)
    assert found.func(*found.args, **found.kwargs) == result
    assert found.name == call(func, *args).name


def test_the_context_travels_along() -> None:
    data = encode_call(call(resize, 1), {"user": Point(1, 2)}, max_payload=MAX)
    assert decode_call(data)[1] == {"user": Point(1, 2)}


def test_the_names_of_keywords_are_looked_at_too() -> None:
    class Local(str):
        __slots__ = ()

    data = encode(Call(resize, (), {Local("key"): 1}))
    assert codec(data) == BY_VALUE


def test_a_function_that_was_replaced_in_its_module_goes_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    original = resize
    monkeypatch.setattr(sys.modules[HERE], "resize", None)
    data = encode(Call(original, (1,), {}))
    assert codec(data) == BY_VALUE
    assert decode_call(data)[0].func(7) == 7


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The path of a module `changing`, which can be imported once something is written there."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path / "changing.py"
    sys.modules.pop("changing", None)


def test_a_function_is_that_of_its_module_as_it_is_now(module: Path) -> None:
    module.write_text("def work(): return 'first'")
    imported = importlib.import_module("changing")
    data = encode(Call(imported.work, (), {}))
    assert decode_call(data)[0].func is imported.work
    module.write_text("def work(): return 'after a reload'")
    importlib.reload(imported)
    assert decode_call(data)[0].func() == "after a reload"
    del sys.modules["changing"]
    module.write_text("def work(): return 'of a new import'")
    assert decode_call(data)[0].func() == "of a new import"
    del sys.modules["changing"].work
    with pytest.raises(TaskSerializationError, match=r"AttributeError.*PYTHONPATH"):
        decode_call(data)


def test_a_function_of_a_module_that_is_being_imported_is_waited_for(
    module: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module.write_text("def work(): return 'final'")
    data = encode(Call(importlib.import_module("changing").work, (), {}))
    del sys.modules["changing"]
    reached, go_on = threading.Event(), threading.Event()
    monkeypatch.setattr(sys, "test_gate", (reached, go_on), raising=False)
    module.write_text(
        "import sys\n"
        "def work(): return 'half loaded'\n"
        "sys.test_gate[0].set(); assert sys.test_gate[1].wait(30)\n"
        "def work(): return 'final'"
    )
    with ThreadPoolExecutor(2) as pool:
        importing = pool.submit(importlib.import_module, "changing")
        assert reached.wait(30)
        decoding = pool.submit(decode_call, data)
        with pytest.raises(TimeoutError):
            decoding.result(0.1)
        go_on.set()
        assert decoding.result(30)[0].func() == "final"
        importing.result(30)


# -- What other processes cannot import ------------------------------------------------------------


def run_python(path: Path, *args: str) -> str:
    run = subprocess.run(
        [sys.executable, str(path), *args],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=path.parent,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


SCRIPT = """
    import enum, subprocess, sys, typing
    from dataclasses import dataclass
    from sitq.serialization import decode_value, encode_call
    from sitq.task import call, task

    FACTOR = 3

    @dataclass
    class Point:
        x: int
        y: int

        def scaled(self, by):
            return Point(self.x * by, self.y * by)

    class Colour(enum.Enum):
        RED = 1

    class Pair(typing.NamedTuple):
        a: Point
        b: Point

    def helper(point):
        return point.scaled(FACTOR)

    def triple(points, *, colour):
        assert colour is Colour.RED
        return [helper(point) for point in points["points"]]

    @task(queue="big")
    def shift(pair):
        return Pair(pair.a, shift.func and helper(pair.b))

    WORKER = '''
    import sys
    from sitq.serialization import decode_call, encode_value
    call, context, _ = decode_call(sys.stdin.buffer.read())
    assert "Point" not in dir(sys.modules["__main__"])
    sys.stdout.buffer.write(encode_value(call.func(*call.args, **call.kwargs), max_payload=10**6))
    '''

    def send(made):
        data = encode_call(made, None, max_payload=10**6)
        worker = [sys.executable, "-c", WORKER.replace("\\n    ", "\\n")]
        return decode_value(subprocess.run(worker, input=data, stdout=subprocess.PIPE, check=True).stdout)

    if __name__ == "__main__":
        assert send(call(triple, {"points": (Point(1, 2),)}, colour=Colour.RED)) == [Point(3, 6)]
        assert send(call(shift, Pair(Point(0, 0), Point(1, 1)))) == Pair(Point(0, 0), Point(3, 3))
        assert send(call(Point(1, 1).scaled, 5)) == Point(5, 5)
        assert send(call(Point, 1, y=2)) == Point(1, 2)
        print("ok")
"""


def test_a_script_sends_its_own_functions_and_instances(tmp_path: Path) -> None:
    """Its worker has never seen the script. What comes back is of the script's own classes."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    assert run_python(script) == "ok\n"


def test_a_spawned_process_sends_functions_of_its_parents_script(tmp_path: Path) -> None:
    """multiprocessing calls the script `__mp_main__` there."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        import multiprocessing, subprocess, sys
        from sitq.serialization import encode_call
        from sitq.task import call

        class Box:
            pass

        def double(box):
            assert double.__module__ == "__mp_main__"
            return box.value * 2

        def child(queue):
            box = Box()
            box.value = 21
            queue.put(encode_call(call(double, box), None, max_payload=10**6))

        if __name__ == "__main__":
            context = multiprocessing.get_context("spawn")
            queue = context.Queue()
            process = context.Process(target=child, args=(queue,))
            process.start()
            data = queue.get(timeout=30)
            process.join()
            code = '''
        import sys
        from sitq.serialization import decode_call
        call, *_ = decode_call(sys.stdin.buffer.read())
        print(call.func(*call.args))
        '''
            print(subprocess.run([sys.executable, "-c", code], input=data, stdout=subprocess.PIPE).stdout.decode())
        """)
    )
    assert run_python(script).strip() == "42"


@pytest.fixture
def by_hand(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """A module without a spec: no other process can import it, though it stands in sys.modules."""
    module = types.ModuleType("made_by_hand")
    code = """
    FACTOR = 2
    class Box:
        def __init__(self, value): self.value = value
    def double(box): return box.value * FACTOR
    """
    exec(textwrap.dedent(code), vars(module))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    yield module
    if module.__name__ in cloudpickle.list_registry_pickle_by_value():
        cloudpickle.unregister_pickle_by_value(module)


@pytest.mark.parametrize("nested", [False, True])
def test_modules_made_by_hand_go_by_value(
    by_hand: types.ModuleType, monkeypatch: pytest.MonkeyPatch, nested: bool
) -> None:
    box = by_hand.Box(4)
    made = Call[Any](resize, ([{"box": box}],), {}) if nested else Call[Any](by_hand.double, (box,), {})
    data, whole = encode(made), encode(Call(resize, (by_hand,), {}))
    monkeypatch.delitem(sys.modules, by_hand.__name__)

    found, *_ = decode_call(data)
    value = found.args[0][0]["box"].value if nested else found.func(*found.args)
    assert value == (4 if nested else 8)
    assert decode_call(whole)[0].args[0].FACTOR == 2


def test_a_module_that_stands_nowhere_goes_by_value() -> None:
    module = types.ModuleType("nowhere")
    vars(module)["FACTOR"] = 3
    assert there_and_back(resize, module).args[0].FACTOR == 3


def test_modules_registered_by_value_go_by_value() -> None:
    here = sys.modules[HERE]
    cloudpickle.register_pickle_by_value(here)
    try:
        made = Call[Any](resize, (Point(1, 2),), {})
        data = encode(made)
        named = encode(Call(shrink, (1,), {}))
    finally:
        cloudpickle.unregister_pickle_by_value(here)
    assert codec(data) == codec(named) == BY_VALUE
    found, *_ = decode_call(data)
    assert found.func is not resize
    assert decode_call(named)[0].func(3) == 3


class Missing:
    """A constant that pickles as its name, as sentinels do."""

    def __reduce__(self) -> str:
        return "MISSING"


MISSING = Missing()


def test_a_constant_goes_as_its_name() -> None:
    assert there_and_back(resize, MISSING).args[0] is MISSING


def test_a_constant_of_main_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    constant = Missing()
    monkeypatch.setattr(sys.modules["__main__"], "MISSING", constant, raising=False)
    monkeypatch.setattr(Missing, "__module__", "__main__")
    with pytest.raises(TaskSerializationError, match="the name 'MISSING' in __main__, which a worker lacks"):
        encode(Call(resize, (constant,), {}))


# -- What cannot be sent ---------------------------------------------------------------------------


class Raises:
    """Fails in one of the hooks of pickle, with a given error."""

    def __init__(self, hook: str, error: BaseException) -> None:
        self.hook = hook
        self.error = error

    def fail(self, hook: str) -> None:
        if self.hook == hook:
            raise self.error

    def __reduce_ex__(self, protocol: Any) -> Any:
        self.fail("__reduce_ex__")
        return object.__reduce_ex__(self, protocol)

    def __getstate__(self) -> Any:
        self.fail("__getstate__")
        return {"hook": self.hook, "error": self.error}

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state)
        self.fail("__setstate__")


class Mute(BaseException):
    def __str__(self) -> str:
        raise SystemExit

    def __repr__(self) -> str:
        return "Mute()"


class Lies(str):
    """A str whose methods are not those of a str."""

    __slots__ = ()

    def encode(self, *args: Any) -> Any:
        raise RuntimeError

    def __format__(self, spec: str) -> str:
        raise RuntimeError


class Answers(Exception):
    def __str__(self) -> str:
        return Lies("an answer")


ERRORS = [
    ValueError("no"),
    SystemExit(3),
    GeneratorExit(),
    asyncio.CancelledError(),
    RecursionError("deep"),
    MemoryError(),
    Mute(),
    Answers(),
    StopIteration(),
    pickle.PicklingError("odd"),
]


@pytest.mark.parametrize("hook", ["__reduce_ex__", "__getstate__"])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors_of_hooks_while_encoding(hook: str, error: BaseException) -> None:
    value = Raises(hook, error)
    name = type(error).__qualname__
    with pytest.raises(
        TaskSerializationError, match=rf"argument 1 \(`key`: {HERE}.Raises\) of {HERE}.resize.*{name}"
    ):
        encode(Call(resize, (value,), {}))
    with pytest.raises(
        TaskSerializationError, match=rf"the result \({HERE}.Raises\) cannot be pickled: .*{name}"
    ):
        encode_result(value)


@pytest.mark.parametrize("error", [*ERRORS, KeyboardInterrupt()], ids=lambda error: type(error).__name__)
def test_errors_of_hooks_while_decoding(error: BaseException) -> None:
    value = Raises("__setstate__", error)
    name = type(error).__qualname__
    with pytest.raises(TaskSerializationError, match=rf"the call cannot be loaded: .*{name}"):
        decode_call(encode(Call(resize, (value,), {})))
    with pytest.raises(TaskSerializationError, match=f"cannot be loaded again: .*{name}"):
        encode_result(value)


def test_an_interrupt_reaches_the_caller_and_not_the_worker() -> None:
    value = Raises("__reduce_ex__", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        encode(Call(resize, (value,), {}))
    with pytest.raises(TaskSerializationError):
        encode_result(value)
    late = sealed(pickle.dumps(Raises("__setstate__", KeyboardInterrupt())))
    with pytest.raises(KeyboardInterrupt):
        decode_value(late)
    with pytest.raises(TaskSerializationError):
        decode_call(late)


def test_what_pickles_but_does_not_load_is_no_result() -> None:
    assert pickle.dumps(Needs(1, 2))
    with pytest.raises(TaskSerializationError, match=r"\(list\) cannot be loaded again: TypeError: Needs"):
        encode_result([Needs(1, 2)])


CONNECTION = sqlite3.connect(":memory:")
LOCK = threading.Lock()


def teardown_module() -> None:
    CONNECTION.close()


def uses_lock() -> None:
    with LOCK:
        pass


def closes_over() -> Callable[[], Any]:
    connection = CONNECTION
    return lambda: connection


@pytest.mark.parametrize(
    ("made", "context", "words"),
    [
        (
            Call[Any](resize, (1, CONNECTION), {}),
            {},
            f"argument 2 (`width`: sqlite3.Connection) of {HERE}.resize cannot be pickled: TypeError: ",
        ),
        (Call[Any](print, (1, CONNECTION), {}), {}, "argument 2 (sqlite3.Connection) of builtins.print"),
        (Call[Any](resize, (1,), {"db": CONNECTION}), {}, "argument `db` (sqlite3.Connection)"),
        (Call[Any](resize, ([CONNECTION],), {}), {}, "argument 1 (`key`: list)"),
        (
            Call[Any](resize, (1,), {}),
            {"db": CONNECTION},
            "context['db'] (sqlite3.Connection) cannot be pickled",
        ),
        (
            Call[Any](closes_over(), (), {}),
            {},
            "goes by value, and its `connection` (sqlite3.Connection) cannot",
        ),
        (Call[Any](Raises("__reduce_ex__", ValueError()).fail, ("",), {}), {}, "the function"),
        (
            Call[Any](CONNECTION.execute, ("",), {}),
            {},
            "the function sqlite3.Connection.execute cannot be pickled",
        ),
    ],
)
def test_the_part_that_cannot_be_sent_is_named(made: Call[Any], context: dict[str, Any], words: str) -> None:
    with pytest.raises(TaskSerializationError) as caught:
        encode_call(made, context, max_payload=MAX)
    assert words in str(caught.value)


def test_an_exception_of_a_script_goes_along_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    class Flaky(Exception):
        pass

    def fails() -> None:
        raise Flaky

    rules = RunRules(retry=RetryPolicy(on=Flaky))
    data = encode(Call(fails, (), {}), rules=rules)
    assert codec(data) == BY_VALUE
    out = subprocess.run(
        [sys.executable, "-c", RAISES_WHAT_IT_RETRIES],
        input=data,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert out.stdout.split() == [b"True"], out.stderr


RAISES_WHAT_IT_RETRIES = """
import sys
from sitq.retry import is_retryable
from sitq.serialization import decode_call
call, _, rules = decode_call(sys.stdin.buffer.read())
try:
    call.func()
except Exception as error:
    print(is_retryable(rules.retry, error))
"""


def unsendable(base: type) -> Any:
    return type("Unsendable", (base,), {"lock": threading.Lock(), "__module__": "__main__"})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"on": unsendable(ValueError)}, "on of retry has Unsendable in it, which cannot be pickled"),
        ({"give_up_on": unsendable(ValueError)}, "give_up_on of retry has Unsendable in it, which cannot"),
        ({"backoff": lambda attempt, lock=LOCK: 1}, "the backoff of retry (function) cannot be pickled"),
    ],
)
def test_a_part_of_retry_that_cannot_be_sent_is_named(given: Any, words: str) -> None:
    with pytest.raises(TaskSerializationError) as caught:
        encode(Call(resize, (), {}), rules=RunRules(retry=RetryPolicy(**given)))
    assert words in str(caught.value)
    assert "a module that the worker can import" in str(caught.value)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (LOCK, "what context provider 'request' captured (_thread.lock) cannot be pickled"),
        ({"id": 1, "lock": LOCK}, "'lock' (_thread.lock), captured by context provider 'request', cannot be"),
    ],
)
def test_what_a_context_provider_captured_is_named(data: Any, words: str) -> None:
    with pytest.raises(TaskSerializationError) as caught:
        encode(Call(resize, (), {}), rules=RunRules(carried={"other": 1, "request": data}))
    assert words in str(caught.value)
    assert "plain data" in str(caught.value)


def test_a_global_that_cannot_go_along_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uses_lock, "__module__", "__main__")
    with pytest.raises(
        TaskSerializationError, match=r"goes by value, and its `LOCK` .*move the function into a module"
    ):
        encode(Call(uses_lock, (), {}))


def test_a_closure_that_cannot_be_inspected() -> None:
    lock = threading.Lock()

    def uses() -> Any:
        return lock, later

    with pytest.raises(TaskSerializationError, match=r"the call of .*uses cannot be pickled: TypeError"):
        encode(Call(uses, (), {}))
    later = 1
    with pytest.raises(
        TaskSerializationError, match=r"its `lock` \(_thread\.lock\) cannot be pickled: TypeError"
    ):
        encode(Call(uses, (), {}))
    assert uses() == (lock, later)


def deep(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def test_too_deep_is_refused() -> None:
    value = deep(100_000)
    with pytest.raises(TaskSerializationError, match=r"argument 1.*RecursionError"):
        encode(Call(resize, (value,), {}))
    with pytest.raises(TaskSerializationError, match="RecursionError"):
        encode_result(value)


def test_hostile_metaclass() -> None:
    class Meta(type):
        def __getattribute__(cls, name: str) -> Any:
            raise Mute

    class Strange(metaclass=Meta):
        pass

    with pytest.raises(TaskSerializationError, match=r"argument 1 \(`key`: \?\)"):
        encode(Call(resize, (Strange(),), {}))
    with pytest.raises(TaskSerializationError):
        encode_result(Strange())


def test_a_reducer_from_copyreg_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    class Opaque:
        def __reduce__(self) -> Any:
            raise TypeError

    monkeypatch.setitem(copyreg.dispatch_table, Opaque, lambda _: (int, (5,)))
    data = encode(Call(resize, (Opaque(),), {}))
    assert codec(data) == BY_REFERENCE
    assert decode_call(data)[0].args == (5,)


@pytest.mark.parametrize("extra", [0, 1])
def test_size_limits_are_exact(extra: int) -> None:
    made = Call[Any](resize, ("x" * 100,), {})
    size, result_size = len(encode(made)), len(encode_result(Point(1, 2)))
    if not extra:
        assert encode_call(made, None, max_payload=size)
        assert encode_value(Point(1, 2), max_payload=result_size)
        return
    with pytest.raises(
        PayloadTooLargeError, match=f"resize is {size} bytes encoded, and max_payload is {size - 1}:"
    ):
        encode_call(made, None, max_payload=size - 1)
    with pytest.raises(PayloadTooLargeError, match=f"result is {result_size} bytes .* is {result_size - 1}:"):
        encode_value(Point(1, 2), max_payload=result_size - 1)


# -- Bytes that are not what they should be --------------------------------------------------------


def sealed(
    body: bytes, version: int = 1, codec: int = 1, python: tuple[int, int] = sys.version_info[:2]
) -> bytes:
    return b"sq" + bytes([version, codec, *python]) + crc32(body).to_bytes(4) + body


class Trap:
    """Loading this is the mistake."""

    sprung = False

    def __reduce__(self) -> Any:
        return setattr, (Trap, "sprung", True)


TRAP = pickle.dumps(Trap())


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a call written by sitq"),
        (b"sq\x01\x01", "not a call written by sitq"),
        (TRAP, "not a call written by sitq"),
        (sealed(TRAP, version=2), "envelope version 2 and codec 1"),
        (sealed(TRAP, codec=9), "envelope version 1 and codec 9"),
        (sealed(TRAP, codec=2, python=(3, 12)), "from Python 3.12, and this is Python 3"),
        (sealed(TRAP, codec=2, python=(4, 0)), "bytecode does not cross versions"),
        (sealed(TRAP)[:-1], "damaged"),
        (sealed(TRAP) + b"a", "damaged"),
    ],
)
def test_refused_before_it_is_loaded(data: bytes, words: str) -> None:
    with pytest.raises(TaskSerializationError, match=words):
        decode_call(data)
    with pytest.raises(TaskSerializationError):
        decode_value(data)
    assert not Trap.sprung


def test_references_cross_python_versions() -> None:
    body = pickle.dumps((resize, (1,), {}))
    assert decode_call(sealed(body, python=(3, 14)))[0] == Call(resize, (1,), {})


@pytest.mark.parametrize("value", [None, 5, (), (1, 2), (1, 2, 3, 4, 5), [1, 2, 3]])
def test_a_result_is_no_call(value: Any) -> None:
    with pytest.raises(TaskSerializationError, match="a result, not a call"):
        decode_call(encode_result(value))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"cno.such.module\nf\n.", "ModuleNotFoundError: No module named 'no.*PYTHONPATH"),
        (b"cmath\nno_such_name\n.", "AttributeError.*PYTHONPATH"),
        (b"", "EOFError"),
        (b"\xff", "UnpicklingError"),
        (b"cposix\n_exit_\n.", "AttributeError"),
        (b"cbuiltins\nexit\n(I3\ntR.", "SystemExit"),
    ],
)
def test_what_cannot_be_loaded(body: bytes, words: str) -> None:
    for decode in (decode_call, decode_value):
        with pytest.raises(TaskSerializationError, match=words):
            decode(sealed(body))


def test_every_flipped_bit_is_noticed() -> None:
    made = Call[Any](resize, ("a", Point(1, 2)), {})
    for data in (encode(made), encode(Call(lambda: 1, (), {}))):
        for place in range(len(data) * 8):
            bad = bytearray(data)
            bad[place // 8] ^= 1 << place % 8
            if place // 8 in (4, 5) and codec(data) == BY_REFERENCE:
                continue  # the Python version, which does not matter here
            with pytest.raises(TaskSerializationError):
                decode_call(bytes(bad))


@unhurried
@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda tail: encode_result("a")[:6] + tail))
def test_noise_is_refused(data: bytes) -> None:
    for decode in (decode_call, decode_value, decode_error):
        with pytest.raises(TaskSerializationError):
            decode(data)


# -- Errors ----------------------------------------------------------------------------------------


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def info(error: BaseException) -> ErrorInfo:
    return decode_error(encode_error(error))


def test_an_error_is_readable_json() -> None:
    data = encode_error(raised(ValueError("too wide: ü")))
    fields = json.loads(data)
    assert (fields["type"], fields["message"]) == ("ValueError", "too wide: ü")
    assert fields["traceback"].startswith("Traceback (most recent call last):")
    assert fields["traceback"].endswith("ValueError: too wide: ü\n")
    assert "ü".encode() in data


def test_the_type_has_its_module() -> None:
    assert info(Needs(1, 2)).type == f"{HERE}.Needs"
    assert info(asyncio.CancelledError()).type == "asyncio.exceptions.CancelledError"
    assert info(SystemExit(3)) == ErrorInfo("SystemExit", "3", "SystemExit: 3\n")


def test_an_error_may_say_that_retries_are_exhausted() -> None:
    data = encode_error(ValueError("no"), exhausted=True)
    assert json.loads(data)["exhausted"] is True
    assert decode_error(data) == ErrorInfo("ValueError", "no", "ValueError: no\n", exhausted=True)
    assert decode_error(encode_error(decode_error(data))) == decode_error(data)
    assert "exhausted" not in json.loads(encode_error(ValueError("no")))


@pytest.mark.parametrize("value", [1, "yes", None])
def test_no_other_word_for_exhausted(value: Any) -> None:
    fields = {"type": "", "message": "", "traceback": "", "exhausted": value}
    with pytest.raises(TaskSerializationError, match="not an error written by sitq"):
        decode_error(json.dumps(fields).encode())


def test_an_info_stays_as_it_is() -> None:
    given = ErrorInfo("worker_lost", "the worker died 3 times")
    assert decode_error(encode_error(given)) == given


def test_locals_are_not_recorded() -> None:
    def login(password: str) -> None:
        raise ValueError("no")

    password = "very" + "secret"
    with pytest.raises(ValueError, match="no") as caught:
        login(password)
    assert "verysecret" not in info(caught.value).traceback


def test_causes_notes_and_groups_are_recorded() -> None:
    try:
        try:
            raise KeyError("first")
        except KeyError as first:
            raise ValueError("second") from first
    except ValueError as second:
        second.add_note("a note")
        text = info(second).traceback
    assert text.index("KeyError: 'first'") < text.index("direct cause") < text.index("ValueError: second")
    assert "a note" in text
    group = raised(ExceptionGroup("several", [raised(ValueError("one")), raised(TypeError("two"))]))
    text = info(group).traceback
    assert "ValueError: one" in text
    assert "TypeError: two" in text


def function_of(module: str, code: str, **scope: Any) -> Callable[..., Any]:
    """A function that says it is of this module."""
    space: dict[str, Any] = {"__name__": module, **scope}
    exec(code, space)
    found: Callable[..., Any] = space["run"]
    return found


def frames_of(caught: pytest.ExceptionInfo[ValueError]) -> list[str]:
    first = caught.value.__traceback__
    assert first is not None
    text = info(caught.value.with_traceback(first.tb_next)).traceback  # without the frame of the test
    return [line.rpartition(" ")[2] for line in text.splitlines() if line.startswith("  File")]


def test_frames_of_the_machinery_are_left_out() -> None:
    def task_function() -> None:
        json.loads("nonsense")

    runner = function_of("sitq.worker.runners", "def run(func):\n    func()")
    thread = function_of("concurrent.futures.thread", "def run(func):\n    inner(func)", inner=runner)
    executor = function_of("sitq.worker.executor", "def run(func):\n    inner(func)", inner=thread)
    with pytest.raises(ValueError, match="Expecting value") as caught:
        executor(task_function)
    assert frames_of(caught) == ["task_function", "loads", "decode", "raw_decode"]


def test_an_error_of_sitq_itself_keeps_its_frames() -> None:
    with pytest.raises(ValueError, match="own") as caught:
        function_of("sitq.task", "def run():\n    raise ValueError('own')")()
    assert frames_of(caught) == ["run"]


class BadStr(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


class NotStr(Exception):
    def __str__(self) -> str:
        return typing.cast("str", 5)


class BadNotes(Exception):
    @property
    def __notes__(self) -> Any:
        raise SystemExit


class BadName(Exception):
    pass


BadName.__module__ = 5  # type: ignore[assignment]
BadName.__qualname__ = "a\ud800b"


class BadCause(Exception):
    @property
    def __traceback__(self) -> Any:  # type: ignore[override]
        raise SystemExit


def long_chain() -> BaseException:
    error: BaseException = ValueError("end")
    for _ in range(3000):
        following = ValueError("x" * 100)
        following.__cause__ = error
        error = following
    return error


@pytest.mark.parametrize(
    "error",
    [
        BadStr(),
        NotStr(),
        BadNotes(),
        BadName("a"),
        BadCause(),
        Mute(),
        Answers(),
        ValueError("\ud800 and \x00"),
        ValueError(b"\xff"),
        ValueError("x" * 1_000_000),
        ValueError("\N{SNOWMAN}" * 100_000),
        ValueError(Lies("a")),
        SyntaxError("bad", ("file", 10**6, -5, object(), None, "x")),
        KeyError(BadStr()),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "why"),
        ExceptionGroup("g", [BadStr(), Mute.__new__(BadNotes)]),
        long_chain(),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_any_exception_becomes_an_error(error: BaseException) -> None:
    data = encode_error(raised(error))
    found = decode_error(data)
    assert found.type
    assert len(found.message.encode()) <= MAX_MESSAGE
    assert len(found.traceback.encode()) <= MAX_TRACEBACK
    assert decode_error(encode_error(found)) == found


def test_long_texts_keep_both_ends() -> None:
    message = "head " + "x" * 20_000 + " tail"
    found = info(ValueError(message))
    assert found.message.startswith("head x")
    assert found.message.endswith("x tail")
    assert "bytes left out" in found.message
    assert len(found.message) > MAX_MESSAGE - 100


def test_short_texts_are_whole() -> None:
    assert info(ValueError("x" * MAX_MESSAGE)).message == "x" * MAX_MESSAGE


def test_lone_surrogates_are_replaced() -> None:
    assert info(ValueError("a\ud800b")).message == r"a\ud800b"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff",
        b'{"type": 1, "message": "", "traceback": ""}',
        b'"type"',
        b"[" * 100_000,
    ],
)
def test_what_is_no_error_is_refused(data: bytes) -> None:
    with pytest.raises(TaskSerializationError, match="not an error written by sitq"):
        decode_error(data)


@unhurried
@given(st.text(), st.text(), st.text())
def test_errors_come_back(kind: str, message: str, traceback: str) -> None:
    given = ErrorInfo(kind, message, traceback)
    assert decode_error(encode_error(given)) == given


# -- Values of every hostility ---------------------------------------------------------------------

hostile = st.recursive(
    st.builds(
        Raises,
        st.sampled_from(["__reduce_ex__", "__getstate__", "__setstate__", "never"]),
        st.sampled_from(ERRORS),
    )
    | st.builds(Needs, st.integers(), st.integers())
    | st.sampled_from([*SOME, CONNECTION, LOCK, ADD, LOCAL, Mute(), (i for i in ()), sys.stdout, sys])
    | st.integers(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=5,
)


@unhurried
@given(hostile)
def test_nothing_but_our_errors_gets_out(value: Any) -> None:
    try:
        data = encode(Call(resize, (value,), {}))
        decode_call(data)
    except TaskSerializationError as error:
        encode_error(error)
    try:
        data = encode_result(value)
    except TaskSerializationError as error:
        encode_error(error)
    else:
        decode_value(data)  # what was accepted can be read
