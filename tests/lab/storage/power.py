"""Power loss: `python -m tests.lab storage`.

A run is recorded call by call. Then the power goes at every call: the disk is made as it may be then, and opened. What
is found must be the state after some whole commit: no earlier one than the last that was acknowledged as durable, and
no later one than the last that was written. Beside that the log is damaged where it was synced, too, which no promise
covers: then the commits before the damage must be there, and nothing else.
"""

import asyncio
import json
import random
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from sitq.backends.sqlite import SQLiteBackend
from tests.lab.experiment import Batch, Experiment, Progress
from tests.lab.storage import shim, zygote
from tests.lab.storage.disk import MARK, OPEN, WRITE, Disk, Event, Image, events
from tests.lab.storage.judge import finish_all
from tests.lab.storage.recording import NOTHING, SEED, TRACE, digest
from tests.lab.storage.sweep import scratch
from tests.lab.storage.zygote import Job
from tests.support import FakeClock

WAYS = ("none", "point", "some", "garbled", "damaged")
LOG = "-wal"
LOG_HEAD, FRAME_HEAD, PAGE = 32, 24, 4096
FRAME = FRAME_HEAD + PAGE
GO_ON_EVERY = 40
"""Of so many points, at one a worker goes on from there."""


class Moment(NamedTuple):
    """A moment of the run: the disk then, what may be found, and the log with the commits that it holds by frames.

    `before` is how many commits lie before the log; None if the log cannot be damaged now, since parts of it were
    copied into the database.
    """

    disk: Disk
    durable: int
    written: int
    before: int | None


class Recording:
    """A run: its calls, and the digest of the database after each commit."""

    def __init__(self, folder: Path, seed: int, library: Path) -> None:
        (folder / SEED).write_text(str(seed))
        job = Job("record", str(folder), shim.Fault())
        [ended] = zygote.run(library, [job])
        if ended.code or ended.said:
            raise SystemExit(f"the run to record ended with {ended.code}: {ended.said}")
        self._database = job.database
        self.events = list(events(folder / TRACE))
        self.commits = [NOTHING]
        for moment, event in self._moments():
            if moment.written == len(self.commits):
                self.commits.append(look_at(folder, moment.disk.live())[0])
            if event.kind == MARK:
                _, seen = json.loads(event.data)
                # Else something was written that the shim did not see.
                assert seen == self.commits[moment.written], "the trace is not what happened"

    def moments(self) -> Iterator[Moment]:
        """The run again, call by call. The disk is the same object each time."""
        for moment, event in self._moments():
            if event.kind != MARK:
                yield moment

    def _moments(self) -> Iterator[tuple[Moment, Event]]:
        disk = Disk(self._database)
        log, database = f"{self._database}{LOG}", str(self._database)
        durable = written = 0
        before: int | None = None
        commits = False
        for event in self.events:
            disk.apply(event)
            if event.kind == MARK:
                durable = written if json.loads(event.data)[0] else durable
            elif event.path == log and event.kind == WRITE:
                if event.at == 0:
                    before = written
                if commits:
                    written += 1
                commits = len(event.data) == FRAME_HEAD and event.data[4:8] != bytes(4)
            elif event.path == database and event.kind != OPEN:
                before = None
            yield Moment(disk, durable, written, before), event


def look_at(folder: Path, image: Image) -> tuple[str, str]:
    """Open what is left, as the next process would. The digest, and what `integrity_check` says."""
    path = laid_out(folder, image)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, True)
        return digest(db), str(db.execute("PRAGMA integrity_check").fetchone()[0])


def laid_out(folder: Path, image: Image) -> Path:
    path = folder / "left.db"
    for suffix in ("", "-wal", "-journal", "-shm", "-lock"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    for suffix, content in image.items():
        Path(f"{path}{suffix}").write_bytes(content)
    return path


def damaged(moment: Moment, rng: random.Random) -> tuple[Image, int]:
    """The disk with a damage in its log, and how many commits lie before that."""
    image = moment.disk.live()
    log = bytearray(image[LOG])
    frames = max(0, (len(log) - LOG_HEAD) // FRAME)
    hit = rng.randint(0, frames)
    start = LOG_HEAD + hit * FRAME
    within = start + rng.randrange(FRAME)
    match rng.randrange(5):
        case 0:
            del log[start:]
        case 1:
            del log[within:]
        case 2:
            log[start : start + FRAME] = bytes(len(log[start : start + FRAME]))
        case 3:
            log[within : within + 1] = bytes(
                [byte ^ 1 << rng.randrange(8) for byte in log[within : within + 1]]
            )
        case _:
            log[start:] = rng.randbytes(len(log) - start)
    assert moment.before is not None
    heads = (LOG_HEAD + number * FRAME for number in range(hit))
    salt = image[LOG][16:24]
    # Frames of an earlier use of the log have another salt and are no part of it.
    mine = [image[LOG][head : head + FRAME_HEAD] for head in heads]
    valid = [head for head in mine if head[8:16] == salt]
    return image | {LOG: bytes(log)}, moment.before + sum(head[4:8] != bytes(4) for head in valid)


def examine(moment: Moment, recording: Recording, folder: Path, rng: random.Random, way: str) -> str | None:
    """Lose the power now in this way. What is wrong with what is found."""
    if way == "damaged":
        image, reached = damaged(moment, rng)
        reached = min(reached, moment.written)
        allowed = recording.commits[reached : reached + 1]
    else:
        image = moment.disk.after_power_loss(rng, way)
        allowed = recording.commits[moment.durable : moment.written + 1]
    try:
        found, integrity = look_at(folder, image)
    except sqlite3.Error as error:
        return f"it does not open: {error}"
    if integrity != "ok":
        return f"integrity: {integrity}"
    if found not in allowed:
        where = recording.commits.index(found) if found in recording.commits else None
        return f"commit {where} of {moment.durable} to {moment.written} is found ({found})"
    return None


async def go_on(folder: Path) -> list[str]:
    """Let a worker go on with what is left there, which `examine` has looked at."""
    clock = FakeClock()
    clock.advance(10_000)
    backend = SQLiteBackend(folder / "left.db", clock=clock)
    await backend.open()
    try:
        return await finish_all(backend, clock)
    finally:
        await backend.close()


def drawn(recording: Recording, rng: random.Random) -> Iterator[tuple[Moment, str]]:
    """Half of the moments, and fewer of those before anything was acknowledged, each with a way that is possible."""
    for moment in recording.moments():
        if rng.random() < (0.5 if moment.durable else 0.1):
            yield moment, rng.choice(WAYS if moment.before is not None else WAYS[:-1])


def crash(seed: int, count: int, progress: Progress) -> Batch:
    """So many points at which the power goes, spread over as many recorded runs as are needed."""
    rng = random.Random(seed)
    folder = scratch("sitq-storage-")
    library = shim.build(folder)
    problems: list[str] = []
    figures = dict.fromkeys((*WAYS, "runs", "commits", "went on"), 0)
    done = 0
    while done < count:
        (own := folder / f"run-{figures['runs']}").mkdir()
        recording = Recording(own, rng.randrange(2**32), library)
        figures["runs"] += 1
        figures["commits"] += len(recording.commits)
        for moment, way in drawn(recording, rng):
            if done == count:
                break
            wrong = examine(moment, recording, own, rng, way)
            figures[way] += 1
            done += 1
            if wrong is None and done % GO_ON_EVERY == 0:
                figures["went on"] += 1
                wrong = "; ".join(asyncio.run(go_on(own))) or None
            if wrong is not None:
                problems.append(f"run {figures['runs']}, {way}, point {done}: {wrong}")
            progress(done)
        shutil.rmtree(own)
    shutil.rmtree(folder)
    return Batch(done, problems, figures)


STORAGE = Experiment(
    "storage",
    "crash points",
    "power loss at every call to the disk, with what was not synced lost, torn or garbled, and a damaged log",
    20_000,
    crash,
)
