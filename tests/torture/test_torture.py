"""A short run of the torture: real processes, one file, SIGKILL and SIGSTOP at random moments."""

import os
import re
import sys

import pytest

from tests.integration.support import end_group, start_python

KILLS = 200


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(sys.platform == "win32", reason="fork and SIGKILL")
def test_nothing_is_lost_by_killing_workers() -> None:
    seed = int(os.environ.get("SITQ_TORTURE_SEED", "0")) or int.from_bytes(os.urandom(4))
    arguments = ["tests.torture", "--kills", str(KILLS), "--seed", str(seed)]
    run = (
        f"import runpy, sys; sys.argv = {arguments!r}; runpy.run_module('tests.torture', run_name='__main__')"
    )
    with start_python(run) as process:
        try:
            out, err = process.communicate(timeout=280)
        finally:
            end_group(process)
    assert process.returncode == 0, f"{out}\n{err}"
    said = re.match(r"(\d+) kills, (\d+) pauses .* (\d+) tasks acknowledged, (\d+) runs", out)
    assert said is not None, out
    kills, pauses, acknowledged, runs = map(int, said.groups())
    assert kills == KILLS
    assert pauses > 0
    assert runs >= acknowledged / 2 > 0
    for what in (
        "requeued",
        "retries",
        "lines",
        "ticks",
        "child processes killed",
        "crashes told",
        "followed",
        "cancelled",
    ):
        assert re.search(rf"[1-9]\d* {what}\b", out), out
