"""A queue with another serializer: everything that is stored goes through it, and nothing else is read."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sitq import (
    Cancel,
    CloudpickleSerializer,
    Compressed,
    Encrypted,
    JSONSerializer,
    MsgpackSerializer,
    OldPayload,
    PayloadRefusedError,
    PayloadTooLargeError,
    Purpose,
    Serializer,
    Signed,
    Status,
    SyncTaskQueue,
    TaskCancelledError,
    TaskQueue,
    TaskSerializationError,
    Versioned,
    Worker,
    call,
    current_task,
    group,
    result_of,
)
from sitq.backends.base import Backend
from sitq.backends.sqlite import SQLiteBackend
from sitq.events import ScheduleFailed, TaskFailed, TaskLogged, TaskParked, TaskProgressed, TaskPublished
from sitq.failure import decode_error, encode_error
from sitq.model import Failed, NewTask, Note, NoteKind, Succeeded
from sitq.serialization import encode_call, encode_value
from sitq.task import Call
from sitq.worker.ticker import Ticker
from tests.integration.support import drain, recorded
from tests.support import PATIENCE, FakeClock, everything, record, reserve_one

SECRET = "s3cr3t-7d41"
KEYS = {"k1": b"1" * 32}
ran: list[Any] = []


async def tells(text: str, times: int = 1) -> tuple[str, int]:
    """Says everything that a task can say, with its argument in it, and succeeds in its second attempt."""
    task = current_task()
    task.progress(50, text)
    task.log(text)
    task.publish((text,))
    ran.append(text)
    if task.attempt == 1:
        raise RuntimeError(text)
    return text, times


def fails(text: str) -> None:
    raise ValueError(text)


def gives_up(text: str) -> None:
    raise Cancel(text)


def returns(kind: str) -> Any:
    return object() if kind == "object" else "x" * 1000


def leaves(text: str) -> None:
    ran.append(text)


def prepared(prefix: str) -> None:
    ran.append(prefix)


class Trap:
    """A value that runs something when it is unpickled."""

    def __reduce__(self) -> Any:
        return leaves, ("sprung",)


def told(values: list[Any]) -> str:
    return ", ".join(map(str, values))


TASKS: list[Callable[..., Any]] = [tells, fails, gives_up, returns, leaves, prepared, told]


def from_json() -> JSONSerializer:
    return JSONSerializer(tasks=TASKS)


MAKERS: dict[str, Callable[[], Serializer]] = {
    "cloudpickle": CloudpickleSerializer,
    "json": from_json,
    "msgpack": lambda: MsgpackSerializer(tasks=TASKS),
    "signed": lambda: Signed(Compressed(from_json(), above=10_000), KEYS),
    "encrypted": lambda: Encrypted(Compressed(Versioned("cloudpickle", 2, {1: lambda old: old})), KEYS),
}
VERIFIED: dict[str, Callable[[], Serializer]] = {name: MAKERS[name] for name in ("signed", "encrypted")}


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    ran.clear()


@pytest.fixture(params=MAKERS)
async def queue(request: pytest.FixtureRequest, backend: Backend) -> AsyncIterator[TaskQueue]:
    async with TaskQueue(backend, serializer=MAKERS[request.param]()) as queue:
        yield queue


@pytest.fixture(params=VERIFIED)
async def verifying(request: pytest.FixtureRequest, backend: Backend) -> AsyncIterator[TaskQueue]:
    async with TaskQueue(backend, serializer=VERIFIED[request.param]()) as queue:
        yield queue


async def notes_of(backend: Backend, task_id: str) -> list[Note]:
    return await backend.notes(task_id)


async def all_bytes(backend: Backend) -> list[tuple[str, Purpose, bytes]]:
    """Everything that the storage holds in bytes, with what it is."""
    found: list[tuple[str, Purpose, bytes]] = []
    for task in await everything(backend):
        parts = ((Purpose.CALL, task.payload), (Purpose.RESULT, task.result), (Purpose.ERROR, task.error))
        found += [(task.id, purpose, data) for purpose, data in parts if data is not None]
        for note in await backend.notes(task.id):
            error = note.kind in (NoteKind.ATTEMPT, NoteKind.REQUEUED)
            found.append((task.id, Purpose.ERROR if error else Purpose(note.kind), note.data))
    return found


# -- The life of a task ----------------------------------------------------------------------------


async def test_everything_that_a_task_says_arrives(queue: TaskQueue) -> None:
    async with Worker(queue):
        handle = await queue.options(context={"a": (1,)}, timeout=30, max_retries=1, retry_delay=0).enqueue(
            tells, SECRET, times=2
        )
        assert await handle.result(timeout=PATIENCE) == (SECRET, 2)
    async with aclosing(queue.events(handle)) as entries:
        events = [entry.event async for entry in entries]
    said = [event for event in events if isinstance(event, TaskLogged)]
    assert [event.text for event in said] == [SECRET, SECRET]
    published = [event.value for event in events if isinstance(event, TaskPublished)]
    assert published == [(SECRET,), (SECRET,)]
    assert [event.note for event in events if isinstance(event, TaskProgressed)] == [SECRET]
    told = await queue.get(handle)
    assert told.progress is not None
    assert (told.progress.note, [one.error.message for one in told.attempts_log]) == (SECRET, [SECRET])


async def test_a_failure_is_told_and_requeued(queue: TaskQueue) -> None:
    async with Worker(queue):
        handle = await queue.enqueue(fails, SECRET)
        result = await queue.get_result(handle, timeout=PATIENCE)
        assert (result.status, result.error, result.error_type) == (Status.FAILED, SECRET, "ValueError")
        assert await queue.requeue(handle) == [handle]
        assert (await queue.get_result(handle, timeout=PATIENCE)).error == SECRET
        cancelled = await queue.get_result(await queue.enqueue(gives_up, SECRET), timeout=PATIENCE)
        assert (cancelled.status, cancelled.error) == (Status.CANCELLED, SECRET)
    assert [one.error.message for one in (await queue.get(handle)).attempts_log] == [SECRET, SECRET]


async def test_values_and_failures_of_parents_arrive(queue: TaskQueue) -> None:
    async with Worker(queue):
        texts = await queue.enqueue(group([call(told, ["a", 1]), call(told, ["b"])]))
        failed = await queue.enqueue(fails, SECRET)
        beside = await queue.options(on_parent_failure="run").enqueue(told, [result_of(failed)])
        after = await queue.enqueue(told, [result_of(failed)])
        assert await texts.result(timeout=PATIENCE) == ["a, 1", "b"]
        assert f"ValueError: {SECRET}" in await beside.result(timeout=PATIENCE)
        with pytest.raises(TaskCancelledError, match=f"failed: ValueError: {SECRET}"):
            await after.result(timeout=PATIENCE)


async def test_what_is_debounced_runs_with_the_last_arguments(queue: TaskQueue) -> None:
    first = await queue.options(debounce=0.001).enqueue(leaves, "first")
    second = await queue.options(debounce=0.001).enqueue(leaves, "second")
    assert first == second
    async with Worker(queue):
        assert (await queue.get_result(first, timeout=PATIENCE)).status is Status.SUCCESS
    assert ran == ["second"]


async def test_a_batch_and_a_task_run_by_hand(queue: TaskQueue) -> None:
    handles = await queue.enqueue_many([call(leaves, text) for text in "ab"])
    worker = Worker(queue)
    for handle in handles:
        assert (await worker.process_task(handle)).status is Status.SUCCESS
    assert ran == ["a", "b"]


def test_a_queue_without_a_loop_takes_one_too(tmp_path: Path) -> None:
    serializer = Signed(from_json(), KEYS)
    with SyncTaskQueue(tmp_path / "a.db", serializer=serializer, also_reads=["cloudpickle"]) as queue:
        handle = queue.enqueue(leaves, "a")
        record = queue.find()[0]
        assert (record.id, queue.codec.serializer.name) == (handle, "signed")


# -- What is stored --------------------------------------------------------------------------------


async def run_everything(queue: TaskQueue) -> None:
    # Far away, so that no worker makes a task of it; that is another test.
    await queue.schedule("far", call(leaves, SECRET), every=timedelta(days=36_000))
    async with Worker(queue):
        for func in (tells, fails, gives_up):
            await queue.get_result(
                await queue.options(max_retries=1, retry_delay=0).enqueue(func, SECRET), timeout=PATIENCE
            )
        failed = await queue.find(status=Status.FAILED)
        await queue.requeue([one.id for one in failed])
        await asyncio.gather(*(queue.get_result(one.id, timeout=PATIENCE) for one in failed))


async def test_all_of_it_is_sealed_for_its_task_and_purpose(verifying: TaskQueue) -> None:
    await run_everything(verifying)
    found = await all_bytes(verifying.backend)
    assert {purpose for _, purpose, _ in found} == set(Purpose) - {Purpose.SCHEDULE}
    codec = verifying.codec
    for task_id, purpose, data in found:
        # As bytes, whatever is in them.
        unwrap: Any = codec.serializer
        assert unwrap.unwrap(data, replace_about(task_id, purpose))
        with pytest.raises(PayloadRefusedError):
            unwrap.unwrap(data, replace_about("another", purpose))
        for other in set(Purpose) - {purpose}:
            with pytest.raises(PayloadRefusedError):
                unwrap.unwrap(data, replace_about(task_id, other))


def replace_about(task_id: str, purpose: Purpose) -> Any:
    from sitq import About

    return About(task_id, purpose)


async def test_a_secret_is_nowhere_in_an_encrypted_store(tmp_path: Path) -> None:
    async with TaskQueue(SQLiteBackend(tmp_path / "a.db"), serializer=MAKERS["encrypted"]()) as queue:
        await run_everything(queue)
    files = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"k1" in files
    assert SECRET.encode() not in files
    assert not any(key in files for key in KEYS.values())


async def test_a_secret_is_in_a_store_that_is_not_encrypted(tmp_path: Path) -> None:
    """So the test before this one looks in the right place."""
    async with TaskQueue(SQLiteBackend(tmp_path / "a.db"), serializer=MAKERS["signed"]()) as queue:
        await run_everything(queue)
    files = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert files.count(SECRET.encode()) > 5


# -- What is refused -------------------------------------------------------------------------------


async def parked(queue: TaskQueue) -> str:
    """Run a worker, and return why a task was parked."""
    worker = Worker(queue)
    recorder = recorded(worker)
    async with worker:
        event = await recorder.wait_for(TaskParked)
    assert ran == []
    return f"{event.error_type}: {event.error}"


async def test_a_call_of_another_task_is_refused(verifying: TaskQueue) -> None:
    backend = verifying.backend
    one = await verifying.options(delay=3600).enqueue(leaves, "one")
    payload = (await record(backend, one)).payload
    assert payload is not None
    await backend.enqueue([NewTask("two", "leaves", payload)])
    assert "PayloadRefusedError: this call cannot be verified" in await parked(verifying)
    told = await verifying.get("two")
    assert told.status is Status.PENDING
    assert told.last_error is not None
    assert told.last_error.type == "sitq.errors.PayloadRefusedError"


async def test_a_call_without_a_signature_is_refused(verifying: TaskQueue) -> None:
    payload = encode_call(Call(leaves, ("forged",), {}), None, max_payload=1000)
    await verifying.backend.enqueue([NewTask("forged", "leaves", payload)])
    assert "PayloadRefusedError: this call was written by the serializer cloudpickle" in await parked(
        verifying
    )


async def test_a_result_as_a_call_and_a_call_as_a_result_are_refused(verifying: TaskQueue) -> None:
    backend = verifying.backend
    one = await verifying.enqueue(leaves, "one")
    payload = (await record(backend, one)).payload
    assert payload is not None
    held = (await reserve_one(backend)).held
    await backend.complete([Succeeded(held, payload)])
    with pytest.raises(PayloadRefusedError, match="this result cannot be verified"):
        await verifying.get_result(one)
    result = verifying.codec.encode_value(1, "two", Purpose.RESULT)
    await backend.enqueue([NewTask("two", "leaves", result)])
    assert "this call cannot be verified" in await parked(verifying)


@pytest.mark.parametrize("name", ["json", "msgpack", "signed", "encrypted"])
async def test_a_pickle_as_a_result_is_refused_unread(name: str, backend: Backend) -> None:
    trap = encode_value(Trap(), max_payload=1000)
    ran.clear()
    async with TaskQueue(backend, serializer=MAKERS[name]()) as queue:
        handle = await queue.enqueue(leaves, "one")
        held = (await reserve_one(backend)).held
        await backend.complete([Succeeded(held, trap)])
        with pytest.raises(PayloadRefusedError, match="written by the serializer cloudpickle"):
            await handle.result(timeout=PATIENCE)
    assert ran == []
    async with TaskQueue(backend) as plain:
        await plain.get_result(handle)
    assert ran == ["sprung"]  # so it would have been


async def test_an_error_that_is_not_sealed_is_refused_and_hides_nothing_else(verifying: TaskQueue) -> None:
    handle = await verifying.enqueue(leaves, "one")
    held = (await reserve_one(verifying.backend)).held
    await verifying.backend.complete([Failed(held, encode_error(ValueError("forged")))])
    with pytest.raises(PayloadRefusedError, match="this error says of no serializer"):
        await verifying.get_result(handle)
    told = await verifying.get(handle)
    assert told.last_error is not None
    assert (told.status, told.last_error.type) == (Status.FAILED, "unreadable")
    async with aclosing(verifying.events(handle)) as entries:
        with pytest.raises(PayloadRefusedError):
            [entry async for entry in entries]


async def test_the_usual_queue_says_what_it_cannot_read(verifying: TaskQueue) -> None:
    await run_everything(verifying)
    name = verifying.codec.serializer.name
    async with TaskQueue(verifying.backend) as plain:
        for task in await plain.find():
            told = await plain.get(task.id)
            assert (told.status, told.progress) == (task.status, None)
            with pytest.raises(
                PayloadRefusedError, match=f"written by the serializer {name}, and here cloudpickle"
            ):
                await plain.get_result(task.id)
            if told.last_error is not None:
                assert told.last_error.type == "unreadable"
        await plain.enqueue(leaves, "plain")
    assert "was written by the serializer cloudpickle" in await parked_after(verifying)


async def parked_after(queue: TaskQueue) -> str:
    ran.clear()
    return await parked(queue)


async def test_a_debounced_call_is_still_a_call_and_signed(verifying: TaskQueue) -> None:
    handle = await verifying.options(debounce=0.001).enqueue(leaves, "one")
    payload = (await record(verifying.backend, handle)).payload
    assert payload is not None
    with pytest.raises(PayloadRefusedError):
        verifying.codec.decode_value(payload, handle, Purpose.RESULT, "leaves")


# -- What cannot be written ------------------------------------------------------------------------


async def test_what_json_cannot_carry_is_refused_and_nothing_is_stored(backend: Backend) -> None:
    async with TaskQueue(backend, serializer=from_json(), max_payload=500) as queue:
        with pytest.raises(TaskSerializationError, match="print is not in tasks of the serializer json"):
            await queue.enqueue(print, 1)
        with pytest.raises(TaskSerializationError, match=r"argument 1 \(`text`: object\)"):
            await queue.enqueue(leaves, object())  # type: ignore[call-overload]
        with pytest.raises(TaskSerializationError):
            await queue.enqueue_many([call(leaves, "a"), call(leaves, lambda: 1)])  # type: ignore[call-overload]
        with pytest.raises(PayloadTooLargeError):
            await queue.enqueue(leaves, "x" * 500)
        with pytest.raises(TaskSerializationError):
            await queue.schedule("s", call(print), every=60)
        assert (await queue.find(), await queue.schedules()) == ([], [])
        async with Worker(queue):
            for kind, words in (("object", "no form for a object"), ("large", "max_payload is 500")):
                result = await queue.get_result(await queue.enqueue(returns, kind), timeout=PATIENCE)
                assert result.status is Status.FAILED
                assert words in str(result.error)


# -- From one to another ---------------------------------------------------------------------------


async def test_tasks_of_before_are_read_as_long_as_it_is_said(backend: Backend) -> None:
    async with TaskQueue(backend) as before:
        done, waiting = await before.enqueue(leaves, "done"), await before.enqueue(leaves, "waiting")
        failed = await before.enqueue(fails, "failed")
        await before.schedule("far", call(leaves, "far"), every=timedelta(days=36_000))
        worker = Worker(before)
        await worker.process_task(done)
        await worker.process_task(failed)
    signed = MAKERS["signed"]()
    async with TaskQueue(backend, serializer=signed, also_reads=["cloudpickle"]) as between:
        assert (await between.get_result(done)).status is Status.SUCCESS
        assert (await between.get_result(failed)).error == "failed"
        new = await between.enqueue(leaves, "new")
        async with Worker(between):
            await between.get_result(new, timeout=PATIENCE)
            await between.get_result(waiting, timeout=PATIENCE)
    assert sorted(ran) == ["done", "new", "waiting"]
    async with TaskQueue(backend, serializer=signed) as after:
        # What was written meanwhile is signed, whoever had written the call.
        assert (await after.get_result(waiting)).status is Status.SUCCESS
        with pytest.raises(PayloadRefusedError):
            await after.get_result(failed)


async def test_a_key_is_replaced_without_a_gap(backend: Backend) -> None:
    def queue_with(keys: dict[str, bytes]) -> TaskQueue:
        return TaskQueue(backend, serializer=Signed(from_json(), keys))

    old, new = {"old": b"o" * 32}, {"new": b"n" * 32}
    async with queue_with(old) as queue:
        waiting = await queue.enqueue(leaves, "waiting")
    async with queue_with({**new, **old}) as queue, Worker(queue):
        await waiting_for(queue, waiting)
        later = await queue.enqueue(leaves, "later")
        await waiting_for(queue, later)
    async with queue_with(new) as queue:
        assert (await queue.get_result(waiting)).status is Status.SUCCESS
        assert (await queue.get_result(later)).status is Status.SUCCESS
    async with queue_with(old) as queue:
        with pytest.raises(PayloadRefusedError, match="protected by the key 'new', and keys has 'old'"):
            await queue.get_result(later)
    assert ran == ["waiting", "later"]


async def waiting_for(queue: TaskQueue, task_id: str) -> None:
    assert (await queue.get_result(task_id, timeout=PATIENCE)).status is Status.SUCCESS


def lifted(old: OldPayload) -> OldPayload:
    if old.purpose is Purpose.CALL:
        return replace(old, args=(), kwargs={"prefix": f"{old.task.rpartition('.')[2]}-{old.args[0]}"})
    return replace(old, value={"was": old.value, "of": old.task.rpartition(".")[2]})


async def test_calls_and_results_of_before_fit_the_code_of_now(backend: Backend) -> None:
    async with TaskQueue(backend, serializer=from_json()) as before:
        waiting = await before.enqueue(prepared, "old")
        done = await before.enqueue(leaves, "done")
        await Worker(before).process_task(done)
    ran.clear()
    versions = Versioned(from_json(), 2, {1: lifted})
    async with TaskQueue(backend, serializer=versions) as now, Worker(now):
        await waiting_for(now, waiting)
        assert (await now.get_result(done)).value == {"was": None, "of": "leaves"}
        assert (await now.get_result(waiting)).value is None
    assert ran == ["prepared-old"]


# -- Schedules -------------------------------------------------------------------------------------


@pytest.fixture
def clock() -> FakeClock:
    clock = FakeClock()
    clock.advance(datetime.now(UTC) - clock.now())
    return clock


def ticker(queue: TaskQueue, clock: FakeClock, emit: Any = lambda event: None) -> Ticker:
    rebind = queue.codec.rebind if queue.codec.seals else None
    return Ticker("w1", queue.backend, clock, emit, rebind=rebind)


async def test_the_task_of_a_tick_is_bound_to_itself(queue: TaskQueue, clock: FakeClock) -> None:
    await queue.schedule("often", call(leaves, "tick"), every=60, misfire="latest")
    clock.advance(61)
    assert (await ticker(queue, clock).run_once()).enqueued == 1
    [task] = await queue.find()
    # Another clock made it due in a minute.
    [stored] = [one for one in await everything(queue.backend) if one.id == task.id]
    assert stored.payload is not None
    made, _, _ = queue.codec.decode_call(stored.payload, task.id)
    assert made == Call(leaves, ("tick",), {})
    if queue.codec.serializer.name in ("signed", "aes-gcm"):
        with pytest.raises(PayloadRefusedError):
            queue.codec.decode_call(stored.payload, task.id + "x")


async def test_the_call_of_another_schedule_is_refused(verifying: TaskQueue, clock: FakeClock) -> None:
    backend = verifying.backend
    for name in ("one", "two"):
        await verifying.schedule(name, call(leaves, name), every=60)
    documents = await backend.load("schedule/")
    one, two = (json.loads(documents[f"schedule/{name}"]) for name in ("one", "two"))
    two["task"]["payload"] = one["task"]["payload"]
    await backend.save({"schedule/two": json.dumps(two).encode()})
    events: list[Any] = []
    clock.advance(61)
    await ticker(verifying, clock, events.append).run_once()
    assert [task.metadata and task.metadata["schedule"] for task in await verifying.find()] == ["one"]
    [failed] = [event for event in events if isinstance(event, ScheduleFailed)]
    assert failed.schedule == "two"
    assert "cannot be verified" in failed.error


async def test_a_schedule_that_is_signed_is_not_written_again_by_each_process(backend: Backend) -> None:
    for serializer in (MAKERS["signed"](), MAKERS["signed"]()):
        queue = TaskQueue(backend, serializer=serializer)
        queue.cron("0 3 * * *", name="nightly")(midnight)
        with pytest.raises(TaskSerializationError, match="midnight is not in tasks"):
            await queue.open()
    stored: list[bytes] = []
    for keys in ({"a": b"a" * 32}, {"a": b"a" * 32}, {"b": b"b" * 32, "a": b"a" * 32}):
        queue = TaskQueue(backend, serializer=Signed(JSONSerializer(tasks=[midnight]), keys))
        queue.cron("0 3 * * *", name="nightly")(midnight)
        await queue.open()
        stored.append((await backend.load("schedule/"))["schedule/nightly"])
    assert stored[0] == stored[1]
    assert stored[1] != stored[2]  # with a new key it is, so that the old one can go


def midnight() -> None: ...


# -- Odd ends --------------------------------------------------------------------------------------


async def test_an_outcome_that_cannot_be_stored_is_replaced_by_a_sealed_one(
    verifying: TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete = verifying.backend.complete

    async def picky(outcomes: Any, **more: Any) -> Any:
        if any(isinstance(one, Succeeded) for one in outcomes):
            raise OverflowError(SECRET)
        return await complete(outcomes, **more)

    monkeypatch.setattr(verifying.backend, "complete", picky)
    async with Worker(verifying):
        result = await verifying.get_result(await verifying.enqueue(leaves, "one"), timeout=PATIENCE)
    assert (result.status, result.error) == (Status.FAILED, SECRET)


async def test_events_of_this_process_are_in_the_clear(verifying: TaskQueue) -> None:
    await verifying.enqueue(fails, SECRET)
    recorder = await drain(verifying)
    assert (await recorder.wait_for(TaskFailed)).error == SECRET
    [task] = await everything(verifying.backend)
    assert task.error is not None
    with pytest.raises(TaskSerializationError):
        decode_error(task.error)
