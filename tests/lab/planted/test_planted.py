"""Each planted bug is noticed, and the same tests pass without it. A bug that nobody notices is a hole in the suite."""

import sys
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.lab.planted.bug import Bug
from tests.lab.planted.bugs import BUGS
from tests.lab.planted.harness import SOURCE, Trials, all_tests

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="fork"),
    pytest.mark.timeout(300),  # above that of the tests that it runs
]

FEWEST = 35
PARTS = 4


@pytest.fixture(scope="module")
def trials() -> Iterator[Trials]:
    with Trials() as trials:
        yield trials


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_it_is_noticed(bug: Bug, trials: Trials) -> None:
    verdict = trials.run(bug.tests, bug)
    assert verdict.answered, f"{bug.name}: {verdict.reason}"
    assert verdict.failed is not None, f"{bug.name} passes {', '.join(bug.tests)}"


@pytest.mark.parametrize("part", range(PARTS))
def test_without_a_bug_the_same_tests_pass(part: int, trials: Trials) -> None:
    verdict = trials.run(all_tests()[part::PARTS])
    assert verdict.answered, verdict.reason
    assert verdict.failed is None, verdict.reason


def test_every_bug_is_written_for_the_source_as_it_is() -> None:
    for bug in BUGS:
        text = (SOURCE / "sitq" / bug.file).read_text()
        assert text.count(bug.old) == 1, f"{bug.name}: {text.count(bug.old)} times in {bug.file}"
        changed = text.replace(bug.old, bug.new)
        assert changed != text
        compile(changed, bug.file, "exec")


def test_there_are_many_and_each_has_a_name_of_its_own() -> None:
    assert len(BUGS) >= FEWEST
    assert [name for name, times in Counter(bug.name for bug in BUGS).items() if times > 1] == []


def test_a_selection_that_finds_no_test_is_no_answer(trials: Trials) -> None:
    verdict = trials.run(("tests/unit/test_ids.py::test_there_is_none",))
    assert (verdict.failed, verdict.answered) == (None, False)
