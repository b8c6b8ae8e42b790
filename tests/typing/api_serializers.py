"""Serializers: what a type checker accepts and refuses. Checked by test_typing, never run."""

from dataclasses import dataclass
from typing import Any, assert_type

from sitq import (
    About,
    CallParts,
    Compressed,
    Encrypted,
    JSONSerializer,
    MsgpackSerializer,
    OldPayload,
    Serializer,
    Signed,
    SyncTaskQueue,
    TaskHandle,
    TaskQueue,
    TreeSerializer,
    Versioned,
)

KEYS = {"2026-11": b"0" * 32}


@dataclass
class Invoice:
    number: int


def pay(invoice: Invoice) -> int:
    return invoice.number


class Own:
    """Has everything that a serializer has."""

    name = "own"

    def encode_call(self, parts: CallParts, about: About, /) -> bytes:
        return b""

    def decode_call(self, data: bytes, about: About, /) -> CallParts:
        raise NotImplementedError

    def encode_value(self, value: Any, about: About, /) -> bytes:
        return b""

    def decode_value(self, data: bytes, about: About, /) -> Any:
        return None

    def seal(self, data: bytes, about: About, /) -> bytes:
        return data

    def unseal(self, data: bytes, about: About, /) -> bytes:
        return data


class Half:
    name = "half"


def lift(old: OldPayload) -> OldPayload:
    return old


async def queues() -> None:
    json = JSONSerializer(tasks=[pay], types=[Invoice])
    JSONSerializer(tasks={"pay": pay}, types={"invoice": Invoice})
    async with TaskQueue("app.db", serializer=json) as queue:
        assert_type(await queue.enqueue(pay, Invoice(1)), TaskHandle[int])
    TaskQueue(serializer="json", also_reads=["cloudpickle", json])
    TaskQueue(serializer=Own(), also_reads=[Own()])
    SyncTaskQueue(serializer=Signed(json, KEYS))
    SyncTaskQueue(serializer=Encrypted(Compressed(Versioned("msgpack", 2, {1: lift}), "zstd"), KEYS))
    TreeSerializer("own", lambda tree: repr(tree).encode(), lambda data: None, tasks=[pay])
    MsgpackSerializer(types=[Invoice])
    every: list[Serializer] = [json, Own(), Signed(json, KEYS)]
    print(every)


def mistakes() -> None:
    TaskQueue(serializer=5)  # type: ignore[arg-type]
    TaskQueue(serializer=Half())  # type: ignore[arg-type]
    TaskQueue(also_reads=Own())  # type: ignore[arg-type]
    JSONSerializer([pay])  # type: ignore[call-arg]
    JSONSerializer(tasks=[5])  # type: ignore[list-item]
    Signed("json")  # type: ignore[call-arg]
    Signed("json", [b"0" * 32])  # type: ignore[arg-type]
    Signed("json", {"a": "0" * 32})  # type: ignore[dict-item]
    Encrypted(5, KEYS)  # type: ignore[arg-type]
    Compressed("json", "gzip")  # type: ignore[arg-type]
    Compressed("json", above="1")  # type: ignore[arg-type]
    Versioned("json", "2")  # type: ignore[arg-type]
    Versioned("json", 2, {1: len})  # type: ignore[dict-item]
