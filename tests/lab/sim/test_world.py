"""The world itself: its order, its time, its dead, and what it asks of asyncio."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.lab.sim.world import Deadlock, Overdue, Process, World

SEEDS = range(20)


def run(world: World, work: Any, until: float = 100.0) -> Any:
    task = Process(world, "main").spawn(work)
    world.run(task.done, until)
    return task.result()


def test_what_is_private_to_asyncio_is_there() -> None:
    before = asyncio._get_running_loop()
    asyncio.events._set_running_loop(None)
    asyncio.events._set_running_loop(before)


def test_a_turn_that_is_cancelled_never_comes() -> None:
    said: list[str] = []
    loop = Process(World(1), "one").loop
    turns = [loop.call_soon(said.append, "soon"), loop.call_later(1, said.append, "later")]
    loop.call_later(2, said.append, "last")
    for turn in turns:
        assert not turn.cancelled()
        turn.cancel()
        assert turn.cancelled()
    loop.world.run(lambda: bool(said), 10.0)
    assert said == ["last"]
    assert turns[1].when() == 1.0


def test_time_jumps_to_the_next_timer_and_nothing_waits() -> None:
    async def work() -> list[float]:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await asyncio.sleep(3600)
        first = loop.time() - began
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.Event().wait()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 1)
        done, late = await asyncio.wait([asyncio.create_task(asyncio.sleep(n)) for n in (1, 3)], timeout=2)
        assert (len(done), len(late)) == (1, 1)
        await asyncio.gather(*late)
        async with asyncio.TaskGroup() as group:
            value = group.create_task(asyncio.sleep(1, "value"))
        assert value.result() == "value"
        return [round(first), round(loop.time() - began)]

    assert run(World(1), work(), 4000.0) == [3600, 3600 + 5 + 1 + 3 + 1]


def test_callbacks_of_one_loop_run_in_their_order_and_those_of_several_in_any() -> None:
    def order(seed: int, *, shuffled: bool = False) -> str:
        world = World(seed)
        world.shuffled = shuffled
        said: list[str] = []
        for name in "ab":
            loop = Process(world, name).loop
            for number in range(3):
                loop.call_soon(said.append, f"{name}{number}")
        world.run(lambda: len(said) == 6, 1.0)
        return " ".join(said)

    assert order(1) == order(1)
    assert len({order(seed) for seed in SEEDS}) > 5
    for seed in SEEDS:
        assert [word for word in order(seed).split() if word[0] == "a"] == ["a0", "a1", "a2"]
    mixed = {order(seed, shuffled=True) for seed in SEEDS}
    assert any(words.index("a1") < words.index("a0") for words in mixed)


def test_a_deadlock_and_a_run_that_does_not_end_are_told() -> None:
    async def wait() -> None:
        await asyncio.Event().wait()

    async def turn() -> None:
        while True:
            await asyncio.sleep(1)

    with pytest.raises(Deadlock):
        run(World(1), wait())
    with pytest.raises(Overdue):
        run(World(1), turn())


def test_the_dead_do_nothing_any_more_and_clean_nothing_up() -> None:
    world = World(1)
    said: list[str] = []

    async def die() -> None:
        try:
            while True:
                said.append("alive")
                await asyncio.sleep(1)
        finally:
            said.append("cleaned up")

    victim = Process(world, "victim")
    kept = victim.spawn(die())
    gate = victim.loop.create_future()

    async def kill() -> None:
        await asyncio.sleep(2.5)
        victim.crash()
        gate.set_result(None)
        victim.loop.call_soon(said.append, "called")
        await asyncio.sleep(10)

    run(world, kill())
    assert said == ["alive"] * 3
    assert not kept.done()
    kept.get_coro().close()  # type: ignore[union-attr]


def test_who_is_paused_goes_on_later() -> None:
    world = World(1)
    sleeper = Process(world, "sleeper")
    task = sleeper.spawn(asyncio.sleep(1, "woke"))

    async def stop() -> float:
        await asyncio.sleep(0.5)
        sleeper.pause(10)
        while not task.done():
            await asyncio.sleep(0.1)
        return world.now

    assert run(world, stop()) == pytest.approx(10.5, abs=0.2)


def test_a_closed_loop_takes_nothing() -> None:
    loop = Process(World(1), "one").loop
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        loop.call_soon(print)


@pytest.mark.parametrize("lost", [0.0, 1.0])
def test_datagrams_arrive_or_are_lost(lost: float) -> None:
    world = World(1)
    world.net.lost = lost
    got: list[bytes] = []

    class Ear(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: object) -> None:
            got.append(data)

    async def talk() -> None:
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Ear, ("127.0.0.1", 0))
        port = transport.get_extra_info("sockname")[1]
        world.net.send(port, b"hello")
        await asyncio.sleep(1)
        transport.close()
        with pytest.raises(ConnectionRefusedError):
            world.net.send(port, b"again")

    run(world, talk())
    assert got == ([] if lost else [b"hello"])


def test_what_nobody_catches_is_told() -> None:
    world = World(1)

    def fail() -> None:
        raise ValueError("wrong")

    later: Callable[[], None] = fail
    Process(world, "one").loop.call_soon(later)
    run(world, asyncio.sleep(1))
    assert len(world.errors) == 1
    assert "wrong" in world.errors[0]
