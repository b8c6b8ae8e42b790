"""A process that has imported what tests need, but nothing of sitq, and forks for each job: a fresh interpreter each
time would take longer than the tests.

It reads jobs from standard input and writes verdicts to standard output, one line of JSON each. Ends with its input.
"""

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import aiosqlite  # noqa: F401
import cloudpickle  # noqa: F401
import cryptography.hazmat.primitives.ciphers.aead  # noqa: F401
import pytest
import pytest_timeout  # type: ignore[import-untyped]  # noqa: F401
from hypothesis import HealthCheck, Phase, settings

from tests.lab.planted.bug import Verdict

LONGEST = 240
"""Seconds after which tests are ended that do not end by themselves."""
MODEL_STEPS = 1_000
NO_SHRINKING = "planted"
ARGUMENTS = (
    "-x", "-q", "--timeout=60", f"--hypothesis-profile={NO_SHRINKING}",
    "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:anyio",
    # Of the plugins, which are imported already. Their assertions are not of interest.
    "-W", "ignore::pytest.PytestAssertRewriteWarning",
)  # fmt: skip


class Watcher:
    """A plugin that remembers the first failure and how many tests were run."""

    def __init__(self) -> None:
        self.failed: str | None = None
        self.reason = ""
        self.ran = 0

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.ran += report.when == "call"
        if report.failed:
            lines = [line for line in str(report.longrepr).splitlines() if line.startswith("E ")]
            self.fail(report.nodeid, (lines or [f"in {report.when}"])[0].removeprefix("E "))

    def fail(self, what: str, reason: str) -> None:
        if self.failed is None:
            self.failed, self.reason = what, " ".join(reason.split())


def run(job: dict[str, Any], out: int) -> None:
    """In a process of its own: run the tests on the source of this job, and write what failed."""
    folder = Path(job["folder"])
    source = folder / "src"
    os.environ["PYTHONPATH"] = os.pathsep.join([str(source), str(Path.cwd())])
    os.environ["SITQ_MODEL_STEPS"] = str(MODEL_STEPS)
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(folder / "hypothesis")
    sys.path.insert(0, str(source))
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    settings.register_profile(
        NO_SHRINKING, deadline=None, database=None, phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    import sitq

    assert Path(sitq.__file__).is_relative_to(source), sitq.__file__
    watcher = Watcher()
    code: int = pytest.ExitCode.INTERNAL_ERROR
    try:
        code = pytest.main([*ARGUMENTS, f"--basetemp={folder / 'tmp'}", *job["tests"]], plugins=[watcher])
    except (
        pytest.PytestUnraisableExceptionWarning
    ) as error:  # a connection that nobody closed, found at the end
        watcher.fail("the end of the session", str(error))
    answered = watcher.failed is not None or (code == pytest.ExitCode.OK and watcher.ran > 0)
    reason = watcher.reason or (folder / "log").read_text(errors="replace").strip()[-500:]
    os.write(out, json.dumps([watcher.failed, reason, answered]).encode())


def give(job: dict[str, Any]) -> Verdict:
    """Fork, wait, and end what the tests have left running."""
    began = time.monotonic()
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            os.setpgid(0, 0)
            os.close(reading)
            run(job, writing)
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with contextlib.suppress(OSError):
        os.setpgid(pid, pid)  # whoever of both comes first
    said, cpu = _wait(pid), 0.0
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    if said is not None:
        cpu = said.ru_utime + said.ru_stime
    failed, reason, answered = (
        json.loads(answer) if answer else (None, "it did not end, or ended the process", False)
    )
    return Verdict(failed, reason, answered, time.monotonic() - began, cpu)


def _wait(pid: int) -> Any:
    """The resources that a child has used; None if it had to be ended."""

    def late(number: int, frame: object) -> None:
        os.killpg(pid, signal.SIGKILL)

    signal.signal(signal.SIGALRM, late)
    signal.alarm(LONGEST)
    try:
        return os.wait4(pid, 0)[2]
    finally:
        signal.alarm(0)


def main() -> None:
    # Not the pipe to whoever asks: a child must not write to it, nor keep it open.
    answers = os.dup(1)
    os.set_inheritable(answers, False)
    os.dup2(2, 1)
    for line in sys.stdin:
        os.write(answers, json.dumps(give(json.loads(line))).encode() + b"\n")


if __name__ == "__main__":
    main()
