"""What the argument parser does beyond argparse: environment variables, durations and instants, suggestions."""

import argparse
import difflib
import os
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NoReturn

from sitq.cli.exits import CommandError, Exit

_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_CHOICE: Final = re.compile(r"invalid choice: '(?P<given>.*?)' \(choose from (?P<known>.*)\)")
_NUMBER: Final = re.compile(r"-\d+|-\d*\.\d+")  # as argparse has it
_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"0", "false", "no", "off", ""})

type Convert = Callable[[str], Any]


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, with the nearest option or command that exists."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # An abbreviation that works today is ambiguous when the next option is added.
        super().__init__(*args, **{**kwargs, "allow_abbrev": False})
        self.variables: dict[str, tuple[str, Convert]] = {}
        self.more: str | None = None

    def option(self, *flags: str, env: str, convert: Convert = str, help: str, **settings: Any) -> None:
        """Add an option that may also be given as an environment variable. On the command line it wins."""
        action = self.add_argument(*flags, type=convert, default=None, help=f"{help} [{env}]", **settings)
        self.variables[action.dest] = (env, convert)

    def flag(self, *flags: str, env: str, help: str) -> None:
        """Add a switch that may also be given as an environment variable: 1, true, yes or on."""
        action = self.add_argument(
            *flags, action="store_const", const=True, default=None, help=f"{help} [{env}]"
        )
        self.variables[action.dest] = (env, truth)

    def fill(self, arguments: argparse.Namespace) -> None:
        """Take what was not given on the command line from the environment.

        Raises:
            CommandError: The value of a variable is not usable; the message names the variable.
        """
        for name, (variable, convert) in self.variables.items():
            text = os.environ.get(variable)
            if getattr(arguments, name) is not None or not text:
                continue
            try:
                setattr(arguments, name, convert(text))
            except (ValueError, argparse.ArgumentTypeError) as error:
                raise CommandError(f"{variable} is {text!r}: {error}", Exit.USAGE) from None

    def take(self, arguments: argparse.Namespace, unknown: Sequence[str]) -> None:
        """Add arguments that came after an option to the list named `more`, as argparse itself does not.

        Raises:
            CommandError: There is no such list, or an option that nobody knows; with the nearest one that exists.
        """
        for given in unknown:
            if self.more is None or _is_option(given):
                self._refuse(given)
            getattr(arguments, self.more).append(given)

    def _refuse(self, given: str) -> NoReturn:
        if not _is_option(given):
            self.error(f"unexpected argument {given!r}")
        name = given.partition("=")[0]
        known = [flag for action in self._actions for flag in action.option_strings]
        self.error(f"unknown option {name}{_nearest(name, known)}")

    def error(self, message: str) -> NoReturn:
        found = _CHOICE.search(message)
        if found is not None:
            known = [word.strip("' ") for word in found["known"].split(",")]
            near = _nearest(found["given"], known) or f": choose from {', '.join(known)}"
            message = f"{message[: found.start()]}there is no {found['given']!r}{near}"
        raise CommandError(f"{message} (see {self.prog} --help)", Exit.USAGE)


def _is_option(given: str) -> bool:
    return given.startswith("-") and not _NUMBER.fullmatch(given)


def _nearest(given: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(given, known, n=1)
    return f": did you mean {near[0]}?" if near else ""


def integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def span(text: str) -> float:
    """Seconds, from a number with an optional unit: `30`, `0.5`, `15m`, `2h`, `7d`."""
    number, unit = re.fullmatch(r"(.*?)([smhd]?)", text.strip(), re.DOTALL).groups()  # type: ignore[union-attr]
    try:
        return float(number) * _UNITS[unit]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a duration: write seconds, or 15m, 2h, 7d"
        ) from None


def instant(text: str) -> datetime:
    """An aware datetime, from ISO 8601 with its offset."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time: write 2026-01-31T12:00Z") from None
    if moment.utcoffset() is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} does not say in which zone: add Z or an offset such as +01:00"
        )
    return moment


def past(text: str) -> datetime:
    """An aware datetime, from ISO 8601 or as a time ago: `15m`, `7d`."""
    if re.fullmatch(r"[\d.]+[smhd]", text):
        try:
            return datetime.now(UTC) - timedelta(seconds=span(text))
        except OverflowError:
            raise argparse.ArgumentTypeError(f"{text!r} is too long ago") from None
    return instant(text)


def names(text: str) -> list[str]:
    """A list, from names with commas between them."""
    return [name.strip() for name in text.split(",")]


def shares(text: str) -> list[str] | dict[str, int]:
    """Names with commas between them, or names with weights: `mail=3,reports=1`."""
    parts = [name.partition("=") for name in names(text)]
    if not any(equals for _, equals, _ in parts):
        return [name for name, _, _ in parts]
    bare = [name for name, equals, _ in parts if not equals]
    if bare:
        raise argparse.ArgumentTypeError(
            f"{bare[0]!r} has no weight: write {bare[0]}=1, or give weights to none"
        )
    return {name.strip(): integer(weight) for name, _, weight in parts}


def choice(known: Sequence[str]) -> Convert:
    def convert(text: str) -> str:
        if text.lower() not in known:
            hint = _nearest(text, known) or f": choose from {', '.join(known)}"
            raise argparse.ArgumentTypeError(f"there is no {text!r}{hint}")
        return text.lower()

    return convert


def truth(text: str) -> bool:
    if text.lower() in _TRUE | _FALSE:
        return text.lower() in _TRUE
    raise argparse.ArgumentTypeError("write 1 or 0")
