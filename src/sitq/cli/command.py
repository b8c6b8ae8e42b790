"""The `sitq` command: finds the subcommand, and turns what goes wrong into one line and an exit code."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from typing import Final

from sitq.cli import doctor, enqueue, queues, schedules, tasks, version, worker, workers
from sitq.cli.arguments import Parser
from sitq.cli.exits import CommandError, Exit
from sitq.errors import BackendError, SitqError, ValidationError

_EPILOG: Final = """\
exit codes:
  0  done
  1  failure: the task failed, was cancelled, has not finished or does not exist
  2  usage: an option, an environment variable or an import
  3  the database does not exist or cannot be used
  4  doctor: the database is unhealthy
  130, 143  a worker was told twice to stop, and gave running tasks back
"""

logger = logging.getLogger("sitq.cli")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    try:
        return _run(sys.argv[1:] if argv is None else argv)
    except CommandError as error:
        return _report(error, error.code)
    except ValidationError as error:
        return _report(error, Exit.USAGE)
    except BackendError as error:
        return _report(error, Exit.UNREACHABLE)
    except SitqError as error:
        return _report(error, Exit.FAILURE)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has seen enough. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.FAILURE
    except Exception as error:
        return _report(error, Exit.FAILURE, f"{type(error).__name__}: ")


def _run(argv: Sequence[str]) -> int:
    arguments, unknown = _parser().parse_known_args(argv)
    parser: Parser = arguments.parser
    if unknown:
        parser.take(arguments, unknown)
    parser.fill(arguments)
    code: int = arguments.run(arguments)
    sys.stdout.flush()
    return code


def _parser() -> Parser:
    parser = Parser(
        prog="sitq",
        description="A task queue in one SQLite file.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="the versions of sitq, Python and SQLite")
    parser.set_defaults(run=_run_without_command, parser=parser)
    commands = parser.add_subparsers(metavar="COMMAND", parser_class=Parser)
    for command in (worker, workers, enqueue, tasks, queues, schedules, doctor, version):
        command.add(commands)
    return parser


def _run_without_command(arguments: argparse.Namespace) -> int:
    if arguments.version:
        return version.run(arguments)
    raise CommandError("say what to do (see sitq --help)", Exit.USAGE)


def _report(error: Exception, code: int, prefix: str = "") -> int:
    """One line on stderr. The traceback goes to the log, for those who ask for it with --log-level debug."""
    logger.debug("the traceback of the following error", exc_info=error)
    line = " ".join(f"{prefix}{error}".split())
    sys.stderr.write(f"sitq: {line}\n")
    return code
