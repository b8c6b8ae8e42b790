"""A progress bar for a terminal; a line now and then where the output goes elsewhere."""

import sys
from typing import Self

WIDTH = 40


class Progress:
    """Shows how much of `total` is done. Use it as a context manager, which leaves the cursor on a line of its own."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._live = sys.stdout.isatty()
        self._next_line = 0
        self._shown = ""

    def show(self, done: int) -> None:
        """Redraw the bar, or print a line for every tenth of the work."""
        if self._live:
            bar = "#" * (WIDTH * done // self._total)
            self._draw(f"[{bar:.<{WIDTH}}] {done:,} of {self._total:,}")
        elif done >= self._next_line:
            print(f"  {done:,} of {self._total:,}", flush=True)
            self._next_line = done + max(1, self._total // 10)

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        shown = self._shown
        self._draw("")
        print(f"\r{text}" if self._live else text, flush=True)
        self._draw(shown)

    def _draw(self, line: str) -> None:
        if self._live:
            # Spaces take away what is left of a longer line. Every terminal knows \r; not every one knows more.
            print("\r" + line.ljust(len(self._shown)), end="", flush=True)
            self._shown = line

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            print()
