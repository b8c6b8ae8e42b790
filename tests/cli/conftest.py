"""The command as users have it: a process, in a folder with an application in it."""

import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sitq import SyncTaskQueue

PATIENCE = 60.0
APP = """
    import asyncio
    import threading
    import time
    from contextlib import asynccontextmanager
    from pathlib import Path

    from sitq import SyncTaskQueue, TaskQueue, current_task, resource

    queue = TaskQueue("app.db")


    def make():
        return TaskQueue("made.db")


    def add(a, b=0):
        return a + b


    def fail(text):
        raise ValueError(text)


    def show(*args, **kwargs):
        return [list(args), kwargs]


    @asynccontextmanager
    async def lifespan():
        Path("up").touch()
        yield {"size": 3}
        Path("down").touch()


    @asynccontextmanager
    async def no_pool():
        raise OSError("no database")
        yield


    def size():
        return resource(dict)["size"]


    def tell():
        current_task().progress(40, "halfway")


    async def loop():
        return type(asyncio.get_running_loop()).__module__


    async def patient():
        "Says that it runs, and ends when it is allowed to."
        Path("running").touch()
        while not Path("finish").exists():
            await asyncio.sleep(0.01)
        return "finished"


    async def deaf():
        "Does not care about being cancelled."
        Path("running").touch()
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                Path("heard").touch()


    def stuck():
        Path("running").touch()
        threading.Event().wait()


    def left():
        "Ends, and leaves a thread behind that does not."
        threading.Thread(target=threading.Event().wait, daemon=False).start()


    async def blocking():
        "Keeps the event loop from running."
        Path("running").touch()
        while True:
            time.sleep(0.01)
"""


@dataclass
class Cli:
    """Runs `sitq` in a folder."""

    folder: Path
    env: dict[str, str]
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, *args: object, **env: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "sitq", *map(str, args)],
            cwd=self.folder,
            env=self.env | env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def run(self, *args: object, code: int = 0, **env: str) -> str:
        """Return what it wrote on stdout, or on stderr if it was meant to fail with that one line."""
        process = self.start(*args, **env)
        out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == code, err + out
        if not code:
            return out
        assert err.startswith("sitq: ")
        assert err.count("\n") == 1, err
        return err

    def json(self, *args: object, **env: str) -> Any:
        return json.loads(self.run(*args, "--json", **env))

    def wait_for(self, name: str) -> None:
        """Wait until a task has made this file."""
        wait_until((self.folder / name).exists)

    def queue(self, name: str = "app.db") -> SyncTaskQueue:
        return SyncTaskQueue(self.folder / name)


def wait_until(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    (tmp_path / "app.py").write_text(textwrap.dedent(APP))
    (tmp_path / "single.py").write_text("from sitq import SyncTaskQueue\nmine = SyncTaskQueue('single.db')\n")
    env = {name: value for name, value in os.environ.items() if not name.startswith("SITQ_")}
    cli = Cli(tmp_path, env)
    yield cli
    for process in cli.processes:
        if process.poll() is None:
            process.kill()
        process.communicate()
