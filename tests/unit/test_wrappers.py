"""Compressed, Signed, Encrypted and Versioned: what each promises, alone and around one another."""

import copy
import pickle
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from sitq.errors import PayloadRefusedError, PayloadTooLargeError, TaskSerializationError, ValidationError
from sitq.serialization import (
    About,
    CallParts,
    CloudpickleSerializer,
    Compressed,
    Encrypted,
    JSONSerializer,
    OldPayload,
    Purpose,
    Serializer,
    Signed,
    TreeSerializer,
    Versioned,
    from_parent,
    make_codec,
    pack,
    to_child,
    unpack,
)
from sitq.serialization.compressed import DEFAULT_MAX_SIZE
from sitq.serialization.compressed import _zstd as zstd_module  # pyright: ignore[reportPrivateUsage]
from sitq.serialization.several import with_others
from sitq.task import Call
from tests.fixtures.payloads import Invoice, work

NEW, OLD = b"n" * 32, b"o" * 16
KEYS = {"new": NEW, "old": OLD}
CALL = About("t1", Purpose.CALL)
RESULT = About("t1", Purpose.RESULT)
ANY = About(None, Purpose.CALL)
PARTS = CallParts(Call(work, (1,), {"key": "a"}))
VERIFIED: list[Callable[..., Serializer]] = [Signed, Encrypted]


def json() -> JSONSerializer:
    return JSONSerializer(tasks=[work])


class Spy(TreeSerializer):
    """Counts what it is asked to read."""

    def __init__(self) -> None:
        super().__init__("spy", lambda tree: repr(tree).encode(), lambda data: self.read(data), tasks=[work])
        self.reads = 0

    def read(self, data: bytes) -> Any:
        self.reads += 1
        return eval(data)

    def decode_call(self, data: bytes, about: About, /) -> CallParts:
        self.reads += 1
        return super().decode_call(data, about)

    def unseal(self, data: bytes, about: About, /) -> bytes:
        self.reads += 1
        return super().unseal(data, about)


# -- Signed and Encrypted --------------------------------------------------------------------------


@pytest.mark.parametrize("wrapper", VERIFIED)
def test_what_is_protected_is_read_by_its_own_task_only(wrapper: Callable[..., Serializer]) -> None:
    serializer = wrapper(json(), KEYS)
    data = serializer.encode_call(PARTS, CALL)
    assert serializer.decode_call(data, CALL) == PARTS
    others = [CALL._replace(task="t2"), CALL._replace(task=""), *(About("t1", each) for each in Purpose)]
    for other in others[:2] + [each for each in others[2:] if each.purpose is not Purpose.CALL]:
        with pytest.raises(PayloadRefusedError, match=f"this {other.purpose} cannot be verified"):
            serializer.decode_call(data, other)
        with pytest.raises(PayloadRefusedError, match="cannot be verified"):
            serializer.unseal(data, other)


@pytest.mark.parametrize("wrapper", VERIFIED)
def test_nothing_inside_is_called_for_what_cannot_be_verified(wrapper: Callable[..., Serializer]) -> None:
    spy = Spy()
    inflating = Compressed(spy, above=1)
    serializer = wrapper(Versioned(inflating, 1), KEYS)
    data = serializer.encode_call(PARTS, CALL)
    unwrapped: list[bytes] = []
    inflating.unwrap = lambda data, about: unwrapped.append(data) or data  # type: ignore[method-assign, func-returns-value]
    body = unpack(data, serializer.name, "call")
    for place in range(len(body) * 8):
        bad = bytearray(body)
        bad[place // 8] ^= 1 << place % 8
        with pytest.raises(PayloadRefusedError):
            serializer.decode_call(pack(serializer.name, bytes(bad)), CALL)  # with a checksum that is right
    for size in range(len(body)):
        with pytest.raises(PayloadRefusedError):
            serializer.decode_call(pack(serializer.name, body[:size]), CALL)
    for read in (serializer.decode_call, serializer.decode_value, serializer.unseal):
        with pytest.raises(PayloadRefusedError):
            read(data, CALL._replace(task="t2"))
        with pytest.raises(PayloadRefusedError):
            read(spy.encode_call(PARTS, CALL), CALL)
    assert (unwrapped, spy.reads) == ([], 0)


@pytest.mark.parametrize("wrapper", VERIFIED)
def test_the_first_key_protects_and_all_verify(wrapper: Callable[..., Serializer]) -> None:
    before = wrapper(json(), {"old": OLD})
    between = wrapper(json(), {"new": NEW, "old": OLD})
    after = wrapper(json(), {"new": NEW})
    old, new = before.encode_value(1, RESULT), between.encode_value(1, RESULT)
    assert between.decode_value(old, RESULT) == between.decode_value(new, RESULT) == 1
    assert after.decode_value(new, RESULT) == 1
    with pytest.raises(
        PayloadRefusedError, match="protected by the key 'old', and keys has 'new': if it was"
    ):
        after.decode_value(old, RESULT)
    with pytest.raises(PayloadRefusedError, match="by the key 'new', and keys has 'old'"):
        before.decode_value(new, RESULT)
    # The same name for another key is no way in.
    with pytest.raises(PayloadRefusedError, match="cannot be verified"):
        wrapper(json(), {"old": NEW}).decode_value(old, RESULT)


@pytest.mark.parametrize("wrapper", VERIFIED)
def test_a_call_that_may_take_the_place_of_another_belongs_to_no_task(
    wrapper: Callable[..., Serializer],
) -> None:
    serializer = wrapper(json(), KEYS)
    data = serializer.encode_call(PARTS, ANY)
    for task in ("t1", "t2"):
        assert serializer.decode_call(data, About(task, Purpose.CALL)) == PARTS
    for purpose in Purpose:
        if purpose is not Purpose.CALL:  # and it is still a call
            with pytest.raises(PayloadRefusedError):
                serializer.decode_value(data, About("t1", purpose))
    with pytest.raises(PayloadRefusedError):
        serializer.decode_value(serializer.encode_value(1, About(None, Purpose.RESULT)), RESULT)


def test_the_parts_of_what_is_bound_cannot_be_shifted() -> None:
    """`a` + `bc` is not `ab` + `c`."""
    serializer = Signed(json(), {"k": NEW, "kc": NEW})
    data = serializer.encode_value(1, About("allt1", Purpose.VALUE))
    with pytest.raises(PayloadRefusedError):
        serializer.decode_value(data, About("t1", Purpose.VALUE))


def test_a_signature_is_what_it_is_said_to_be() -> None:
    """HMAC-SHA256 over the length and bytes of format, label, purpose and task, and the bytes inside."""
    import hashlib
    import hmac

    data = Signed(json(), {"k1": NEW}).seal(b"inside", About("t1", Purpose.LOG))
    body = unpack(data, "signed", "log")
    parts = (b"signed/1", b"\x01\x02k1", b"log", b"t1")
    text = b"".join(len(part).to_bytes(4) + part for part in parts) + b"inside"
    assert body == b"\x01\x02k1" + hmac.new(NEW, text, hashlib.sha256).digest() + b"inside"


def test_encrypted_bytes_tell_nothing_and_are_never_the_same() -> None:
    serializer = Encrypted(json(), {"k": NEW})
    about = About("t1", Purpose.RESULT)
    one, other = serializer.encode_value("secret", about), serializer.encode_value("secret", about)
    assert one != other
    assert b"secret" not in one
    nonces = {unpack(serializer.encode_value(1, about), "aes-gcm", "result")[3:15] for _ in range(1000)}
    assert len(nonces) == 1000
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    body = unpack(one, "aes-gcm", "result")
    bound = b"".join(len(part).to_bytes(4) + part for part in (b"aes-gcm/1", b"\x01\x01k", b"result", b"t1"))
    inner = AESGCM(NEW).decrypt(body[3:15], body[15:], bound)
    assert json().decode_value(inner, about) == "secret"


@pytest.mark.parametrize("wrapper", VERIFIED)
@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (None, "keys is None: give a mapping of names to bytes"),
        (NEW, "keys is a bytes: give a mapping"),
        ([NEW], "keys is a list: give a mapping"),
        ({}, "keys is empty: give the one"),
        ({"a": "n" * 32}, r"keys\['a'\] is a str: give bytes"),
        ({"a": bytearray(32)}, r"keys\['a'\] is a bytearray: give bytes"),
        ({"a": b"n" * 15}, r"keys\['a'\] has 15 bytes"),
        ({"a": NEW, "b": b""}, r"keys\['b'\] has 0 bytes"),
        ({5: NEW}, "keys has a name that is an int"),
        ({"": NEW}, "keys has a name"),
        ({"\u00e4": NEW}, "keys has a name"),
        ({"a" * 65: NEW}, "keys has a name"),
    ],
)
def test_keys_that_protect_nothing_are_refused(
    wrapper: Callable[..., Serializer], keys: Any, words: str
) -> None:
    with pytest.raises(ValidationError, match=words) as caught:
        wrapper(json(), keys)
    assert "nnnn" not in str(caught.value)


def test_aes_keys_have_its_lengths() -> None:
    for size in (16, 24, 32):
        Encrypted("json", {"a": b"n" * size})
    for size in (17, 33, 64):
        with pytest.raises(ValidationError, match=rf"has {size} bytes, and may have 16, 24, 32"):
            Encrypted("json", {"a": b"n" * size})


@pytest.mark.parametrize("wrapper", VERIFIED)
def test_keys_are_not_seen_and_do_not_get_out(wrapper: Callable[..., Serializer]) -> None:
    serializer = wrapper(json(), KEYS)
    codec = make_codec(serializer)
    for value in (serializer, codec, vars(serializer), with_others(serializer, ["json"])):
        assert "nnn" not in repr(value)
        assert NEW.hex() not in repr(value)
        assert "new" in repr(value)
    for take in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match="keys cannot be pickled or copied"):
            take(serializer)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    with pytest.raises(ValidationError, match=r"pip install 'sitq\[crypto\]'"):
        Encrypted("json", KEYS)
    monkeypatch.setitem(sys.modules, "compression.zstd", None)
    monkeypatch.setitem(sys.modules, "backports.zstd", None)
    with pytest.raises(ValidationError, match=r"pip install 'sitq\[zstd\]'"):
        Compressed("json", "zstd")


# -- Compressed ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["zlib", "zstd"])
def test_what_is_large_gets_smaller_and_what_is_small_stays(method: Any) -> None:
    serializer = Compressed("json", method, above=100)
    for value in ("a" * 10, "a" * 10_000, list(range(1000))):
        data = serializer.encode_value(value, RESULT)
        assert serializer.decode_value(data, RESULT) == value
        assert (str(value).encode()[:10] in data) == (len(str(value)) <= 10)
        # Whatever it writes itself it reads.
        assert Compressed("json").decode_value(data, RESULT) == value
    assert len(serializer.encode_value("a" * 10_000, RESULT)) < 100


def bombs() -> list[tuple[str, bytes]]:
    zstd = zstd_module()
    size = DEFAULT_MAX_SIZE + 1
    inner = zlib.compressobj(9)
    zeros = b"".join(inner.compress(bytes(1 << 20)) for _ in range(size // (1 << 20) + 2)) + inner.flush()
    framed = zstd.ZstdCompressor()
    frame = b"".join(framed.compress(bytes(1 << 20)) for _ in range(size // (1 << 20) + 2)) + framed.flush()
    return [("zlib", b"\1" + zeros), ("zstd", b"\2" + frame)]


@pytest.mark.parametrize(("method", "body"), bombs())
def test_a_bomb_is_stopped(method: str, body: bytes) -> None:
    assert len(body) < 100_000
    serializer = Compressed("json")
    with pytest.raises(TaskSerializationError, match="more than max_size"):
        serializer.decode_value(pack("compressed", body), RESULT)


def test_a_limit_holds_both_ways_to_the_byte() -> None:
    data = JSONSerializer().encode_value("a" * 1000, RESULT)
    exact, less = Compressed("json", max_size=len(data)), Compressed("json", max_size=len(data) - 1)
    assert exact.decode_value(exact.encode_value("a" * 1000, RESULT), RESULT) == "a" * 1000
    with pytest.raises(PayloadTooLargeError, match="before it is compressed, and max_size is"):
        less.encode_value("a" * 1000, RESULT)
    with pytest.raises(TaskSerializationError, match="more than max_size"):
        less.decode_value(exact.encode_value("a" * 1000, RESULT), RESULT)
    small = Compressed("json", max_size=2)
    with pytest.raises(TaskSerializationError, match="more than max_size"):
        small.decode_value(pack("compressed", b"\0abc"), RESULT)


@pytest.mark.parametrize("body", [b"", b"\x09abc", b"\1abc", b"\2abc", b"\1", b"\2"])
def test_what_cannot_be_decompressed_is_refused(body: bytes) -> None:
    with pytest.raises(TaskSerializationError, match="cannot be decompressed"):
        Compressed("json").decode_value(pack("compressed", body), RESULT)


@pytest.mark.parametrize("method", ["zlib", "zstd"])
def test_what_is_cut_or_padded_is_refused(method: Any) -> None:
    serializer = Compressed("json", method, above=1)
    body = unpack(serializer.encode_value(list(range(100)), RESULT), "compressed", "result")
    for bad in (body[:-1], body[:10], body + b"a"):
        with pytest.raises(TaskSerializationError):
            serializer.decode_value(pack("compressed", bad), RESULT)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"method": "gzip"}, "method is 'gzip': give 'zlib' or 'zstd'"),
        ({"method": None}, "method is None: give"),
        ({"above": -1}, "above is out of range"),
        ({"above": "1"}, "above is a str"),
        ({"max_size": 0}, "max_size is out of range"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(arguments: Any, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Compressed("json", **arguments)


# -- Versioned -------------------------------------------------------------------------------------


def from_1(old: OldPayload) -> OldPayload:
    """Version 2 has a list of addresses, and a result with a count."""
    if old.purpose is Purpose.CALL:
        to, *rest = old.args
        return replace(old, args=([to], *rest))
    return replace(old, value={"sent": old.value, "by": old.task})


def from_2(old: OldPayload) -> OldPayload:
    return replace(old, kwargs={**old.kwargs, "urgent": False}) if old.purpose is Purpose.CALL else old


def test_old_calls_and_results_are_lifted_step_by_step() -> None:
    one, two = Versioned(json(), 1), Versioned(json(), 2, {1: from_1})
    three = Versioned(json(), 3, {1: from_1, 2: from_2})
    call = CallParts(Call(work, ("a@b.c", 1), {}), {"request": 1})
    for writer in (one, json()):  # what was written before there were versions is version 1
        found = three.decode_call(writer.encode_call(call, CALL), CALL)
        assert found == CallParts(Call(work, (["a@b.c"], 1), {"urgent": False}), {"request": 1})
        about = RESULT._replace(name="mail")
        assert three.decode_value(writer.encode_value(5, about), about) == {"sent": 5, "by": "mail"}
    assert three.decode_call(two.encode_call(call, CALL), CALL).call.kwargs == {"urgent": False}
    assert three.decode_call(three.encode_call(call, CALL), CALL) == call


def test_versions_that_cannot_be_lifted_are_refused() -> None:
    newer, old = Versioned("json", 5), Versioned("json", 1)
    here = Versioned("json", 3, {2: from_2})
    with pytest.raises(
        TaskSerializationError, match="has version 5, and here 2 to 3 are read: use the application"
    ):
        here.decode_value(newer.encode_value(1, RESULT), RESULT)
    with pytest.raises(
        TaskSerializationError, match="has version 1, and here 2 to 3 are read: add its upcaster"
    ):
        here.decode_value(old.encode_value(1, RESULT), RESULT)


def test_an_upcaster_that_fails_is_named() -> None:
    data = Versioned(json(), 1).encode_call(CallParts(Call(work, (), {})), CALL)
    with pytest.raises(
        TaskSerializationError, match=r"upcaster from version 1 failed with a call of .*work: ValueError"
    ):
        Versioned(json(), 2, {1: from_1}).decode_call(data, CALL)
    with pytest.raises(TaskSerializationError, match=r"upcaster from version 1 returned a str"):
        Versioned(json(), 2, {1: lambda old: "no"}).decode_call(data, CALL)  # type: ignore[dict-item, return-value]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0,), "version is out of range"),
        (("2",), "version is a str"),
        ((2, {2: from_1}), "a version in upcasters is out of range"),
        ((3, {1: from_1}), "upcasters lacks version 2"),
        ((2, [from_1]), "upcasters is a list: give a mapping"),
        ((2, {1: 5}), r"upcasters\[1\] is an int: give a function"),
        ((2, {"1": from_1}), "a version in upcasters is a str"),
    ],
)
def test_versions_that_cannot_be_used_are_refused(arguments: Any, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Versioned("json", *arguments)


# -- Around one another ----------------------------------------------------------------------------


def test_what_would_read_before_it_is_verified_is_refused() -> None:
    for make in (Compressed, lambda inner: Versioned(inner, 1)):
        for inner in (Signed("json", KEYS), Encrypted("json", {"a": NEW}), Signed(Compressed("json"), KEYS)):
            with pytest.raises(
                ValidationError, match=r"before they are verified: put (Signed|Encrypted) around"
            ):
                make(inner)


@pytest.mark.parametrize("inner", ["jsn", None, 5, JSONSerializer])
def test_what_is_inside_has_to_be_a_serializer(inner: Any) -> None:
    for make in (Compressed, lambda inner: Signed(inner, KEYS), lambda inner: Encrypted(inner, {"a": NEW})):
        with pytest.raises(ValidationError, match="inner is"):
            make(inner)


def test_they_can_stand_around_one_another() -> None:
    inner = Compressed(Versioned(json(), 2, {1: from_1}), above=1)
    for serializer in (
        Signed(inner, KEYS),
        Encrypted(inner, KEYS),
        Signed(Encrypted(inner, KEYS), KEYS),
        Encrypted(Signed(Versioned(Compressed("cloudpickle"), 1), KEYS), KEYS),
    ):
        assert serializer.decode_call(serializer.encode_call(PARTS, CALL), CALL) == PARTS
        assert serializer.decode_value(serializer.encode_value([1], RESULT), RESULT) == [1]
        about = About("t1", Purpose.LOG)
        assert serializer.unseal(serializer.seal(b"text", about), about) == b"text"


# -- Several ---------------------------------------------------------------------------------------


def test_others_are_read_as_long_as_they_are_named() -> None:
    old, new = CloudpickleSerializer(), Signed(json(), KEYS)
    both = with_others(new, [old, "msgpack"])
    for writer in (old, new):
        assert both.decode_call(writer.encode_call(PARTS, CALL), CALL) == PARTS
        assert both.decode_value(writer.encode_value(5, RESULT), RESULT) == 5
        for purpose in (Purpose.ERROR, Purpose.PROGRESS, Purpose.LOG):
            about = About("t1", purpose)
            assert both.unseal(writer.seal(b"{}", about), about) == b"{}"
    assert both.encode_value(5, RESULT) == new.encode_value(5, RESULT)
    with pytest.raises(PayloadRefusedError):
        new.decode_call(old.encode_call(PARTS, CALL), CALL)
    # Whose error is told: who knows the bytes.
    with pytest.raises(TaskSerializationError, match="their checksum is wrong"):
        both.decode_value(old.encode_value("a", RESULT)[:-1], RESULT)
    with pytest.raises(PayloadRefusedError, match="cannot be verified"):
        both.decode_value(new.encode_value("a", RESULT), CALL)


def test_the_call_of_a_schedule_becomes_that_of_a_task() -> None:
    schedule = About("schedule/a", Purpose.SCHEDULE)
    for inner in (
        Versioned(Compressed(json(), above=1), 2, {1: from_1}),
        Compressed(Versioned(json(), 2, {1: from_1}), above=1),
    ):
        serializer = Signed(Encrypted(inner, KEYS), KEYS)
        codec = make_codec(serializer)
        data = serializer.encode_call(PARTS, schedule)
        assert serializer.decode_call(codec.rebind(data, "schedule/a", "t1"), CALL) == PARTS
        for bad in (data[:-1], json().encode_call(PARTS, schedule), serializer.encode_call(PARTS, CALL)):
            with pytest.raises(TaskSerializationError):
                codec.rebind(bad, "schedule/a", "t1")
    # It keeps the version that it was written in.
    one, two = Versioned(json(), 1), Versioned(json(), 2, {1: from_1})
    data = make_codec(two).rebind(one.encode_call(PARTS, schedule), "schedule/a", "t1")
    assert two.decode_call(data, CALL).call.args == ([1],)


def test_nothing_gets_a_signature_by_being_read_without_one() -> None:
    old, new = CloudpickleSerializer(), Signed(CloudpickleSerializer(), KEYS)
    codec = make_codec(new, [old])
    schedule = About("schedule/a", Purpose.SCHEDULE)
    unsigned = old.encode_call(PARTS, schedule)
    assert codec.rebind(unsigned, "schedule/a", "t1") == unsigned
    signed = codec.rebind(new.encode_call(PARTS, schedule), "schedule/a", "t1")
    assert new.decode_call(signed, CALL) == PARTS
    with pytest.raises(PayloadRefusedError):
        codec.rebind(new.encode_call(PARTS, schedule), "schedule/b", "t1")


# -- In a child process ----------------------------------------------------------------------------

CHILD = """
import sys
from sitq.serialization import About, Purpose, from_parent
size = int.from_bytes(sys.stdin.buffer.read(4))
serializer = from_parent(sys.stdin.buffer.read(size))
parts = serializer.decode_call(sys.stdin.buffer.read(), About("t1", Purpose.CALL))
value = parts.call.func(*parts.call.args, **parts.call.kwargs)
sys.stdout.buffer.write(serializer.encode_value(value, About("t1", Purpose.RESULT)))
"""


def test_a_serializer_with_keys_works_in_a_child_process() -> None:
    inner = Versioned(Compressed(JSONSerializer(tasks=[work], types=[Invoice]), above=1), 2, {1: from_1})
    serializer = with_others(Encrypted(Signed(inner, KEYS), {"a": NEW}), ["cloudpickle"])
    spec = to_child(serializer)
    data = serializer.encode_call(PARTS, CALL)
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        input=len(spec).to_bytes(4) + spec + data,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert serializer.decode_value(done.stdout, RESULT) == ((1,), {"key": "a"})


def test_what_cannot_travel_to_a_child_is_a_typed_error() -> None:
    import threading

    lock = threading.Lock()

    def dumps(tree: Any) -> bytes:
        return repr((lock, tree)).encode()

    own = TreeSerializer("own", dumps, lambda data: None)
    with pytest.raises(TaskSerializationError, match="the serializer own cannot be sent to a child process"):
        to_child(own)
    with pytest.raises(TaskSerializationError, match="cannot be loaded in this process"):
        from_parent(b"noise")


# -- What third parties write ----------------------------------------------------------------------


class Broken(JSONSerializer):
    """Raises what it should not."""

    def encode_call(self, parts: CallParts, about: About, /) -> bytes:
        raise SystemExit

    def decode_call(self, data: bytes, about: About, /) -> CallParts:
        raise SystemExit

    def encode_value(self, value: Any, about: About, /) -> bytes:
        raise RecursionError

    def decode_value(self, data: bytes, about: About, /) -> Any:
        raise MemoryError

    def seal(self, data: bytes, about: About, /) -> bytes:
        raise KeyError

    def unseal(self, data: bytes, about: About, /) -> bytes:
        raise KeyError


def test_whatever_a_serializer_raises_is_a_typed_error() -> None:
    codec = make_codec(Broken())
    call, context, rules = PARTS
    attempts: tuple[Callable[[], Any], ...] = (
        lambda: codec.encode_call(call, context, rules, "t1"),
        lambda: codec.decode_call(b"", "t1"),
        lambda: codec.encode_value(1, "t1", Purpose.RESULT),
        lambda: codec.decode_value(b"", "t1", Purpose.RESULT, "work"),
        lambda: codec.unseal(b"", "t1", Purpose.ERROR),
        lambda: codec.rebind(b"", "schedule/a", "t1"),
    )
    for attempt in attempts:
        with pytest.raises(TaskSerializationError):
            attempt()
    # Never unprotected, and never lost with what it is about.
    assert codec.seal(b"secret", "t1", Purpose.ERROR) == b""


def test_sizes_are_those_of_what_is_stored() -> None:
    small = make_codec(Compressed(json(), above=1), max_payload=200)
    call = Call[Any](work, ("a" * 1000,), {})
    assert len(small.encode_call(call, None, PARTS.rules, "t1")) <= 200
    large = make_codec(Signed(json(), KEYS), max_payload=200)
    with pytest.raises(
        PayloadTooLargeError, match=r"the call of .*work is 1,1.. bytes encoded, and max_payload is 200"
    ):
        large.encode_call(call, None, PARTS.rules, "t1")
    with pytest.raises(
        PayloadTooLargeError, match=r"the result is 1,0.. bytes encoded, and max_payload is 200"
    ):
        large.encode_value("a" * 1000, "t1", Purpose.RESULT)
