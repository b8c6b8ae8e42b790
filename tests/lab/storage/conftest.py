"""The shim, compiled once for each process of the test run."""

from pathlib import Path

import pytest

from tests.lab.storage import shim


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    why = shim.missing()
    if why is not None:
        pytest.skip(why)
    return shim.build(tmp_path_factory.mktemp("shim"))
