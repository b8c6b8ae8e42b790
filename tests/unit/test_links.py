"""Unfolding calls into tasks with edges: what becomes a marker, in which order, and what is refused."""

from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from sitq.errors import ValidationError
from sitq.flows import chain, gathered, group
from sitq.handle import SyncTaskHandle, TaskHandle
from sitq.links import Step, depends, is_linked, result_of, unfold
from sitq.model import FINISHED, Edge
from sitq.options import TaskOptions
from sitq.parents import Parent, filled, wanted
from sitq.task import Call, call

NO_OPTIONS = TaskOptions()


def work(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


def handle(task_id: str) -> TaskHandle[int]:
    return TaskHandle(task_id, None)  # type: ignore[arg-type]


def steps(*calls: Call[Any], **options: Any) -> list[Step]:
    made, places = unfold(calls, TaskOptions(**options))
    assert len(places) == len(calls)
    return made


def parents(step: Step) -> list[str]:
    return [edge.parent for edge in step.edges]


# -- What is a link --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args",
    [
        (handle("a"),),
        (1, [2, handle("a")]),
        ((handle("a"),),),
        ({"key": handle("a")},),
        (call(work),),
        ([call(work)],),
        (SyncTaskHandle("a", None),),  # type: ignore[arg-type]
    ],
)
def test_links_are_found(args: tuple[Any, ...]) -> None:
    assert is_linked(Call(work, args, {}))
    assert is_linked(Call(work, (), {"key": args[-1]}))


@pytest.mark.parametrize(
    "args",
    [
        (),
        (1, "a", None),
        ([1, "a"],),
        ({handle("a"): 1},),
        ([[handle("a")]],),
        ({"a": {"b": handle("a")}},),
        ("a",),
    ],
)
def test_anything_else_is_none(args: tuple[Any, ...]) -> None:
    assert not is_linked(Call(work, args, {"key": args}) if not args else Call(work, args, {}))


def test_the_id_as_text_is_none() -> None:
    assert not is_linked(Call(work, (str(handle("a")),), {}))


def test_what_depends() -> None:
    assert not depends(NO_OPTIONS, [call(work, 1)])
    assert depends(NO_OPTIONS, [call(work, 1), call(work, handle("a"))])
    assert depends(TaskOptions(depends_on=["a"]), [call(work, 1)])


# -- Markers and edges -----------------------------------------------------------------------------


def test_handles_become_markers_in_the_order_of_edges() -> None:
    a, b = handle("a"), handle("b")

    [step] = steps(call(work, b, [1, a], (b,), key={"k": a, "l": 2}))

    assert step.call.args == (Parent(0), [1, Parent(1)], (Parent(0),))
    assert step.call.kwargs == {"key": {"k": Parent(1), "l": 2}}
    assert step.edges == (Edge("b"), Edge("a"))
    assert type(step.edges[0].parent) is str


def test_depends_on_comes_after_the_arguments_and_once() -> None:
    [step] = steps(call(work, handle("a")), depends_on=["b", handle("a"), "b"])

    assert parents(step) == ["a", "b"]
    assert step.call.args == (Parent(0),)


def test_run_accepts_every_end() -> None:
    [step] = steps(call(work, handle("a")), depends_on="b", on_parent_failure="run")

    assert step.edges == (Edge("a", FINISHED), Edge("b", FINISHED))


def test_values_come_into_their_places() -> None:
    [step] = steps(call(work, handle("a"), [handle("b"), 1], key={"k": handle("a")}))

    made = filled(step.call, {0: "A", 1: "B"})

    assert wanted(step.call) == [0, 1]
    assert (made.args, made.kwargs) == (("A", ["B", 1]), {"key": {"k": "A"}})


def test_the_arguments_of_the_caller_are_left_as_they_are() -> None:
    mine = [handle("a")]

    steps(call(work, mine))

    assert mine == [handle("a")]
    assert type(mine[0]) is TaskHandle


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"depends_on": 5}, "depends_on is an int: give the handle or the id"),
        ({"depends_on": b"a"}, "depends_on is a bytes: give the handle"),
        ({"depends_on": {"a": 1}}, "depends_on is a dict: give the handle"),
        ({"depends_on": ["a", None]}, "depends_on has None in it: give the handle"),
        ({"depends_on": [call(work)]}, "depends_on has a Call in it: give the handle"),
        ({"depends_on": ""}, "depends_on has 0 characters: give a non-empty str"),
        ({"on_parent_failure": "skip"}, "on_parent_failure is an unknown name: give 'cancel' or 'run'"),
        ({"on_parent_failure": 5}, "on_parent_failure is an int: give 'cancel' or 'run'"),
        ({"depends_on": "a", "debounce": 1}, "debounce and depends_on both say when to start"),
    ],
)
def test_options_that_cannot_be_used(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        TaskOptions(**options)


def test_no_parents_are_no_dependency() -> None:
    assert steps(call(work, 1), depends_on=[])[0].edges == ()


# -- Calls in calls --------------------------------------------------------------------------------


def test_inner_calls_come_first_each_with_an_edge() -> None:
    inner, outer = steps(call(work, call(work, 1)))

    assert inner.call.args == (1,)
    assert outer.call.args == (Parent(0),)
    assert parents(outer) == [inner.id]
    assert inner.edges == ()


def test_the_same_object_is_one_task() -> None:
    shared = call(work, 1)
    made = steps(call(work, shared, [shared]), call(work, shared))

    assert [len(step.edges) for step in made] == [0, 1, 1]
    assert parents(made[1]) == parents(made[2]) == [made[0].id]


def test_a_call_of_the_batch_that_another_one_takes() -> None:
    first = call(work, 1)
    made, places = unfold([call(work, first), first], TaskOptions(queue="images"))

    assert places == [1, 0]
    assert [step.options.queue for step in made] == ["images", "images"]


def test_a_call_that_comes_twice_in_a_batch_is_two_tasks() -> None:
    twice = call(work, handle("a"))

    made, places = unfold([twice, twice], NO_OPTIONS)

    assert places == [0, 1]
    assert made[0].id != made[1].id


def test_options_but_the_queue_are_for_the_outer_calls() -> None:
    inner, outer = steps(call(work, call(work, 1)), queue="images", priority=3, depends_on="a")

    assert (inner.options.given(), inner.edges) == ({"queue": "images"}, ())
    assert (outer.options.priority, parents(outer)) == (3, [inner.id, "a"])


def test_the_tasks_of_inner_calls_have_ids_by_that_of_the_outer_one() -> None:
    nested = call(work, call(work, call(work, 1)), call(work, 2))

    assert [step.id for step in steps(nested, id="mine")] == ["mine.1", "mine.2", "mine.3", "mine"]


def test_a_thousand_calls_in_each_other() -> None:
    nested: Call[Any] = call(work, 0)
    for _ in range(10_000):
        nested = call(work, nested)

    made = steps(nested)

    assert len(made) == 10_001
    assert all(parents(step) == [before.id] for before, step in pairwise(made))


def test_a_call_in_itself_is_refused_by_name() -> None:
    inner: list[Any] = []
    outer = call(work, call(work, inner))
    inner.append(outer)

    with pytest.raises(ValidationError, match=r"the call of .*work depends on itself"):
        steps(outer)


def test_on_parent_failure_needs_a_parent() -> None:
    with pytest.raises(
        ValidationError, match=r"on_parent_failure was given, and the call of .* depends on no task"
    ):
        steps(call(work, 1), on_parent_failure="run")


# -- result_of, chain and group --------------------------------------------------------------------


def test_result_of_is_what_was_given() -> None:
    given = handle("a")

    assert result_of(given) is given
    with pytest.raises(ValidationError, match="result_of got a value of type str: give the handle"):
        result_of("a")  # type: ignore[call-overload]


def test_a_chain_passes_each_value_on() -> None:
    first, then, last = steps(chain(call(work, 1), work, partial(work, key="value")))

    assert (first.call.args, then.call.args, last.call.args) == ((1,), (Parent(0),), (Parent(0),))
    assert parents(last) == [then.id]
    assert isinstance(last.call.func, partial)


def test_a_chain_of_one_is_its_call() -> None:
    first = call(work, 1)

    assert chain(first) is first


@pytest.mark.parametrize(
    ("links", "text"),
    [
        ((work,), "chain begins with a value of type function: begin with call"),
        ((call(work), call(work)), "chain goes on with a call of .*work: give the function, or partial"),
        ((call(work), 3), "cannot call a value of type int"),
        ((call(work), lambda: None), "does not take these arguments"),
    ],
)
def test_what_is_no_chain(links: tuple[Any, ...], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        chain(*links)


def test_a_group_takes_calls_and_handles() -> None:
    *_, last = steps(group([call(work, 1), handle("a"), call(work, 2)]))  # type: ignore[list-item]

    assert last.call.func is gathered
    assert last.call.args == ([Parent(0), Parent(1), Parent(2)],)
    assert parents(last)[1] == "a"


@pytest.mark.parametrize(
    ("members", "text"),
    [
        (3, "calls is a int: give calls"),
        (call(work), "calls is a Call: give calls"),
        ([work], "group got a value of type function: give calls"),
    ],
)
def test_what_is_no_group(members: Any, text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        group(members)
