"""What a run finds around itself: the resources of its worker, and what its task carries along.

A child process has the same, from a `SurroundingsSetup` that it got at its start:

    providers, resources = load_surroundings(setup)  # and `resources.open()`, if there are any
    around = Surroundings(worker, providers, resources and resources.lifespan, emit)
    ...  # for each run: `around.begin(context, current, rules)`, the run in this context, `leave` on what came back
    resources.close()
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextvars import Context
from functools import partial
from typing import Any, NamedTuple

from sitq.carrying import ContextProvider, Restored, restore, unknown
from sitq.context import CurrentTask
from sitq.events import ContextIgnored, ContextNotLeft, Emit
from sitq.failure import decode_error, encode_error
from sitq.references import decode_reference, encode_reference
from sitq.resources import Lifespan, Resources, provide
from sitq.rules import RunRules


class Surroundings:
    """What is put around runs. Used on one thread only.

    Attributes:
        resources: Set up; None if there are none.
    """

    def __init__(
        self, worker: str, providers: Sequence[ContextProvider], resources: Lifespan | None, emit: Emit
    ) -> None:
        self._worker = worker
        self._providers = providers
        self.resources = resources
        self._emit = emit
        self._ignored: set[str] = set()

    def begin(self, context: Context, current: CurrentTask, rules: RunRules) -> Restored | None:
        """Put resources and what the task carries into the context of a run. What comes back is to be left after it.

        Raises:
            ContextProviderError: A provider failed.
        """
        if self.resources is not None:
            context.run(provide, self.resources.value)
        return None if rules.carried is None else context.run(self._restore, current, rules.carried)

    def _restore(self, current: CurrentTask, carried: Mapping[str, Any]) -> Restored:
        for name in unknown(self._providers, carried):
            if name not in self._ignored:
                self._ignored.add(name)
                self._emit(ContextIgnored(current.id, current.name, self._worker, name))
        return restore(self._providers, carried, partial(self._not_left, current))

    def _not_left(self, current: CurrentTask, provider: str, error: BaseException) -> None:
        info = decode_error(encode_error(error))  # whatever its str() does
        self._emit(ContextNotLeft(current.id, current.name, self._worker, provider, info.type, info.message))


# -- In a child process ----------------------------------------------------------------------------


class SurroundingsSetup(NamedTuple):
    """What a child process needs to have the surroundings of its worker: references to providers and resources."""

    providers: tuple[tuple[str, bytes], ...] = ()
    resources: bytes | None = None


def surroundings_setup(providers: Sequence[ContextProvider], make: Resources | None) -> SurroundingsSetup:
    """Return what to send to child processes.

    Raises:
        ValidationError: A provider, a variable of one, or `resources` cannot be found by another process; it is named.
    """
    return SurroundingsSetup(
        tuple((one.name, encode_reference(one, _field(one.name))) for one in providers),
        None if make is None else encode_reference(make, "resources"),
    )


def load_surroundings(
    setup: SurroundingsSetup,
) -> tuple[tuple[ContextProvider, ...], "ChildResources | None"]:
    """Return the providers and the resources, which are still to be opened.

    Raises:
        WorkerError: Something cannot be loaded here; it is named.
    """
    providers: tuple[Any, ...] = tuple(decode_reference(data, _field(name)) for name, data in setup.providers)
    make = setup.resources
    return providers, None if make is None else ChildResources(decode_reference(make, "resources"))


def _field(name: str) -> str:
    return f"context provider {name!r}"


class ChildResources:
    """The resources of a child process, on an event loop that stands still while nothing is run on it.

    Attributes:
        lifespan: Has the value.
        runner: Runs coroutines on the loop that the resources belong to.
    """

    def __init__(self, make: Resources) -> None:
        self.lifespan = Lifespan(make)
        self.runner = asyncio.Runner()

    def open(self) -> None:
        """Set them up. Raises `WorkerError` with the reason if that fails."""
        try:
            self.runner.run(self.lifespan.start())
        except BaseException:
            self.runner.close()
            raise

    def close(self) -> None:
        """Take them down. Raises `WorkerError` with the reason if that fails."""
        with self.runner:
            self.runner.run(self.lifespan.close())
