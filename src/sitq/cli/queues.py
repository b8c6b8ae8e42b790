"""`sitq queues`: hold a queue, and let it go on."""

import argparse
from typing import Any

from sitq.cli.arguments import Parser
from sitq.cli.database import add_options, ask
from sitq.cli.exits import Exit
from sitq.cli.output import write, write_json
from sitq.queue import TaskQueue


def add(commands: Any) -> None:
    queues: Parser = commands.add_parser(
        "queues", help="pause and resume queues", description="Pause and resume queues."
    )
    verbs = queues.add_subparsers(metavar="VERB", required=True, parser_class=Parser)
    _add(
        verbs,
        "pause",
        help="start nothing more from queues",
        description="Start nothing more from these queues, in no worker, until they are resumed. What runs goes on.",
    )
    _add(
        verbs,
        "resume",
        help="start tasks from queues again",
        description="Start tasks from these queues again.",
    )


def _add(verbs: Any, name: str, **texts: str) -> None:
    parser: Parser = verbs.add_parser(name, **texts)
    parser.add_argument("names", nargs="+", metavar="NAME")
    add_options(parser)
    parser.set_defaults(run=_pause_or_resume, parser=parser, verb=name)


def _pause_or_resume(arguments: argparse.Namespace) -> int:
    async def question(queue: TaskQueue) -> None:
        for name in arguments.names:
            await (queue.pause(name) if arguments.verb == "pause" else queue.resume(name))

    ask(arguments, question)
    paused = arguments.verb == "pause"
    if arguments.json:
        write_json({name: {"paused": paused} for name in arguments.names})
    else:
        write("\n".join(f"{name}: {'paused' if paused else 'resumed'}" for name in arguments.names))
    return Exit.OK
