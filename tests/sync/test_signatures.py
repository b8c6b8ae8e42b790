"""The synchronous classes have the public names and signatures of the asynchronous ones, overloads included."""

import inspect
from collections.abc import Callable
from typing import Any, get_overloads

import pytest

from sitq import (
    Enqueuer,
    SyncEnqueuer,
    SyncTaskHandle,
    SyncTaskQueue,
    SyncTransactionEnqueuer,
    TaskHandle,
    TaskQueue,
    TransactionEnqueuer,
)

PAIRS = [
    (TaskQueue, SyncTaskQueue),
    (Enqueuer, SyncEnqueuer),
    (TransactionEnqueuer, SyncTransactionEnqueuer),
    (TaskHandle, SyncTaskHandle),
]
CONTEXT = {"__aenter__": "__enter__", "__aexit__": "__exit__"}


def own_names(kind: type) -> set[str]:
    return {name for name in vars(kind) if not name.startswith("_")}


def text(signature: inspect.Signature) -> str:
    """The signature without what must differ: the classes themselves."""
    plain = str(signature).replace("sitq.sync.", "sitq.queue.").replace("Sync", "")
    plain = (
        plain.replace("aiosqlite.Connection | ", "").replace("sitq.within.", "").replace("sitq.enqueuer.", "")
    )
    plain = plain.replace("sitq.queue.Enqueuer", "Enqueuer").replace(
        "collections.abc.AsyncGenerator", "collections.abc.Generator"
    )
    return plain.replace("'", "")


@pytest.mark.parametrize(("kind", "sync"), PAIRS)
def test_the_names_agree(kind: type, sync: type) -> None:
    assert own_names(kind) == own_names(sync)
    assert own_names(kind)


@pytest.mark.parametrize(
    ("method", "other"),
    [
        pytest.param(getattr(kind, name), getattr(sync, name), id=f"{kind.__name__}.{name}")
        for kind, sync in PAIRS
        for name in sorted(own_names(kind))
    ],
)
def test_the_signatures_agree(method: Callable[..., Any], other: Callable[..., Any]) -> None:
    assert not inspect.iscoroutinefunction(other)
    assert text(inspect.signature(method)) == text(inspect.signature(other))
    assert [text(inspect.signature(one)) for one in get_overloads(method)] == [
        text(inspect.signature(one)) for one in get_overloads(other)
    ]


def test_the_constructors_and_contexts_agree() -> None:
    assert inspect.signature(TaskQueue) == inspect.signature(SyncTaskQueue)
    for name, sync_name in CONTEXT.items():
        one, other = getattr(TaskQueue, name), getattr(SyncTaskQueue, sync_name)
        assert inspect.signature(one) == inspect.signature(other)


def test_the_instances_have_the_same_attributes() -> None:
    queue, sync = TaskQueue(), SyncTaskQueue(max_payload=7)
    assert {name for name in vars(queue) if name[0] != "_"} == {name for name in vars(sync) if name[0] != "_"}
    assert sync.max_payload == 7


def test_every_method_has_a_docstring() -> None:
    for _, kind in PAIRS:
        assert all(getattr(kind, name).__doc__ for name in own_names(kind))
