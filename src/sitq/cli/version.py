"""`sitq version` and `sitq --version`."""

import argparse
import platform
import sqlite3
from importlib import metadata
from typing import Any

from sitq.cli.arguments import Parser
from sitq.cli.exits import Exit
from sitq.cli.output import write, write_json


def add(commands: Any) -> None:
    parser: Parser = commands.add_parser(
        "version",
        help="the versions of sitq, Python and SQLite",
        description="The versions of sitq, Python and SQLite.",
    )
    parser.add_argument("--json", action="store_true", help="write JSON")
    parser.set_defaults(run=run, parser=parser)


def run(arguments: argparse.Namespace) -> int:
    if getattr(arguments, "json", False):  # `sitq --version` has no such option
        write_json(versions())
    else:
        write("sitq {sitq} (Python {python}, SQLite {sqlite})".format_map(versions()))
    return Exit.OK


def versions() -> dict[str, str]:
    try:
        own = metadata.version("sitq")
    except metadata.PackageNotFoundError:  # run from a source tree
        own = "unknown"
    return {"sitq": own, "python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
