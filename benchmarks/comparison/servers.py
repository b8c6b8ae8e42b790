"""Servers of our own for the time of a run: on the loopback address, with an empty folder and stated durability."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

POSTGRESQL: Final = Path("/usr/lib/postgresql")
"""Where Debian puts each version."""

_PATIENCE: Final = 30.0
_HOST: Final = "127.0.0.1"
_REDIS_DATABASES: Final = 16


class MissingError(RuntimeError):
    """A server's programs are not installed. The text says how to get them."""


@dataclass(frozen=True, slots=True)
class Server:
    """One that runs.

    Attributes:
        kind: "Redis" or "PostgreSQL".
        version: As it tells itself.
        settings: What decides about durability.
        port: Where it listens.
        pid: Its main process.
        tools: The folder of its programs.
    """

    kind: str
    version: str
    settings: str
    port: int
    pid: int
    tools: Path

    def empty(self, number: int) -> str:
        """Make the numbered database empty. Returns its URL."""
        if self.kind == "Redis":
            number %= _REDIS_DATABASES
            _redis(self.port, f"SELECT {number}", "FLUSHDB SYNC")
            return f"redis://{_HOST}:{self.port}/{number}"
        name = f"bench{number}"
        for statement in (f"DROP DATABASE IF EXISTS {name} WITH (FORCE)", f"CREATE DATABASE {name}"):
            command = [
                self.tools / "psql",
                "-qX",
                "-h",
                _HOST,
                "-p",
                str(self.port),
                "-U",
                "bench",
                "-c",
                statement,
            ]
            subprocess.run([*command, "postgres"], check=True, capture_output=True)
        return f"postgresql://bench@{_HOST}:{self.port}/{name}"


@contextmanager
def running(kind: str, folder: Path) -> Iterator[Server]:
    """Start a server and end it afterwards. Raises `MissingError`."""
    starter = redis if kind == "Redis" else postgresql
    with starter(folder) as server:
        yield server


@contextmanager
def redis(folder: Path, fsync: str = "everysec") -> Iterator[Server]:
    """redis-server with an append-only file; with `everysec` up to a second of writes may be lost with the power."""
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        raise MissingError("redis-server is not installed (Debian and Ubuntu: apt install redis-server)")
    data, port = _made(folder / "redis"), _free_port()
    options = {
        "port": port,
        "bind": _HOST,
        "dir": data,
        "appendonly": "yes",
        "appendfsync": fsync,
        "save": "",
    }
    command = [program, *(word for name, value in options.items() for word in (f"--{name}", str(value)))]
    with (data / "log").open("wb") as log, _process(command, log) as process:
        _wait_for(lambda: _redis(port, "PING") is not None, process, data / "log")
        version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
        number = version.partition("v=")[2].split()[0]
        settings = f"appendonly yes, appendfsync {fsync}"
        yield Server("Redis", number, settings, port, process.pid, Path(program).parent)


@contextmanager
def postgresql(folder: Path) -> Iterator[Server]:
    """PostgreSQL with its own defaults, which sync each commit; as `nobody` if this process is root's."""
    tools = _postgresql_tools()
    data, port = _made(folder / "postgresql"), _free_port()
    user = "nobody" if hasattr(os, "getuid") and os.getuid() == 0 else None
    if user:
        shutil.chown(data, user)
    quiet = ["--auth=trust", "--username=bench", "--encoding=UTF8", "--no-locale", "--no-instructions"]
    made = subprocess.run(
        [tools / "initdb", *quiet, "-D", data / "db"],
        user=user,
        cwd=data,
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        raise MissingError(f"initdb failed: {made.stderr.strip().splitlines()[-1]}")
    options = {
        "listen_addresses": _HOST,
        "port": port,
        "unix_socket_directories": data,
        "max_connections": 300,
    }
    settings = {"fsync": "on", "synchronous_commit": "on"}
    words = [f"--{name}={value}" for name, value in (options | settings).items()]
    with (
        (data / "log").open("wb") as log,
        _process([tools / "postgres", "-D", data / "db", *words], log, user) as process,
    ):
        _wait_for(lambda: _is_ready(tools, port), process, data / "log")
        told = subprocess.run(
            [tools / "postgres", "--version"], capture_output=True, text=True, check=True
        ).stdout
        stated = ", ".join(f"{name} {value}" for name, value in settings.items())
        yield Server("PostgreSQL", told.split()[2], stated, port, process.pid, tools)


def _postgresql_tools() -> Path:
    """Where PostgreSQL's programs are; the newest ones."""
    folders = list(POSTGRESQL.glob("*/bin"))
    folders.sort(key=lambda each: int(each.parent.name) if each.parent.name.isdigit() else 0)
    if found := shutil.which("initdb"):
        folders.insert(0, Path(found).resolve().parent)
    for folder in reversed(folders):
        if all((folder / name).exists() for name in ("initdb", "postgres", "psql")):
            return folder
    raise MissingError("PostgreSQL is not installed (Debian and Ubuntu: apt install postgresql)")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for each in (folder, folder.parent):
        each.chmod(0o755)
    return folder


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind((_HOST, 0))
        port: int = sock.getsockname()[1]
        return port


@contextmanager
def _process(
    command: list[object], log: object, user: str | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        stdout=log,  # type: ignore[arg-type]
        stderr=subprocess.STDOUT,
        user=user,
        cwd="/",
        start_new_session=True,
    )
    try:
        yield process
    finally:
        # PostgreSQL waits for its clients at SIGTERM.
        process.send_signal(2)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(condition: object, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + _PATIENCE
    while not condition():  # type: ignore[operator]
        if process.poll() is not None or time.monotonic() > end:
            words = log.read_text(errors="replace").strip().splitlines()
            raise MissingError(f"the server did not start: {words[-1] if words else 'it said nothing'}")
        time.sleep(0.05)


def _redis(port: int, *commands: str) -> str | None:
    """Send commands and return the last answer; None if nobody listens or it refuses."""
    try:
        with (
            socket.create_connection((_HOST, port), timeout=_PATIENCE) as sock,
            sock.makefile("rw") as stream,
        ):
            answer = ""
            for command in commands:
                stream.write(command + "\r\n")
                stream.flush()
                answer = stream.readline()
                if not answer.startswith("+"):
                    return None
            return answer
    except OSError:
        return None


def _is_ready(tools: Path, port: int) -> bool:
    command = [
        tools / "psql",
        "-qXtA",
        "-h",
        _HOST,
        "-p",
        str(port),
        "-U",
        "bench",
        "-c",
        "SELECT 1",
        "postgres",
    ]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
