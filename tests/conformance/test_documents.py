"""save and load: a few small documents by name, all or none."""

import asyncio

import pytest

from sitq.backends.base import Backend

BYTES = {
    "nothing": b"",
    "one zero byte": b"\x00",
    "every byte": bytes(range(256)),
    "not UTF-8": b"\xff\xfe\xed\xa0\x80",
    "1 MiB": b"\x00\xff" * 524_288,
}


async def test_nothing_was_saved(backend: Backend) -> None:
    assert await backend.load("") == {}
    assert await backend.load("schedule/") == {}


async def test_what_was_saved_is_loaded(backend: Backend) -> None:
    await backend.save({"schedule/b": b"2", "schedule/a": b"1", "other": b"3"})

    assert await backend.load("schedule/") == {"schedule/a": b"1", "schedule/b": b"2"}
    assert await backend.load("schedule/a") == {"schedule/a": b"1"}
    assert len(await backend.load("")) == 3


@pytest.mark.parametrize("data", BYTES.values(), ids=BYTES.keys())
async def test_bytes_come_back_as_they_went_in(backend: Backend, data: bytes) -> None:
    await backend.save({"a": data})

    loaded = await backend.load("a")

    assert loaded == {"a": data}
    assert type(loaded["a"]) is bytes


async def test_names_are_sorted(backend: Backend) -> None:
    names = ["b", "a", "ab", "B", "a/", "\N{SNOWMAN}", "ä", "", "\N{MATHEMATICAL BOLD CAPITAL A}", "\uffee"]
    for name in names:
        await backend.save({name: name.encode()})

    assert list(await backend.load("")) == sorted(names)


async def test_saving_again_replaces(backend: Backend) -> None:
    await backend.save({"a": b"old", "b": b"stays"})

    await backend.save({"a": b"new"})

    assert await backend.load("") == {"a": b"new", "b": b"stays"}


async def test_none_removes(backend: Backend) -> None:
    await backend.save({"a": b"1", "b": b"2", "ab": b"3"})

    await backend.save({"a": None, "unknown": None, "c": b"4"})

    assert await backend.load("") == {"ab": b"3", "b": b"2", "c": b"4"}


async def test_what_was_removed_may_come_again(backend: Backend) -> None:
    await backend.save({"a": b"1"})
    await backend.save({"a": None})
    await backend.save({"a": None})

    await backend.save({"a": b"2"})

    assert await backend.load("") == {"a": b"2"}


async def test_saving_nothing(backend: Backend) -> None:
    await backend.save({"a": b"1"})

    await backend.save({})

    assert await backend.load("") == {"a": b"1"}


async def test_all_or_none(backend: Backend) -> None:
    await backend.save({"a": b"old", "b": b"old"})
    documents: dict[str, bytes | None] = {"a": b"new", "b": None, "c": b"new", "bad": object()}  # type: ignore[dict-item]

    with pytest.raises(Exception, match="object"):
        await backend.save(documents)

    assert await backend.load("") == {"a": b"old", "b": b"old"}


# -- By prefix -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "special", ["%", "_", "*", "?", "[", "]", "[a-z]", "\\", "'", '"', "^", "{", "\n", " "]
)
async def test_a_prefix_is_taken_as_it_is(backend: Backend, special: str) -> None:
    await backend.save(
        {f"{special}/a": b"1", f"{special}b": b"2", special: b"3", "x/a": b"4", f"x{special}": b"5", "": b"6"}
    )

    assert await backend.load(special) == {special: b"3", f"{special}/a": b"1", f"{special}b": b"2"}
    assert await backend.load(f"{special}/") == {f"{special}/a": b"1"}


async def test_upper_and_lower_case_are_two_names(backend: Backend) -> None:
    await backend.save({"a": b"1", "A": b"2", "ä": b"3", "Ä": b"4"})

    assert await backend.load("a") == {"a": b"1"}
    assert await backend.load("Ä") == {"Ä": b"4"}


async def test_a_prefix_that_ends_with_the_last_character(backend: Backend) -> None:
    last = "\U0010ffff"
    await backend.save({last: b"1", last + last: b"2", "a" + last: b"3", "a" + last + "b": b"4", "b": b"5"})

    assert await backend.load(last) == {last: b"1", last + last: b"2"}
    assert await backend.load("a" + last) == {"a" + last: b"3", "a" + last + "b": b"4"}


async def test_a_prefix_before_the_surrogates(backend: Backend) -> None:
    await backend.save({"\ud7ff": b"1", "\ud7ffa": b"2", "\ue000": b"3"})

    assert await backend.load("\ud7ff") == {"\ud7ff": b"1", "\ud7ffa": b"2"}


# -- Several clients -------------------------------------------------------------------------------


async def test_what_one_saved_the_others_load(clients: list[Backend]) -> None:
    for number, client in enumerate(clients):
        await client.save({f"{number}": b"%d" % number})

    expected = {f"{number}": b"%d" % number for number in range(len(clients))}
    assert [await client.load("") for client in clients] == [expected] * len(clients)


async def test_of_saves_at_once_one_is_seen_whole(clients: list[Backend]) -> None:
    for _ in range(10):
        await asyncio.gather(
            *(
                client.save({f"{name}": b"%d" % number for name in range(20)})
                for number, client in enumerate(clients)
            )
        )

        assert len(set((await clients[0].load("")).values())) == 1
