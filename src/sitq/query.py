"""What readers ask for, checked once before it reaches a storage."""

from collections.abc import Collection, Sequence
from datetime import datetime

from sitq.errors import ValidationError
from sitq.model import Status, TaskId, TaskQuery

MAX_PAGE = 10_000
_MAX_SEQ = 2**63 - 1


def task_query(
    *,
    status: Status | Collection[Status] | None,
    queue: str | None,
    name: str | None,
    since: datetime | None,
    until: datetime | None,
    before: int | None,
    limit: int,
) -> TaskQuery:
    """Make the query of `TaskQueue.find`.

    Raises:
        ValidationError: An argument is of the wrong type or out of range; the message names it.
    """
    return TaskQuery(
        statuses=_statuses(status),
        queue=_text(queue, "queue"),
        name=_text(name, "name"),
        since=_moment(since, "since"),
        until=_moment(until, "until"),
        before=None
        if before is None
        else _integer(before, "before", _MAX_SEQ, ": the seq of a page's last record"),
        limit=_integer(limit, "limit", MAX_PAGE, ", and page with before="),
    )


def check_task_id(task_id: TaskId) -> None:
    """Refuse what cannot be an id. Raises `ValidationError`."""
    if not isinstance(task_id, str):
        raise ValidationError(f"task_id is a {_kind(task_id)}: give the str that enqueue returned")


def _statuses(status: Status | Collection[Status] | None) -> Sequence[Status] | None:
    if status is None:
        return None
    try:
        return [Status(one) for one in ([status] if isinstance(status, str) else status)]
    except (TypeError, ValueError) as error:
        raise ValidationError(f"status: {error}; choose from {', '.join(Status)}") from None


def _text(value: str | None, field: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ValidationError(f"{field} is a {_kind(value)}: give a str")
    return value


def _moment(value: datetime | None, field: str) -> datetime | None:
    if value is None:
        return None
    if not isinstance(value, datetime):
        raise ValidationError(f"{field} is a {_kind(value)}: give an aware datetime")
    if value.utcoffset() is None:
        raise ValidationError(f"{field} is a naive datetime: give an aware one, such as datetime.now(UTC)")
    return value


def _integer(value: int, field: str, maximum: int, hint: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= maximum:
        raise ValidationError(f"{field} is {value!r}: give an int from 1 to {maximum:,}{hint}")
    return value


def _kind(value: object) -> str:
    return type(value).__qualname__
