"""Starting, killing and pausing the processes of a run: at random moments, and at named points of the code."""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import psutil  # type: ignore[import-untyped]

from tests.lab.kill import crew, tasks
from tests.lab.kill.points import MIGRATION, POINTS, Aim, Role, aim_at, arm
from tests.lab.kill.processes import KILLED, Nursery

PAUSED = (2 * crew.LEASE, 4 * crew.LEASE)
LET_LIVE = 0.3
WORK, STANDSTILL = 1000, 1.0
"""How many bytes of the journal there are between two acts, unless there are less for so many seconds."""
EACH_POINT = 200
PATIENCE, MISSES = 60.0, 3
"""For how many seconds a process may fail to come by its point, and how many in a row, until that is a finding."""


class Team(NamedTuple):
    """How many there are of a role, and how many of them at once are to die at a point of the code."""

    size: int
    aimed: int = 0


class Plan(NamedTuple):
    """How a run goes.

    Attributes:
        teams: Who works. Without anybody who is aimed at a point, the migration is not either.
        pause: Seconds between two acts, on average.
        command: The workers are `sitq worker`, each in a fresh interpreter.
    """

    teams: dict[Role, Team]
    pause: float
    command: bool = False

    @property
    def aimed(self) -> bool:
        return any(team.aimed for team in self.teams.values())


FORKED = Plan({"worker": Team(4, 2), "producer": Team(2, 1), "steward": Team(1, 1)}, pause=0.03)
COMMAND = Plan({"worker": Team(2), "producer": Team(1), "steward": Team(1)}, pause=0.3, command=True)


class Member(NamedTuple):
    """A process: what it does, and where it is to die by itself."""

    pid: int
    role: Role
    aim: Aim | None = None
    since: float = 0.0


class Harness:
    """Starts, kills and pauses processes that work on one file."""

    def __init__(self, folder: Path, seed: int, plan: Plan) -> None:
        self._folder = folder
        self._plan = plan
        self._rng = random.Random(seed)
        self.nursery = Nursery()
        self._members: dict[int, Member] = {}
        self._paused: dict[int, float] = {}
        self._parent = 0
        self._wants_a_child = False
        self._written = 0
        self.struck: Counter[str] = Counter(dict.fromkeys(POINTS if plan.aimed else (), 0))
        self.missed: Counter[str] = Counter()
        self.done: Counter[str] = Counter()

    @property
    def kills(self) -> int:
        return self.done["kills"]

    def least(self) -> int:
        """How often that was done that was done least often: a kind of act, or a strike at a point."""
        # Those of the migration are struck as often as can be, at the beginning.
        again = (number for point, number in self.struck.items() if point not in MIGRATION)
        return min(*again, self.done["child processes killed"], self.done["pauses"])

    def told(self) -> int:
        """How often that was written down which hardly anybody meets: an outcome that came too late, a child process
        that died."""
        lines = (self._folder / "journal").read_text(errors="replace").splitlines()
        late = sum(line.startswith('["Reported", ') and line.endswith(", false]") for line in lines)
        crashes = sum(line.startswith('["Sent", ') and '"Crashed"' in line for line in lines)
        return min(late, crashes)

    # -- Starting ----------------------------------------------------------------------------------

    def begin(self) -> None:
        """Let processes die while they make the tables; then start those that are to work."""
        for point in MIGRATION if self._plan.aimed else ():
            # All of them come by, but for the last point: there one has made the tables, and the others find them.
            for _ in range(1 if point == MIGRATION[-1] else 2):
                one = self._fork("worker", aim_at(point, self._rng))
                self._members[one.pid] = one
            while self._members:
                time.sleep(0.005)
                for problem in self._bury():
                    raise RuntimeError(problem)
        self.fill_up()

    def fill_up(self) -> None:
        if not self._parent:
            self._parent = self.nursery.fork(partial(crew.work, self._folder, [tasks.PROCESSES]))
        for role, team in self._plan.teams.items():
            while sum(member.role == role for member in self._members.values()) < team.size:
                member = self._start(role)
                self._members[member.pid] = member

    def _start(self, role: Role) -> Member:
        if self._plan.command and role == "worker":
            lease = str(crew.LEASE)
            target = "tests.lab.kill.application:queue()"
            options = ("-q", ",".join(crew.QUEUES), "-c", "8", "--lease", lease, "--log-level", "critical")
            return Member(self.nursery.command(self._folder, "worker", target, *options), role)
        return self._fork(role, self._next_aim(role))

    def _next_aim(self, role: Role) -> Aim | None:
        """The point that was struck least of those that nobody of this role aims at, unless enough of them aim."""
        aims = {one.aim.point for one in self._members.values() if one.aim and one.role == role}
        points = [(self.struck[point], point) for point in POINTS if POINTS[point] == role]
        free = sorted(one for one in points if one[1] not in aims)
        team = self._plan.teams[role]
        if not free or len(aims) >= team.aimed:
            return None
        if team.size == 1 and self._rng.random() < 0.3:  # who is alone must also get something done
            return None
        return aim_at(free[0][1], self._rng)

    def _fork(self, role: Role, aim: Aim | None = None) -> Member:
        folder, seed = self._folder, self._rng.randrange(2**32)
        leave_after = self._rng.uniform(0.01, 0.3) if aim and aim.point.startswith("close") else None

        async def main() -> None:
            if aim is not None:
                arm(aim, folder / "tasks.db")
            match role:
                case "worker":
                    await crew.work(folder, crew.QUEUES, leave_after=leave_after)
                case "producer":
                    await crew.produce(folder, seed)
                case "steward":
                    await crew.govern(folder, seed)

        return Member(self.nursery.fork(main), role, aim, time.monotonic())

    # -- Violence ----------------------------------------------------------------------------------

    def strike(self) -> list[str]:
        """One act, after a random pause. Returns what went wrong with those who were to die by themselves."""
        time.sleep(self._rng.expovariate(1 / self._plan.pause))
        self._let_work()
        self._wake_up()
        if self._wants_a_child:
            self._kill_a_child()
        fate = self._rng.random()
        if fate < 0.03:
            self._wants_a_child = True
        elif fate < 0.032:
            self.nursery.end(self._parent)
            self._parent = 0
            self.done["kills"] += 1
        elif fate < 0.09:
            self._kill("producer")
        elif fate < 0.14:
            self._kill("steward")
        elif fate < 0.2:
            self._pause()
        else:
            self._kill("worker")
        problems = list(self._bury())
        self.fill_up()
        return problems

    def _let_work(self) -> None:
        """Wait until something has been written down since the last act, so that a busy machine does not make a run
        poor; but not for ever, since it may be this act that gets them out of a standstill."""
        deadline = time.monotonic() + STANDSTILL
        journal = self._folder / "journal"
        while journal.stat().st_size < self._written + WORK and time.monotonic() < deadline:
            time.sleep(0.005)
        self._written = journal.stat().st_size

    def _of(self, role: Role) -> list[int]:
        """Those whom chance may strike."""
        return sorted(pid for pid, one in self._members.items() if one.role == role and one.aim is None)

    def _kill(self, role: Role) -> None:
        victims = self._of(role)
        victim = self._rng.choice(victims) if victims else 0
        if victim and victim not in self._paused:  # who is paused is to live and to say what it did
            del self._members[victim]
            self.nursery.end(victim)
            self.done["kills"] += 1
            self.done[f"{role}s killed"] += 1

    def _pause(self) -> None:
        victims = [pid for pid in self._of("worker") if pid not in self._paused]
        if victims and len(self._paused) < self._plan.teams["worker"].size - 1:
            victim = self._rng.choice(victims)
            os.kill(victim, signal.SIGSTOP)
            self._paused[victim] = time.monotonic() + self._rng.uniform(*PAUSED)
            self.done["pauses"] += 1

    def _wake_up(self) -> None:
        for pid, until in list(self._paused.items()):
            if time.monotonic() >= until:
                os.kill(pid, signal.SIGCONT)
            if time.monotonic() >= until + LET_LIVE:
                del self._paused[pid]

    def _bury(self) -> Iterator[str]:
        """Take note of those who died at their points."""
        for member in [one for one in self._members.values() if one.aim]:
            assert member.aim is not None
            if self.nursery.has_ended(member.pid, KILLED):
                self.struck[member.aim.point] += 1
                self.missed[member.aim.point] = 0
                self.done["kills"] += 1
            elif time.monotonic() > member.since + PATIENCE:
                self.nursery.end(member.pid)
                self.missed[member.aim.point] += 1
                if self.missed[member.aim.point] == (1 if member.aim.point in MIGRATION else MISSES):
                    yield f"a process did not come by {member.aim.point} within {PATIENCE} s"
            else:
                continue
            del self._members[member.pid]

    def _kill_a_child(self) -> None:
        """Kill a process that runs a task, as soon as there is one."""
        running = {int(path.name): path for path in (self._folder / tasks.PROCESSES).iterdir()}
        if not running:
            return
        children = [one for one in psutil.Process(self._parent).children() if one.pid in running]
        if children:
            child = self._rng.choice(children)
            child.kill()
            running[child.pid].unlink(missing_ok=True)
            self._wants_a_child = False
            self.done["child processes killed"] += 1

    def finish(self) -> None:
        """End everybody, then let a healthy worker do what is left."""
        for pid in self._paused:
            os.kill(pid, signal.SIGCONT)
        time.sleep(self._rng.random() * 0.1)
        for _ in self._bury():
            pass
        for pid in [*self._members, self._parent]:
            self.nursery.end(pid)
        self.nursery.wait(self.nursery.fork(partial(crew.work_off, self._folder)), 0)
