"""What the coverage leaves out is left out for a reason, and CONTRIBUTING.md lists it: the list grows in sight only."""

import io
import re
import tokenize
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "sitq"
PRAGMA = re.compile(r"# pragma: no (?:cover|branch): (?P<reason>\S.*)")
ROW = re.compile(r"^\| `(?P<file>[\w/.]+\.py)` \| (?P<count>\d+) \| (?P<reason>.+) \|$", re.MULTILINE)


def comments(text: str) -> Iterator[str]:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and "pragma" in token.string.lower():
            yield token.string


def exclusions(folder: Path) -> Counter[tuple[str, str]]:
    """How often each file leaves something out for each reason."""
    found: Counter[tuple[str, str]] = Counter()
    for path in sorted(folder.rglob("*.py")):
        name = path.relative_to(folder).as_posix()
        for comment in comments(path.read_text(encoding="utf-8")):
            match = PRAGMA.search(comment)
            assert match, f"{name}: `{comment}` needs a reason, as in `# pragma: no cover: Windows`"
            found[name, match["reason"].split("  #")[0].strip()] += 1
    return found


def test_every_exclusion_is_listed_with_its_reason() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    listed = Counter({(row["file"], row["reason"]): int(row["count"]) for row in ROW.finditer(text)})
    assert exclusions(PACKAGE) == listed


def test_an_exclusion_without_a_reason_is_found(tmp_path: Path) -> None:
    (tmp_path / "some.py").write_text("x = 1  # pragma: no cover\n", encoding="utf-8")
    with pytest.raises(AssertionError, match=r"some\.py"):
        exclusions(tmp_path)


def test_nothing_else_excludes() -> None:
    """No pattern and no omitted file. By itself coverage.py leaves out TYPE_CHECKING, and bodies that are `...`."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["coverage"]
    assert config.keys() == {"run"}
    assert not config["run"].keys() & {"omit", "include"}
