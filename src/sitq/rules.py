"""What a worker has to know about a task besides its call. Travels in the payload, beside call and context."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

from sitq.retry import RetryPolicy

DEFAULT_TIMEOUT: Final = 24 * 3600.0
"""Seconds that an attempt may take when nothing else was said: no task holds its slot for ever."""
MIN_TIMEOUT: Final = 0.001
MAX_TIMEOUT: Final = 30 * 24 * 3600.0


class RunRules(NamedTuple):
    """What the options of a task ask of the worker that runs it.

    Attributes:
        retry: None means one attempt.
        timeout: Seconds that one attempt may take; None means `DEFAULT_TIMEOUT`.
        expires_at: No attempt starts after it, in UTC; None means never.
        keep_failed: Seconds that the task is kept at least if it fails; None means `DEFAULT_KEEP_FAILED`.
        executor: Where it runs; None leaves it to the worker.
        carried: What context providers captured, by their names; None means nothing.
    """

    retry: RetryPolicy | None = None
    timeout: float | None = None
    expires_at: datetime | None = None
    keep_failed: float | None = None
    executor: str | None = None
    carried: Mapping[str, Any] | None = None

    @property
    def limit(self) -> float:
        """Seconds that one attempt may take, in any case."""
        return DEFAULT_TIMEOUT if self.timeout is None else self.timeout


NO_RULES: Final = RunRules()
