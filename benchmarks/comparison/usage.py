"""What a process and its descendants use, as Linux tells it; NaN elsewhere."""

import math
from pathlib import Path

MIB = 1024 * 1024


def tree(pid: int) -> list[int]:
    """A process and its living descendants."""
    found = [pid]
    for each in found:
        try:
            for thread in Path(f"/proc/{each}/task").iterdir():
                found += map(int, (thread / "children").read_text().split())
        except OSError:
            continue
    return found


def processor_time(pid: int) -> float:
    """Seconds that all threads of a process and its descendants have run."""
    total, told = 0.0, False
    for each in tree(pid):
        try:
            for thread in list(Path(f"/proc/{each}/task").iterdir()):
                total += int((thread / "schedstat").read_text().split()[0]) / 1e9
                told = True
        except OSError:
            continue
    return total if told else math.nan


def memory(pid: int) -> float:
    """MiB of a process and its descendants; what they share is counted once (proportional set size)."""
    total, told = 0, False
    for each in tree(pid):
        try:
            lines = Path(f"/proc/{each}/smaps_rollup").read_text(encoding="utf-8").splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
        told = True
    return total / MIB if told else math.nan
