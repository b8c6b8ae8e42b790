"""The context providers that sitq brings along: context variables, structlog, the trace context of OpenTelemetry."""

import contextvars
import importlib
import sys
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import Any, Final

from sitq.checks import kind, label
from sitq.context import current_task
from sitq.errors import ValidationError
from sitq.task import MAIN

_UNSET: Final = object()


# -- Context variables -----------------------------------------------------------------------------


class ContextVars:
    """Carries the values of chosen context variables. One that is not set where the task is enqueued is not set in it.

    Their values travel with the task, so they must be plain data, and no secret that must not be stored.

    Args:
        variables: They travel by their names, which must differ.
        name: Of the provider; a queue may have several.

    Raises:
        ValidationError: Not a `ContextVar`, none at all, or two with the same name.
    """

    def __init__(self, *variables: ContextVar[Any], name: str = "contextvars") -> None:
        self.name: Final = label(name, "name")
        for one in variables:
            if not isinstance(one, ContextVar):
                raise ValidationError(
                    f"variables has {kind(one)} in it: give ContextVar objects, as in ContextVars(request_id, user_id)"
                )
        if not variables:
            raise ValidationError("variables is empty: give at least one ContextVar")
        names = [one.name for one in variables]
        for each in names:
            if names.count(each) > 1:
                raise ValidationError(f"variables has two with the name {each!r}: they travel by their names")
        self._variables = variables

    def capture(self) -> dict[str, Any] | None:
        """The values of those that are set here."""
        found = {one.name: one.get(_UNSET) for one in self._variables}
        return {name: value for name, value in found.items() if value is not _UNSET} or None

    @contextmanager
    def restore(self, data: Mapping[str, Any]) -> Generator[None]:
        """Set those that were captured."""
        tokens = [(one, one.set(data[one.name])) for one in self._variables if one.name in data]
        try:
            yield
        finally:
            for one, token in reversed(tokens):
                one.reset(token)

    def __reduce__(self) -> Any:
        # A ContextVar itself cannot be pickled. Another process finds it where a module holds it.
        return _context_vars, (self.name, tuple((one.name, _places(one)) for one in self._variables))


type _Place = tuple[str, str]


def _context_vars(name: str, variables: tuple[tuple[str, tuple[_Place, ...]], ...]) -> ContextVars:
    return ContextVars(*(_found(*each) for each in variables), name=name)


def _places(variable: ContextVar[Any]) -> tuple[_Place, ...]:
    """The modules and names under which another process finds this variable.

    Which module defines it is not to be seen. It is more likely one that can make context variables than one that has
    imported this one, so those come first.
    """
    places: list[tuple[bool, str, str]] = []
    for name, module in list(sys.modules.items()):
        if name in MAIN or not isinstance(module, ModuleType) or module.__spec__ is None:
            continue
        names = dict(vars(module))
        held = [attribute for attribute, value in names.items() if value is variable]
        imports = not any(value is ContextVar or value is contextvars for value in names.values() if held)
        places += [(imports, name, attribute) for attribute in held]
    if not places:
        raise ValidationError(
            f"the ContextVar {variable.name!r} cannot be found by a child process: no module that can be imported has "
            "it as a global. Define it at the top level of a module other than __main__"
        )
    return tuple((name, attribute) for _, name, attribute in sorted(places, key=lambda place: place[0]))


def _found(name: str, places: tuple[_Place, ...]) -> ContextVar[Any]:
    for module, attribute in places:
        try:
            found: Any = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError):
            continue
        if isinstance(found, ContextVar) and found.name == name:
            return found  # pyright: ignore[reportUnknownVariableType]
    known = ", ".join(f"{module}.{attribute}" for module, attribute in places)
    raise ValidationError(
        f"the ContextVar {name!r} cannot be found here: the worker has it as {known}, and this process must be able to "
        "import what the worker can"
    )


# -- structlog -------------------------------------------------------------------------------------


class StructlogContext:
    """Carries what `structlog.contextvars` has bound, so that log lines of a task show it. Needs the extra `structlog`.

    Raises:
        ValidationError: structlog is not installed.
    """

    name = "structlog"

    def __init__(self) -> None:
        _need("structlog", "structlog.contextvars", extra="structlog")

    def capture(self) -> dict[str, Any] | None:
        """What is bound here."""
        import structlog  # noqa: PLC0415  # an extra

        return dict(structlog.contextvars.get_contextvars()) or None

    def restore(self, data: Mapping[str, Any]) -> AbstractContextManager[None]:
        """Bind it for the run."""
        import structlog  # noqa: PLC0415  # an extra

        return structlog.contextvars.bound_contextvars(**data)


# -- OpenTelemetry ---------------------------------------------------------------------------------


class TraceContext:
    """Carries the trace context of OpenTelemetry as the headers of its global propagator, `traceparent` and the like.

    What the task traces then belongs to the trace of who enqueued it. Where there is no trace nothing travels. Needs
    the extra `opentelemetry`.

    Args:
        span: Put a span of kind CONSUMER, with the name of the task, around each run that has a trace.

    Raises:
        ValidationError: opentelemetry-api is not installed, or `span` is not a bool.
    """

    name = "opentelemetry"

    def __init__(self, *, span: bool = False) -> None:
        if not isinstance(span, bool):
            raise ValidationError(f"span is {kind(span)}: give True or False")
        _need("opentelemetry-api", "opentelemetry.propagate", extra="opentelemetry")
        self._span = span

    def capture(self) -> dict[str, str] | None:
        """The headers."""
        from opentelemetry import propagate  # noqa: PLC0415  # an extra

        headers: dict[str, str] = {}
        propagate.inject(headers)
        return headers or None

    @contextmanager
    def restore(self, data: Mapping[str, str]) -> Generator[None]:
        """Make the trace that of the run."""
        from opentelemetry import context, propagate, trace  # noqa: PLC0415  # an extra

        token = context.attach(propagate.extract(data))
        try:
            if not self._span:
                yield
                return
            task = current_task()
            with trace.get_tracer("sitq").start_as_current_span(
                task.name,
                kind=trace.SpanKind.CONSUMER,
                attributes={"sitq.id": task.id, "sitq.queue": task.queue, "sitq.attempt": task.attempt},
            ):
                yield
        finally:
            context.detach(token)


def _need(package: str, module: str, *, extra: str) -> None:
    try:
        importlib.import_module(module)
    except ImportError:
        raise ValidationError(
            f"this context provider needs the package {package}, which is not installed: install sitq with its extra, "
            f'in a checkout with pip install ".[{extra}]"'
        ) from None
