"""`sitq tasks requeue` and `sitq tasks discard`: what ended without a result, started again or thrown away."""

import argparse
from collections.abc import Callable
from typing import Any, Final

from sitq.cli.arguments import Parser, choice, names, past
from sitq.cli.database import add_options, ask
from sitq.cli.exits import CommandError, Exit
from sitq.cli.output import write, write_json
from sitq.deadletters import ENDED_WITHOUT_RESULT
from sitq.model import Status

_FILTERS: Final = ("status", "queue", "name", "since", "until")
_WHICH: Final = "those with these ids, or all that match the options. A task in another state stays as it is"


def add(verbs: Any) -> None:
    _add(
        verbs,
        "requeue",
        _requeue,
        help="give failed and cancelled tasks a new run",
        description=f"Give failed and cancelled tasks a new run, with all their attempts: {_WHICH}, and so does one "
        "whose unique key another one holds. Writes the ids of those that got one.",
    )
    _add(
        verbs,
        "discard",
        _discard,
        help="delete failed and cancelled tasks",
        description=f"Delete failed and cancelled tasks: {_WHICH}. Writes how many were deleted.",
    )


def _add(verbs: Any, name: str, run: Callable[[argparse.Namespace], int], **texts: str) -> None:
    parser: Parser = verbs.add_parser(name, **texts)
    parser.add_argument("ids", nargs="*", metavar="ID")
    parser.more = "ids"
    parser.add_argument(
        "--status", type=_statuses, metavar="A,B", help="in these states: failed, cancelled (failed)"
    )
    parser.add_argument("--queue", metavar="NAME", help="in this queue")
    parser.add_argument("--name", metavar="NAME", help="of this function, such as module.function")
    parser.add_argument(
        "--since", type=past, metavar="TIME", help="enqueued from then on: 2026-01-31T12:00Z, or 2h ago as 2h"
    )
    parser.add_argument("--until", type=past, metavar="TIME", help="enqueued before then")
    add_options(parser)
    parser.set_defaults(run=run, parser=parser)


def _statuses(text: str) -> list[Status]:
    convert = choice(list(ENDED_WITHOUT_RESULT))
    return [Status(convert(name)) for name in names(text)]


def _requeue(arguments: argparse.Namespace) -> int:
    ids, filters = _which(arguments)
    done = ask(arguments, lambda queue: queue.requeue(ids, **filters))
    if arguments.json:
        write_json(done)
    elif done:
        write("\n".join(done))
    left = [task_id for task_id in ids or () if task_id not in done]
    if left:
        raise CommandError(
            f"not requeued, since unknown, neither failed nor cancelled, or their key is taken: {', '.join(left)}"
        )
    return Exit.OK


def _discard(arguments: argparse.Namespace) -> int:
    ids, filters = _which(arguments)
    count = ask(arguments, lambda queue: queue.discard(ids, **filters))
    if arguments.json:
        write_json({"discarded": count})
    else:
        write(str(count))
    return Exit.OK


def _which(arguments: argparse.Namespace) -> tuple[list[str] | None, dict[str, Any]]:
    filters = {name: getattr(arguments, name) for name in _FILTERS}
    given = [name for name, value in filters.items() if value is not None]
    if arguments.ids and given:
        raise CommandError(f"ids and --{given[0]} both say which tasks: give one of them", Exit.USAGE)
    if not arguments.ids and not given:
        raise CommandError(
            "say which tasks: give ids, or an option; --status failed means all that failed", Exit.USAGE
        )
    return arguments.ids or None, filters
