"""What travels from who enqueues a task to its run without being an argument: captured there, restored around the run.

Plain functions over providers and data. One run is surrounded like this:

    context = bind(current)
    restored = context.run(restore, providers, carried, failed)
    ...  # the run, in `context` or in copies of it
    context.run(restored.leave, error)  # or None
"""

# What comes in here is of any type:
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from sitq.checks import kind, label
from sitq.errors import ContextProviderError, ValidationError
from sitq.failure import reason


class ContextProvider(Protocol):
    """Carries a part of the caller's surroundings to the run of a task: a request id, a trace, a locale.

    A queue has them for both sides: `TaskQueue(context_providers=[...])`, where tasks are enqueued and where they run.
    """

    @property
    def name(self) -> str:
        """Under which its data travels. No other provider of the queue has it."""
        ...

    def capture(self) -> Any:
        """Return what there is to carry, as plain data; None for nothing. Called at `enqueue`, in the context of the
        caller, once for a batch. What it raises fails the `enqueue`.
        """
        ...

    def restore(self, data: Any) -> AbstractContextManager[Any]:
        """Return a context manager around a run; `data` is what was captured. Not called if that was None.

        It is entered before the run and left after it, on the thread of the worker's event loop, so it must not block;
        and in the `contextvars.Context` that the run has for itself. What it sets there holds in the coroutine, on the
        thread of a plain function, and in what they start with a copy of their context. If it cannot be entered the
        task is parked. What it raises when it is left is logged, and it cannot suppress what the task raised.
        """
        ...


type Failed = Callable[[str, BaseException], object]
"""Told the name of a provider that could not be left, and what it raised."""


def check_providers(given: Any) -> tuple[ContextProvider, ...]:
    """Return the providers of a queue, in the order in which they are entered.

    Raises:
        ValidationError: Not a list of providers, or two have the same name.
    """
    if isinstance(given, str | Mapping) or not isinstance(given, Iterable):
        raise ValidationError(
            f"context_providers is {kind(given)}: give a list, as in context_providers=[ContextVars(request_id)]"
        )
    providers: list[Any] = list(given)
    names: set[str] = set()
    for provider in providers:
        name = _check(provider)
        if name in names:
            raise ValidationError(
                f"context_providers has two with the name {name!r}: give one of them another name"
            )
        names.add(name)
    return tuple(providers)


def _check(provider: Any) -> str:
    has = f"context_providers has {kind(provider)} in it"
    if isinstance(provider, type):
        raise ValidationError(f"{has}, {provider.__qualname__}: give an object of this class")
    for method in ("capture", "restore"):
        found = getattr(provider, method, None)
        if not callable(found):
            raise ValidationError(f"{has}, which has no method {method}: give a ContextProvider")
        if inspect.iscoroutinefunction(found):
            raise ValidationError(
                f"{has}, whose {method} is async: make it a plain method, which must not wait"
            )
    return label(
        getattr(provider, "name", None), f"the name of context provider {type(provider).__qualname__}"
    )


def capture(providers: Sequence[ContextProvider]) -> dict[str, Any] | None:
    """Return what there is to carry, by name of the provider; None for nothing at all.

    Raises:
        ContextProviderError: One of them failed; it is named.
    """
    carried: dict[str, Any] = {}
    for provider in providers:
        try:
            data = provider.capture()
        except Exception as error:
            raise ContextProviderError(
                provider.name, f"failed to capture, so nothing was stored: {reason(error)}"
            ) from error
        if data is not None:
            carried[provider.name] = data
    return carried or None


class Restored:
    """What surrounds one run, in the context that it was made in."""

    __slots__ = ("_entered", "_failed")

    def __init__(self, failed: Failed) -> None:
        self._entered: list[tuple[str, AbstractContextManager[Any]]] = []
        self._failed = failed

    def enter(self, name: str, manager: AbstractContextManager[Any]) -> None:
        """Enter one more."""
        manager.__enter__()
        self._entered.append((name, manager))

    def leave(self, error: BaseException | None) -> None:
        """Leave all, the last one first, and tell them what the run raised. Whatever they do, nothing comes out of it.

        Idempotent.
        """
        while self._entered:
            name, manager = self._entered.pop()
            try:
                if error is None:
                    manager.__exit__(None, None, None)
                else:
                    manager.__exit__(type(error), error, error.__traceback__)
            except BaseException as raised:
                if raised is not error:
                    self._failed(name, raised)


def restore(providers: Sequence[ContextProvider], carried: Mapping[str, Any], failed: Failed) -> Restored:
    """Restore what was carried, in the current context. What is returned is to be left after the run.

    Providers without data do nothing, and data without a provider is not looked at: see `unknown`.

    Raises:
        ContextProviderError: One of them failed; it is named. What was entered before it has been left.
    """
    restored = Restored(failed)
    for provider in providers:
        name = provider.name
        if name in carried:
            try:
                restored.enter(name, provider.restore(carried[name]))
            except BaseException as error:
                restored.leave(error)
                raise ContextProviderError(
                    name, f"failed to restore what it captured: {reason(error)}"
                ) from error
    return restored


def unknown(providers: Iterable[ContextProvider], carried: Mapping[str, Any]) -> list[str]:
    """The names in what was carried that none of the providers has."""
    names = {provider.name for provider in providers}
    return [name for name in carried if name not in names]
