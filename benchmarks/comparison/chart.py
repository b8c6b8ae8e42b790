"""The chart: an SVG file of text and rectangles, for light and for dark pages."""

import math
from collections.abc import Callable, Iterable
from html import escape
from typing import Final

from benchmarks.comparison.measures import BY_NAME, Row
from benchmarks.peers.interface import LOST, SYNCED
from benchmarks.report import number

_LABELS: Final = 168
_PANEL: Final = 212
_GAP: Final = 26
_VALUE: Final = 56
_TIMES: Final = 92
_LINE: Final = 22
_TOP: Final = 78
_BAR: Final = 13
_TICKS: Final = (1, 10, 100, 1000)
_BARS: Final = ("enqueue 100", "drain 100")

_NOTES: Final = (
    "pale: not each commit is synced to the disk; * stores no results; \N{DAGGER} loses the task of a dead worker",
    "wake-up: from p50 (bar) to p99 (line), on a logarithmic scale, and as numbers",
)
_READ_ALOUD: Final = 'role="img" aria-labelledby="title description"'
_STYLE: Final = """
  .page { fill: #ffffff } .text { fill: #1f2328 } .soft { fill: #59636e } .rule { stroke: #d1d9e0 }
  .peer { fill: #848d97; stroke: #848d97 } .sitq { fill: #0757ba; stroke: #0757ba }
  text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; stroke: none }
  .title { font-size: 16px; font-weight: 600 } .group, .strong { font-weight: 600 }
  .small { font-size: 12px } .end { text-anchor: end } .middle { text-anchor: middle }
  .pale { fill-opacity: 0.35 } .thin { stroke-width: 1 } .range { stroke-width: 3; stroke-opacity: 0.5 }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117 } .text { fill: #e6edf3 } .soft { fill: #9ba5b0 } .rule { stroke: #30363d }
    .peer { fill: #7d8590; stroke: #7d8590 } .sitq { fill: #58a6ff; stroke: #58a6ff }
  }
"""


def svg(rows: Iterable[Row], subtitle: str) -> str:
    """Rates as bars and wake-ups as ranges, a line for each row, by where it stores tasks."""
    shown = [row for row in rows if not row.problem]
    groups = {
        kind: [row for row in shown if row.storage == kind] for kind in ("SQLite", "Redis", "PostgreSQL")
    }
    groups = {kind: found for kind, found in groups.items() if found}
    height = _TOP + _LINE * (len(shown) + len(groups)) + 62
    width = _LABELS + 3 * (_PANEL + _GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {_READ_ALOUD}>',
        '<title id="title">sitq beside other task queues</title>',
        f'<desc id="description">{escape(_in_words(shown))}</desc>',
        f"<style>{_STYLE}</style>",
        f'<rect class="page" width="{width}" height="{height}" rx="6"/>',
        _text(16, 26, "sitq beside other task queues", "text title"),
        _text(16, 46, subtitle, "soft small"),
        *_panels(shown),
    ]
    scales = [_scale(shown, name) for name in _BARS]
    y = _TOP
    for kind, found in groups.items():
        y += _LINE
        parts.append(_text(16, y - 6, kind, "soft group small"))
        for row in found:
            y += _LINE
            parts += _row(row, y, scales)
    parts.append(_ticks(y))
    parts += [_text(16, height - 30 + 18 * number, note, "soft small") for number, note in enumerate(_NOTES)]
    return "\n".join([*parts, "</svg>", ""])


def _left(panel: int) -> int:
    return _LABELS + panel * (_PANEL + _GAP)


def _text(x: float, y: float, text: str, classes: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{classes}">{escape(text)}</text>'


def _panels(rows: list[Row]) -> list[str]:
    titles = [f"{BY_NAME[name].title}, {BY_NAME[name].unit}" for name in _BARS] + ["wake-up, ms"]
    return [_text(_left(panel), _TOP - 6, title, "text strong small") for panel, title in enumerate(titles)]


def _scale(rows: list[Row], name: str) -> Callable[[float], float]:
    most = max((row.values.get(name, 0.0) for row in rows), default=0.0) or 1.0
    return lambda value: max(1.0, value / most * (_PANEL - _VALUE))


def _row(row: Row, y: int, scales: list[Callable[[float], float]]) -> list[str]:
    kind = "sitq" if row.peer == "sitq" else "peer"
    pale = "" if row.durability == SYNCED else " pale"
    weight = " strong" if kind == "sitq" else ""
    parts = [_text(16, y - 6, row.name + _marks(row), f"text small{weight}")]
    for panel, (name, scale) in enumerate(zip(_BARS, scales, strict=True)):
        x = _left(panel)
        if (value := row.values.get(name)) is None:
            parts.append(_text(x, y - 6, "not measured", "soft small"))
            continue
        long = scale(value)
        parts.append(
            f'<rect class="{kind}{pale} thin" x="{x}" y="{y - _BAR - 3}" width="{long:.1f}" height="{_BAR}"/>'
        )
        parts.append(_text(x + long + 6, y - 6, number(value), f"text small{weight}"))
    return parts + _wake_up(row, y, kind, weight)


def _marks(row: Row) -> str:
    marks = ("" if row.results else "*") + ("\N{DAGGER}" if row.crash == LOST else "")
    return f" {marks}" if marks else ""


def _log(value: float) -> float:
    """Where a time lies between the first tick and the last one."""
    share = math.log10(max(value, _TICKS[0])) / math.log10(_TICKS[-1])
    return _left(2) + min(share, 1.05) * (_PANEL - _TIMES)


def _wake_up(row: Row, y: int, kind: str, weight: str) -> list[str]:
    p50, p99 = row.values.get("wake-up p50"), row.values.get("wake-up p99")
    if p50 is None or p99 is None:
        return [_text(_left(2), y - 6, "not measured", "soft small")]
    middle = y - _BAR / 2 - 3
    return [
        f'<line class="{kind} range" x1="{_log(p50):.1f}" x2="{_log(p99):.1f}" y1="{middle}" y2="{middle}"/>',
        f'<rect class="{kind} thin" x="{_log(p50) - 2:.1f}" y="{middle - 6}" width="4" height="12"/>',
        _text(_left(3) - _GAP + 14, y - 6, f"{number(p50)} / {number(p99)}", f"text small end{weight}"),
    ]


def _ticks(bottom: int) -> str:
    parts = []
    for tick in _TICKS:
        x = _log(tick)
        parts.append(f'<line class="rule thin" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP + 4}" y2="{bottom}"/>')
        parts.append(_text(x, bottom + 14, str(tick), "soft small middle"))
    return "\n".join(parts)


def _in_words(rows: list[Row]) -> str:
    """The figures as sentences, for those who do not see the chart."""
    said = []
    for row in rows:
        found = [
            f"{BY_NAME[name].title} {number(row.values[name])} {BY_NAME[name].unit}"
            for name in (*_BARS, "wake-up p50", "wake-up p99")
            if name in row.values
        ]
        said.append(f"{row.name}: {', '.join(found)}.")
    return " ".join(said)
