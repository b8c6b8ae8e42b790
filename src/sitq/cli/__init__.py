"""The command line: `sitq worker`, `sitq status`, and the rest."""

from sitq.cli.command import main

__all__ = ["main"]
