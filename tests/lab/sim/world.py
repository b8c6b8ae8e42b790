"""A world with a time of its own: simulated processes with threads and event loops, run one callback at a time.

Nothing in it waits and nothing runs at the same time as anything else; which of the threads goes next is drawn from
the seed. When nobody has anything to do, time jumps to the next timer. So a run is a function of its seed.

Rests on `_set_running_loop`, which is there for makers of loops. `test_world.py` pins it.
"""

import asyncio
import heapq
import random
from asyncio import events
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from tests.lab.sim.network import Network

STEP = 1e-6
"""What a callback takes, in seconds: so that no two things happen at the same time."""
EPOCH = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Deadlock(Exception):
    """Nothing is ready, no timer runs, and the work is not done."""


class Overdue(Exception):
    """The work was not done by its time."""


class Turn:
    """A callback that waits for its turn: what asyncio asks of a handle, and no more, for there are hundreds of them.

    Attributes:
        callback: None when it was cancelled.
    """

    __slots__ = ("_when", "args", "callback", "context")

    def __init__(
        self,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: Context | None,
        when: float = 0.0,
    ) -> None:
        self.callback: Callable[..., object] | None = callback
        self.args = args
        self.context = copy_context() if context is None else context
        self._when = when

    def when(self) -> float:
        return self._when

    def cancel(self) -> None:
        self.callback, self.args = None, ()

    def cancelled(self) -> bool:
        return self.callback is None


class Strand:
    """A thread of a simulated process: what is ready on it runs in order, while it is not paused.

    Attributes:
        paused_until: It stands still until then.
        free_at: When what was handed over to it is done, for threads that serve a queue.
        running: The event loop that asyncio finds to be running while something runs here.
    """

    running: asyncio.AbstractEventLoop | None = None

    def __init__(self, process: "Process", name: str) -> None:
        self.process = process
        self.world = process.world
        self.name = f"{process.name}.{name}"
        self.ready: deque[Turn] = deque()
        self.paused_until = self.free_at = 0.0
        self.closed = False

    def add(self, turn: Turn) -> None:
        """Run this when it is its turn. Of the dead it is kept: to let go of it would run their clean-up."""
        if self.closed or self.process.dead:
            self.world.graves.append(turn)
            return
        if not self.ready:
            self.world.busy.append(self)
        self.ready.append(turn)

    def pause(self, span: float) -> None:
        """Stand still for so many seconds."""
        self.paused_until = max(self.paused_until, self.world.now + span)
        self.world.paused_until = max(self.world.paused_until, self.paused_until)

    def post(self, delay: float, callback: Callable[..., object], *args: Any) -> None:
        """Call this on the strand after so many seconds."""
        self.world.at(self.world.now + delay, self, callback, args)

    def queue(self, delay: float, callback: Callable[..., object], *args: Any) -> None:
        """Call this when what was queued before is done, and so many seconds more have passed."""
        self.free_at = max(self.free_at, self.world.now) + delay
        self.world.at(self.free_at, self, callback, args)


class SimLoop(Strand, asyncio.AbstractEventLoop):
    """The event loop of a simulated thread. What asyncio asks of a loop, and no more."""

    def __init__(self, process: "Process", name: str) -> None:
        super().__init__(process, name)
        self.running = self
        self._factory: Any = None

    get_debug = staticmethod(bool)  # no; asked for each future, so without a frame

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.world.complain(self, context)

    def time(self) -> float:
        return self.world.now

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> Any:
        if self.closed:
            raise RuntimeError("Event loop is closed")
        turn = Turn(callback, args, context)
        self.add(turn)
        return turn

    call_soon_threadsafe = call_soon

    def call_at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> Any:
        return self.world.at(when, self, callback, args, context)

    def call_later(self, delay: float, callback: Any, *args: Any, context: Context | None = None) -> Any:
        return self.world.at(self.world.now + delay, self, callback, args, context)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self, coro: Any, *, name: Any = None, context: Context | None = None
    ) -> asyncio.Task[Any]:
        if self._factory is not None:
            return self._factory(self, coro, name=name, context=context)
        return asyncio.Task(coro, loop=self, name=name, context=context)

    def set_task_factory(self, factory: Any) -> None:
        self._factory = factory

    def get_task_factory(self) -> Any:
        return self._factory

    async def create_datagram_endpoint(self, make: Any, local_addr: Any = None, **_: Any) -> Any:
        return self.world.net.bind(self, make())

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


class Process:
    """A simulated process: its threads, which stop together and die together.

    Attributes:
        pid: Never used again.
        loop: The event loop of its main thread.
    """

    def __init__(self, world: "World", name: str) -> None:
        self.world = world
        self.pid = next(world.numbers)
        self.name = f"{name}{self.pid}"
        self.dead = False
        self.strands: list[Strand] = []
        self.loop = self.new_loop("main")

    def new_loop(self, name: str) -> SimLoop:
        loop = SimLoop(self, name)
        self.strands.append(loop)
        return loop

    def new_thread(self, name: str) -> Strand:
        strand = Strand(self, name)
        self.strands.append(strand)
        return strand

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        return self.loop.create_task(work)

    def pause(self, span: float) -> None:
        """Stand still, as after SIGSTOP."""
        for strand in self.strands:
            strand.pause(span)

    def crash(self) -> None:
        """Die, as by SIGKILL: no callback of it runs ever again, and so no clean-up either."""
        self.dead = True
        for strand in self.strands:
            self.world.bury(strand)


class World:
    """Time, chance, and what is to run next.

    Args:
        seed: Decides everything.
        trace: Gets a line for each callback, and whatever else is told to it. None if nobody reads it.

    Attributes:
        ahead: How far the clocks on the walls were set forward, in seconds.
        shuffled: Callbacks of one loop run in any order, too. asyncio promises more than that.
        paused_until: From then on nobody stands still.
        busy: The strands on which something is ready.
        graves: What the dead left behind.
        unknown_commits: How many commits of a file fail and leave open whether they are in it, from 0 to 1.
        errors: What a loop was told that nobody else wanted to hear.
        met: What happened how often.
    """

    def __init__(self, seed: int, trace: list[str] | None = None) -> None:
        self.rng = random.Random(seed)
        self.trace = trace
        self.now = 0.0
        self.ahead = 0.0
        self.paused_until = 0.0
        self.shuffled = False
        self.unknown_commits = 0.0
        self.over = False
        self.numbers = count(1)
        self.errors: list[str] = []
        self.met: Counter[str] = Counter()
        self.net = Network(self.rng, self.met)
        self._timers: list[tuple[float, int, Strand, Turn]] = []
        self._order = count()
        self.busy: list[Strand] = []
        self.graves: list[Any] = []

    # -- Time --------------------------------------------------------------------------------------

    def wall(self) -> datetime:
        """What all clocks on the walls show."""
        return EPOCH + timedelta(seconds=self.time())

    def time(self) -> float:
        """The same, in seconds since the beginning."""
        return self.now + self.ahead

    def monotonic(self) -> float:
        return 1000.0 + self.now

    # -- What is to run ----------------------------------------------------------------------------

    def at(
        self,
        when: float,
        strand: Strand,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: Context | None = None,
    ) -> Turn:
        turn = Turn(callback, args, context, when)
        heapq.heappush(self._timers, (when, next(self._order), strand, turn))
        return turn

    def bury(self, strand: Strand) -> None:
        self.graves += [*strand.ready, strand]
        if strand.ready:
            strand.ready.clear()
            self.busy.remove(strand)

    def run(self, done: Callable[[], bool], until: float) -> None:
        """Run until it is done.

        Raises:
            Deadlock: Nothing is left that could be run.
            Overdue: It is not done when the time is `until`.
        """
        before, enter = events._get_running_loop(), events._set_running_loop
        try:
            while not done():
                strand = self._next_strand(until)
                turn = self._next_turn(strand)
                callback = turn.callback
                if callback is None:
                    continue
                self.now += STEP
                if self.trace is not None:
                    self.tell(strand.name, _name(callback))
                enter(strand.running)
                try:
                    turn.context.run(callback, *turn.args)
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as error:  # as asyncio does
                    self.complain(strand, {"message": f"in {_name(callback)}", "exception": error})
        finally:
            enter(before)

    def _next_turn(self, strand: Strand) -> Turn:
        ready = strand.ready
        if self.shuffled and len(ready) > 1:
            ready.rotate(-self.rng.randrange(len(ready)))
        turn = ready.popleft()
        if not ready:
            self.busy.remove(strand)
        return turn

    def _next_strand(self, until: float) -> Strand:
        while True:
            now, timers = self.now, self._timers
            while timers and timers[0][0] <= now:
                _, _, strand, turn = heapq.heappop(timers)
                if turn.callback is not None:
                    strand.add(turn)
            awake = self.busy
            if now < self.paused_until:
                awake = [strand for strand in awake if strand.paused_until <= now]
            if awake:
                return awake[0] if len(awake) == 1 else awake[int(self.rng.random() * len(awake))]
            moments = [strand.paused_until for strand in self.busy]
            if timers:
                moments.append(timers[0][0])
            if not moments:
                raise Deadlock(f"nothing is left to run at {now:.3f} s")
            self.now = min(moments)
            if self.now > until:
                raise Overdue(f"not done after {until:g} s")

    # -- What is to be known -----------------------------------------------------------------------

    def tell(self, *words: object) -> None:
        if self.trace is not None:
            self.trace.append(f"{self.now:.6f} {' '.join(map(str, words))}")

    def complain(self, loop: Strand, context: dict[str, Any]) -> None:
        if not (self.over or loop.process.dead):
            self.errors.append(f"{loop.name}: {context.get('message')}: {context.get('exception')!r}")


def _name(callback: Any) -> str:
    owner = getattr(callback, "__self__", None)
    name = getattr(callback, "__qualname__", type(callback).__name__)
    coro = owner.get_coro() if isinstance(owner, asyncio.Task) else None
    return f"{name} {getattr(coro, '__qualname__', '')}".rstrip()
