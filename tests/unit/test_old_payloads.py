"""What was stored once can be read for ever: files that each release wrote, of every format."""

from typing import Any

import pytest

from tests.fixtures.payloads import FOLDER, FORMS, serializers

FILES = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.bin"))


@pytest.mark.parametrize("name", FILES)
def test_what_was_written_once_is_read(name: str) -> None:
    folder, _, form_name = name.removesuffix(".bin").partition("/")
    serializer, form = serializers()[folder], FORMS[form_name]
    data = (FOLDER / name).read_bytes()
    found: Any = form.read(serializer, data, form.about)
    assert repr(found) == repr(form.meaning)
    assert found == form.meaning


def test_there_is_a_file_of_every_format_and_form() -> None:
    assert sorted(f"{folder}/{form}.bin" for folder in serializers() for form in FORMS) == FILES


def test_the_usual_bytes_are_the_ones_of_the_first_release() -> None:
    """Those of a plain call, its result and its notes: byte for byte, but for the Python that wrote them."""
    for name in ("call", "result-none", "error", "progress", "log"):
        form = FORMS[name]
        now = form.write(serializers()["cloudpickle"], form.about)
        then = (FOLDER / "cloudpickle" / f"{name}.bin").read_bytes()
        python = slice(4, 6) if then[:2] == b"sq" else slice(0, 0)
        assert now[: python.start] + now[python.stop :] == then[: python.start] + then[python.stop :]
