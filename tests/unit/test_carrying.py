"""Providers are checked, asked once each, and entered and left in order whatever they or the run do."""

import pickle
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from contextvars import Context, ContextVar
from typing import Any

import pytest

from sitq.carrying import Restored, capture, check_providers, restore, unknown
from sitq.errors import ContextProviderError, TaskError, ValidationError


class Provider:
    """Captures what it was given, and writes down what happens."""

    def __init__(self, name: str, data: Any = None, log: list[Any] | None = None) -> None:
        self.name = name
        self.data = data
        self.log: list[Any] = [] if log is None else log

    def capture(self) -> Any:
        if isinstance(self.data, BaseException):
            raise self.data
        return self.data

    def restore(self, data: Any) -> AbstractContextManager[None]:
        return self._noted(data)

    @contextmanager
    def _noted(self, data: Any) -> Generator[None]:
        self.log.append((self.name, data))
        try:
            yield
        except BaseException as error:
            self.log.append((self.name, error))
            raise
        self.log.append((self.name, "left"))


class Broken(Provider):
    """Fails where it is told to."""

    where = "restore"

    def restore(self, data: Any) -> AbstractContextManager[Any]:
        if self.where == "restore":
            raise data
        return self._managed(data)

    @contextmanager
    def _managed(self, data: BaseException) -> Generator[None]:
        if self.where == "enter":
            raise data
        try:
            yield
        finally:
            raise data


class Swallower(Provider):
    @contextmanager
    def restore(self, data: Any) -> Generator[None]:
        try:
            yield
        except BaseException:
            self.log.append("swallowed")


def nobody(name: str, error: BaseException) -> None:
    raise AssertionError(f"{name}: {error!r}")


# -- What is a provider ----------------------------------------------------------------------------


class NoRestore:
    name = "half"

    def capture(self) -> None: ...


class Async:
    name = "async"

    async def capture(self) -> None: ...

    def restore(self, data: Any) -> Any: ...


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (5, "context_providers is an int: give a list"),
        (None, "context_providers is None"),
        ("locale", "context_providers is a str"),
        ({"locale": 1}, "context_providers is a dict"),
        (Provider("a"), "context_providers is a Provider: give a list"),
        ([7], "has an int in it, which has no method capture"),
        ([NoRestore()], "has a NoRestore in it, which has no method restore"),
        ([Provider], "Provider: give an object of this class"),
        ([Async()], "has an Async in it, whose capture is async"),
        ([Provider("")], "the name of context provider Provider has 0 characters"),
        ([Provider(5)], "the name of context provider Provider is an int"),  # type: ignore[arg-type]
        ([Provider("a"), Provider("b"), Provider("a")], "has two with the name 'a'"),
    ],
)
def test_what_is_not_usable_is_refused(given: Any, words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        check_providers(given)
    assert words in str(caught.value)


def test_any_iterable_will_do_and_the_order_stays() -> None:
    one, other = Provider("one"), Provider("other")
    assert check_providers(each for each in (one, other)) == (one, other)
    assert check_providers(()) == ()


# -- Capturing -------------------------------------------------------------------------------------


def test_what_was_captured_by_name() -> None:
    assert capture([Provider("a", 1), Provider("b"), Provider("c", {"x": [2]})]) == {"a": 1, "c": {"x": [2]}}


def test_nothing_is_none() -> None:
    assert capture([]) is None
    assert capture([Provider("a"), Provider("b")]) is None


def test_what_is_false_is_something() -> None:
    assert capture([Provider("a", 0), Provider("b", {})]) == {"a": 0, "b": {}}


def test_one_that_fails_is_named() -> None:
    with pytest.raises(ContextProviderError) as caught:
        capture([Provider("a", 1), Provider("tenant", KeyError("no tenant"))])
    assert caught.value.provider == "tenant"
    assert str(caught.value) == (
        "context provider 'tenant' failed to capture, so nothing was stored: KeyError: 'no tenant'"
    )
    assert isinstance(caught.value, TaskError)
    assert isinstance(caught.value.__cause__, KeyError)


def test_who_interrupts_is_let_through() -> None:
    with pytest.raises(KeyboardInterrupt):
        capture([Provider("a", KeyboardInterrupt())])


def test_the_error_travels() -> None:
    error = pickle.loads(pickle.dumps(ContextProviderError("tenant", "failed")))
    assert (error.provider, str(error)) == ("tenant", "context provider 'tenant' failed")


# -- Around a run ----------------------------------------------------------------------------------


def test_entered_in_order_and_left_in_reverse() -> None:
    log: list[Any] = []
    providers = [Provider(name, log=log) for name in "abc"]
    restored = restore(providers, {"c": 3, "a": 1, "z": 26}, nobody)
    assert log == [("a", 1), ("c", 3)]
    restored.leave(None)
    assert log[2:] == [("c", "left"), ("a", "left")]
    restored.leave(None)
    assert len(log) == 4


def test_they_are_told_what_the_run_raised() -> None:
    log: list[Any] = []
    error = ValueError("of the run")
    restore([Provider("a", log=log), Provider("b", log=log)], {"a": 1, "b": 2}, nobody).leave(error)
    assert log[2:] == [("b", error), ("a", error)]


def test_none_is_not_handed_to_the_others_when_one_swallows_it() -> None:
    log: list[Any] = []
    error = ValueError("of the run")
    restore([Provider("a", log=log), Swallower("b", log=log)], {"a": 1, "b": 2}, nobody).leave(error)
    assert log[1:] == ["swallowed", ("a", error)]


@pytest.mark.parametrize("where", ["restore", "enter"])
@pytest.mark.parametrize("error", [ValueError("bad"), SystemExit(3), KeyboardInterrupt()])
def test_one_that_cannot_be_entered_is_named_and_the_others_are_left(
    where: str, error: BaseException
) -> None:
    log: list[Any] = []
    broken = Broken("broken")
    broken.where = where
    with pytest.raises(ContextProviderError, match="'broken' failed to restore what it captured") as caught:
        restore(
            [Provider("a", log=log), broken, Provider("c", log=log)],
            {"a": 1, "broken": error, "c": 3},
            nobody,
        )
    assert log == [("a", 1), ("a", error)]
    assert caught.value.__cause__ is error


def test_what_is_no_context_manager_is_named() -> None:
    class Odd(Provider):
        def restore(self, data: Any) -> Any:
            return 5

    with pytest.raises(ContextProviderError, match=r"'odd' failed to restore .*__enter__"):
        restore([Odd("odd")], {"odd": 1}, nobody)


@pytest.mark.parametrize("raised", [None, ValueError("of the run")])
@pytest.mark.parametrize("error", [OSError("on the way out"), SystemExit(3)])
def test_one_that_cannot_be_left_is_told_of_and_the_others_are_left(
    raised: BaseException | None, error: BaseException
) -> None:
    log: list[Any] = []
    failed: list[Any] = []
    broken = Broken("broken")
    broken.where = "leave"
    carried = {"a": 1, "broken": error}
    restore([Provider("a", log=log), broken], carried, lambda *each: failed.append(each)).leave(raised)
    assert failed == [("broken", error)]
    assert log[1:] == [("a", raised or "left")]


def test_it_all_happens_in_the_context_of_the_run() -> None:
    var = ContextVar[str]("var")

    class Sets(Provider):
        @contextmanager
        def restore(self, data: str) -> Generator[None]:
            token = var.set(data)
            yield
            var.reset(token)

    own = Context()
    restored: Restored = own.run(restore, [Sets("sets")], {"sets": "here"}, nobody)
    assert own.run(var.get) == "here"
    assert var.get(None) is None
    own.run(restored.leave, None)
    assert var not in own


def test_data_without_a_provider() -> None:
    assert unknown([Provider("a")], {"a": 1, "b": 2, "c": 3}) == ["b", "c"]
    assert unknown([], {}) == []
