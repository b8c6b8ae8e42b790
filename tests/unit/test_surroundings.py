"""A child process has the surroundings of its worker: what tasks carry is restored there, and resources are its own."""

import asyncio
import pickle
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import pytest

from sitq import ContextProvider, ContextVars, StructlogContext, TraceContext, ValidationError, WorkerError
from sitq.worker.surroundings import (
    ChildResources,
    SurroundingsSetup,
    load_surroundings,
    surroundings_setup,
)
from tests.unit import processes
from tests.unit.surroundings import lifespan, request_id

CHILD = """
    import asyncio, pickle, sys
    from contextvars import Context
    from sitq import CurrentTask, resource
    from sitq.context import bind
    from sitq.rules import RunRules
    from sitq.worker.surroundings import Surroundings, load_surroundings
    from tests.unit.surroundings import request_id

    providers, resources = load_surroundings(pickle.loads(bytes.fromhex(sys.argv[1])))
    resources.open()
    told = []
    around = Surroundings("w1", providers, resources.lifespan, told.append)

    def plain():
        return request_id.get(None), resource(dict)

    async def coroutine():
        await asyncio.sleep(0)
        return plain()

    for carried in ({"contextvars": {"request_id": "r1"}, "old": 1}, None, {"contextvars": {"request_id": "r2"}}):
        current = CurrentTask("id-1", "work", "default", 1)
        for run in ("plain", "coroutine"):
            context = bind(current)
            restored = around.begin(context, current, RunRules(carried=carried))
            if run == "plain":
                print(*context.run(plain))
            else:
                print(*resources.runner.run(coroutine(), context=context))
            if restored is not None:
                context.run(restored.leave, None)
            assert request_id not in context
    resources.close()
    assert request_id.get(None) is None
    print([event.provider for event in told])
"""


def test_in_another_process() -> None:
    providers: list[ContextProvider] = [ContextVars(request_id), StructlogContext(), TraceContext()]
    setup = surroundings_setup(providers, lifespan)
    assert processes.run(CHILD, pickle.dumps(setup).hex()).splitlines() == [
        "r1 {'made': 'here'}",
        "r1 {'made': 'here'}",
        "None {'made': 'here'}",
        "None {'made': 'here'}",
        "r2 {'made': 'here'}",
        "r2 {'made': 'here'}",
        "['old']",
    ]


def test_nothing_to_send() -> None:
    assert surroundings_setup([], None) == SurroundingsSetup()
    assert load_surroundings(SurroundingsSetup()) == ((), None)


@pytest.mark.parametrize(
    ("providers", "make", "words"),
    [
        ([ContextVars(ContextVar("lost"))], None, "the ContextVar 'lost' cannot be found by a child process"),
        ([], lambda: None, r"resources \(function\) cannot be sent to a child process"),
    ],
)
def test_what_cannot_be_sent_is_named(providers: Any, make: Any, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        surroundings_setup(providers, make)


def test_what_cannot_be_loaded_is_named() -> None:
    with pytest.raises(WorkerError, match="context provider 'locale' cannot be loaded in the child process"):
        load_surroundings(SurroundingsSetup((("locale", b"damaged"),)))


# -- The resources of a child ----------------------------------------------------------------------

log: list[str] = []


@asynccontextmanager
async def noting() -> AsyncGenerator[asyncio.AbstractEventLoop]:
    log.append("up")
    async with asyncio.TaskGroup() as group:
        beside = group.create_task(asyncio.Event().wait())
        yield asyncio.get_running_loop()
        beside.cancel()
    log.append("down")


@asynccontextmanager
async def failing() -> AsyncGenerator[None]:
    if "up" in log:
        yield
    raise OSError("no database")


def test_they_belong_to_the_loop_that_coroutines_run_on() -> None:
    async def running_loop() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    log.clear()
    one = ChildResources(noting)
    one.open()
    assert one.runner.run(running_loop()) is one.lifespan.value
    assert one.runner.run(running_loop()) is one.lifespan.value
    assert log == ["up"]
    one.close()
    assert log == ["up", "down"]


@pytest.mark.parametrize("when", ["open", "close"])
def test_those_that_fail_say_why(when: str) -> None:
    log[:] = [] if when == "open" else ["up"]
    one = ChildResources(failing)
    if when == "close":
        one.open()
    with pytest.raises(WorkerError, match="OSError: no database"):
        getattr(one, when)()
