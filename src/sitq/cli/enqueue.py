"""`sitq enqueue`: a task from the shell."""

import argparse
import asyncio
import json
from typing import Any, NoReturn

from sitq.cli.arguments import Parser, instant, integer, span
from sitq.cli.database import add_options, find_queue
from sitq.cli.exits import CommandError, Exit
from sitq.cli.load import load_function
from sitq.cli.output import write, write_json
from sitq.queue import TaskQueue


def add(commands: Any) -> None:
    parser: Parser = commands.add_parser(
        "enqueue",
        help="store a call of a function",
        description="Store a call of a function and write the id of the task. An argument that is JSON is taken as "
        "JSON, anything else as text; write '\"5\"' for the text 5. After -- everything is an argument.",
    )
    parser.add_argument("function", metavar="MODULE:FUNCTION")
    parser.add_argument("args", nargs="*", metavar="ARG")
    parser.add_argument(
        "--kwarg", action="append", default=[], metavar="KEY=VALUE", help="a keyword argument"
    )
    parser.add_argument("--queue", metavar="NAME", help="the queue to put it in")
    parser.add_argument("--priority", type=integer, metavar="N", help="lower runs first, -9 to 9")
    parser.add_argument("--delay", type=span, metavar="S", help="earliest start from now: 30, 15m, 2h, 7d")
    parser.add_argument("--eta", type=instant, metavar="TIME", help="earliest start: 2026-01-31T12:00Z")
    parser.add_argument("--id", metavar="ID", help="an id of your own: enqueueing it again changes nothing")
    add_options(parser)
    parser.set_defaults(run=run, parser=parser)
    parser.more = "args"


def run(arguments: argparse.Namespace) -> int:
    queue = find_queue(arguments)
    func = load_function(arguments.function)
    args = [_value(text) for text in arguments.args]
    kwargs = dict(_keyword(text) for text in arguments.kwarg)
    given = {
        name: value
        for name in ("queue", "priority", "delay", "eta", "id")
        if (value := getattr(arguments, name)) is not None
    }
    task_id = asyncio.run(_enqueue(queue, func, args, kwargs, given))
    if arguments.json:
        write_json({"id": task_id})
    else:
        write(task_id)
    return Exit.OK


async def _enqueue(
    queue: TaskQueue, func: Any, args: list[Any], kwargs: dict[str, Any], given: dict[str, Any]
) -> str:
    async with queue:
        return str(await queue.options(**given).enqueue(func, *args, **kwargs))


def _keyword(text: str) -> tuple[str, Any]:
    key, separator, value = text.partition("=")
    if not separator or not key.isidentifier():
        raise CommandError(f"--kwarg {text!r} is not a keyword argument: write key=value", Exit.USAGE)
    return key, _value(value)


def _value(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse)
    except ValueError:
        return text


def _refuse(constant: str) -> NoReturn:
    """`NaN` and `Infinity` are words, not JSON."""
    raise ValueError(constant)
