"""What a task says is checked where it says it, cut where it is too long, and read back as it was."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitq.context import CurrentTask
from sitq.errors import PayloadTooLargeError, TaskSerializationError, ValidationError
from sitq.events import TaskLogged, TaskProgressed, TaskPublished
from sitq.model import NoteKind
from sitq.progress import (
    MAX_LINE,
    MAX_NOTE,
    Progress,
    decode_line,
    decode_progress,
    encode_line,
    encode_progress,
)
from sitq.serialization import decode_value, make_codec


@given(st.floats(0, 100) | st.integers(0, 100), st.text(max_size=MAX_NOTE))
def test_progress_comes_back_as_it_was(percent: float, note: str) -> None:
    assert decode_progress(encode_progress(percent, note)) == Progress(percent, note)


@given(st.text(max_size=100))
def test_a_line_comes_back_as_it_was(text: str) -> None:
    assert decode_line(encode_line(text)) == text


def test_a_lone_surrogate_is_shown_and_hurts_nobody() -> None:
    assert decode_line(encode_line("a\ud800b")) == "a\\ud800b"
    assert decode_progress(encode_progress(1, "a\ud800b")).note == "a\ud800b"
    assert decode_line(b"a\xffb") == "a\\xffb"


def test_what_is_too_long_is_cut() -> None:
    note = decode_progress(encode_progress(1, "x" * (MAX_NOTE + 1))).note
    line = decode_line(encode_line("x" * (MAX_LINE + 1)))
    assert (len(note), len(line)) == (MAX_NOTE, MAX_LINE)
    assert note.endswith("x [cut]")
    assert line.endswith("x [cut]")
    assert decode_progress(encode_progress(1, "x" * MAX_NOTE)).note == "x" * MAX_NOTE


@pytest.mark.parametrize("percent", [-0.1, 100.1, math.nan, math.inf, -math.inf])
def test_a_percent_out_of_range_is_refused(percent: float) -> None:
    with pytest.raises(ValidationError, match=r"^percent is .*: give a number from 0 to 100$"):
        encode_progress(percent, "")


@pytest.mark.parametrize("percent", ["50", None, True, 1j, object()])
def test_a_percent_of_another_type_is_named_by_its_type(percent: Any) -> None:
    with pytest.raises(ValidationError, match=r"^percent is of type \w+: give a number from 0 to 100$"):
        encode_progress(percent, "")


@pytest.mark.parametrize("text", [b"secret", None, 7])
def test_what_is_no_text_is_named_by_its_type(text: Any) -> None:
    with pytest.raises(ValidationError, match=r"^note is of type \w+: give a str$"):
        encode_progress(1, text)
    with pytest.raises(ValidationError, match=r"^text is of type \w+: give a str$"):
        encode_line(text)


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b"[1, 2, 3]", b'["1", "a"]', b"[1, 2]", b"\xff", b"7"])
def test_other_bytes_are_no_progress(data: bytes) -> None:
    with pytest.raises(TaskSerializationError, match="not a progress written by sitq"):
        decode_progress(data)


# -- From inside a task -----------------------------------------------------------------------------


class Channel:
    """Keeps what a task says."""

    def __init__(self, *, stopping: bool = False) -> None:
        self.stopping = stopping
        self.noticed = False
        self.codec = make_codec(max_payload=1000)
        self.said: list[tuple[Any, ...]] = []

    def say(self, kind: NoteKind, data: bytes, event: type[Any], *details: Any) -> None:
        self.said.append((kind, data, event, *details))


def current(channel: Channel | None) -> CurrentTask:
    return CurrentTask("id-1", "app.work", "default", 1, channel=channel)


def test_each_kind_goes_out_as_a_note_and_as_an_event() -> None:
    task = current(channel := Channel())
    task.progress(40, "halfway")
    task.log("hello")
    task.publish({"rows": 3})
    progress, line, value = channel.said
    assert progress == (NoteKind.PROGRESS, encode_progress(40, "halfway"), TaskProgressed, 40, "halfway")
    assert line == (NoteKind.LOG, b"hello", TaskLogged, "hello")
    assert (value[0], decode_value(value[1]), *value[2:]) == (
        NoteKind.VALUE,
        {"rows": 3},
        TaskPublished,
        {"rows": 3},
    )


def test_what_is_refused_is_not_said() -> None:
    task = current(channel := Channel())
    with pytest.raises(ValidationError):
        task.progress(101)
    with pytest.raises(ValidationError):
        task.log(b"bytes")  # type: ignore[arg-type]
    with pytest.raises(PayloadTooLargeError):
        task.publish("x" * 2000)
    with pytest.raises(TaskSerializationError):
        task.publish(each for each in "ab")
    assert channel.said == []


def test_without_a_worker_the_same_calls_do_nothing() -> None:
    task = current(None)
    task.progress(40)
    task.log("hello")
    task.publish(7)
    assert not task.cancelled
    with pytest.raises(ValidationError):  # but they check
        task.progress(101)


def test_asking_whether_to_stop_is_remembered_once_the_answer_is_yes() -> None:
    task = current(channel := Channel())
    assert (task.cancelled, channel.noticed) == (False, False)
    channel.stopping = True
    assert (channel.noticed, task.cancelled, channel.noticed) == (False, True, True)
