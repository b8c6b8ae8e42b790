"""Runs a driver for each peer and setting, each with places of its own and a limit of time."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.comparison import servers
from benchmarks.comparison.driver import PLACES
from benchmarks.comparison.environments import Environment, found_for, variables
from benchmarks.comparison.measures import Row
from benchmarks.comparison.servers import Server
from benchmarks.peers.interface import Peer, Place, Setting

_LIMIT = 120.0


@dataclass
class Runner:
    """Measures peers. Servers are started when the first peer needs them.

    Attributes:
        folder: Where everything is made.
        environments: Where interpreters with the packages of peers are.
        seconds: How long a part of the work takes.
        limit: Seconds after which a peer is given up.
    """

    folder: Path
    environments: list[Path]
    seconds: float
    stack: ExitStack
    limit: float = _LIMIT
    started: dict[str, Server | servers.MissingError] = field(default_factory=dict)

    def measure(self, peer: Peer, setting: Setting) -> Row:
        """Measure one peer in one setting. Never raises: what went wrong is in the row."""
        row = Row.of(peer, setting)
        try:
            environment = found_for(peer, self.environments)
            if environment is None:
                row.problem = f"not installed{f': {peer.missing}' if peer.missing else ''}"
                return row
            row.versions = {name: environment.packages[name] for name in peer.packages}
            server = self.server(peer.storage)
        except (OSError, subprocess.SubprocessError, servers.MissingError) as problem:
            row.problem = str(problem)
            return row
        with self.places(setting, server) as places:
            self._run(row, environment, places, server)
        if not row.values:
            row.problem = next(iter(row.reasons.values()), "it said nothing")
        return row

    def server(self, kind: str) -> Server | None:
        """The server of a kind; None for SQLite. Raises `MissingError`."""
        if kind == "SQLite":
            return None
        if kind not in self.started:
            try:
                self.started[kind] = self.stack.enter_context(servers.running(kind, self.folder / "servers"))
            except servers.MissingError as problem:
                self.started[kind] = problem
        found = self.started[kind]
        if isinstance(found, servers.MissingError):
            raise found
        return found

    @contextmanager
    def places(self, setting: Setting, server: Server | None) -> Iterator[list[Place]]:
        """An empty place for each part of the work."""
        folder = Path(tempfile.mkdtemp(prefix="peer-", dir=self.folder))
        try:
            found = []
            for number, _ in enumerate(PLACES):
                (folder / str(number)).mkdir()
                url = server.empty(number) if server else ""
                found.append(Place(folder / str(number), setting.name, url))
            yield found
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _run(self, row: Row, environment: Environment, places: list[Place], server: Server | None) -> None:
        pid = str(server.pid if server else 0)
        module = "benchmarks.comparison.driver"
        words = [row.peer, str(self.seconds), pid, *(place.as_json() for place in places)]
        with (places[0].folder.parent / "log").open("wb") as log:
            process = subprocess.Popen(
                [environment.python, "-m", module, *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=variables(),
                start_new_session=True,
            )
        late = threading.Event()
        timer = threading.Timer(self.limit, lambda: (late.set(), _kill(process, places)))
        timer.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                row.hear(json.loads(line))
            process.wait()
        finally:
            timer.cancel()
            process.stdout.close()
            _kill(process, places)
            process.wait()
        if late.is_set():
            row.lack(f"not done within {self.limit:g} s")
        elif process.returncode:
            words_left = (places[0].folder.parent / "log").read_text(errors="replace").strip().splitlines()
            row.lack(words_left[-1] if words_left else f"it ended with exit code {process.returncode}")


def _kill(process: subprocess.Popen[bytes], places: list[Place]) -> None:
    """End a driver and all that it started: they have its places in their command lines or folders."""
    mark = str(places[0].folder.parent)
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            theirs = mark in (entry / "cmdline").read_text(errors="replace") or mark in str(
                (entry / "cwd").readlink()
            )
            if theirs and int(entry.name) != os.getpid():
                os.kill(int(entry.name), signal.SIGKILL)
        except (OSError, ValueError):
            continue
    if process.poll() is None:
        process.kill()
