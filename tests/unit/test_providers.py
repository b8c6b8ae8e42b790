"""The providers that sitq brings along capture what is there, restore it, and can be found by a child process."""

import pickle
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextvars import Context, ContextVar
from functools import wraps
from typing import Any

import pytest
import structlog
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from sitq import ContextProvider, ContextVars, CurrentTask, StructlogContext, TraceContext, ValidationError
from sitq.context import bind
from tests.unit import processes, surroundings
from tests.unit.surroundings import Shelf, request_id, tenant_of_the_request

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def fresh[**P](test: Callable[P, None]) -> Callable[P, None]:
    """In a context of its own: what a test sets is gone after it."""

    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        Context().run(test, *args, **kwargs)

    return run


def own_context() -> Context:
    return bind(CurrentTask("id-1", "app.work", "mail", 2))


# -- Context variables -----------------------------------------------------------------------------


@fresh
def test_variables_that_are_set_travel() -> None:
    provider = ContextVars(request_id, tenant_of_the_request)
    assert provider.capture() is None
    request_id.set("r1")
    assert provider.capture() == {"request_id": "r1"}
    tenant_of_the_request.set(0)
    data = provider.capture()
    assert data == {"request_id": "r1", "tenant": 0}

    own = Context()
    manager = provider.restore(data)
    own.run(manager.__enter__)
    assert (own[request_id], own[tenant_of_the_request]) == ("r1", 0)
    own.run(manager.__exit__, None, None, None)
    assert (request_id in own, tenant_of_the_request in own) == (False, False)


def test_a_default_is_not_captured() -> None:
    assert ContextVars(ContextVar("locale", default="en")).capture() is None


@fresh
def test_none_is_a_value() -> None:
    var = ContextVar[Any]("maybe")
    var.set(None)
    assert ContextVars(var).capture() == {"maybe": None}


@fresh
def test_what_was_not_captured_or_is_not_known_here_stays_as_it_is() -> None:
    with ContextVars(request_id, tenant_of_the_request).restore({"tenant": 7, "of a newer version": 1}):
        assert tenant_of_the_request.get() == 7
        assert request_id.get(None) is None
    assert tenant_of_the_request.get(None) is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((), "variables is empty: give at least one ContextVar"),
        (("request_id",), "variables has a str in it"),
        ((request_id, ContextVar("request_id")), "variables has two with the name 'request_id'"),
    ],
)
def test_variables_that_are_not_usable(given: Any, words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ContextVars(*given)
    assert words in str(caught.value)


def test_the_name_is_checked() -> None:
    assert ContextVars(request_id, name="mine").name == "mine"
    with pytest.raises(ValidationError, match="name is an int"):
        ContextVars(request_id, name=5)  # type: ignore[arg-type]


# -- Context variables by reference ----------------------------------------------------------------


@fresh
def test_variables_are_found_by_module_and_attribute() -> None:
    again: ContextVars = pickle.loads(
        pickle.dumps(ContextVars(request_id, tenant_of_the_request, name="mine"))
    )
    assert again.name == "mine"
    with again.restore({"request_id": "r1", "tenant": 1}):
        assert (request_id.get(), tenant_of_the_request.get()) == ("r1", 1)


def test_another_process_finds_the_same_variables() -> None:
    data = pickle.dumps(ContextVars(request_id, tenant_of_the_request))
    script = """
        import pickle, sys
        provider = pickle.loads(bytes.fromhex(sys.argv[1]))
        from tests.unit.surroundings import request_id, tenant_of_the_request
        with provider.restore({"request_id": "r1", "tenant": 1}):
            print(request_id.get(), tenant_of_the_request.get())
    """
    assert processes.run(script, data.hex()) == "r1 1\n"


@pytest.mark.parametrize("lost", [ContextVar[str]("nowhere"), Shelf.hidden])
def test_a_variable_that_no_module_holds_is_named(lost: ContextVar[str]) -> None:
    name = lost.name
    with pytest.raises(
        ValidationError, match=f"the ContextVar '{name}' cannot be found .* top level of a module"
    ):
        pickle.dumps(ContextVars(request_id, lost))


def test_a_variable_of_main_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    var = ContextVar[str]("of_main")
    monkeypatch.setattr(sys.modules["__main__"], "of_main", var, raising=False)
    with pytest.raises(ValidationError, match=r"'of_main' .* other than __main__"):
        pickle.dumps(ContextVars(var))


def test_the_module_that_defines_it_is_tried_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(textwrap, "imported", surroundings.lonely, raising=False)
    data = pickle.dumps(ContextVars(surroundings.lonely))
    assert data.index(b"surroundings") < data.index(b"textwrap")


@pytest.mark.parametrize("there", [None, 5, ContextVar[str]("another")])
def test_a_variable_that_is_not_there_on_the_other_side_is_named(
    monkeypatch: pytest.MonkeyPatch, there: object
) -> None:
    data = pickle.dumps(ContextVars(surroundings.lonely))
    if there is None:
        monkeypatch.delattr(surroundings, "lonely")
    else:
        monkeypatch.setattr(surroundings, "lonely", there)
    with pytest.raises(
        ValidationError, match=r"'lonely' cannot be found here: .* as tests\.unit\.surroundings\.lonely"
    ):
        pickle.loads(data)


# -- structlog -------------------------------------------------------------------------------------


@fresh
def test_what_structlog_has_bound_travels() -> None:
    provider = StructlogContext()
    assert provider.capture() is None
    structlog.contextvars.bind_contextvars(request="r1", **{"not an identifier": 2})
    data = provider.capture()
    assert data == {"request": "r1", "not an identifier": 2}

    own = Context()
    manager = provider.restore(data)
    own.run(manager.__enter__)
    assert own.run(structlog.contextvars.get_contextvars) == data
    own.run(manager.__exit__, None, None, None)
    assert own.run(structlog.contextvars.get_contextvars) == {}


@fresh
def test_a_log_line_of_the_run_shows_it() -> None:
    with StructlogContext().restore({"request": "r1"}):
        line = structlog.contextvars.merge_contextvars(None, "info", {"event": "resized"})
    assert line == {"request": "r1", "event": "resized"}


# -- OpenTelemetry ---------------------------------------------------------------------------------


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """A real tracer, which writes its spans to a list. The process-wide one can be set only once, so it is replaced."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    yield exporter
    provider.shutdown()


@fresh
def test_without_a_trace_nothing_travels() -> None:
    assert TraceContext().capture() is None


@fresh
def test_a_trace_and_its_baggage_travel_as_headers(spans: InMemorySpanExporter) -> None:
    with trace.get_tracer("test").start_as_current_span("request") as span:
        context.attach(baggage.set_baggage("tenant", "seven"))
        data = TraceContext().capture()
    found = span.get_span_context()
    assert data is not None
    assert data["traceparent"].startswith(f"00-{found.trace_id:032x}-{found.span_id:016x}-0")
    assert data["baggage"] == "tenant=seven"

    own = own_context()
    manager = TraceContext().restore(data)
    own.run(manager.__enter__)
    here = own.run(trace.get_current_span).get_span_context()
    assert (here.trace_id, here.span_id, here.is_remote) == (found.trace_id, found.span_id, True)
    assert own.run(baggage.get_baggage, "tenant") == "seven"
    own.run(manager.__exit__, None, None, None)
    assert not own.run(trace.get_current_span).get_span_context().is_valid
    assert len(spans.get_finished_spans()) == 1


def test_a_span_around_the_run(spans: InMemorySpanExporter) -> None:
    own = own_context()
    manager = TraceContext(span=True).restore({"traceparent": TRACE})
    own.run(manager.__enter__)
    inner = own.run(trace.get_current_span).get_span_context()
    own.run(manager.__exit__, None, None, None)
    [span] = spans.get_finished_spans()
    assert span.context is not None
    assert span.parent is not None
    assert span.context.span_id == inner.span_id
    assert f"{span.context.trace_id:032x}" in TRACE
    assert f"{span.parent.span_id:016x}" in TRACE
    assert (span.name, span.kind) == ("app.work", trace.SpanKind.CONSUMER)
    assert span.attributes == {"sitq.id": "id-1", "sitq.queue": "mail", "sitq.attempt": 2}


def test_the_span_of_a_run_that_fails_says_so(spans: InMemorySpanExporter) -> None:
    own = own_context()
    manager = TraceContext(span=True).restore({"traceparent": TRACE})
    own.run(manager.__enter__)
    error = ValueError("went wrong")
    assert not own.run(manager.__exit__, ValueError, error, None)
    [span] = spans.get_finished_spans()
    assert span.status.status_code is trace.StatusCode.ERROR
    assert [event.name for event in span.events] == ["exception"]


def test_span_is_checked() -> None:
    with pytest.raises(ValidationError, match="span is a str"):
        TraceContext(span="yes")  # type: ignore[arg-type]


# -- Both ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("made", [StructlogContext(), TraceContext(span=True), surroundings.Locale()])
def test_a_provider_goes_by_reference(made: ContextProvider) -> None:
    again = pickle.loads(pickle.dumps(made))
    assert (type(again), vars(again), again.name) == (type(made), vars(made), made.name)


@pytest.mark.parametrize(
    ("make", "missing", "words"),
    [
        (StructlogContext, "structlog.contextvars", r"structlog, .*pip install \"\.\[structlog\]\""),
        (
            TraceContext,
            "opentelemetry.propagate",
            r"opentelemetry-api, .*pip install \"\.\[opentelemetry\]\"",
        ),
    ],
)
def test_a_package_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[], object], missing: str, words: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ValidationError, match=words):
        make()


def test_they_are_imported_only_when_they_are_used() -> None:
    script = """
        import sys
        import sitq
        print(sorted({"structlog", "opentelemetry"} & set(sys.modules)))
    """
    assert processes.run(script) == "[]\n"
