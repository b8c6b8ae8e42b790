"""Datagrams and rings between simulated processes."""

import random
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.lab.sim.world import SimLoop, Strand


class Network:
    """Late, in any order, or never.

    Attributes:
        lost: How many of them never arrive, and of the rings inside a process, from 0 to 1.
    """

    def __init__(self, rng: random.Random, met: Counter[str]) -> None:
        self._rng = rng
        self._met = met
        self._ports: dict[int, tuple[SimLoop, Any]] = {}
        self.lost = 0.0

    def bind(self, loop: "SimLoop", protocol: Any) -> Any:
        port = 50_000 + len(self._ports)
        self._ports[port] = loop, protocol
        return _Transport(self, port), protocol

    def close(self, port: int) -> None:
        self._ports[port] = self._ports[port][0], None

    def send(self, port: int, data: bytes) -> None:
        """Raises `ConnectionRefusedError` if nobody is there any more."""
        loop, protocol = self._ports[port]
        if loop.process.dead or protocol is None:
            raise ConnectionRefusedError
        self.deliver(loop, protocol.datagram_received, data, ("127.0.0.1", 0))

    def deliver(self, strand: "Strand", callback: Callable[..., object], *args: Any) -> None:
        """Call it there, some time; or never."""
        if self._rng.random() < self.lost:
            self._met["rings lost"] += 1
        else:
            strand.post(self._rng.random() * 0.002, callback, *args)


class _Transport:
    def __init__(self, net: Network, port: int) -> None:
        self._net, self._port = net, port

    def get_extra_info(self, name: str) -> Any:
        return "127.0.0.1", self._port

    def close(self) -> None:
        self._net.close(self._port)
