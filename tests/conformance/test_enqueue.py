"""enqueue: all or none, in order, once per id, and the bytes come back as they went in."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from types import MappingProxyType
from typing import Any

import pytest

from sitq.backends.base import Backend
from sitq.model import (
    DEFAULT_MAX_CRASHES,
    DEFAULT_QUEUE,
    Cancelled,
    Enqueued,
    Failed,
    Held,
    NewTask,
    Status,
    Succeeded,
    TaskQuery,
    TaskRecord,
)
from tests.support import (
    HOUR,
    FakeClock,
    everything,
    found_ids,
    new_task,
    new_tasks,
    record,
    reserve_one,
    reserved_ids,
    running,
)


async def test_a_task_with_defaults(backend: Backend, clock: FakeClock) -> None:
    answer = await backend.enqueue([NewTask("a", "resize", b"call")])

    assert answer == [Enqueued("a", created=True)]
    stored = await record(backend, "a")
    assert stored == TaskRecord(
        seq=stored.seq,
        id="a",
        name="resize",
        queue=DEFAULT_QUEUE,
        status=Status.PENDING,
        priority=0,
        attempt=0,
        crashes=0,
        max_crashes=DEFAULT_MAX_CRASHES,
        fence=0,
        worker=None,
        enqueued_at=clock.now(),
        due_at=clock.now(),
        started_at=None,
        finished_at=None,
        cancel_requested=False,
        metadata=None,
        payload=b"call",
        result=None,
        error=None,
    )


async def test_a_task_with_everything(backend: Backend, clock: FakeClock) -> None:
    due_at = clock.now() + HOUR
    await backend.enqueue(
        [NewTask("a", "resize", b"call", "images", -3, due_at, 7, timedelta(seconds=5), {"tenant": 12})]
    )

    stored = await record(backend, "a")

    assert (stored.queue, stored.priority, stored.due_at) == ("images", -3, due_at)
    assert (stored.max_crashes, stored.metadata) == (7, {"tenant": 12})


async def test_an_empty_batch(backend: Backend) -> None:
    assert await backend.enqueue([]) == []
    assert await everything(backend) == []


async def test_a_batch_keeps_its_order(backend: Backend) -> None:
    tasks = new_tasks(50)

    answers = await backend.enqueue(tasks)

    assert answers == [Enqueued(task.id, created=True) for task in tasks]
    assert await found_ids(backend) == [task.id for task in reversed(tasks)]
    assert await reserved_ids(backend) == [task.id for task in tasks]


async def test_seq_grows_over_batches(backend: Backend) -> None:
    for _ in range(5):
        await backend.enqueue(new_tasks(3))

    seqs = [task.seq for task in await everything(backend)]

    assert seqs == sorted(set(seqs), reverse=True)


async def test_an_id_that_is_there_changes_nothing(backend: Backend) -> None:
    await backend.enqueue([new_task("a", payload=b"first", queue="one")])
    before = await record(backend, "a")

    answer = await backend.enqueue([new_task("a", payload=b"second", queue="two", priority=5)])

    assert answer == [Enqueued("a", created=False)]
    assert await record(backend, "a") == before


async def test_a_batch_in_which_some_ids_are_there(backend: Backend) -> None:
    await backend.enqueue([new_task("b")])

    answer = await backend.enqueue([new_task("a"), new_task("b"), new_task("c")])

    assert answer == [Enqueued("a", True), Enqueued("b", False), Enqueued("c", True)]
    assert await found_ids(backend) == ["c", "a", "b"]


async def test_one_id_twice_in_a_batch(backend: Backend) -> None:
    answer = await backend.enqueue([new_task("a", payload=b"first"), new_task("a", payload=b"second")])

    assert answer == [Enqueued("a", True), Enqueued("a", False)]
    assert (await record(backend, "a")).payload == b"first"


@pytest.mark.parametrize(
    "end",
    [
        lambda held: Succeeded(held, b"result"),
        lambda held: Failed(held, b"error"),
        lambda held: Cancelled(held),
    ],
    ids=["success", "failed", "cancelled"],
)
async def test_a_finished_task_is_not_started_again_by_its_id(
    backend: Backend, end: Callable[[Held], Any]
) -> None:
    held = await running(backend, new_task("a"))
    await backend.complete([end(held)])
    before = await record(backend, "a")

    answer = await backend.enqueue([new_task("a")])

    assert answer == [Enqueued("a", created=False)]
    assert await record(backend, "a") == before
    assert await reserved_ids(backend) == []


async def test_a_running_task_is_not_started_again_by_its_id(backend: Backend) -> None:
    await running(backend, new_task("a"))

    assert await backend.enqueue([new_task("a")]) == [Enqueued("a", created=False)]
    assert await reserved_ids(backend) == []


@pytest.mark.parametrize("bad", [object(), {1, 2}], ids=["object", "set"])
async def test_a_batch_with_a_task_that_cannot_be_stored_stores_none(backend: Backend, bad: object) -> None:
    tasks = [new_task("a"), new_task("b", metadata={"bad": bad}), new_task("c")]

    with pytest.raises((TypeError, ValueError)):
        await backend.enqueue(tasks)

    assert await everything(backend) == []
    assert await reserved_ids(backend) == []


PAYLOADS = {
    "nothing": b"",
    "one zero byte": b"\x00",
    "every byte": bytes(range(256)),
    "not UTF-8": b"\xff\xfe\xed\xa0\x80",
    "1 MiB": b"\x00\xff" * 524_288,
}


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS.keys())
async def test_bytes_come_back_as_they_went_in(backend: Backend, payload: bytes) -> None:
    await backend.enqueue([new_task("a", payload=payload)])
    reserved = await reserve_one(backend)
    await backend.complete([Succeeded(reserved.held, payload)])
    held = await running(backend, new_task("b", payload=payload))
    await backend.complete([Failed(held, payload)])

    assert reserved.payload == payload
    assert ((await record(backend, "a")).payload, (await record(backend, "a")).result) == (payload, payload)
    assert ((await record(backend, "b")).payload, (await record(backend, "b")).error) == (payload, payload)


METADATA: dict[str, dict[str, Any]] = {
    "empty": {},
    "nested": {"a": [1, 2.5, None, True, {"b": "c"}], "d": {}},
    "unicode": {"größe": "大きさ", "emoji": "\N{SNOWMAN}", "astral": "\N{MATHEMATICAL BOLD CAPITAL A}"},
    "quotes and escapes": {"'; DROP TABLE tasks; --": 'a "b"\n\t\x00\\', "": ""},
    "big numbers": {"n": 2**63, "m": -(2**70), "x": 1e300},
}


@pytest.mark.parametrize("metadata", METADATA.values(), ids=METADATA.keys())
async def test_metadata_comes_back_equal(backend: Backend, metadata: dict[str, Any]) -> None:
    await backend.enqueue([new_task("a", metadata=metadata)])

    assert (await record(backend, "a")).metadata == metadata
    [listed] = await backend.find(TaskQuery())
    assert listed.metadata == metadata
    assert (await reserve_one(backend)).metadata == metadata


async def test_metadata_may_be_any_mapping(backend: Backend) -> None:
    await backend.enqueue([new_task("a", metadata=MappingProxyType({"tenant": 12}))])

    assert (await record(backend, "a")).metadata == {"tenant": 12}


async def test_metadata_is_kept_apart_from_the_callers_object(backend: Backend) -> None:
    metadata: dict[str, Any] = {"tags": ["a"]}
    await backend.enqueue([new_task("a", metadata=metadata)])

    metadata["tags"].append("b")

    assert (await record(backend, "a")).metadata == {"tags": ["a"]}


@pytest.mark.parametrize("text", ["größe 大きさ \N{SNOWMAN}", "a'b\"c;--", "a\nb", " ", "x" * 1000])
async def test_names_and_queues_are_any_text(backend: Backend, text: str) -> None:
    await backend.enqueue([new_task(text, name=text, queue=text), new_task()])

    assert await reserved_ids(backend, queues=[text]) == [text]
    assert await found_ids(backend, ids=[text], name=text, queue=text) == [text]
    assert (await backend.cancel([text])) == {text: Status.RUNNING}


@pytest.mark.parametrize(
    "instant",
    [
        datetime(2026, 3, 1, 0, 0, 0, 1, tzinfo=UTC),
        datetime(2026, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(2026, 6, 1, 12, 0, 0, 1, tzinfo=timezone(2 * HOUR)),
    ],
    ids=lambda instant: instant.isoformat(),
)
async def test_instants_keep_their_microseconds(backend: Backend, instant: datetime) -> None:
    await backend.enqueue([new_task("a", due_at=instant)])

    due_at = (await record(backend, "a")).due_at

    assert due_at == instant
    assert due_at is not None
    assert due_at.tzinfo is UTC
