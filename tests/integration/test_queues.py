"""Queues: their weights and their order in a worker, held and let go for everybody, and full."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from sitq import QueueFullError, Status, TaskQueue, ValidationError, Worker, call
from sitq.backends.base import Backend
from sitq.backends.sqlite import SQLiteBackend
from sitq.events import TaskSucceeded
from tests.integration.support import drain, end_group, recorded, start_python
from tests.support import PATIENCE


def work() -> None: ...


async def fill(queue: TaskQueue, **numbers: int) -> None:
    for name, number in numbers.items():
        await queue.options(queue=name).enqueue_many([call(work)] * number)


async def order(queue: TaskQueue, **options: object) -> list[str]:
    """The queues of the tasks that a worker with one slot runs, as they come."""
    return [event.queue for event in (await drain(queue, concurrency=1, **options)).of(TaskSucceeded)]


# -- Which first ------------------------------------------------------------------------------------


async def test_weights_divide_the_slots(queue: TaskQueue) -> None:
    await fill(queue, reports=20, mail=20)
    ran = await order(queue, queues={"mail": 3, "reports": 1})
    assert Counter(ran[:16]) == {"mail": 12, "reports": 4}
    assert Counter(ran) == {"mail": 20, "reports": 20}  # what one leaves is for the other


async def test_strict_order_runs_a_queue_only_when_those_before_are_empty(queue: TaskQueue) -> None:
    await fill(queue, low=3, high=3, middle=3)
    assert await order(queue, queues=["high", "middle", "low"], strict=True) == (
        ["high"] * 3 + ["middle"] * 3 + ["low"] * 3
    )


async def test_without_either_the_order_of_enqueueing_counts(queue: TaskQueue) -> None:
    await fill(queue, low=2, high=2)
    assert await order(queue, queues=["high", "low"]) == ["low"] * 2 + ["high"] * 2


async def test_priority_counts_within_a_queue(queue: TaskQueue) -> None:
    for priority in (5, -5, 0):
        await queue.options(queue="mail", priority=priority, id=f"p{priority}").enqueue(work)
    recorder = await drain(queue, concurrency=1, queues={"mail": 1})
    assert [event.task_id for event in recorder.of(TaskSucceeded)] == ["p-5", "p0", "p5"]


async def test_weights_leave_other_queues_alone(queue: TaskQueue) -> None:
    await fill(queue, other=1, mail=1)
    assert await order(queue, queues={"mail": 1}) == ["mail"]


# -- Pause and resume -------------------------------------------------------------------------------


async def test_a_paused_queue_starts_nothing_until_it_is_resumed(queue: TaskQueue) -> None:
    await queue.pause("mail")
    await fill(queue, mail=2, web=1)
    assert await order(queue) == ["web"]
    [mail] = [one for one in (await queue.stats()).queues if one.queue == "mail"]
    assert (mail.paused, mail.counts) == (True, {Status.PENDING: 2})
    await queue.resume("mail")
    assert await order(queue) == ["mail", "mail"]


async def test_resuming_wakes_a_worker_that_waits(queue: TaskQueue) -> None:
    await queue.pause("mail")
    await fill(queue, mail=1)
    worker = Worker(queue, poll_interval=60)
    recorder = recorded(worker)
    async with worker:
        await queue.resume("mail")
        await recorder.wait_for(TaskSucceeded)


async def test_pausing_twice_is_pausing_once(queue: TaskQueue) -> None:
    await queue.pause("mail")
    await queue.pause("mail")
    await queue.resume("mail")
    await queue.resume("mail")
    await fill(queue, mail=1)
    assert await order(queue) == ["mail"]


@pytest.mark.parametrize("name", ["", "a\nb", 7, None])
async def test_a_bad_name_is_refused(queue: TaskQueue, name: object) -> None:
    for verb in (queue.pause, queue.resume):
        with pytest.raises(ValidationError, match=r"^queue "):
            await verb(name)  # type: ignore[arg-type]


PAUSER = """
import asyncio, sys
from sitq import TaskQueue

async def main(path):
    async with TaskQueue(path) as queue:
        for line in sys.stdin:
            await getattr(queue, line.strip())("mail")
            print("done", flush=True)

asyncio.run(main(sys.argv[1]))
"""


async def test_another_process_pauses_and_resumes(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    async with TaskQueue(path) as queue:
        with start_python(PAUSER, path) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write("pause\n")
                process.stdin.flush()
                assert await asyncio.to_thread(process.stdout.readline) == "done\n"
                await fill(queue, mail=1)
                assert await order(queue) == []
                worker = Worker(queue, poll_interval=60)
                recorder = recorded(worker)
                async with worker:
                    process.stdin.write("resume\n")
                    process.stdin.flush()
                    await recorder.wait_for(TaskSucceeded)
            finally:
                end_group(process)


# -- Full -------------------------------------------------------------------------------------------


async def test_a_full_queue_refuses_and_stores_nothing(backend: Backend) -> None:
    async with TaskQueue(backend, max_pending=3) as queue:
        await fill(queue, mail=2)
        with pytest.raises(QueueFullError) as caught:
            await fill(queue, mail=2)
        assert "mail" in str(caught.value)
        await fill(queue, mail=1, web=3)
        with pytest.raises(QueueFullError):
            await fill(queue, mail=1)
        await drain(queue)
        await fill(queue, mail=3)
    async with TaskQueue(backend) as unbounded:
        await fill(unbounded, mail=10)


async def test_bounds_by_name_leave_other_queues_alone(backend: Backend) -> None:
    async with TaskQueue(backend, max_pending={"mail": 1}) as queue:
        await fill(queue, mail=1, web=50)
        with pytest.raises(QueueFullError):
            await fill(queue, mail=1)


async def test_what_is_there_already_needs_no_room(backend: Backend) -> None:
    async with TaskQueue(backend, max_pending=1) as queue:
        first = await queue.options(id="t1", unique_key="k").enqueue(work)
        assert await queue.options(id="t1").enqueue(work) == first
        assert await queue.options(unique_key="k").enqueue(work) == first


async def test_concurrent_producers_do_not_fill_it_beyond_its_bound(tmp_path: Path) -> None:
    path, bound = tmp_path / "tasks.db", 25
    backends = [SQLiteBackend(path, durability="fast", busy_timeout=PATIENCE) for _ in range(3)]
    queues = [TaskQueue(backend, max_pending=bound) for backend in backends]

    async def produce(queue: TaskQueue) -> int:
        stored = 0
        for _ in range(20):
            try:
                await queue.enqueue(work)
                stored += 1
            except QueueFullError:
                pass
        return stored

    async with asyncio.timeout(PATIENCE * 3):
        stored = await asyncio.gather(*(produce(queue) for queue in queues for _ in range(3)))
        assert sum(stored) == bound
        assert (await queues[0].stats()).counts[Status.PENDING] == bound
        for queue in queues:
            await queue.close()


@pytest.mark.parametrize("bound", [0, -1, 1.5, True, "9", {"mail": 0}, {"mail": "9"}, {"": 1}, {7: 1}, [1]])
def test_a_bad_bound_is_refused(bound: object) -> None:
    with pytest.raises(ValidationError, match=r"^max_pending "):
        TaskQueue("memory://", max_pending=bound)  # type: ignore[arg-type]
