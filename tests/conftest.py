"""What holds for the whole suite."""

import os
import sys

import pytest
from hypothesis import HealthCheck, settings

# A machine that stalls for a moment says nothing of the example that it was at.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a skipped test is a failure: it runs on a platform, and with tools, that every test has what it needs."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    save_coverage()


def save_coverage() -> None:
    """Write down what was measured while the session waits for it: a process of xdist that takes longer than ten
    seconds to end is killed, and what it has measured is lost."""
    tool = sys.modules.get("coverage")
    measuring = None if tool is None else tool.Coverage.current()
    if measuring is not None:
        measuring.save()
