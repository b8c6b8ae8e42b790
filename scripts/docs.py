"""Builds the documentation into site/ and fails on every warning. Run by `make docs`, with the tools of .venv.

Zensical's strict mode stops at dead links, dead anchors and names that do not exist. Two things it lets pass are
checked here: what the docstring parser complains about, and local files that a built page names but that are not there.
"""

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "site"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
COMPLAINT = re.compile(r"^(griffe|mkdocstrings|mkdocs_autorefs|warning|error)\b", re.IGNORECASE)


class LocalFiles(HTMLParser):
    """Collects what a page points to by `href` and `src`."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if name in {"href", "src"} and value]


def put_diagram_renderer() -> None:
    # The theme would load it from elsewhere; as a file of the site it works without a network.
    subprocess.run(["sh", "scripts/npm.sh", "docs"], cwd=ROOT, check=True)
    target = ROOT / "docs/assets/mermaid.min.js"
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(ROOT / "tools/docs/node_modules/@mermaid-js/tiny/dist/mermaid.tiny.js", target)


def build() -> list[str]:
    program = Path(sys.executable).parent / "zensical"
    command = [str(program), "build", "--strict", "--clean"]
    run = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    lines = COLOUR.sub("", run.stdout).splitlines()
    print("\n".join(lines))
    problems = [line for line in lines if COMPLAINT.match(line)]
    if run.returncode and not problems:
        problems.append(f"the build ended with exit code {run.returncode}")
    return problems


def missing_files() -> list[str]:
    problems: list[str] = []
    for page in sorted(SITE.rglob("*.html")):
        if page.name == "404.html":  # its links start at the root of a server
            continue
        parser = LocalFiles()
        parser.feed(page.read_text(encoding="utf-8"))
        for reference in dict.fromkeys(parser.found):
            parts = urlsplit(reference)
            if parts.scheme or parts.netloc or not parts.path:
                continue
            if not (page.parent / unquote(parts.path)).exists():
                problems.append(f"{page.relative_to(SITE)} points to {reference}, which is not there")
    return problems


def main() -> int:
    put_diagram_renderer()
    shutil.rmtree(SITE, ignore_errors=True)
    problems = build() or missing_files()
    for problem in problems:
        print(f"docs: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
