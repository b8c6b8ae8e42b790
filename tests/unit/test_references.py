"""What a child process gets at its start goes by reference, and what cannot is named."""

import sys
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from sitq import ContextVars, StructlogContext, TraceContext, ValidationError, WorkerError
from sitq.references import decode_reference, encode_reference
from tests.unit import processes, surroundings
from tests.unit.surroundings import Locale, lifespan, request_id


@asynccontextmanager
async def shadowed() -> AsyncGenerator[None]:
    yield


hidden, shadowed = shadowed, None  # type: ignore[assignment]


@pytest.mark.parametrize("value", [lifespan, partial(lifespan), Locale(), StructlogContext(), TraceContext()])
def test_what_a_module_holds_comes_back(value: Any) -> None:
    again = decode_reference(encode_reference(value, "resources"), "resources")
    assert type(again) is type(value)
    if value is lifespan:
        assert again is lifespan


def test_in_another_process() -> None:
    parts = [encode_reference(each, "part") for each in (lifespan, Locale(), ContextVars(request_id))]
    script = """
        import sys
        from sitq.references import decode_reference
        for data in sys.argv[1:]:
            value = decode_reference(bytes.fromhex(data), "part")
            print(value.__module__, getattr(value, "__qualname__", None) or type(value).__name__)
    """
    assert processes.run(script, *(each.hex() for each in parts)).splitlines() == [
        "tests.unit.surroundings lifespan",
        "tests.unit.surroundings Locale",
        "sitq.providers ContextVars",
    ]


def local() -> Any:
    @asynccontextmanager
    async def inner() -> AsyncGenerator[None]:
        yield

    return inner


@pytest.mark.parametrize("value", [local(), lambda: None, hidden, threading.Lock(), partial(local())])
def test_what_cannot_go_is_named(value: Any) -> None:
    with pytest.raises(
        ValidationError, match=r"^resources \(.*\) cannot be sent to a child process: .*top level"
    ):
        encode_reference(value, "resources")


def test_what_belongs_to_main_cannot_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Locale, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "Locale", Locale, raising=False)
    with pytest.raises(ValidationError, match=r"__main__\.Locale cannot be imported"):
        encode_reference(Locale(), "context provider 'locale'")


def test_a_variable_that_cannot_be_found_is_named_once() -> None:
    with pytest.raises(ValidationError, match=r"^the ContextVar 'hidden' cannot be found"):
        encode_reference(ContextVars(surroundings.Shelf.hidden), "context provider 'contextvars'")


@pytest.mark.parametrize("damage", [False, True])
def test_what_cannot_be_loaded_in_the_child_is_named(monkeypatch: pytest.MonkeyPatch, damage: bool) -> None:
    data = b"no pickle" if damage else encode_reference(lifespan, "resources")
    monkeypatch.delattr(surroundings, "lifespan")
    with pytest.raises(WorkerError, match="resources cannot be loaded in the child process"):
        decode_reference(data, "resources")
