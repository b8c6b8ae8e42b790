"""Each example runs as its docstring says, and prints what its docstring says."""

import importlib
import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import httpx
import pytest

ROOT = Path(__file__).parents[2]
LIMIT = 60
"""Seconds until an example that does not end fails the test. Never waited for otherwise."""


def run(example: str, folder: Path, *arguments: str) -> list[str]:
    """Run an example as a program of its own, with `folder` for its temporary files. Return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", f"examples.{example}", *arguments],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder), "TEMP": str(folder), "TMP": str(folder)},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list(folder.iterdir()) == []
    return done.stdout.splitlines()


def promised(example: str) -> list[str]:
    """Return the output that the docstring of an example promises."""
    doc = importlib.import_module(f"examples.{example}").__doc__
    assert doc is not None
    _, _, after = doc.partition("\nPrints")
    _, _, printed = after.partition("\n\n")
    return textwrap.dedent(printed).strip().splitlines()


@pytest.mark.parametrize(
    "example",
    [
        "quickstart",
        "bounded_concurrency",
        "failures",
        "retries",
        "schedules",
        "sync_client",
        "progress_bar",
        "limits",
        "processes",
        "own_runner",
        "pipeline",
        "signed_tasks",
        "request_context",
        "connection_pool",
        "shop",
    ],
)
def test_prints_what_it_promises(example: str, tmp_path: Path) -> None:
    assert promised(example)
    assert run(example, tmp_path) == promised(example)


@pytest.mark.parametrize("job", ["mail", "flights", "images"])
def test_a_job_prints_what_it_promises(job: str, tmp_path: Path) -> None:
    assert promised(f"jobs.{job}")
    assert run("jobs", tmp_path, job, "demo") == promised(f"jobs.{job}")


def test_delayed_tasks_start_in_order_of_their_time(tmp_path: Path) -> None:
    *order, last = run("delayed_task", tmp_path)
    assert order == promised("delayed_task")[:-1]
    late = re.fullmatch(r"started (\d+\.\d\d) s after its time", last)
    assert late is not None
    assert float(late[1]) < LIMIT


def test_every_example_is_listed() -> None:
    readme = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    for path in (ROOT / "examples").glob("[a-z]*.py"):
        assert re.search(rf"\b{path.stem}\b", readme), path.name


class TestWebApp:
    def test_does_jobs_and_keeps_them(self, tmp_path: Path) -> None:
        db = tmp_path / "web.db"
        with served("examples.web_app:app", db) as client:
            answer = client.post("/resize", json={"name": "a.png", "width": 300})
            assert answer.status_code == 202
            job = answer.headers["location"]
            assert job == f"/jobs/{answer.json()['id']}"
            expected = {"status": "success", "value": "a.png is 300 pixels wide", "error": None}
            assert client.get(job, params={"wait": 30}).json() == expected
            assert client.get(job).json() == expected

            missing = client.get("/jobs/no-such-id")
            assert (missing.status_code, missing.json()) == (404, {"error": "no such job"})

        # The next start finds the same file.
        with served("examples.web_app:app", db) as client:
            assert client.get(job).json() == expected

    def test_finishes_running_jobs_when_it_stops(self, tmp_path: Path) -> None:
        db = tmp_path / "web.db"
        with served("examples.web_app:app", db) as client:
            jobs = [
                client.post("/resize", json={"name": f"{n}.png", "width": n}).headers["location"]
                for n in range(8)
            ]
        with served("examples.web_app:app", db) as client:
            for n, job in enumerate(jobs):
                assert client.get(job, params={"wait": 30}).json()["value"] == f"{n}.png is {n} pixels wide"


@contextmanager
def served(app: str, db: Path) -> Iterator[httpx.Client]:
    """Run an application with uvicorn on a free port, and stop it as Ctrl-C would."""
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", app, "--port", "0"],
        cwd=ROOT,
        env={**os.environ, "SITQ_DB": str(db)},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert process.stderr is not None
    with process.stderr:
        try:
            with httpx.Client(base_url=address(process.stderr), timeout=LIMIT) as client:
                yield client
        finally:
            if os.name == "nt":
                process.terminate()
            else:
                process.send_signal(signal.SIGINT)
            log = process.stderr.read()
            process.wait(LIMIT)
    if os.name != "nt":
        assert "Application shutdown complete" in log
        assert "Traceback" not in log, log


def address(log: IO[str]) -> str:
    """Read a log of uvicorn up to the line that says where it listens."""
    seen = []
    for line in log:
        seen.append(line)
        if found := re.search(r"running on (http://\S+)", line):
            return found[1]
    pytest.fail("uvicorn did not start:\n" + "".join(seen))
