"""The list of workers: who is alive, who is gone, who died, and what each says of itself."""

import asyncio
import os
import signal
import socket
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sitq import TaskQueue, Worker
from sitq.config import worker_config
from sitq.model import Held, WorkerRecord
from sitq.worker import heartbeat
from sitq.worker.portrait import SelfPortrait
from tests.integration.support import Gate, end_group, start_python
from tests.support import PATIENCE, FakeClock

gate: Gate


@pytest.fixture(autouse=True)
async def shared() -> None:
    global gate
    gate = Gate()


async def wait_at_the_gate() -> None:
    await gate.pass_through()


async def until(queue: TaskQueue, wanted: Any) -> list[WorkerRecord]:
    """The list of workers, once it is as wanted."""
    async with asyncio.timeout(PATIENCE):
        while not wanted(found := await queue.workers()):
            await asyncio.sleep(0.005)
    return found


async def test_a_worker_says_who_it_is_and_leaves(queue: TaskQueue) -> None:
    assert await queue.workers() == []
    before = datetime.now(UTC)
    async with Worker(queue, id="w1", queues=["mail", "web"], concurrency=3):
        [one] = await until(queue, lambda found: found)
        info = one.info
        assert (one.id, info.host, info.pid) == ("w1", socket.gethostname(), os.getpid())
        assert (info.queues, info.concurrency, info.running) == (("mail", "web"), 3, ())
        assert before <= info.started_at <= one.seen_at <= datetime.now(UTC)
        assert one.alive_until == one.seen_at + timedelta(seconds=30)
    assert await queue.workers() == []


async def test_it_tells_what_it_runs(queue: TaskQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "_RENEWALS_PER_LEASE", 300)
    async with Worker(queue):
        handle = await queue.enqueue(wait_at_the_gate)
        await until(queue, lambda found: found and found[0].info.running == (handle,))
        gate.open()
        await until(queue, lambda found: found[0].info.running == ())


async def test_one_that_has_nothing_to_do_stays_alive(queue: TaskQueue) -> None:
    async with Worker(queue, lease=0.2):
        [first] = await until(queue, lambda found: found)
        [later] = await until(queue, lambda found: found[0].seen_at > first.alive_until)
        assert later.alive_until > later.seen_at
        assert later.info.started_at == first.info.started_at


async def test_two_workers_are_two(queue: TaskQueue) -> None:
    async with Worker(queue, id="a"):
        await until(queue, lambda found: len(found) == 1)
        async with Worker(queue, id="b"):
            found = await until(queue, lambda found: len(found) == 2)
            assert [one.id for one in found] == ["a", "b"]  # longest known first
        assert [one.id for one in await queue.workers()] == ["a"]


VICTIM = """
import asyncio, sys
from sitq import TaskQueue, Worker

async def main(path):
    async with TaskQueue(path) as queue:
        await Worker(queue, id="victim", lease=0.3).run()

asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
async def test_one_that_was_killed_is_dead_when_its_lease_has_passed(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    async with TaskQueue(path) as queue:
        with start_python(VICTIM, path) as process:
            try:
                [one] = await until(queue, lambda found: found)
                assert one.info.pid == process.pid
                process.send_signal(signal.SIGKILL)
                await asyncio.to_thread(process.wait)
                # It stays on the list, so that somebody sees that it did not leave by itself.
                [dead] = await until(queue, lambda found: found[0].alive_until < datetime.now(UTC))
                assert (dead.id, dead.info.pid) == ("victim", process.pid)
            finally:
                end_group(process)


# -- What it says of itself -------------------------------------------------------------------------


def portrait(*held: Held) -> SelfPortrait:
    config = worker_config(
        id="w1",
        queues=None,
        strict=False,
        concurrency=7,
        lease=30,
        poll_interval=1,
        shutdown_timeout=30,
        max_tasks=None,
    )
    return SelfPortrait(config, FakeClock(), lambda: held)


def test_with_psutil_it_tells_cpu_and_memory_from_the_second_time_on() -> None:
    made = portrait(Held("a", 1))
    first, second = made(), made()
    assert (first.running, first.queues, first.concurrency) == (("a",), None, 7)
    assert first.cpu is None  # there is nothing yet to count from
    assert second.cpu is not None
    assert second.cpu >= 0
    assert second.memory is not None
    assert second.memory > 1_000_000


def test_without_psutil_it_leaves_them_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    made = portrait()
    assert [(info.cpu, info.memory) for info in (made(), made())] == [(None, None)] * 2


def test_a_system_that_hides_them_does_not_stop_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    made = portrait()

    class Hidden:
        def cpu_percent(self) -> float:
            raise PermissionError("/proc is not for you")

    made._process = Hidden()
    assert (made().cpu, made().memory, made().pid) == (None, None, os.getpid())
