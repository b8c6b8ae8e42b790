"""What a run finds around itself: the resources of its worker, and what its task carries along."""

from collections.abc import Sequence
from functools import partial

from sitq.carrying import ContextProvider, Restored, restore, unknown
from sitq.context import CurrentTask
from sitq.events import ContextIgnored, ContextNotLeft, Emit
from sitq.failure import decode_error, encode_error
from sitq.resources import Lifespan
from sitq.rules import RunRules


class Surroundings:
    """What a worker puts around its runs. Used on its loop only.

    Attributes:
        resources: Set up; None if the worker has none.
    """

    def __init__(
        self, worker: str, providers: Sequence[ContextProvider], resources: Lifespan | None, emit: Emit
    ) -> None:
        self._worker = worker
        self._providers = providers
        self.resources = resources
        self._emit = emit
        self._ignored: set[str] = set()

    def restore(self, current: CurrentTask, rules: RunRules) -> Restored:
        """Restore what a task carries, in the current context, which is that of its run.

        Raises:
            ContextProviderError: A provider failed.
        """
        carried = rules.carried or {}
        for name in unknown(self._providers, carried):
            if name not in self._ignored:
                self._ignored.add(name)
                self._emit(ContextIgnored(current.id, current.name, self._worker, name))
        return restore(self._providers, carried, partial(self._not_left, current))

    def _not_left(self, current: CurrentTask, provider: str, error: BaseException) -> None:
        info = decode_error(encode_error(error))  # whatever its str() does
        self._emit(ContextNotLeft(current.id, current.name, self._worker, provider, info.type, info.message))
