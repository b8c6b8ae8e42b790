"""What a planted bug is: a few lines of the product, written wrongly on purpose, and the tests that have to notice."""

from typing import NamedTuple


class Bug(NamedTuple):
    """A mistake as an exact replacement in one file.

    Attributes:
        name: What is wrong, as a word with dashes.
        file: Below `src/sitq`.
        old: Stands there exactly once.
        new: Stands there instead.
        tests: What pytest is asked to run, narrow enough to end in seconds. One of them has to fail.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


class Verdict(NamedTuple):
    """What came of running tests.

    Attributes:
        failed: The first test that failed; None if none did.
        reason: The last line of what it said, or why there is no answer.
        answered: The tests ran to an end: nothing hung, all of them were found and could be imported.
        seconds: Of the clock on the wall.
        cpu: Seconds of the processor, children included.
    """

    failed: str | None
    reason: str
    answered: bool
    seconds: float
    cpu: float
