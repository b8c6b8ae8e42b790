"""Every example in README.md and docs/ is run as it stands, each page in a folder of its own.

    ```python              run as a script
    ```python title="x"    written to the file x, for the blocks after it
    ```console             each line that begins with `$ ` is run by sh; one that ends with `&`, until the page ends
    ```text                right after one of these: what it printed

What a console block shows after a command is compared too. `...` stands for anything. Other languages are not run.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

import sitq
from sitq.backends.base import Backend
from sitq.options import OPTION_NAMES

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(
    r'^```(?P<language>\w+)(?: title="(?P<title>[^"]+)")?\n(?P<body>.*?)^```$', re.MULTILINE | re.DOTALL
)
LINK = re.compile(r"\]\((?![a-z]+:|#)([^)#]+)")
TEST_NAME = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
NEEDS = {
    "web-app.md": ("starlette", "httpx"),
    "carry-context.md": ("structlog", "opentelemetry.sdk"),
}


@dataclass(frozen=True)
class Block:
    language: str
    title: str | None
    body: str
    line: int


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(found["language"], found["title"], found["body"], text.count("\n", 0, found.start()) + 1)
        for found in FENCE.finditer(text)
    ]


def is_shown(output: str, expected: str) -> bool:
    pattern = ".*?".join(re.escape(part) for part in expected.strip().split("..."))
    return re.fullmatch(pattern, output.strip(), re.DOTALL) is not None


class Shell:
    """Runs the blocks of one page in one folder, with `python` and `sitq` being those that are tested."""

    def __init__(self, folder: Path, until_the_end: ExitStack) -> None:
        self._folder = folder
        self._until_the_end = until_the_end
        programs = folder / ".bin"
        programs.mkdir()
        for name, arguments in (("python", ""), ("sitq", "-m sitq ")):
            program = programs / name
            program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {arguments}"$@"\n')
            program.chmod(0o755)
        self._env = {
            **os.environ,
            "PATH": os.pathsep.join([str(programs), os.environ.get("PATH", "")]),
            # The examples are run by pages, too.
            "PYTHONPATH": os.pathsep.join([str(Path(sitq.__file__).parents[1]), str(ROOT)]),
        }

    def script(self, block: Block) -> str:
        path = self._folder / f"example_{block.line}.py"
        path.write_text(block.body, encoding="utf-8")
        run = subprocess.run(
            [sys.executable, path.name], cwd=self._folder, env=self._env, timeout=PATIENCE,
            capture_output=True, text=True,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
        return run.stdout

    def console(self, block: Block) -> None:
        code = 0
        parts = [part.partition("\n") for part in re.split(r"^\$ ", block.body, flags=re.MULTILINE)[1:]]
        assert parts, "a console block needs a line that begins with `$ `"
        for command, _, expected in parts:
            if command.endswith("&"):
                self._until_the_end.enter_context(self._in_the_background(command.removesuffix("&")))
                continue
            assert code == 0 or "$?" in command, f"the command before {command!r} ended with {code}"
            run = subprocess.run(
                ["sh", "-c", f"(exit {code}); {command}"], cwd=self._folder, env=self._env, timeout=PATIENCE,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
            code = run.returncode
            assert not expected or is_shown(run.stdout, expected), f"{command} printed:\n{run.stdout}"
            assert code == 0 or expected, f"{command} ended with {code}:\n{run.stdout}"
        assert code == 0, f"the last command ended with {code}"

    @contextmanager
    def _in_the_background(self, command: str) -> Iterator[None]:
        with subprocess.Popen(["sh", "-c", f"exec {command}"], cwd=self._folder, env=self._env) as process:
            try:
                yield
            finally:
                process.terminate()
                assert process.wait(PATIENCE) == 0, f"{command} ended with {process.returncode}"


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if {block.language for block in blocks(page)} & {"python", "console"}],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_every_example_runs_and_prints_what_the_page_says(page: Path, tmp_path: Path) -> None:
    for module in NEEDS.get(page.name, ()):
        pytest.importorskip(module)
    with ExitStack() as until_the_end:
        shell = Shell(tmp_path, until_the_end)
        output = ""
        for block in blocks(page):
            where = f"{page.name}, line {block.line}"
            match block.language:
                case "python" if block.title:
                    (tmp_path / block.title).write_text(block.body, encoding="utf-8")
                case "python":
                    output = shell.script(block)
                case "console":
                    if os.name != "posix":
                        pytest.skip("the console blocks of this page are for sh")
                    shell.console(block)
                case "text":
                    assert is_shown(output, block.body), f"{where}: printed was\n{output}"
                case _:
                    pass


def test_a_text_block_follows_what_printed_it() -> None:
    for page in PAGES:
        for before, after in pairwise(blocks(page)):
            if after.language == "text":
                assert (before.language, before.title) == ("python", None), f"{page.name}, line {after.line}"


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.md")), ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert (ROOT / target).exists(), f"{page.name} points to {target}"


def test_the_tests_that_the_specifications_name_are_there() -> None:
    for spec in sorted((ROOT / "openspec/specs").rglob("spec.md")):
        for path, name in TEST_NAME.findall(spec.read_text(encoding="utf-8")):
            assert re.search(
                rf"^ *(async )?def {name}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE
            ), f"{spec.parent.name} names {path}::{name}"


def test_the_specification_names_the_whole_surface() -> None:
    text = (ROOT / "SPEC_v1.md").read_text(encoding="utf-8")
    verbs = {name for name, value in vars(Backend).items() if callable(value) and not name.startswith("_")}
    surface = {*sitq.__all__, *OPTION_NAMES, *verbs}
    assert not {name for name in surface if not re.search(rf"\b{name}\b", text)}
