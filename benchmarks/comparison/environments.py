"""Which interpreter has a peer's package, and which versions it has."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from benchmarks.peers.interface import Peer

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDERS: Final = (".venv-peers", ".venv-peers-arq", ".venv-peers-taskiq")
"""What `make bench-peers` sets up. arq needs an older client for Redis than the others, and taskiq a newer one."""

_VERSIONS: Final = """
import importlib.metadata, json, sqlite3, sys
found = {each.metadata["Name"].lower(): each.version for each in importlib.metadata.distributions()}
print(json.dumps({"python": sys.version.split()[0], "sqlite": sqlite3.sqlite_version, "packages": found}))
"""


@dataclass(frozen=True, slots=True)
class Environment:
    """An interpreter.

    Attributes:
        python: The program.
        version: Of Python.
        sqlite: The version of SQLite that its module `sqlite3` has.
        packages: The version of each package, by its name in lower case.
    """

    python: str
    version: str
    sqlite: str
    packages: dict[str, str]


@cache
def environment(python: str) -> Environment:
    """What an interpreter has. Raises `OSError` or `subprocess.CalledProcessError` if it cannot say."""
    run = subprocess.run([python, "-c", _VERSIONS], capture_output=True, text=True, check=True)
    told = json.loads(run.stdout)
    return Environment(python, told["python"], told["sqlite"], told["packages"])


def found_for(peer: Peer, folders: list[Path]) -> Environment | None:
    """The first environment that has all packages of a peer; the interpreter of this process is the last one."""
    for python in (*(folder / "bin" / "python" for folder in folders), Path(sys.executable)):
        if python.exists() and set(peer.packages) <= (has := environment(str(python))).packages.keys():
            return has
    return None


def variables() -> dict[str, str]:
    """The environment variables of a child: it finds the benchmarks, and sitq as this process has it."""
    import sitq  # noqa: PLC0415 - only its place is needed

    paths = [str(ROOT), str(Path(sitq.__file__).parent.parent)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": ""}
