"""How a command ends: exit codes, and the error that carries one."""

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes. A worker that was forced to stop ends with 128 + the number of the signal."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    UNREACHABLE = 3
    UNHEALTHY = 4


class CommandError(Exception):
    """A command cannot go on. The message is one line for stderr."""

    def __init__(self, message: str, code: Exit = Exit.FAILURE) -> None:
        super().__init__(message)
        self.code = code
