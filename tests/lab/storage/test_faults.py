"""Each call to the disk fails once, and for ever, and is the last thing that the process does."""

import errno
from pathlib import Path

import pytest

from tests.lab.storage import shim, sweep
from tests.lab.storage.shim import EVER, Call, Fault

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

PARTS = 4


def each(calls: int, stride: int = 1, offset: int = 0, **fault: int) -> list[Fault]:
    return [Fault(shim.ALL, nth, **fault) for nth in range(1 + offset, calls + 1, stride)]


@pytest.mark.parametrize("part", range(PARTS))
def test_a_client_whose_disk_fails_once(library: Path, part: int) -> None:
    """What was acknowledged is there, what was refused is there as a whole or not at all, and it goes on."""
    calls = sweep.calls_of("steps", library)
    assert calls > 300
    wanted = [*each(calls, error=errno.EIO), *each(calls, 5, error=errno.ENOSPC)]

    broken, met = sweep.run("steps", sweep.parts(wanted, PARTS)[part], library)

    assert broken == []
    assert met["calls failed"] == len(sweep.parts(wanted, PARTS)[part])
    assert met["refusals"] > 5


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
def test_a_client_whose_disk_fails_for_ever(library: Path, error: int) -> None:
    calls = sweep.calls_of("steps", library)

    broken, met = sweep.run("steps", each(calls, 8, error=error, times=EVER), library)

    assert broken == []
    assert met["refusals"] > met["answers"] / 5


def test_a_client_whose_disk_syncs_no_more(library: Path) -> None:
    """The commit is in the log and may come back, so nobody may be told that nothing was written."""
    syncs = sweep.calls_of("steps", library, Call.SYNC)
    wanted = [Fault(Call.SYNC, nth, EVER, errno.EIO) for nth in range(1, syncs + 1)]

    broken, met = sweep.run("steps", wanted, library)

    assert broken == []
    assert met["refusals"] > syncs


@pytest.mark.parametrize("later", [0, 1, 4])
def test_a_client_that_dies_of_a_failed_sync(library: Path, later: int) -> None:
    """At once, at the next call, or when it is about to find out what became of its commit."""
    syncs = sweep.calls_of("steps", library, Call.SYNC)
    assert syncs > 20
    # Counted among all calls, so that it ends in the middle of the repair: these are spread evenly over the run.
    every = sweep.calls_of("steps", library)
    wanted = [Fault(shim.ALL, nth, 1, errno.EIO, later) for nth in range(1, every + 1, max(1, every // 30))]
    wanted += [Fault(Call.SYNC, nth, 1, errno.EIO, later) for nth in range(1, syncs + 1)]

    broken, met = sweep.run("steps", wanted, library)

    assert broken == []
    assert met["processes ended"] > len(wanted) * 0.8


@pytest.mark.parametrize("times", [1, 5])
def test_a_worker_whose_disk_fails_for_a_while_goes_on(library: Path, times: int) -> None:
    calls = sweep.calls_of("work", library)
    error = errno.EIO if times == 5 else errno.ENOSPC

    broken, met = sweep.run("work", each(calls, 3, times=times, error=error), library)

    assert broken == []
    assert met["refusals"] > 0
