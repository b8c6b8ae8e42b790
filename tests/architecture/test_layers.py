"""The layers hold: import-linter checks the imports, this file that none escapes it."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "sitq"
SOURCES = sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def contracts(kind: str) -> list[dict[str, list[str]]]:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return [each for each in config["tool"]["importlinter"]["contracts"] if each["type"] == kind]


def test_the_contracts_are_kept() -> None:
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command as run; run()",
            "--no-cache",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_every_module_has_one_layer() -> None:
    """A new module is put into a layer in pyproject.toml; a package stands outside if it only re-exports."""
    [contract] = contracts("layers")
    layers = [set(re.findall(r"[\w.]+", layer)) for layer in contract["layers"]]
    own_rule = {name for each in contracts("forbidden") for name in each["source_modules"]}
    for path in SOURCES:
        name = module_name(path)
        homes = [layer for layer in layers if any(name == m or name.startswith(m + ".") for m in layer)]
        reexports = path.name == "__init__.py" and not homes
        assert len(homes) == 1 or reexports, f"{name} is in {len(homes)} layers of pyproject.toml, not in one"
        if reexports and name not in own_rule:
            assert not defines_anything(path), f"{name} is in no layer, so it may only import and re-export"


def defines_anything(path: Path) -> bool:
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return any(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) for node in body)


def guarded_imports(tree: ast.AST) -> Iterator[str]:
    """The sitq modules that are imported where only a type checker looks."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for inner in (found for statement in node.body for found in ast.walk(statement)):
                if isinstance(inner, ast.Import):
                    names = [alias.name for alias in inner.names]
                elif isinstance(inner, ast.ImportFrom):
                    names = ["sitq" if inner.level else inner.module or ""]
                else:
                    continue
                yield from (name for name in names if name.split(".")[0] == "sitq")


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_no_module_hides_an_import_from_the_layers(path: Path) -> None:
    assert not list(guarded_imports(ast.parse(path.read_text(encoding="utf-8"))))


EDGES = {"sitq.__main__", "sitq.cli", "sitq.sync"}
INNER = [path for path in SOURCES if path.name != "__init__.py" and module_name(path) not in EDGES]


@pytest.mark.parametrize("path", INNER, ids=module_name)
def test_no_module_below_the_edges_imports_the_package_itself(path: Path) -> None:
    """`from sitq import X` would reach every layer at once."""
    imported = [
        name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    ]
    assert "sitq" not in imported


@pytest.mark.parametrize(
    "text",
    [
        "if TYPE_CHECKING:\n    from sitq.queue import TaskQueue",
        "if typing.TYPE_CHECKING:\n    import sitq.queue",
        "if TYPE_CHECKING:\n    from .queue import TaskQueue",
        "def f():\n    if TYPE_CHECKING:\n        from sitq import TaskQueue",
    ],
)
def test_the_check_sees_a_hidden_import(text: str) -> None:
    assert list(guarded_imports(ast.parse(text)))
