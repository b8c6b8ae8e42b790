"""The three jobs from their command line, with a worker in a process of its own, and what their parts promise."""

import asyncio
import csv
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from examples.jobs import flights, images, mail
from examples.jobs.command import Job, main
from examples.jobs.flights_table import MISSING, Flight, split, unpack
from examples.jobs.flights_table import flights as rows_of
from examples.jobs.mail_server import Mailboxes, mail_server
from sitq import Status, TaskQueue, Worker
from sitq.events import TaskProgressed
from sitq.retry import is_retryable
from tests.support import PATIENCE

ROOT = Path(__file__).parents[2]
PATIENT = 6 * PATIENCE
"""Seconds until a program that does not end fails the test. Never waited for otherwise."""


class Shell:
    """Types commands, for one job on one database."""

    def __init__(self, job: Job, db: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._job = job
        self._db = db
        self._capsys = capsys

    async def __call__(self, verb: str, *arguments: str, code: int = 0) -> list[str]:
        """Do what `python -m examples.jobs JOB VERB` does, and return the lines it printed."""
        argv = [self._job.name, verb, "--db", str(self._db), *arguments]
        done = await asyncio.to_thread(main, [self._job], argv)  # it has an event loop of its own
        printed, errors = self._capsys.readouterr()
        assert (done, errors) == (code, "")
        return printed.splitlines()

    @asynccontextmanager
    async def worker(self) -> AsyncGenerator[None]:
        """`sitq worker`, for as long as the block lasts."""
        command = ["-m", "sitq", "worker", str(self._db), "-q", self._job.name, "--log-level", "critical"]
        process = await asyncio.create_subprocess_exec(sys.executable, *command, cwd=ROOT)
        try:
            yield
        finally:
            process.terminate()
            assert await asyncio.wait_for(process.wait(), PATIENT) == 0


def of(task_id: str, lines: list[str]) -> list[str]:
    """What was told about one task."""
    return [line.removeprefix(f"{task_id} ") for line in lines if line.startswith(task_id)]


def test_an_unknown_task_is_an_error_of_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("watch", "cancel"):
        assert main([mail.JOB], ["mail", verb, "--db", str(tmp_path / "jobs.db"), "nobody"]) == 1
        printed, errors = capsys.readouterr()
        assert (printed, errors.count("\n")) == ("", 1)
        assert errors.startswith("jobs: no task 'nobody'")


def test_a_job_without_tasks_has_nothing_to_tell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("watch", "cancel", "retry"):
        assert main([mail.JOB], ["mail", verb, "--db", str(tmp_path / "jobs.db")]) == 0
        assert capsys.readouterr() == ("", "")


class TestMail:
    async def test_from_the_command_line(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        shell = Shell(mail.JOB, tmp_path / "jobs.db", capsys)
        ada, nobody = "ada@north.example", "nobody@south.example"
        photo = images.photographs()[0]
        letter = [
            "--from",
            "me@here.example",
            "--to",
            ada,
            nobody,
            "--subject",
            "Grüße",
            "--attach",
            str(photo),
        ]
        mailboxes = Mailboxes([ada])
        async with mail_server(mailboxes) as server, shell.worker():
            submitted = await shell("submit", "--server", server, *letter, "--wait", "0.1")
            assert await shell("submit", "--server", server, *letter) == submitted
            to_ada, to_nobody = submitted

            lines = await shell("watch", code=1)
            assert (
                "will be tried again: examples.jobs.mail.DeferredError: 451 4.7.1 greylisted, come back later"
                in of(to_ada, lines)
            )
            assert of(to_ada, lines)[-1] == f"success: sent to {ada}"
            assert (
                of(to_nobody, lines)[-1]
                == "failed: examples.jobs.mail.RejectedError: 550 5.1.1 no such mailbox"
            )

            mailboxes.known.add(nobody)
            assert await shell("retry") == [to_nobody]
            assert of(to_nobody, await shell("watch", to_nobody))[-1] == f"success: sent to {nobody}"

            # One an hour: the second one waits, and is given up.
            slow = ["--from", "me@here.example", "--to", ada, "--rate", "1/hour"]
            ids = [(await shell("submit", "--server", server, *slow, "--subject", each))[0] for each in "ab"]
            assert await shell("cancel", ids[1]) == [f"{ids[1]} cancelled"]
            assert of(ids[1], await shell("watch", ids[1], code=1)) == ["cancelled"]

        for address in (ada, nobody):
            [message] = [each for each in mailboxes.received[address] if each["Subject"] == "Grüße"]
            [attachment] = message.iter_attachments()
            assert attachment.get_filename() == photo.name
            assert attachment.get_content_type() == "image/jpeg"
            assert attachment.get_content() == photo.read_bytes()
        assert "b" not in [message["Subject"] for message in mailboxes.received[ada]]

    async def test_a_domain_gets_no_more_than_its_rate(self, tmp_path: Path) -> None:
        people = [f"p{n}@{domain}" for n in range(5) for domain in ("north.example", "SOUTH.example")]
        messages = [mail.compose("me@here.example", to, "hello", "", []) for to in people]
        async with (
            TaskQueue(tmp_path / "q.db") as queue,
            mail_server(Mailboxes(people, greylists=False)) as server,
            Worker(queue),
        ):
            handles = await mail.post(queue, server, messages, rate="2/500ms")
            for handle in handles:
                await handle.result(timeout=PATIENT)
            details = [await queue.get(handle) for handle in handles]
        for domain in ("north", "SOUTH"):
            starts = sorted(
                one.started_at for one in details if one.started_at and domain in str(one.metadata)
            )
            assert len(starts) == 5
            assert all(starts[n + 2] - starts[n] >= timedelta(milliseconds=500) for n in range(3))

    async def test_a_message_is_unique_by_all_that_it_says(self, tmp_path: Path) -> None:
        attached = tmp_path / "a.txt"
        attached.write_text("one")
        letter = partial(mail.compose, "me@here.example", "ada@north.example")
        first, same = (letter("Hello", "text", [attached]) for _ in range(2))
        attached.write_text("two")
        others = [
            letter("Hello", "text", [attached]),
            letter("Hello", "text", []),
            letter("Hello", "", []),
            letter("Hello!", "", []),
        ]
        async with TaskQueue(tmp_path / "q.db") as queue:
            handles = await mail.post(queue, "127.0.0.1:1", [first, same, *others])
        assert handles[0] == handles[1]
        assert len(set(handles)) == 5

    async def test_the_end_of_a_message_does_not_let_it_be_sent_again(self, tmp_path: Path) -> None:
        message = mail.compose("me@here.example", "ada@north.example", "Hello", "", [])
        mailboxes = Mailboxes(["ada@north.example"], greylists=False)
        async with TaskQueue(tmp_path / "q.db") as queue, mail_server(mailboxes) as server, Worker(queue):
            [handle] = await mail.post(queue, server, [message])
            await handle.result(timeout=PATIENT)
            assert await mail.post(queue, server, [message]) == [handle]
            assert await handle.status() is Status.SUCCESS

    @pytest.mark.parametrize("code", [400, 421, 450, 451, 499])
    def test_4xx_and_a_server_that_is_away_are_tried_again(self, code: int) -> None:
        policy = mail.until_accepted(60)
        assert is_retryable(policy, mail.refusal(code, b"later"))
        assert is_retryable(policy, ConnectionRefusedError())
        assert is_retryable(policy, TimeoutError())

    @pytest.mark.parametrize("code", [500, 550, 552, 554, -1])
    def test_5xx_is_not(self, code: int) -> None:
        assert not is_retryable(mail.until_accepted(60), mail.refusal(code, "never"))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The table of flights, unpacked."""
    return unpack(tmp_path_factory.mktemp("flights"))


class TestFlights:
    async def test_from_the_command_line(
        self, tmp_path: Path, table: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shell = Shell(flights.JOB, tmp_path / "jobs.db", capsys)
        [merged] = await shell("submit", "--parts", "3", "--folder", str(table.parent))

        # Nothing has begun. The parts are cancelled, and with them what waits for them.
        cancelled = await shell("cancel")
        assert len(cancelled) == 3
        assert all(line.endswith(" cancelled") for line in cancelled)
        assert of(merged, await shell("watch", merged, code=1)) == ["cancelled"]
        assert {line.split()[0] for line in cancelled} < set(await shell("retry"))

        async with shell.worker():
            lines = await shell("watch")
        assert len([line for line in lines if " % " in line and line.endswith(" rows")]) >= 3
        assert lines.count("Frontier Airlines Inc.              685    39%     21.9") == 1
        assert len([line for line in lines if f"{merged} success:" in line]) == 1

    def test_finds_what_a_plain_pass_finds(self, table: Path) -> None:
        """Against a pass that shares nothing with the job: no parts, no tasks, and none of its code."""
        expected: dict[str, Counter[str]] = defaultdict(Counter)
        with table.open(encoding="ascii", newline="") as file:
            rows = csv.reader(file)
            at = {name: place for place, name in enumerate(next(rows))}
            for row in rows:
                airline, airport, delay = row[at["carrier"]], row[at["dest"]], row[at["arr_delay"]]
                minutes = 0 if delay == "NA" else int(delay)
                expected["airline"][airline] += 1
                expected["airport"][airport] += 1
                expected["minutes by airline"][airline] += minutes
                expected["minutes by airport"][airport] += minutes
                expected["total"]["departed"] += row[at["dep_time"]] != "NA"
                expected["total"]["arrived"] += row[at["air_time"]] != "NA"
                expected["total"]["late"] += minutes >= 15
        assert expected["airline"].total() == 336_776

        parts = split(table, 5)
        found = flights.merge([flights.summarize(rows_of(part.lines(), part.columns)) for part in parts])
        for what, delays in (("airline", found.airlines()), ("airport", found.airports())):
            assert {code: one.flights for code, one in delays.items()} == expected[what]
            assert {code: one.minutes for code, one in delays.items()} == expected[f"minutes by {what}"]
        total = found.total()
        assert {"departed": total.departed, "arrived": total.arrived, "late": total.late} == expected["total"]

    @pytest.mark.parametrize("number", [1, 2, 3, 7, 50])
    @pytest.mark.parametrize("end", ["\n", ""])
    def test_every_line_is_in_one_part(self, tmp_path: Path, number: int, end: str) -> None:
        path = tmp_path / "table.csv"
        lines = [f"{'x' * n}," for n in (1, 90, 2, 0, 0, 30, 7)]
        path.write_text("\n".join(["name,none", *lines]) + end)
        parts = split(path, number)
        assert len(parts) == number
        assert {tuple(part.columns) for part in parts} == {("name", "none")}
        assert [line.rstrip("\n") for part in parts for line in part.lines()] == lines

    def test_what_did_not_arrive_is_not_late(self) -> None:
        found = flights.Delays()
        for dep_delay, arr_delay in (("1", "15"), ("0", "14"), ("3", MISSING), (MISSING, MISSING)):
            found.count(Flight("UA", "LAX", dep_delay, arr_delay))
        assert found == flights.Delays(flights=4, departed=3, arrived=2, late=1, minutes=29)


class TestImages:
    async def test_from_the_command_line(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        shell = Shell(images.JOB, tmp_path / "jobs.db", capsys)
        folder = tmp_path / "thumbnails"
        photos = [photo.stem for photo in images.photographs()]

        # So many that nobody waits for the end: they are stopped half-way.
        many = ["--folder", str(folder), "--sizes", *map(str, range(1, 640))]
        *made, gallery = await shell("submit", *many)
        async with shell.worker():
            async with TaskQueue(tmp_path / "jobs.db") as queue:
                await until_progress(queue, made[0])
            assert sorted(await shell("cancel")) == [f"{task_id} cancelled" for task_id in sorted(made)]
            lines = await shell("watch", gallery)
        assert of(gallery, lines)[-1] == f"success: 0 thumbnails are whole, {len(made)} photographs failed"
        stopped = sorted(folder.iterdir())
        assert 0 < len(stopped) < 2 * 3 * 639
        assert all(images.is_whole(path) for path in stopped)

        # Cancelled before anything began, and given a new run.
        folder = tmp_path / "few"
        few = ["--folder", str(folder), "--sizes", "100", "300", "--formats", "png", "webp"]
        *made, gallery = await shell("submit", *few)
        assert len(await shell("cancel")) == len(made)
        assert sorted(await shell("retry", *made)) == sorted(made)
        async with shell.worker():
            lines = await shell("watch", *made, gallery)
        assert " % " in "".join(of(made[0], lines))
        expected = {
            f"{photo}-{size}.{suffix}"
            for photo in photos
            for size in (100, 300)
            for suffix in ("png", "webp")
        }
        assert {path.name for path in folder.iterdir()} == expected
        for path in folder.iterdir():
            with Image.open(path) as image:
                image.load()
                assert image.format == path.suffix[1:].upper()
                assert max(image.size) == int(path.stem.rpartition("-")[2])

    def test_no_thumbnail_is_larger_than_its_photograph(self) -> None:
        with Image.open(images.photographs()[0]) as photo:
            assert photo.size == (640, 427)
            sizes = {size: images.fit(photo, size).size for size in (1, 320, 639, 640, 5000)}
        assert sizes == {1: (1, 1), 320: (320, 214), 639: (639, 426), 640: (640, 427), 5000: (640, 427)}

    @pytest.mark.parametrize("length", [0, 10, 1000, 20_000])
    def test_what_is_cut_off_is_not_whole(self, tmp_path: Path, length: int) -> None:
        path = tmp_path / "cut.jpg"
        path.write_bytes(images.photographs()[0].read_bytes()[:length])
        assert not images.is_whole(path)
        assert images.is_whole(images.photographs()[0])


async def until_progress(queue: TaskQueue, task_id: str) -> None:
    async for entry in queue.events(task_id):
        if isinstance(entry.event, TaskProgressed):
            return
