"""JSON, msgpack and formats of one's own: what they carry, what they refuse, and that they take nothing from bytes."""

import builtins
import collections
import enum
import functools
import json
import math
import typing
import zoneinfo
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sitq.backends.memory import MemoryBackend
from sitq.errors import PayloadRefusedError, TaskSerializationError, ValidationError
from sitq.handle import TaskHandle
from sitq.queue import TaskQueue
from sitq.retry import RetryPolicy
from sitq.rules import NO_RULES, RunRules
from sitq.serialization import (
    About,
    CallParts,
    CloudpickleSerializer,
    JSONSerializer,
    MsgpackSerializer,
    Purpose,
    Serializer,
    TreeSerializer,
    pack,
    unpack,
)
from sitq.serialization.formats import RULES
from sitq.task import Call, task
from tests.fixtures.payloads import TAGGED, Colour, Invoice, Pair, waits, work

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
CALL = About("t1", Purpose.CALL)
RESULT = About("t1", Purpose.RESULT)
TYPES = [Colour, Pair, Invoice, waits]
MAKERS: list[Callable[..., TreeSerializer]] = [JSONSerializer, MsgpackSerializer]


@pytest.fixture(params=MAKERS, ids=lambda each: each.__name__)
def serializer(request: pytest.FixtureRequest) -> TreeSerializer:
    made: TreeSerializer = request.param(tasks=[work], types=TYPES)
    return made


def there_and_back(serializer: TreeSerializer, value: Any) -> Any:
    return serializer.decode_value(serializer.encode_value(value, RESULT), RESULT)


# -- Values ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", TAGGED, ids=lambda value: ascii(value)[:40])
def test_a_value_arrives_as_what_it_was(serializer: TreeSerializer, value: Any) -> None:
    found = there_and_back(serializer, value)
    assert (type(found), repr(found)) == (type(value), repr(value))


def test_a_time_keeps_its_zone_and_its_fold(serializer: TreeSerializer) -> None:
    for value in (
        datetime(2026, 10, 25, 2, 30, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"), fold=1),
        datetime(2026, 10, 25, 2, 30, fold=1),
        datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=5, minutes=45, seconds=1, microseconds=2))),
        time(1, 2, 3, 4, tzinfo=UTC, fold=1),
    ):
        found = there_and_back(serializer, value)
        assert (found, found.tzinfo, found.fold, found.utcoffset()) == (
            value,
            value.tzinfo,
            value.fold,
            value.utcoffset(),
        )


def test_numbers_that_formats_lack(serializer: TreeSerializer) -> None:
    assert math.isnan(there_and_back(serializer, float("nan")))
    assert math.copysign(1, there_and_back(serializer, -0.0)) == -1
    assert there_and_back(serializer, Decimal("NaN")).is_nan()
    for number in (2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64, 10**5000, -(10**5000)):
        assert there_and_back(serializer, number) == number


@pytest.mark.parametrize(
    "value",
    [
        {"$": 1},
        {"$": "tuple", "v": [1]},
        {"$": {"$": {"$": "dict", "v": []}}},
        {"$": "object", "type": "app.Invoice", "v": {}},
        [{"$": None}],
        {"v": 1, "type": "a"},
        {"\ud800": {"\udfff": 1}},
        {"": {"$": ""}},
    ],
    ids=ascii,
)
def test_a_dict_that_looks_like_a_tag_stays_a_dict(serializer: TreeSerializer, value: Any) -> None:
    assert there_and_back(serializer, value) == value


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(), max_size=5)
    | st.text("$v\ud800\udfff", max_size=3)
    | st.binary(max_size=5)
    | st.datetimes()
    | st.datetimes(timezones=st.just(UTC))
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.uuids()
    | st.decimals(allow_nan=False)
    | st.sampled_from(Colour)
)
KEYS = st.text("$va", max_size=2) | st.integers() | st.tuples(st.integers(), st.text("$v", max_size=2))
VALUES: st.SearchStrategy[Any] = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.frozensets(st.integers() | st.text("$v", max_size=2), max_size=4)
        | st.builds(Invoice, st.integers(), st.sampled_from(Colour), st.just(()))
        | st.builds(Pair, st.integers(), st.text(max_size=2))
    ),
    max_leaves=12,
)


@unhurried
@given(VALUES)
def test_whatever_is_written_is_read_as_it_was(value: Any) -> None:
    for maker in MAKERS:
        assert shape(there_and_back(maker(types=TYPES), value)) == shape(value)


def shape(value: Any) -> Any:
    """What tells 1 from True and 0.0 from -0.0, whatever the order of a set."""
    if isinstance(value, frozenset):
        return sorted(map(repr, value))
    if isinstance(value, dict):
        return [(shape(key), shape(item)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return type(value), [shape(item) for item in value]
    return repr(value)


class Sub(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "another"


def test_values_of_subclasses_arrive_as_plain_ones(serializer: TreeSerializer) -> None:
    queue = TaskQueue(MemoryBackend())
    number = type("Number", (int,), {})(5)
    for value, plain in (
        (TaskHandle("id-1", queue), "id-1"),
        (Sub("one"), "one"),
        (number, 5),
        (type("Real", (float,), {})(0.5), 0.5),
        (collections.OrderedDict(a=1), {"a": 1}),
        (collections.defaultdict(list, {"a": [1]}), {"a": [1]}),
        ({Sub("one"): 1}, {"one": 1}),
    ):
        found = there_and_back(serializer, value)
        assert (found, type(found)) == (plain, type(plain))


@dataclass(frozen=True, slots=True)
class Made:
    """Has a field that its constructor does not take."""

    number: int
    double: int = field(init=False)
    hidden: str = field(default="a", repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "double", self.number * 2)


def test_an_object_is_made_by_its_class_with_the_fields_that_it_had() -> None:
    serializer = JSONSerializer(types=[Made])
    made = Made(2, "b")
    object.__setattr__(made, "double", 5)
    assert there_and_back(serializer, made) == made
    data = serializer.encode_value(made, RESULT)
    with pytest.raises(TaskSerializationError, match=r"Made' is not in types"):
        JSONSerializer().decode_value(data, RESULT)


class Weekday(enum.IntEnum):
    MONDAY = 1


class Access(enum.Flag):
    READ = 1
    WRITE = 2


def test_enums_and_flags_of_given_types() -> None:
    serializer = JSONSerializer(types=[Weekday, Access])
    assert there_and_back(serializer, [Weekday.MONDAY, Access.READ | Access.WRITE]) == [
        Weekday.MONDAY,
        Access.READ | Access.WRITE,
    ]


class Other(typing.NamedTuple):
    x: int


ZONE: Any = type("Zone", (tzinfo,), {})()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (object(), "no form for a object: give plain data"),
        (Weekday.MONDAY, "no form for a .*Weekday.*in types of the serializer"),
        (Other(1), "no form for a .*Other:"),
        (range(3), "no form for a range"),
        (functools.partial(work), "no form for a functools.partial"),
        (work, "work is not in types of the serializer: add it"),
        (dict, "dict is not in types"),
        (datetime(2026, 1, 1, tzinfo=ZONE), "tzinfo is a .*Zone: use datetime.UTC"),
        (type("Moment", (datetime,), {})(2026, 1, 1), "no form for a .*Moment"),
        ((each for each in "ab"), "no form for a generator"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else type(value).__name__,
)
def test_what_has_no_form_is_named(serializer: TreeSerializer, value: Any, words: str) -> None:
    with pytest.raises(TaskSerializationError, match=words):
        serializer.encode_value([value], RESULT)


def nested(depth: int, make: Callable[[Any], Any] = lambda inner: [inner]) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = make(value)
    return value


def test_what_is_nested_too_deep_is_refused(serializer: TreeSerializer) -> None:
    assert there_and_back(serializer, nested(100)) == nested(100)
    pairs = nested(33, lambda inner: {1: inner})
    assert there_and_back(serializer, pairs) == pairs
    endless: list[Any] = []
    endless.append(endless)
    for value in (nested(102), nested(100_000), endless, nested(60, lambda inner: (inner,))):
        with pytest.raises(TaskSerializationError, match="nested more than 100 deep"):
            serializer.encode_value(value, RESULT)


# -- Calls -----------------------------------------------------------------------------------------


@task(name="mail.send", queue="mail")
def send(to: str, lock: Any = None) -> None: ...


def test_a_call_arrives_with_its_context_and_rules(serializer: TreeSerializer) -> None:
    policy = RetryPolicy(max_attempts=7, backoff=waits, on=(OSError, TimeoutError), give_up_on=KeyError)
    rules = RunRules(policy, 30.0, datetime(2030, 1, 1, tzinfo=UTC), 60.0)
    parts = CallParts(Call(work, (1, "a"), {"c": (2,), "$": 3}), {"request": b"r"}, rules)
    assert serializer.decode_call(serializer.encode_call(parts, CALL), CALL) == parts
    bare = CallParts(Call(work, (), {}), {}, NO_RULES)
    assert serializer.decode_call(serializer.encode_call(bare, CALL), CALL) == bare


def test_a_call_is_plain_json() -> None:
    """What another language has to write for a call, and what people see in the table."""
    parts = CallParts(Call(send, ("a@b.c",), {"lock": (1,)}))
    serializer = JSONSerializer(tasks=[send])
    body = unpack(serializer.encode_call(parts, CALL), "json", "call")
    expected = {"task": "mail.send", "args": ["a@b.c"], "kwargs": {"lock": {"$": "tuple", "v": [1]}}}
    assert json.loads(body) == expected
    assert serializer.decode_call(pack("json", json.dumps(expected).encode()), CALL) == parts


def test_names_of_ones_own_stay_when_code_moves() -> None:
    old = JSONSerializer(tasks={"send": send}, types={"Bill": Invoice, "Colour": Colour})
    value = Invoice(1, Colour.RED)
    data = old.encode_call(CallParts(Call(send, (value,), {})), CALL)
    new = JSONSerializer(
        tasks={"deliver": work, "send": work}, types={"Invoice": Invoice, "Bill": Invoice, "Colour": Colour}
    )
    assert new.decode_call(data, CALL).call == Call(work, (value,), {})
    # Of several names the first is written.
    again = new.encode_call(CallParts(Call(work, (value,), {})), CALL)
    assert b"deliver" in again
    assert b"Invoice" in again


@pytest.mark.parametrize("func", [print, lambda: 1, functools.partial(work), send, Invoice])
def test_a_function_that_is_not_listed_is_not_sent(serializer: TreeSerializer, func: Any) -> None:
    with pytest.raises(TaskSerializationError, match=r"is not in tasks of the serializer .*add it there"):
        serializer.encode_call(CallParts(Call(func, (), {})), CALL)


def test_a_name_that_is_not_listed_is_not_looked_up() -> None:
    body = b'{"task":"os.system","args":["true"],"kwargs":{}}'
    with pytest.raises(
        TaskSerializationError, match=r"'os\.system' is not in tasks of the serializer: add it"
    ):
        JSONSerializer(tasks=[work]).decode_call(pack("json", body), CALL)
    body = b'{"task":"mail.sent","args":[],"kwargs":{}}'
    with pytest.raises(TaskSerializationError, match=r"where 'mail.send' is"):
        JSONSerializer(tasks=[send]).decode_call(pack("json", body), CALL)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (
            CallParts(Call(send, ("a", object()), {})),
            r"argument 2 \(`lock`: object\) of mail.send cannot be written",
        ),
        (
            CallParts(Call(send, ("a",), {"lock": print})),
            r"argument `lock` \(builtin.*\) of mail.send cannot",
        ),
        (CallParts(Call(send, ("a",), {}), {"user": object()}), r"context\['user'\] \(object\) cannot be"),
        (
            CallParts(Call(send, ("a",), {}), {}, RunRules(RetryPolicy(backoff=lambda attempt: 1))),
            r"the backoff of retry \(function\) cannot",
        ),
        (
            CallParts(Call(send, ("a",), {}), {}, RunRules(RetryPolicy(on=type("Own", (Exception,), {})))),
            "on of retry has Own in it, which cannot",
        ),
    ],
)
def test_the_part_that_cannot_be_written_is_named(parts: CallParts, words: str) -> None:
    with pytest.raises(TaskSerializationError, match=words):
        JSONSerializer(tasks=[send]).encode_call(parts, CALL)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ([], "it is a value, not a call"),
        ({"task": "work"}, "it is a value, not a call"),
        ({"task": "work", "args": [], "kwargs": {}, "then": 1}, "parts that this sitq does not know"),
        ({"task": "work", "args": {}, "kwargs": {}}, "of another kind"),
        ({"task": "work", "args": [], "kwargs": []}, "of another kind"),
        ({"task": "work", "args": [], "kwargs": {"$": "dict", "v": [[1, 2]]}}, "keyword of it is no str"),
        (
            {"task": "work", "args": [], "kwargs": {}, "context": {"$": "dict", "v": [[1, 2]]}},
            "context has a key",
        ),
        ({"task": ["work"], "args": [], "kwargs": {}}, "a name of tasks is none"),
        ({"task": "w" * 1000, "args": [], "kwargs": {}}, "a name of tasks is none"),
        (
            {"task": "work", "args": [], "kwargs": {}, "rules": {"soon": 1}},
            "rules that this sitq does not know",
        ),
        ({"task": "work", "args": [], "kwargs": {}, "rules": {"retry": 1}}, "its retry is a int"),
        ({"task": "work", "args": [], "kwargs": {}, "rules": {"timeout": "1"}}, "timeout is a str"),
        ({"task": "work", "args": [], "kwargs": {}, "rules": {"timeout": -1}}, "timeout is -1"),
        ({"task": "work", "args": [], "kwargs": {}, "rules": {"expires_at": 1}}, "expires_at is an int"),
        ({"task": "work", "args": [], "kwargs": {}, "rules": {"keep_failed": None}}, "keep_failed is None"),
        (
            {
                "task": "work",
                "args": [],
                "kwargs": {},
                "rules": {"retry": {"$": "retry", "v": {"max_attempts": 0}}},
            },
            "max_attempts",
        ),
    ],
)
def test_a_call_that_no_sitq_wrote_is_refused(body: Any, words: str) -> None:
    serializer = JSONSerializer(tasks={"work": work})
    with pytest.raises(TaskSerializationError, match=words):
        serializer.decode_call(pack("json", json.dumps(body).encode()), CALL)


def test_every_rule_is_checked_when_it_is_read() -> None:
    assert set(RULES) == set(RunRules._fields)


def test_builtin_exceptions_need_not_be_listed_and_nothing_else_of_builtins_can_be_named() -> None:
    serializer = JSONSerializer()
    errors = [
        each for each in vars(builtins).values() if isinstance(each, type) and issubclass(each, Exception)
    ]
    assert there_and_back(serializer, errors) == errors
    for name in ("builtins.eval", "eval", "builtins.int", "os.system", ["builtins.ValueError"], None):
        with pytest.raises(TaskSerializationError):
            serializer.decode_value(pack("json", json.dumps({"$": "reference", "v": name}).encode()), RESULT)


class Explosive:
    """Reading this is the mistake."""


@pytest.mark.parametrize("kind", [Explosive, waits, ConnectionError])
def test_only_records_are_made(kind: Any) -> None:
    body = json.dumps({"$": "object", "type": "it", "v": {}}).encode()
    types = {} if kind is Explosive else {"it": kind}
    with pytest.raises(TaskSerializationError):
        JSONSerializer(types=types).decode_value(pack("json", body), RESULT)


def test_a_result_that_cannot_be_made_again_is_refused_by_its_writer() -> None:
    @dataclass
    class Odd:
        number: int

        def __init__(self) -> None:
            self.number = 1

    with pytest.raises(TaskSerializationError, match="cannot be read again: TypeError"):
        JSONSerializer(types=[Odd]).encode_value(Odd(), RESULT)


# -- Which serializer ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("jsn", "serializer is 'jsn': did you mean 'json'. Known are cloudpickle, json, msgpack"),
        ("", "serializer is '': known are cloudpickle, json, msgpack"),
        (None, "serializer is None, which has no decode_call"),
        (JSONSerializer, "serializer is the class JSONSerializer: give an object of it"),
        (json, "serializer is a module, which has no"),
    ],
)
def test_what_is_no_serializer_is_refused(given: Any, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TaskQueue(MemoryBackend(), serializer=given)


@pytest.mark.parametrize("given", ["json", 5, [5], ["jsn"]])
def test_what_cannot_be_read_besides_is_refused(given: Any) -> None:
    with pytest.raises(ValidationError, match="also_reads"):
        TaskQueue(MemoryBackend(), also_reads=given)


def test_each_name_gives_a_serializer() -> None:
    for name in ("cloudpickle", "json", "msgpack"):
        assert TaskQueue(MemoryBackend(), serializer=name).codec.serializer.name == name


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"tasks": 5}, "tasks is an int: give a list of functions"),
        ({"tasks": work}, "tasks is a function: give a list"),
        ({"tasks": "work"}, "tasks is a str"),
        ({"tasks": [5]}, "tasks has an int in it that cannot be a task"),
        ({"tasks": {5: work}}, "a name in tasks"),
        ({"tasks": [lambda: 1, lambda: 2]}, "tasks has two things named .*give a mapping"),
        ({"types": [int]}, "types has int in it: give dataclasses"),
        ({"types": [5]}, "types has an int in it"),
        ({"types": Invoice}, "types is a type"),
    ],
)
def test_lists_that_cannot_be_used_are_refused(arguments: Any, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        JSONSerializer(**arguments)


@pytest.mark.parametrize("name", ["", "JSON", "a b", "\u00e4", "a" * 33, 5, "1a"])
def test_a_name_that_cannot_stand_in_the_bytes_is_refused(name: Any) -> None:
    with pytest.raises(ValidationError, match="name of a serializer"):
        TreeSerializer(name, json.dumps, json.loads)  # type: ignore[arg-type]


def test_a_format_of_ones_own_takes_two_functions() -> None:
    def dumps(tree: Any) -> bytes:
        return repr(tree).encode()

    def loads(data: bytes) -> Any:
        import ast

        return ast.literal_eval(data.decode())

    own = TreeSerializer("literal", dumps, loads, tasks=[work], types=TYPES)
    for value in TAGGED:
        assert repr(there_and_back(own, value)) == repr(value)
    with pytest.raises(ValidationError, match="dumps is a int"):
        TreeSerializer("literal", 5, loads)  # type: ignore[arg-type]


def test_each_reads_its_own_bytes_only() -> None:
    all_of_them: list[Serializer] = [CloudpickleSerializer(), JSONSerializer(), MsgpackSerializer()]
    for writer in all_of_them:
        data = writer.encode_value([1], RESULT)
        for reader in all_of_them:
            if reader is writer:
                assert reader.decode_value(data, RESULT) == [1]
            else:
                with pytest.raises(
                    PayloadRefusedError, match=f"written by the serializer {writer.name}, and here"
                ):
                    reader.decode_value(data, RESULT)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "msgpack", None)
    with pytest.raises(ValidationError, match=r"pip install 'sitq\[msgpack\]'"):
        TaskQueue(MemoryBackend(), serializer="msgpack")


def test_what_msgpack_has_beyond_a_tree_is_refused() -> None:
    for value in (msgpack.ExtType(5, b"a"), msgpack.Timestamp(1, 2), {1: 2}, {b"a": 1}):
        with pytest.raises(TaskSerializationError):
            MsgpackSerializer().decode_value(pack("msgpack", msgpack.packb(value)), RESULT)


def test_no_import_and_no_unlisted_zone_by_name() -> None:
    for key in ("../etc/passwd", "/etc/localtime", "No/Such", "tzdata", 5, None):
        body = json.dumps({"$": "datetime", "v": ["2026-01-01T00:00:00", key, 0]}).encode()
        if key is None:
            continue
        with pytest.raises(TaskSerializationError):
            JSONSerializer().decode_value(pack("json", body), RESULT)


def test_dates_are_not_datetimes(serializer: TreeSerializer) -> None:
    assert type(there_and_back(serializer, date(2026, 1, 1))) is date
    assert there_and_back(serializer, UUID(int=1)) == UUID(int=1)
    assert typing.get_type_hints(Pair)["left"] is int
