"""A child process at the other end of the wire: what it makes of jobs, and how it ends by itself."""

import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sitq.failure import decode_error
from sitq.model import Cancelled, Failed, NoteKind, Outcome, Released, ReservedTask, Succeeded
from sitq.rules import RunRules
from sitq.serialization import decode_value, make_codec, to_child
from sitq.task import Call
from sitq.worker.run import Stop
from sitq.worker.spawn import Spawned
from sitq.worker.surroundings import SurroundingsSetup, surroundings_setup
from sitq.worker.wire import ChildSetup, Ended, Job, Said, Sign, StopAsked
from tests.support import PATIENCE
from tests.unit import child_tasks

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="resource")

CODEC = make_codec()
MEBIBYTE = 1024 * 1024


class Child:
    """A child process, and this test in the place of its worker."""

    def __init__(
        self, memory_limit: int | None = None, surroundings: SurroundingsSetup | None = None
    ) -> None:
        paths = tuple(map(str, sys.path))
        serializer = to_child(CODEC.serializer)
        setup = ChildSetup(
            paths,
            os.getpid(),
            serializer,
            surroundings or SurroundingsSetup(),
            CODEC.max_payload,
            memory_limit,
        )
        self.spawned = Spawned(setup)
        self.spawned.wire.send(setup)
        assert self.spawned.wire.receive(PATIENCE) is Sign.READY
        self._fence = 0

    def begin(self, function: Callable[..., Any], *arguments: Any) -> ReservedTask:
        payload = CODEC.encode_call(Call(function, arguments, {}), None, RunRules(), "t1")
        return self.begin_with(payload)

    def begin_with(self, payload: bytes) -> ReservedTask:
        self._fence += 1
        task = ReservedTask("t1", self._fence, "work", "default", payload)
        self.spawned.wire.send(Job(task, {}))
        assert self.spawned.wire.receive(PATIENCE) is Sign.BEGAN
        return task

    def outcome(self) -> tuple[Outcome, list[Said]]:
        """How the attempt ended, and what it had said by then."""
        said: list[Said] = []
        while True:
            match self.spawned.wire.receive(PATIENCE):
                case Said() as one:
                    said.append(one)
                case Ended(outcome, resident):
                    assert resident is not None
                    assert resident > MEBIBYTE
                    assert outcome.held.fence == self._fence
                    return outcome, said

    def run(self, function: Callable[..., Any], *arguments: Any) -> Outcome:
        self.begin(function, *arguments)
        return self.outcome()[0]

    def value(self, function: Callable[..., Any], *arguments: Any) -> Any:
        outcome = self.run(function, *arguments)
        assert isinstance(outcome, Succeeded), outcome
        return decode_value(outcome.result)

    def end(self) -> None:
        """Let it end by itself, as a worker that has time does."""
        self.spawned.wire.send(None)
        assert self.spawned._process.wait(PATIENCE) == 0


@pytest.fixture
def children() -> Iterator[list[Child]]:
    made: list[Child] = []
    yield made
    for child in made:
        child.spawned.kill()
        child.spawned.reap()
        child.spawned.wire.close()


def test_it_takes_one_job_after_another_and_then_ends(children: list[Child]) -> None:
    child = Child()
    children.append(child)
    assert child.value(child_tasks.add, 1, 2) == 3
    assert child.value(child_tasks.slow_add, 3, 4) == 7
    assert child.value(child_tasks.coroutine_of, 5, 6) == 11

    failed = child.run(child_tasks.fail)
    assert isinstance(failed, Failed)
    assert decode_error(failed.error).message == "on purpose"

    child.begin_with(b"no call")
    parked, _ = child.outcome()
    assert isinstance(parked, Released)
    assert parked.at is not None
    assert child.value(child_tasks.hear_signals) == "still here"
    child.end()


def test_what_a_task_says_comes_before_its_end(children: list[Child]) -> None:
    child = Child()
    children.append(child)
    child.begin(child_tasks.talk)
    outcome, said = child.outcome()
    assert isinstance(outcome, Succeeded)
    assert decode_value(outcome.result) == "t1"
    assert {one.kind for one in said} == {NoteKind.LOG, NoteKind.PROGRESS}

    task = child.begin(child_tasks.wait_to_be_stopped)
    running = child.spawned.wire.receive(PATIENCE)
    assert isinstance(running, Said)
    child.spawned.wire.send(StopAsked(task.held._replace(fence=99), Stop.CANCEL))  # of another run: not heard
    child.spawned.wire.send(StopAsked(task.held, Stop.CANCEL))
    outcome, _ = child.outcome()
    assert outcome == Cancelled(task.held)
    child.end()


@pytest.mark.skipif(sys.platform != "linux", reason="only there the limit counts what is used")
def test_it_keeps_to_its_memory_limit(children: list[Child]) -> None:
    child = Child(memory_limit=400 * MEBIBYTE)
    children.append(child)
    assert child.value(child_tasks.data_limit) == 400 * MEBIBYTE
    failed = child.run(child_tasks.take, 500 * MEBIBYTE)
    assert isinstance(failed, Failed)
    assert decode_error(failed.error).type == "MemoryError"
    assert child.value(child_tasks.take, MEBIBYTE) == MEBIBYTE
    child.end()


def test_its_resources_live_on_a_loop_that_outlasts_what_tasks_leave_there(children: list[Child]) -> None:
    child = Child(surroundings=surroundings_setup((), child_tasks.open_shop))
    children.append(child)
    assert child.value(child_tasks.leave_something_behind) is True
    assert child.value(child_tasks.what_became_of_it) == [True]
    task = child.begin(child_tasks.wait_to_be_stopped)
    assert isinstance(child.spawned.wire.receive(PATIENCE), Said)
    child.spawned.wire.send(StopAsked(task.held, Stop.CANCEL))
    assert child.outcome()[0] == Cancelled(task.held)
    assert child.value(child_tasks.what_became_of_it) == [True]
    child.end()
