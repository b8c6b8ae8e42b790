"""The proof: read the database back, and check that every file has exactly one accepted result."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from examples.stdlib_index.analyse import Report, Unparsable
from sitq import Result, Status, TaskQueue, TaskRecord

PAGE = 1000


@dataclass(frozen=True, slots=True)
class Proof:
    """What the database says.

    Attributes:
        checks: What must hold, and whether it does.
        outcomes: The accepted results, one a task.
        started_again: Tasks that were started more than once, because a worker died over them.
        finished_by: How many results each worker delivered.
        refused: Results of workers that had lost their lease. The storage took none of them.
    """

    checks: Mapping[str, bool]
    outcomes: list[Report | Unparsable]
    started_again: int
    finished_by: Mapping[str | None, int]
    refused: int

    @property
    def holds(self) -> bool:
        return all(self.checks.values())


async def prove(queue: TaskQueue, files: Mapping[str, str]) -> Proof:
    """Compare what is stored with what was enqueued.

    Args:
        files: The path that each task id was enqueued with.
    """
    records = await read_all(queue)
    results = [await queue.get_result(record.id) for record in records]
    succeeded = [result for result in results if result.status is Status.SUCCESS]
    outcomes = [result.unwrap() for result in succeeded]
    return Proof(
        checks={
            "every file has one task, and there are no others": (
                Counter(record.id for record in records) == Counter(files.keys())
            ),
            "every task has a result": len(succeeded) == len(files),
            "every result is about the file of its task": (
                all(is_about(result, files) for result in succeeded)
                and len({outcome.path for outcome in outcomes}) == len(files)
            ),
            # One start more than deaths: so exactly one start ended with a result.
            "every start but one ended with the death of its worker": (
                all(record.attempt == record.crashes + 1 for record in records)
            ),
        },
        outcomes=outcomes,
        started_again=sum(record.attempt > 1 for record in records),
        finished_by=Counter(record.worker for record in reversed(records)),
        refused=(await queue.stats()).stale_outcomes,
    )


async def read_all(queue: TaskQueue) -> list[TaskRecord]:
    """Return every task of the database, page by page."""
    records = page = await queue.find(limit=PAGE)
    while len(page) == PAGE:
        page = await queue.find(limit=PAGE, before=page[-1].seq)
        records = [*records, *page]
    return records


def is_about(result: Result[Report | Unparsable], files: Mapping[str, str]) -> bool:
    """Return whether a result is about the file that its task was enqueued with."""
    return result.unwrap().path == files.get(result.id)
