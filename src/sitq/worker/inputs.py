"""The values of the tasks that a task depends on: read when it is about to run, and put in the places of its arguments.

Three steps, so that another process can do the last one: read what is stored, load the values, fill the call.
"""

from collections.abc import Collection, Mapping, Sequence
from itertools import batched
from typing import Any, Final, NamedTuple

from sitq.backends.base import Backend
from sitq.errors import SitqError, TaskError, TaskSerializationError
from sitq.model import Status, TaskId, TaskQuery, TaskRecord
from sitq.parents import filled, wanted
from sitq.result import as_result
from sitq.serialization import Codec, Purpose
from sitq.task import Call

_BATCH: Final = 500


class Input(NamedTuple):
    """What a parent left: an encoded value, or what waiting for it would raise."""

    id: TaskId
    name: str
    result: bytes | None
    failure: TaskError | None = None

    def load(self, codec: Codec) -> Any:
        """The value, or the failure as a value. Raises `TaskSerializationError`."""
        if self.failure is not None or self.result is None:
            return self.failure
        try:
            return codec.decode_value(self.result, self.id, Purpose.RESULT, self.name)
        except TaskSerializationError as error:
            raise TaskSerializationError(f"the value of task {self.id}, an argument: {error}") from error


class InputsMissingError(Exception):
    """The values are not to be had. `unfinished` if a parent got a new run after it had ended."""

    def __init__(self, reason: Exception, *, unfinished: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.unfinished = unfinished


def with_inputs(call: Call[Any], inputs: Mapping[int, Input], codec: Codec) -> Call[Any]:
    """The call with the values of its parents.

    Raises:
        TaskSerializationError: One cannot be loaded here.
    """
    return filled(call, {index: one.load(codec) for index, one in inputs.items()})


async def read_inputs(
    backend: Backend, codec: Codec, call: Call[Any], parents: Sequence[TaskId]
) -> dict[int, Input]:
    """What the parents left whose values a call takes, by their numbers.

    Raises:
        InputsMissingError: One is gone, or has not finished; or the storage failed.
    """
    indices = wanted(call)
    try:
        ids = [parents[index] for index in indices]
        found = await _records(backend, ids)
        causes = await _records(backend, [one.cancelled_by for one in found.values() if one.cancelled_by])
        return {index: _input(parents[index], found, causes, codec) for index in indices}
    except (SitqError, IndexError) as error:
        raise InputsMissingError(error) from error


async def _records(backend: Backend, ids: Collection[TaskId]) -> dict[TaskId, TaskRecord]:
    found: dict[TaskId, TaskRecord] = {}
    for some in batched(dict.fromkeys(ids), _BATCH, strict=False):
        records = await backend.find(TaskQuery(ids=some, limit=len(some), with_bytes=True))
        found.update((record.id, record) for record in records)
    return found


def _input(
    task_id: TaskId,
    found: Mapping[TaskId, TaskRecord],
    causes: Mapping[TaskId, TaskRecord],
    codec: Codec,
) -> Input:
    record = found.get(task_id)
    if record is None:
        raise TaskSerializationError(
            f"the value of task {task_id}, an argument, is gone: it was removed from the storage"
        )
    if record.status is Status.SUCCESS:
        return Input(task_id, record.name, record.result)
    if not record.status.finished:
        raise InputsMissingError(TaskError(f"task {task_id} has not finished again"), unfinished=True)
    try:
        as_result(record, codec, causes.get(record.cancelled_by or "")).unwrap()
    except TaskError as failure:
        return Input(task_id, record.name, None, failure)
    raise AssertionError(record.status)
