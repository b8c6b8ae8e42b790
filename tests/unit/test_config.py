"""The settings of a worker are checked once, and a message names the argument and the way out."""

import math
import os
import socket
from dataclasses import FrozenInstanceError
from datetime import timedelta
from typing import Any

import pytest

from sitq import TaskQueue, Worker
from sitq.config import WorkerConfig, worker_config
from sitq.errors import ValidationError

GOOD: dict[str, Any] = {
    "id": "w1",
    "queues": None,
    "strict": False,
    "concurrency": 10,
    "lease": 30,
    "poll_interval": 1,
    "shutdown_timeout": 30,
    "max_tasks": None,
}
LEASE_FIX = "give seconds (int or float) or a timedelta, from 0.1 s to a hundred years"
POLL_FIX = "give seconds (int or float) or a timedelta, from 0.001 s to a hundred years"
SHUTDOWN_FIX = "give seconds (int or float) or a timedelta, from 0 s to a hundred years"
COUNT_FIX = "give an int from 1 to"
NAME_FIX = "give a non-empty str of at most 200 characters without control characters"


def config(**given: Any) -> WorkerConfig:
    return worker_config(**{**GOOD, **given})


@pytest.mark.parametrize(
    ("field", "bad", "fix"),
    [
        ("id", "", NAME_FIX),
        ("id", 7, NAME_FIX),
        ("id", "two\nlines", NAME_FIX),
        ("id", "x" * 201, NAME_FIX),
        ("queues", "mail", "give a list of names, queues=['mail']"),
        ("queues", [], "name at least one queue, or leave it out to take from all"),
        ("queues", (), "name at least one queue, or leave it out to take from all"),
        ("queues", [""], NAME_FIX),
        ("queues", ["mail", 7], NAME_FIX),
        ("queues", [None], NAME_FIX),
        ("queues", 5, "give a list of names, or a mapping of names to weights"),
        ("queues", {}, "name at least one queue, or leave it out to take from all"),
        ("queues", {"": 1}, NAME_FIX),
        ("strict", 1, "give True or False"),
        ("strict", None, "give True or False"),
        ("strict", True, "give queues as a list of names, the most important first"),
        ("concurrency", 0, COUNT_FIX),
        ("concurrency", -1, COUNT_FIX),
        ("concurrency", 10_001, "give an int from 1 to 10000"),
        ("concurrency", 1.0, COUNT_FIX),
        ("concurrency", True, COUNT_FIX),
        ("concurrency", "4", COUNT_FIX),
        ("concurrency", None, COUNT_FIX),
        ("lease", 0.09, LEASE_FIX),
        ("lease", -1, LEASE_FIX),
        ("lease", math.nan, LEASE_FIX),
        ("lease", math.inf, LEASE_FIX),
        ("lease", "30", LEASE_FIX),
        ("lease", None, LEASE_FIX),
        ("lease", True, LEASE_FIX),
        ("lease", timedelta(milliseconds=99), LEASE_FIX),
        ("poll_interval", 0, POLL_FIX),
        ("poll_interval", math.nan, POLL_FIX),
        ("poll_interval", "1", POLL_FIX),
        ("poll_interval", timedelta(0), POLL_FIX),
        ("shutdown_timeout", -0.1, SHUTDOWN_FIX),
        ("shutdown_timeout", math.inf, SHUTDOWN_FIX),
        ("shutdown_timeout", None, SHUTDOWN_FIX),
        ("max_tasks", 0, COUNT_FIX),
        ("max_tasks", -5, COUNT_FIX),
        ("max_tasks", 1.5, COUNT_FIX),
        ("max_tasks", False, COUNT_FIX),
        ("max_tasks", 2**31 + 1, COUNT_FIX),
    ],
)
def test_a_bad_argument_is_named_with_its_fix(field: str, bad: Any, fix: str) -> None:
    with pytest.raises(ValidationError) as caught:
        config(**{field: bad})
    message = str(caught.value)
    assert message.startswith(f"{field} ")
    assert fix in message


@pytest.mark.parametrize(
    ("field", "edge"),
    [
        ("id", "x" * 200),
        ("concurrency", 1),
        ("concurrency", 10_000),
        ("lease", 0.1),
        ("poll_interval", 0.001),
        ("shutdown_timeout", 0.0),
        ("max_tasks", 1),
        ("max_tasks", 2**31),
    ],
)
def test_the_ends_of_a_range_belong_to_it(field: str, edge: Any) -> None:
    assert getattr(config(**{field: edge}), field) == edge


def test_the_defaults_of_a_worker() -> None:
    made = Worker(TaskQueue("memory://")).config
    assert made == WorkerConfig(
        id=made.id,
        queues=None,
        weights=None,
        strict=False,
        concurrency=10,
        lease=30.0,
        poll_interval=1.0,
        shutdown_timeout=30.0,
        max_tasks=None,
    )


def test_a_bad_argument_of_a_worker_is_refused_when_it_is_made() -> None:
    queue = TaskQueue("memory://")
    with pytest.raises(ValidationError, match=r"^concurrency is 0: give an int"):
        Worker(queue, concurrency=0)


def test_durations_may_be_timedeltas_and_are_kept_in_seconds() -> None:
    made = config(
        lease=timedelta(minutes=1),
        poll_interval=timedelta(milliseconds=250),
        shutdown_timeout=timedelta(hours=1),
    )
    assert (made.lease, made.poll_interval, made.shutdown_timeout) == (60.0, 0.25, 3600.0)


@pytest.mark.parametrize("queues", [["web", "mail"], ("web", "mail")])
def test_queues_keep_their_order_and_no_tie_to_what_was_given(queues: Any) -> None:
    made = config(queues=queues)
    if isinstance(queues, list):
        queues.clear()
    assert made.queues == ("web", "mail")


def test_weights_go_with_their_queues() -> None:
    made = config(queues={"mail": 3, "web": 1})
    assert (made.queues, made.weights, made.strict) == (("mail", "web"), (3, 1), False)
    assert config(queues=["mail"]).weights is None


@pytest.mark.parametrize("weight", [0, -1, 1_001, 1.5, True, "3", None])
def test_a_bad_weight_is_named_with_its_queue(weight: Any) -> None:
    with pytest.raises(
        ValidationError, match=r"^the weight of queue 'mail' is .*: give an int from 1 to 1000"
    ):
        config(queues={"web": 1, "mail": weight})


@pytest.mark.parametrize("queues", [None, {"mail": 1}, {"mail", "web"}], ids=["all", "weights", "a set"])
def test_strict_needs_an_order(queues: Any) -> None:
    with pytest.raises(ValidationError, match=r"^strict needs an order: give queues as a list"):
        config(queues=queues, strict=True)


def test_strict_keeps_the_order() -> None:
    made = config(queues=["web", "mail"], strict=True)
    assert (made.queues, made.strict) == (("web", "mail"), True)


def test_a_generated_id_tells_host_and_process_and_is_new_each_time() -> None:
    ids = {config(id=None).id for _ in range(100)}
    assert len(ids) == 100
    prefix = f"{socket.gethostname()}:{os.getpid()}:"
    assert all(each.startswith(prefix) and len(each) == len(prefix) + 6 for each in ids)


def test_a_config_does_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        config().concurrency = 5  # type: ignore[misc]
