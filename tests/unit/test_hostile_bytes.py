"""Rows that somebody else wrote: every format and wrapper answers with a typed error, without an import and in time."""

import json
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any, Final
from zlib import crc32
from zoneinfo import ZoneInfo

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sitq.errors import TaskSerializationError
from sitq.failure import decode_error
from sitq.progress import decode_line, decode_progress
from sitq.serialization import Codec, Purpose, Serializer, make_codec, pack
from sitq.serialization.envelope import name_of
from tests.fixtures.payloads import FORMS, TASK, serializers

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
# Pickles are none: they run what they say, which is why there are the others.
SAFE: Final = {name: each for name, each in serializers().items() if name != "cloudpickle"}
VERIFIED: Final = ("signed", "aes-gcm")
BODIES: Final = {"json": lambda tree: json.dumps(tree).encode(), "msgpack": msgpack.packb}

type Read = Callable[[Codec, bytes], Any]
READS: Final[dict[str, Read]] = {
    "call": lambda codec, data: codec.decode_call(data, TASK),
    "result": lambda codec, data: codec.decode_value(data, TASK, Purpose.RESULT, "work"),
    "error": lambda codec, data: decode_error(codec.unseal(data, TASK, Purpose.ERROR)),
    "progress": lambda codec, data: decode_progress(codec.unseal(data, TASK, Purpose.PROGRESS)),
    "log": lambda codec, data: decode_line(codec.unseal(data, TASK, Purpose.LOG)),
    "schedule": lambda codec, data: codec.rebind(data, "schedule/a", TASK),
}


class Watch:
    """What happens on this thread while bytes are read. An audit hook cannot be taken away, so there is one of it."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.on: int | None = None
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.on == threading.get_ident() and event in BAD:
            self.seen.append(f"{event} {arguments!r:.200}")

    @contextmanager
    def nothing_happens(self) -> Iterator[None]:
        self.seen.clear()
        self.on = threading.get_ident()
        try:
            yield
        finally:
            self.on = None
        assert not self.seen


BAD: Final = frozenset(
    [
        "import",
        "compile",
        "exec",
        "open",
        "marshal.loads",
        "pickle.find_class",
        "os.listdir",
        "os.scandir",
        "os.system",
        "subprocess.Popen",
        "socket.connect",
    ]
)
watch: Final = Watch()


@pytest.fixture(autouse=True, scope="module")
def ready() -> None:
    """What is imported at the first use, always the same, whatever the bytes say."""
    for serializer in SAFE.values():
        for form in FORMS.values():
            form.read(serializer, form.write(serializer, form.about), form.about)
    datetime(2026, 1, 1, tzinfo=ZoneInfo("Europe/Berlin")).isoformat()


def read_all(serializer: Serializer, data: bytes, *, refused: bool = False) -> None:
    """Read bytes as everything that they may be: what comes out is a value or a typed error."""
    codec = make_codec(serializer)
    for name, read in READS.items():
        try:
            with watch.nothing_happens():
                read(codec, data)
        except TaskSerializationError:
            continue
        # Where nothing is verified a line is whatever it is, and a schedule's call is looked into as that of a task.
        assert not refused or (serializer.name not in VERIFIED and name in ("log", "schedule"))


def valid(folder: str) -> list[bytes]:
    serializer = SAFE[folder]
    return [form.write(serializer, form.about) for form in FORMS.values()]


@pytest.mark.parametrize("folder", SAFE)
def test_flipped_bits_cuts_and_appendices_are_refused(folder: str) -> None:
    serializer = SAFE[folder]
    for data in valid(folder):
        if not name_of(data):
            continue  # an error as plain JSON has no checksum; it is read by a parser of its own
        steps = range(0, len(data) * 8, 1 if len(data) < 120 else 37)
        for place in steps:
            bad = bytearray(data)
            bad[place // 8] ^= 1 << place % 8
            read_all(serializer, bytes(bad), refused=True)
        for size in range(0, len(data), 1 if len(data) < 120 else 53):
            read_all(serializer, data[:size], refused=True)
        read_all(serializer, data + b"a", refused=True)


@pytest.mark.parametrize("folder", SAFE)
def test_parts_of_two_rows_put_together_are_refused(folder: str) -> None:
    rows = [data for data in valid(folder) if name_of(data)]
    for one in rows:
        for other in rows:
            for place in range(1, min(len(one), len(other)), 29):
                spliced = one[:place] + other[place:]
                if spliced not in rows:
                    read_all(SAFE[folder], spliced, refused=True)


@pytest.mark.parametrize("folder", VERIFIED)
def test_what_is_verified_is_read_as_nothing_else_than_it_is(folder: str) -> None:
    codec = make_codec(SAFE[folder])
    for form in FORMS.values():
        data = form.write(SAFE[folder], form.about)
        for purpose, read in READS.items():
            if purpose != form.purpose:
                with pytest.raises(TaskSerializationError):
                    read(codec, data)
        other = form.about._replace(task="another")
        with pytest.raises(TaskSerializationError):
            form.read(SAFE[folder], data, other)


@unhurried
@given(st.binary(max_size=300))
@example(b"")
@example(b"sq")
@example(b"sq\x02\xff")
def test_noise_is_refused_by_all(data: bytes) -> None:
    for serializer in SAFE.values():
        read_all(serializer, data)


@unhurried
@given(st.sampled_from(sorted(SAFE)), st.binary(max_size=200), st.integers(0, 255))
def test_noise_in_a_right_envelope_is_refused(folder: str, body: bytes, version: int) -> None:
    name = SAFE[folder].name
    head = b"sq\x02" + bytes([len(name)]) + name.encode() + bytes([version]) + b"\0\0"
    read_all(SAFE[folder], head + crc32(body, crc32(head)).to_bytes(4) + body)


TAGS = st.sampled_from(
    [
        "$",
        "tuple",
        "set",
        "frozenset",
        "bytearray",
        "complex",
        "datetime",
        "time",
        "date",
        "timedelta",
        "decimal",
        "uuid",
        "retry",
        "str",
        "int",
        "float",
        "bytes",
        "dict",
        "object",
        "reference",
        "nothing",
    ]
)
LEAVES: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(
        ["builtins.eval", "os.system", "tests.fixtures.payloads.Invoice", "Europe/Berlin", "NaN"]
    )
    | st.sampled_from(
        ["tests.fixtures.payloads.Colour", "tests.fixtures.payloads.Pair", "2026-01-01T00:00:00"]
    )
)
TREES: st.SearchStrategy[Any] = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["$", "v", "type", "a"]), inner, max_size=3)
        | st.fixed_dictionaries({"$": TAGS, "v": inner})
        | st.fixed_dictionaries({"$": st.just("object"), "type": inner, "v": inner})
    ),
    max_leaves=8,
)
BODIES_OF_CALLS = st.fixed_dictionaries(
    {},
    optional={
        "task": st.just("tests.fixtures.payloads.work") | TREES,
        "args": st.lists(TREES, max_size=2) | TREES,
        "kwargs": st.dictionaries(st.text(max_size=2), TREES, max_size=2) | TREES,
        "context": TREES,
        "rules": st.dictionaries(
            st.sampled_from(["retry", "timeout", "expires_at", "keep_failed", "x"]), TREES
        ),
    },
)


@unhurried
@given(st.sampled_from(sorted(BODIES)), TREES | BODIES_OF_CALLS)
def test_any_tree_is_a_value_or_a_typed_error(name: str, tree: Any) -> None:
    read_all(SAFE[name], pack(name, BODIES[name](tree)))


def deep(opening: bytes, closing: bytes, depth: int) -> bytes:
    return opening * depth + b"1" + closing * depth


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("json", deep(b"[", b"]", 500_000)),
        ("json", deep(b"[", b"]", 400)),
        ("json", deep(b'{"a":', b"}", 200_000)),
        ("json", deep(b'{"$":"tuple","v":[', b"]}", 150)),
        ("json", b"9" * 1_000_000),
        ("json", b"1e" + b"9" * 1000),
        ("json", b'{"$":"int","v":"' + b"f" * 500_000 + b'x"}'),
        ("json", b'{"$":"decimal","v":"1e' + b"9" * 100 + b'"}'),
        ("json", b'{"$":"timedelta","v":[99999999999999,0,0]}'),
        ("json", b'{"$":"set","v":[[1]]}'),
        ("json", b'{"$":"dict","v":[[{},1]]}'),
        ("json", b'{"$":"object","type":"tests.fixtures.payloads.Invoice","v":{"number":1,"other":2}}'),
        ("json", b'{"$":"object","type":"tests.fixtures.payloads.Colour","v":"blue"}'),
        ("json", b'{"$":"datetime","v":["2026-01-01T00:00:00","os/path",0]}'),
        ("json", b"NaN"),
        ("json", b'"\xff"'),
        ("json", b"[1,2"),
        ("msgpack", b"\x91" * 500_000),
        ("msgpack", b"\xdd\xff\xff\xff\xff"),
        ("msgpack", b"\xdb\xff\xff\xff\xffabc"),
        ("msgpack", b"\xc6\xff\xff\xff\xff"),
        ("msgpack", b"\xdf\xff\xff\xff\xff\x01\x01"),
        ("msgpack", b"\xc7\x08\x05" + b"a" * 8),
        ("msgpack", b"\xd6\xff" + b"a" * 4),
        ("msgpack", b"\x01\x02"),
        ("msgpack", b"\xa1\xff"),
    ],
)
def test_depths_lengths_and_numbers_of_any_size_are_refused(name: str, body: bytes) -> None:
    codec = make_codec(SAFE[name])
    with watch.nothing_happens(), pytest.raises(TaskSerializationError):
        READS["call"](codec, pack(name, body))
    read_all(SAFE[name], pack(name, body))


@pytest.mark.parametrize("tag", ["set", "frozenset", "dict"])
def test_keys_of_one_hash_are_refused(tag: str) -> None:
    """Each is compared with all before it: seconds for a row of a megabyte."""
    numbers = [{"$": "int", "v": hex(number * sys.hash_info.modulus)} for number in range(20_000)]
    items = [[number, 1] for number in numbers] if tag == "dict" else numbers
    codec = make_codec(SAFE["json"])
    with pytest.raises(TaskSerializationError, match="more than 100 keys of it have one hash"):
        READS["result"](codec, pack("json", json.dumps({"$": tag, "v": items}).encode()))
    few = items[:100]
    assert len(READS["result"](codec, pack("json", json.dumps({"$": tag, "v": few}).encode()))) == 100


def test_pickles_are_refused_unread_by_all_others() -> None:
    """`watch` would see the name that it looks up."""
    body = b"cbuiltins\nprint\n(S'read'\ntR."
    bare = b"sq\x01\x01" + bytes(sys.version_info[:2]) + crc32(body).to_bytes(4) + body
    for serializer in SAFE.values():
        for data in (bare, body, pack(serializer.name, bare)):
            read_all(serializer, data, refused=True)


def test_the_watch_sees_what_it_is_for() -> None:
    with pytest.raises(AssertionError), watch.nothing_happens():
        pickle.loads(b"cbuiltins\nlen\n.")
    with pytest.raises(AssertionError), watch.nothing_happens(), suppress(ImportError):
        import there_is_no_such_module  # type: ignore[import-not-found]  # noqa: F401
