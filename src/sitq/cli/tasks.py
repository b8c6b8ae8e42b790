"""`sitq status`, `sitq tasks` and `sitq result`: what is in a database, and cancelling."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any, Final

from sitq.cli import deadletters
from sitq.cli.arguments import Parser, choice, integer, names, past, span
from sitq.cli.database import add_options, ask
from sitq.cli.exits import CommandError, Exit
from sitq.cli.output import (
    record_data,
    result_data,
    value_text,
    write,
    write_fields,
    write_json,
    write_table,
)
from sitq.details import TaskDetails
from sitq.errors import TaskNotFoundError, TaskTimeoutError
from sitq.failure import ErrorInfo
from sitq.model import Stats, Status, TaskId, TaskRecord
from sitq.queue import TaskQueue
from sitq.result import Result

_LIMIT: Final = 100
_PARENTS: Final = 10
"""How many `show` writes out for people."""


def add(commands: Any) -> None:
    _add_status(commands)
    tasks: Parser = commands.add_parser(
        "tasks", help="list, show and steer tasks", description="List, show and steer tasks."
    )
    verbs = tasks.add_subparsers(metavar="VERB", required=True, parser_class=Parser)
    _add_list(verbs)
    _add_show(verbs)
    _add_cancel(verbs)
    deadletters.add(verbs)
    _add_result(commands)


# -- status ----------------------------------------------------------------------------------------


def _add_status(commands: Any) -> None:
    parser: Parser = commands.add_parser(
        "status",
        help="how many tasks are where",
        description="How many tasks of each state are in each queue.",
    )
    add_options(parser)
    parser.set_defaults(run=_status, parser=parser)


def _status(arguments: argparse.Namespace) -> int:
    stats = ask(arguments, lambda queue: queue.stats())
    if arguments.json:
        write_json(_stats_data(stats))
        return Exit.OK
    rows = [
        [
            one.queue,
            *(one.counts.get(status, 0) for status in Status),
            one.oldest_due_at,
            "paused" if one.paused else "",
        ]
        for one in stats.queues
    ]
    write_table(["queue", *Status, "oldest due", ""], rows)
    if stats.stale_outcomes:
        write(f"{stats.stale_outcomes} outcome(s) refused, because their lease had been lost")
    return Exit.OK


def _stats_data(stats: Stats) -> dict[str, Any]:
    queues = [
        {
            "queue": one.queue,
            "counts": {status.value: one.counts.get(status, 0) for status in Status},
            "oldest_due_at": one.oldest_due_at,
            "paused": one.paused,
        }
        for one in stats.queues
    ]
    return {"queues": queues, "stale_outcomes": stats.stale_outcomes}


# -- tasks list ------------------------------------------------------------------------------------


def _add_list(verbs: Any) -> None:
    parser: Parser = verbs.add_parser(
        "list", help="list tasks, newest first", description="List tasks, newest first."
    )
    parser.add_argument(
        "--status", type=_statuses, metavar="A,B", help=f"in these states: {', '.join(Status)}"
    )
    parser.add_argument("--queue", metavar="NAME", help="in this queue")
    parser.add_argument("--name", metavar="NAME", help="of this function, such as module.function")
    parser.add_argument(
        "--since", type=past, metavar="TIME", help="enqueued from then on: 2026-01-31T12:00Z, or 2h ago as 2h"
    )
    parser.add_argument("--until", type=past, metavar="TIME", help="enqueued before then")
    parser.add_argument(
        "--before", type=integer, metavar="SEQ", help="the next page: the seq of the last task of this one"
    )
    parser.add_argument("--limit", type=integer, default=_LIMIT, metavar="N", help=f"page size ({_LIMIT})")
    add_options(parser)
    parser.set_defaults(run=_list, parser=parser)


def _statuses(text: str) -> list[Status]:
    convert = choice(list(Status))
    return [Status(convert(name)) for name in names(text)]


def _list(arguments: argparse.Namespace) -> int:
    filters = {
        name: getattr(arguments, name)
        for name in ("status", "queue", "name", "since", "until", "before", "limit")
    }
    found = ask(arguments, lambda queue: queue.find(**filters))
    if arguments.json:
        write_json([record_data(record) for record in found])
        return Exit.OK
    rows = [[one.id, one.status, one.queue, one.name, one.attempt, one.enqueued_at] for one in found]
    write_table(["id", "status", "queue", "name", "attempt", "enqueued at"], rows)
    if len(found) == arguments.limit:
        sys.stdout.flush()  # on a terminal, or in one file, the hint comes after the list
        sys.stderr.write(f"there may be more: --before {found[-1].seq}\n")
    return Exit.OK


# -- tasks show ------------------------------------------------------------------------------------


def _add_show(verbs: Any) -> None:
    parser: Parser = verbs.add_parser(
        "show",
        help="everything about one task",
        description="Everything that is stored about one task, but its value.",
    )
    parser.add_argument("id", metavar="ID")
    add_options(parser)
    parser.set_defaults(run=_show, parser=parser)


def _show(arguments: argparse.Namespace) -> int:
    async def question(queue: TaskQueue) -> tuple[TaskRecord, TaskDetails]:
        record = await queue.backend.get_result(arguments.id)
        if record is None:
            raise TaskNotFoundError(arguments.id)
        return record, await queue.get(arguments.id)

    record, more = ask(arguments, question)
    error = more.last_error
    if arguments.json:
        write_json(_details_data(record, more) | {"error": error and _error_data(error)})
        return Exit.OK
    progress = None if more.progress is None else f"{more.progress.percent:g} % {more.progress.note}".rstrip()
    write_fields(
        record_data(record)
        | {
            "parents": _some(record.parents),
            "progress": progress,
            "requeued": more.requeued or None,
            "error": f"{error.type}: {error.message}" if error else None,
        }
    )
    if error and error.traceback:
        write(f"\n{error.traceback.rstrip()}")
    if earlier := [one for one in more.attempts_log if not one.last]:
        write("\nerrors of earlier attempts:")
        write_table(["attempt", "at", "error"], [[one.attempt, one.at, _line(one.error)] for one in earlier])
    return Exit.OK


def _some(parents: Sequence[TaskId]) -> str | None:
    """Parents in one line: there may be thousands."""
    more = f", and {len(parents) - _PARENTS:,} more" if len(parents) > _PARENTS else ""
    return f"{', '.join(parents[:_PARENTS])}{more}" if parents else None


def _details_data(record: TaskRecord, more: TaskDetails) -> dict[str, Any]:
    log = [
        {"attempt": one.attempt, "at": one.at, "last": one.last, **_error_data(one.error)}
        for one in more.attempts_log
    ]
    progress = None if more.progress is None else more.progress._asdict()
    return {**record_data(record), "progress": progress, "requeued": more.requeued, "attempts_log": log}


def _error_data(error: ErrorInfo) -> dict[str, Any]:
    return {"type": error.type, "message": error.message, "traceback": error.traceback}


def _line(error: ErrorInfo) -> str:
    return " ".join(f"{error.type}: {error.message}".split())


# -- tasks cancel ----------------------------------------------------------------------------------


def _add_cancel(verbs: Any) -> None:
    parser: Parser = verbs.add_parser(
        "cancel",
        help="cancel tasks",
        description="Cancel tasks: one that has not started never will, a running one is asked to stop, a finished one "
        "stays as it is. Writes the state of each after the call.",
    )
    parser.add_argument("ids", nargs="+", metavar="ID")
    add_options(parser)
    parser.set_defaults(run=_cancel, parser=parser)


def _cancel(arguments: argparse.Namespace) -> int:
    states = ask(arguments, lambda queue: queue.backend.cancel(arguments.ids))
    if arguments.json:
        write_json(states)
    else:
        write_table(
            ["id", "status"], [[task_id, states[task_id]] for task_id in arguments.ids if task_id in states]
        )
    missing = [task_id for task_id in arguments.ids if task_id not in states]
    if missing:
        raise CommandError(f"no such task: {', '.join(missing)}")
    return Exit.OK


# -- result ----------------------------------------------------------------------------------------


def _add_result(commands: Any) -> None:
    parser: Parser = commands.add_parser(
        "result",
        help="the value that a task returned",
        description="The value that a task returned: text as it is, plain data as JSON. Exit code 1 if it has none.",
    )
    parser.add_argument("id", metavar="ID")
    parser.add_argument("--timeout", type=span, metavar="S", help="wait so long for the end")
    add_options(parser)
    parser.set_defaults(run=_result, parser=parser)


def _result(arguments: argparse.Namespace) -> int:
    async def question(queue: TaskQueue) -> Result[Any]:
        try:
            return await queue.get_result(arguments.id, arguments.timeout)
        except TaskTimeoutError:
            return await queue.get_result(arguments.id)

    result = ask(arguments, question)
    if arguments.json:
        write_json(result_data(result))
    elif result.status is Status.SUCCESS:
        write(value_text(result.value))
    match result.status:
        case Status.SUCCESS:
            return Exit.OK
        case Status.FAILED:
            raise CommandError(f"task {result.id} failed: {result.error_type}: {result.error}")
        case Status.CANCELLED:
            why = f" because {result.error}" if result.cancelled_by else ""
            raise CommandError(f"task {result.id} was cancelled{why}")
        case _:
            hint = "wait longer" if arguments.timeout else "wait with --timeout"
            raise CommandError(f"task {result.id} is {result.status}, it has no result yet: {hint}")
