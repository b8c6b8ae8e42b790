"""mypy and pyright both infer what `api_*.py` says, and reject the lines that are marked as mistakes, and no others."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(Path(__file__).parent.glob("api_*.py"))
MARK = re.compile(r"  # type: ignore\[.*?\]")

type Lines = dict[str, set[int]]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files without their marks, on the same lines."""
    folder = tmp_path_factory.mktemp("typing")
    for path in FILES:
        text = MARK.sub("", path.read_text(encoding="utf-8"))
        (folder / path.name).write_text(text, encoding="utf-8")
    return folder


def marked() -> Lines:
    return {
        path.name: {
            number
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
            if MARK.search(line)
        }
        for path in FILES
    }


def run(*command: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"MYPYPATH": str(ROOT / "src")}
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def mypy(*paths: Path) -> tuple[Lines, str]:
    pytest.importorskip("mypy")
    ran = run("mypy", "--config-file", str(ROOT / "pyproject.toml"), "--no-incremental", *map(str, paths))
    assert ran.returncode in (0, 1), ran.stdout + ran.stderr
    found: Lines = {}
    for name, number in re.findall(r"^(\S+?):(\d+): error:", ran.stdout, re.MULTILINE):
        found.setdefault(Path(name).name, set()).add(int(number))
    return found, ran.stdout


def pyright(folder: Path, *paths: Path) -> tuple[Lines, str]:
    pytest.importorskip("pyright")
    config = {
        "include": [str(path) for path in paths],
        "extraPaths": [str(ROOT / "src")],
        "pythonVersion": "3.13",
        "typeCheckingMode": "strict",
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(config), encoding="utf-8")
    ran = run(
        "pyright", "--outputjson", "--pythonpath", sys.executable, "--project", str(folder), folder=folder
    )
    assert ran.returncode in (0, 1), ran.stdout + ran.stderr
    found: Lines = {}
    for each in json.loads(ran.stdout)["generalDiagnostics"]:
        found.setdefault(Path(each["file"]).name, set()).add(each["range"]["start"]["line"] + 1)
    return found, ran.stdout


@pytest.mark.timeout(300)
def test_mypy_accepts_what_is_right() -> None:
    found, output = mypy(*FILES)
    assert not found, output


@pytest.mark.timeout(300)
def test_pyright_accepts_what_is_right(tmp_path: Path) -> None:
    found, output = pyright(tmp_path, *FILES)
    assert not found, output


@pytest.mark.timeout(300)
def test_mypy_rejects_each_mistake(bare: Path) -> None:
    found, output = mypy(*(bare / path.name for path in FILES))
    assert found == marked(), output


@pytest.mark.timeout(300)
def test_pyright_rejects_each_mistake(bare: Path) -> None:
    found, output = pyright(bare, *(bare / path.name for path in FILES))
    assert found == marked(), output
