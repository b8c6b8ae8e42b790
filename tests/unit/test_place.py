"""Whether a file is still in its place: what can be told, and what cannot."""

from pathlib import Path

from sitq.backends.sqlite.place import Place, is_at, look


def test_a_file_is_where_it_was_until_another_one_is_there(tmp_path: Path) -> None:
    path, other = tmp_path / "a", tmp_path / "b"
    path.touch()
    other.touch()
    known = look(str(path))
    assert known is not None
    assert is_at(str(path), known)
    other.rename(path)
    assert not is_at(str(path), known)


def test_what_is_not_there_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert look(str(tmp_path / "none")) is None
    assert look(str(tmp_path / "file" / "none")) is None
    assert not is_at(str(tmp_path / "file" / "none"), look(str(tmp_path)))


def test_who_cannot_look_does_not_say_that_it_is_gone(tmp_path: Path) -> None:
    """A name that is too long is an error that says nothing of a file, as a folder that is closed to us."""
    assert is_at(str(tmp_path / ("x" * 300)), look(str(tmp_path)))


def test_what_has_no_file_is_always_in_its_place() -> None:
    place = Place(None)
    place.take_database()
    place.take_log()
    assert not place.is_lost()
    assert not place.is_known
