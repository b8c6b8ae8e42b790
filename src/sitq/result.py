"""The result of a task as its caller sees it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sitq.errors import TaskCancelledError, TaskError, TaskFailedError, TaskRetryExhaustedError
from sitq.failure import ErrorInfo, decode_error
from sitq.model import Status, TaskId, TaskRecord
from sitq.serialization import Codec, Purpose


@dataclass(frozen=True, slots=True, kw_only=True)
class Result[R]:
    """A task as its caller sees it.

    Attributes:
        value: What the task returned; None unless `status` is success.
        error: The message of what made it fail, or of why it is parked, waits for another attempt or was cancelled;
            None if nothing went wrong, or it succeeded in the end.
        error_type: The qualified name of the exception's class, as text.
        traceback: Where it was raised in the worker, as text, without local variables.
        attempts: How many times a worker reserved it; of a task that was given up as `worker_lost` the last
            reservation only recorded that.
        exhausted: It failed in the last of several attempts.
        cancelled_by: The task on which it depends and that failed or was cancelled, for which it was cancelled as well.
    """

    id: TaskId
    status: Status
    value: R | None = None
    error: str | None = None
    error_type: str | None = None
    traceback: str | None = None
    enqueued_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    attempts: int = 0
    exhausted: bool = False
    cancelled_by: TaskId | None = None

    def unwrap(self) -> R:
        """The value of a task that succeeded.

        Raises:
            TaskFailedError: The task failed; with the traceback of the worker.
            TaskRetryExhaustedError: The same, in the last of several attempts.
            TaskCancelledError: The task was cancelled.
            TaskError: The task has not finished yet.
        """
        match self.status:
            case Status.SUCCESS:
                return self.value  # type: ignore[return-value]  # R may be None
            case Status.FAILED:
                told = (self.id, self.error_type or "", self.error or "", self.traceback or "")
                if self.exhausted:
                    raise TaskRetryExhaustedError(*told, self.attempts)
                raise TaskFailedError(*told)
            case Status.CANCELLED:
                why = " because" if self.cancelled_by else ":"
                raise TaskCancelledError(
                    f"task {self.id} was cancelled" + (f"{why} {self.error}" if self.error else "")
                )
            case _:
                raise TaskError(
                    f"task {self.id} is {self.status}, not finished: wait with get_result(id, timeout=...)"
                )


def as_result(record: TaskRecord, codec: Codec, culprit: TaskRecord | None = None) -> Result[Any]:
    """A record that was read with its bytes, as its caller sees it. Raises `TaskSerializationError`.

    Args:
        culprit: The record of `cancelled_by`, with bytes, if there is one.
    """
    error = _error(record, codec)
    return Result(
        id=record.id,
        status=record.status,
        value=codec.decode_value(record.result, record.id, Purpose.RESULT, record.name)
        if record.status is Status.SUCCESS and record.result is not None
        else None,
        error=_blame(record, culprit, codec) or (error.message if error else None),
        error_type=error.type if error else None,
        traceback=error.traceback if error else None,
        enqueued_at=record.enqueued_at,
        started_at=record.started_at,
        finished_at=record.finished_at,
        attempts=record.attempt,
        exhausted=error.exhausted if error else False,
        cancelled_by=record.cancelled_by,
    )


def _error(record: TaskRecord, codec: Codec) -> ErrorInfo | None:
    if record.error is None:
        return None
    return decode_error(codec.unseal(record.error, record.id, Purpose.ERROR))


def _blame(record: TaskRecord, culprit: TaskRecord | None, codec: Codec) -> str | None:
    if record.cancelled_by is None:
        return None
    who = f"task {record.cancelled_by}, on which it depends,"
    error = None if culprit is None else _error(culprit, codec)
    match None if culprit is None else culprit.status:
        case Status.FAILED if error is not None:
            return f"{who} failed: {error.type}: {error.message}"
        case Status.CANCELLED:
            return f"{who} was cancelled" + (f": {error.message}" if error else "")
        case _:
            return f"{who} had failed or was cancelled"
