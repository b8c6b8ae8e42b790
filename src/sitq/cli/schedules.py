"""`sitq schedules`: what repeats in a database, and pausing, resuming and removing it."""

import argparse
from collections.abc import Awaitable, Callable
from typing import Any

from sitq.cli.arguments import Parser
from sitq.cli.database import add_options, ask
from sitq.cli.exits import Exit
from sitq.cli.output import write_json, write_table
from sitq.queue import TaskQueue
from sitq.schedules import ScheduleRecord

type Verb = Callable[[TaskQueue, str], Awaitable[None]]


def add(commands: Any) -> None:
    schedules: Parser = commands.add_parser(
        "schedules",
        help="list, pause, resume and remove schedules",
        description="List, pause, resume and remove schedules.",
    )
    verbs = schedules.add_subparsers(metavar="VERB", required=True, parser_class=Parser)
    _add_list(verbs)
    _add_verb(
        verbs, "pause", "make no tasks until they are resumed", lambda queue, name: queue.pause_schedule(name)
    )
    _add_verb(
        verbs,
        "resume",
        "go on with the next tick; none counts as missed",
        lambda queue, name: queue.resume_schedule(name),
    )
    _add_verb(
        verbs,
        "remove",
        "forget them; tasks that they made stay",
        lambda queue, name: queue.remove_schedule(name),
    )


def _add_list(verbs: Any) -> None:
    parser: Parser = verbs.add_parser(
        "list",
        help="list schedules by name",
        description="List schedules by name, with their last and next tick.",
    )
    add_options(parser)
    parser.set_defaults(run=_list, parser=parser)


def _list(arguments: argparse.Namespace) -> int:
    found = ask(arguments, lambda queue: queue.schedules())
    if arguments.json:
        write_json([_data(one) for one in found])
        return Exit.OK
    rows = [
        [one.name, _text(one), one.queue, one.last, "paused" if one.paused else one.next] for one in found
    ]
    write_table(["name", "repeats", "queue", "last", "next"], rows)
    return Exit.OK


def _text(one: ScheduleRecord) -> str:
    if one.every is not None:
        return f"every {one.every.total_seconds():g} s"
    return f"{one.cron} {one.tz}"


def _data(one: ScheduleRecord) -> dict[str, Any]:
    return {
        "name": one.name,
        "task": one.task,
        "queue": one.queue,
        "cron": one.cron,
        "every": None if one.every is None else one.every.total_seconds(),
        "tz": one.tz,
        "misfire": one.misfire,
        "overlap": one.overlap,
        "paused": one.paused,
        "last": one.last,
        "next": one.next,
    }


def _add_verb(verbs: Any, verb: str, effect: str, act: Verb) -> None:
    parser: Parser = verbs.add_parser(
        verb, help=f"{verb} schedules", description=f"{verb.capitalize()} schedules: {effect}."
    )
    parser.add_argument("names", nargs="+", metavar="NAME")
    add_options(parser)

    def run(arguments: argparse.Namespace) -> int:
        async def each(queue: TaskQueue) -> None:
            for name in arguments.names:
                await act(queue, name)

        ask(arguments, each)
        if arguments.json:
            write_json(arguments.names)
        return Exit.OK

    parser.set_defaults(run=run, parser=parser)
