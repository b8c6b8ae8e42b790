"""Python processes for tests: what cannot be seen from inside one interpreter."""

import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIMIT = 60.0
"""Seconds until a process that does not end fails the test. Never waited for otherwise."""


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    """A process that runs `script`, with pipes."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def finish(process: subprocess.Popen[str], expected: int = 0) -> str:
    """Wait for its end and return what it wrote to stdout. Fails if it hangs or ends in another way."""
    try:
        out, err = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"the process did not end\n{out}\n{err}") from None
    assert process.returncode == expected, f"exit code {process.returncode}\n{out}\n{err}"
    return out


def run(script: str, *arguments: object, expected: int = 0) -> str:
    return finish(start(script, *arguments), expected)


def says(process: subprocess.Popen[str], line: str) -> None:
    """Wait until the process says `line`."""
    assert process.stdout is not None
    heard = process.stdout.readline().strip()
    if heard != line:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"waited for {line!r}, got {heard!r}\n{out}\n{err}")


def tell(process: subprocess.Popen[str], line: str) -> None:
    """Give the process a line to read."""
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()
