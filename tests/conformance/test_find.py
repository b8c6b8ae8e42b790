"""find: every filter, all of them together, newest first, in pages."""

from dataclasses import replace
from datetime import timedelta
from itertools import product

import pytest

from sitq.backends.base import Backend
from sitq.model import Failed, Held, Retried, Status, Succeeded, TaskQuery, TaskRecord
from tests.support import LEASE, FakeClock, everything, found_ids, new_task, new_tasks, record, running

SECOND = timedelta(seconds=1)


async def test_nothing_is_there(backend: Backend) -> None:
    assert await backend.find(TaskQuery()) == []


async def test_newest_first(backend: Backend) -> None:
    tasks = new_tasks(10)
    await backend.enqueue(tasks)

    assert await found_ids(backend) == [task.id for task in reversed(tasks)]


async def test_a_change_does_not_move_a_task(backend: Backend, clock: FakeClock) -> None:
    tasks = new_tasks(3)
    await backend.enqueue(tasks)
    held = (await backend.reserve("w1", None, 1, LEASE)).tasks[0].held
    await backend.complete([Retried(held, clock.now(), b"")])

    assert await found_ids(backend) == [task.id for task in reversed(tasks)]


async def test_by_id(backend: Backend) -> None:
    await backend.enqueue([new_task("a"), new_task("b"), new_task("c")])

    assert await found_ids(backend, ids=["a", "c", "unknown", "a"]) == ["c", "a"]
    assert await found_ids(backend, ids=[]) == []
    assert await found_ids(backend, ids=["unknown"]) == []


async def test_by_many_ids(backend: Backend) -> None:
    tasks = new_tasks(2000)
    await backend.enqueue(tasks)

    assert len(await found_ids(backend, ids={task.id for task in tasks}, limit=5000)) == 2000


async def test_by_status(backend: Backend) -> None:
    await backend.enqueue([new_task("pending")])
    await running(backend, new_task("running"))
    await backend.complete([Succeeded(await running(backend, new_task("success")), b"")])

    assert await found_ids(backend, statuses=[Status.PENDING]) == ["pending"]
    assert await found_ids(backend, statuses={Status.SUCCESS, Status.RUNNING}) == ["success", "running"]
    assert await found_ids(backend, statuses=[Status.FAILED]) == []
    assert await found_ids(backend, statuses=[]) == []


async def test_by_queue_and_name(backend: Backend) -> None:
    await backend.enqueue([new_task("1", queue="a", name="x"), new_task("2", queue="a", name="y")])
    await backend.enqueue([new_task("3", queue="b", name="x")])

    assert await found_ids(backend, queue="a") == ["2", "1"]
    assert await found_ids(backend, name="x") == ["3", "1"]
    assert await found_ids(backend, queue="a", name="x") == ["1"]


async def test_by_time_from_since_on_and_before_until(backend: Backend, clock: FakeClock) -> None:
    start = clock.now()
    for task_id in "abc":
        await backend.enqueue([new_task(task_id)])
        clock.advance(SECOND)

    assert await found_ids(backend, since=start + SECOND) == ["c", "b"]
    assert await found_ids(backend, until=start + SECOND) == ["a"]
    assert await found_ids(backend, since=start + SECOND, until=start + 2 * SECOND) == ["b"]
    assert await found_ids(backend, since=start + SECOND / 2, until=start + SECOND) == []


@pytest.mark.parametrize("limit", [0, 1, 3, 10, 11])
async def test_at_most_the_limit(backend: Backend, limit: int) -> None:
    await backend.enqueue(new_tasks(10))

    assert len(await found_ids(backend, limit=limit)) == min(limit, 10)


async def test_bytes_only_when_asked(backend: Backend) -> None:
    await backend.complete([Succeeded(await running(backend, new_task("a", payload=b"call")), b"result")])
    await backend.complete([Failed(await running(backend, new_task("b", payload=b"call")), b"error")])
    await backend.enqueue([new_task("c")])

    without = await backend.find(TaskQuery())
    with_bytes = await backend.find(TaskQuery(with_bytes=True))

    assert [(task.payload, task.result, task.error) for task in without] == [(None, None, None)] * 3
    assert [(task.payload, task.result, task.error) for task in with_bytes] == [
        (b"payload of c", None, None),
        (b"call", None, b"error"),
        (b"call", b"result", None),
    ]


async def test_a_result_of_no_bytes_is_a_result(backend: Backend) -> None:
    await backend.complete([Succeeded(await running(backend, new_task("a")), b"")])

    assert (await record(backend, "a")).result == b""


async def test_pages_by_seq(backend: Backend) -> None:
    tasks = new_tasks(10)
    await backend.enqueue(tasks)

    seen = await pages(backend, limit=3)

    assert [len(page) for page in seen] == [3, 3, 3, 1]
    assert [task.id for page in seen for task in page] == [task.id for task in reversed(tasks)]


async def test_pages_stay_in_step_while_tasks_arrive_and_go(backend: Backend, clock: FakeClock) -> None:
    tasks = new_tasks(6, result_ttl=timedelta(0))
    await backend.enqueue(tasks)
    first = await backend.find(TaskQuery(limit=2))

    await backend.enqueue(new_tasks(5))
    await backend.complete([Succeeded(await reserve_by_id(backend, tasks[4].id), b"")])
    await backend.prune(10)
    second = await found_ids(backend, limit=2, before=first[-1].seq)

    assert second == [tasks[3].id, tasks[2].id]


async def test_every_combination_of_filters_in_pages(backend: Backend, clock: FakeClock) -> None:
    start = clock.now()
    for each_queue, each_name in product("ab", "xy"):
        await backend.enqueue(new_tasks(4, queue=each_queue, name=each_name))
        clock.advance(SECOND)
    reserved = (await backend.reserve("w1", None, 10, LEASE)).tasks
    await backend.complete([Succeeded(task.held, b"") for task in reserved[::2]])
    tasks = await everything(backend)
    cursor = tasks[2].seq

    for ids, statuses, queue, name, since, until, before in product(
        (None, [task.id for task in tasks[::3]]),
        (None, [Status.PENDING, Status.SUCCESS]),
        (None, "a"),
        (None, "y"),
        (None, start + SECOND),
        (None, start + 3 * SECOND),
        (None, cursor),
    ):
        expected = [
            task.id
            for task in tasks
            if (ids is None or task.id in ids)
            and (statuses is None or task.status in statuses)
            and (queue is None or task.queue == queue)
            and (name is None or task.name == name)
            and (since is None or task.enqueued_at >= since)
            and (until is None or task.enqueued_at < until)
            and (before is None or task.seq < before)
        ]
        query = TaskQuery(
            ids=ids,
            statuses=statuses,
            queue=queue,
            name=name,
            since=since,
            until=until,
            before=before,
            limit=3,
        )
        seen = await pages(backend, query)
        assert [task.id for page in seen for task in page] == expected, query


async def pages(backend: Backend, query: TaskQuery | None = None, limit: int = 3) -> list[list[TaskRecord]]:
    query = query or TaskQuery(limit=limit)
    found = []
    while page := await backend.find(query):
        found.append(page)
        query = replace(query, before=page[-1].seq)
    return found


async def reserve_by_id(backend: Backend, task_id: str) -> Held:
    [task] = (await backend.reserve("w1", None, 1, LEASE, ids=[task_id])).tasks
    return task.held
