"""What each serializer and wrapper costs on the round trip of a task."""

import pickle
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Final

from benchmarks.measure import Figure, Run, Scale, compare, stopwatch
from benchmarks.tasks import noop
from sitq.errors import ValidationError
from sitq.rules import NO_RULES
from sitq.serialization import (
    Compressed,
    Encrypted,
    JSONSerializer,
    MsgpackSerializer,
    Purpose,
    Serializer,
    Signed,
    Versioned,
    make_codec,
)
from sitq.task import Call

_LARGE: Final = [{"number": number, "name": f"item {number}", "price": number / 7} for number in range(200)]


def _json() -> JSONSerializer:
    return JSONSerializer(tasks=[noop])


def _keys() -> dict[str, bytes]:
    return {"a": secrets.token_bytes(32)}


_MADE: Final[dict[str, Callable[[], str | Serializer]]] = {
    "cloudpickle": lambda: "cloudpickle",
    "json": _json,
    "msgpack": lambda: MsgpackSerializer(tasks=[noop]),
    "Compressed(json), zlib": lambda: Compressed(_json()),
    "Compressed(json), zstd": lambda: Compressed(_json(), "zstd"),
    "Signed(cloudpickle)": lambda: Signed("cloudpickle", _keys()),
    "Signed(json)": lambda: Signed(_json(), _keys()),
    "Encrypted(cloudpickle)": lambda: Encrypted("cloudpickle", _keys()),
    "Versioned(cloudpickle)": lambda: Versioned("cloudpickle", 2, {1: lambda old: old}),
}


async def serializers(scale: Scale) -> AsyncIterator[Figure]:
    """The call and the result of a task written and read, by each serializer and wrapper, beside plain pickle."""
    for size, value in (("an int", 1), ("200 dicts", _LARGE)):
        for name, make in _MADE.items():
            try:
                ours = _ours(make(), value)
            except ValidationError:
                continue  # its extra is not installed
            yield await compare(
                f"round trip of {size}, {name}",
                ours,
                _repeated(lambda value=value: _plain(value)),
                scale,
                step=10,
                note="call and result; limit: pickle.dumps and pickle.loads of the same",
            )


def _plain(value: object) -> None:
    pickle.loads(pickle.dumps((noop, (value,), {}), 5))
    pickle.loads(pickle.dumps(value, 5))


def _ours(serializer: str | Serializer, value: object) -> Run:
    codec = make_codec(serializer, max_payload=10**9)
    call = Call[None](noop, (value,), {})

    def trip() -> None:
        codec.decode_call(codec.encode_call(call, None, NO_RULES, "t1"), "t1")
        codec.decode_value(codec.encode_value(value, "t1", Purpose.RESULT), "t1", Purpose.RESULT, "noop")

    return _repeated(trip)


def _repeated(trip: Callable[[], None]) -> Run:
    async def run(count: int) -> float:
        with stopwatch() as elapsed:
            for _ in range(count):
                trip()
        return count / elapsed()

    return run
