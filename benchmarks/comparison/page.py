"""The page, the chart and the JSON in the documentation."""

import json
from pathlib import Path
from typing import Any, Final

from benchmarks import report
from benchmarks.comparison import chart, table

_MARKS: Final = "<!-- {part}: written by `python -m benchmarks peers --publish`: {where} -->"


def as_text(told: dict[str, Any]) -> str:
    """The JSON file."""
    return json.dumps(told, indent=1, allow_nan=False) + "\n"


def drawn(told: dict[str, Any]) -> str:
    """The chart of a run."""
    machine = told["machine"]
    subtitle = f"{machine['cores']} cores, {machine['file_system']}, Python {machine['python']}; one run, one machine"
    return chart.svg(table.from_json(told), subtitle)


def facts_in_words(told: dict[str, Any]) -> str:
    """What one has to know about the run, as a paragraph."""
    machine = told["machine"]
    parts = [
        f"{machine['cores']} cores ({machine['processor']}), {machine['file_system']}",
        f"CPython {machine['python']}, SQLite {machine['sqlite']}",
        *(f"{kind} {words}" for kind, words in told["servers"].items()),
        f"load average {machine['load_average'][0]:.2f} at the start",
        f"{told['rounds']} round(s) of parts of {told['seconds']:g} s, {told['took'] / 60:.0f} minutes in all",
    ]
    text = f"{'; '.join(parts)}."
    if machine["load_average"][0] > machine["cores"] / 2:
        text = f"**Provisional:** the machine did other work at the time, so these figures are only for a look. {text}"
    first = next((row for row in table.from_json(told) if row.peer == "sitq"), None)
    if first and (again := told["again"]):
        both = ", ".join(
            f"{name} {report.number(first.values[name])} and {report.number(again[name])}"
            for name in ("enqueue 100", "drain 100", "wake-up p50")
            if name in first.values and name in again
        )
        text += f" {first.name} came first and once more at the end, which tells how steady the machine was: {both}."
    return text


def growth_in_words(told: dict[str, Any]) -> str:
    """How long each step takes while the file grows, as a table."""
    sizes: dict[str, dict[str, str]] = {}
    for figure in told["growth"]:
        step, _, rest = figure["name"].partition(", ")
        text = f"{report.number(figure['value'])} ms, {figure['ratio']:.2f} x"
        sizes.setdefault(rest.removesuffix(" stored"), {})[step] = text
    if not sizes:
        return "Not measured yet."
    steps = list(next(iter(sizes.values())))
    lines = [["stored", *steps], ["--:"] * (1 + len(steps))]
    lines += [[size, *(found[step] for step in steps)] for size, found in sizes.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def publish(told: dict[str, Any], page: Path) -> None:
    """Write the JSON and the chart beside a page, and the tables into it, between their marks.

    Raises `ValueError` when the page lacks them.
    """
    page.with_suffix(".json").write_text(as_text(told), encoding="utf-8")
    page.with_suffix(".svg").write_text(drawn(told), encoding="utf-8")
    text = page.read_text(encoding="utf-8")
    text = _put(text, "peers", f"{facts_in_words(told)}\n\n{table.markdown(table.from_json(told))}")
    text = _put(text, "growth", growth_in_words(told))
    page.write_text(text, encoding="utf-8")


def _put(text: str, part: str, written: str) -> str:
    begin, end = (_MARKS.format(part=part, where=where) for where in ("begin", "end"))
    before, found, rest = text.partition(begin)
    _, found_too, after = rest.partition(end)
    if not (found and found_too):
        raise ValueError(f"the page has no place for {part}")
    return f"{before}{begin}\n\n{written}\n\n{end}{after}"
