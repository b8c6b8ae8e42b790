"""A short run of the kill harness: real processes, one file, SIGKILL and SIGSTOP at random moments."""

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
    seed = int(os.environ.get("SITQ_LAB_SEED", "0")) or int.from_bytes(os.urandom(4))
    arguments = ["tests.lab", "kill", "--count", str(KILLS), "--seed", str(seed)]
    run = f"import runpy, sys; sys.argv = {arguments!r}; runpy.run_module('tests.lab', run_name='__main__')"
    with start_python(run) as process:
        try:
            out, err = process.communicate(timeout=280)
        finally:
            end_group(process)
    assert process.returncode == 0, f"{out}\n{err}"
    met = {name: int(number.replace(",", "")) for number, name in re.findall(r"(\d[\d,]*) ([a-z ]+)", out)}
    assert met["kills"] == KILLS
    assert met["runs"] >= met["acknowledged"] / 2 > 0
    assert 0 not in met.values(), out
