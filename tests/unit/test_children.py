"""A child process as its worker sees it, where it comes to nothing: unused, killed early, late, or of a worker that is
gone."""

import asyncio
import os
import sys
import threading
from pathlib import Path

import pytest

from sitq.model import ReservedTask
from sitq.rules import RunRules
from sitq.serialization import make_codec, to_child
from sitq.task import Call
from sitq.worker import children as module
from sitq.worker.children import Child, Unstarted
from sitq.worker.surroundings import SurroundingsSetup
from sitq.worker.wire import ChildSetup, Job
from tests.support import PATIENCE
from tests.unit import child_tasks
from tests.unit.test_judge import a_run

CODEC = make_codec()


def setup(*first: object) -> ChildSetup:
    paths = tuple(map(str, [*first, *sys.path]))
    return ChildSetup(paths, os.getpid(), to_child(CODEC.serializer), SurroundingsSetup(), CODEC.max_payload)


def job() -> Job:
    payload = CODEC.encode_call(Call(child_tasks.add, (1, 2), {}), None, RunRules(), "t1")
    return Job(ReservedTask("t1", 7, "work", "default", payload), {})


class Worker:
    """What a worker makes of its child: what has begun, and whether it is gone."""

    def __init__(self, *paths: object) -> None:
        self.begun: list[object] = []
        self.gone = asyncio.Event()
        self.child = Child(setup(*paths), begin=self.begun.append, gone=lambda child: self.gone.set())

    async def is_gone(self) -> None:
        await asyncio.wait_for(self.gone.wait(), PATIENCE)


async def test_one_that_is_retired_unused_was_never_started(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[ChildSetup] = []
    monkeypatch.setattr(module, "Spawned", started.append)
    worker = Worker()
    worker.child.retire()
    await worker.is_gone()
    assert started == []


async def test_one_that_is_killed_before_it_has_a_process_gets_none_that_lives() -> None:
    worker = Worker()
    worker.child.kill()
    answer = await asyncio.wait_for(worker.child.run(a_run(), job()), PATIENCE)
    assert isinstance(answer, Unstarted)
    assert "it was ended by SIGKILL before it was ready" in str(answer.error)
    await worker.is_gone()
    assert worker.begun == []
    assert worker.child._spawned is not None
    assert worker.child._spawned.is_dead()


async def test_one_that_never_gets_ready_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitq").mkdir()
    (tmp_path / "sitq" / "__init__.py").write_text("import threading; threading.Event().wait()")
    monkeypatch.setattr(module, "_START_TIMEOUT", 0.1)
    worker = Worker(tmp_path)
    answer = await asyncio.wait_for(worker.child.run(a_run(), job()), PATIENCE)
    assert isinstance(answer, Unstarted)
    assert "it was not ready within 0.1 s" in str(answer.error)
    await worker.is_gone()
    assert worker.begun == []


def test_one_whose_worker_is_gone_ends_without_a_word() -> None:
    """Its thread has a loop to tell of it that is closed."""
    before = set(threading.enumerate())

    async def leave() -> Child:
        return Worker().child

    child = asyncio.run(leave())
    [thread] = {one for one in threading.enumerate() if one.name == "sitq-child"} - before
    child.retire()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert child._spawned is None
