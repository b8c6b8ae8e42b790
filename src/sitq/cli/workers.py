"""`sitq workers`: who runs tasks, and who has died."""

import argparse
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from sitq.cli.arguments import Parser
from sitq.cli.database import add_options, ask
from sitq.cli.exits import Exit
from sitq.cli.output import write_json, write_table
from sitq.model import WorkerRecord

_MIB = 1024 * 1024


def add(commands: Any) -> None:
    parser: Parser = commands.add_parser(
        "workers",
        help="who runs tasks",
        description="The workers that were alive within the last day. One is taken for dead when its lease has passed "
        "without a sign of life. CPU and memory are there if psutil is installed where the worker runs.",
    )
    add_options(parser)
    parser.set_defaults(run=_workers, parser=parser)


def _workers(arguments: argparse.Namespace) -> int:
    found = ask(arguments, lambda queue: queue.workers())
    now = datetime.now(UTC)
    if arguments.json:
        write_json([_data(one, now) for one in found])
        return Exit.OK
    header = ["id", "state", "queues", "running", "slots", "cpu", "memory", "started at", "seen at"]
    write_table(header, [_row(one, now) for one in found])
    return Exit.OK


def _data(one: WorkerRecord, now: datetime) -> dict[str, Any]:
    return {
        "id": one.id,
        "alive": one.alive_until >= now,
        **asdict(one.info),
        "seen_at": one.seen_at,
        "alive_until": one.alive_until,
    }


def _row(one: WorkerRecord, now: datetime) -> list[object]:
    info = one.info
    return [
        one.id,
        "alive" if one.alive_until >= now else f"dead for {_rounded(now - one.alive_until)}",
        "all" if info.queues is None else ",".join(info.queues),
        len(info.running),
        info.concurrency,
        None if info.cpu is None else f"{info.cpu:.0%}",
        None if info.memory is None else f"{info.memory / _MIB:.0f} MiB",
        info.started_at,
        one.seen_at,
    ]


def _rounded(span: timedelta) -> timedelta:
    return timedelta(seconds=round(span.total_seconds()))
