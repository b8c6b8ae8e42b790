# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
"""What type checkers say about schedules. Nothing here runs; each line with an ignore is a mistake."""

from datetime import UTC, datetime, timedelta
from typing import assert_type

from sitq import ScheduleRecord, SyncTaskQueue, TaskQueue, call, task


def resize(key: str, width: int = 100) -> bytes:
    return b""


async def schedules(queue: TaskQueue) -> None:
    one = await queue.schedule("one", call(resize, "a"), every=60)
    assert_type(one, ScheduleRecord)
    assert_type(one.every, timedelta | None)
    assert_type(one.next, datetime | None)
    await queue.schedule("one", call(resize, "a"), cron="@daily", tz="Asia/Tokyo", misfire="all", queue="low")
    await queue.schedule("one", call(resize, "a"), every=timedelta(hours=1), overlap="wait", priority=1)
    assert_type(await queue.schedules(), list[ScheduleRecord])
    await queue.pause_schedule("one")
    await queue.resume_schedule("one")
    await queue.remove_schedule("one")
    await queue.schedule("one", resize, every=60)  # type: ignore[arg-type]
    await queue.schedule("one", call(resize, "a"), every="1h")  # type: ignore[arg-type]
    await queue.schedule("one", call(resize, "a"), every=60, misfire="last")  # type: ignore[arg-type]
    await queue.schedule("one", call(resize, "a"), every=60, overlap="no")  # type: ignore[arg-type]
    await queue.schedule("one", call(resize, "a"), every=60, eta=datetime.now(UTC))  # type: ignore[call-arg]
    await queue.schedule("one", call(resize, "a"), "@daily")  # type: ignore[call-arg]


def synchronous(queue: SyncTaskQueue) -> None:
    assert_type(queue.schedule("one", call(resize, "a"), every=60), ScheduleRecord)
    assert_type(queue.schedules(), list[ScheduleRecord])


queue = TaskQueue()


@queue.cron("0 3 * * *", tz="Europe/Berlin", misfire="skip", queue="low")
def clean(deep: bool = False) -> str:
    return ""


@queue.cron("@daily")
async def look() -> int:
    return 1


@queue.cron("@daily")
@task(name="check")
def check() -> bytes:
    return b""


async def they_stay_what_they_are() -> None:
    assert_type(clean(deep=True), str)
    assert_type(await look(), int)
    assert_type(check(), bytes)
    assert_type(check.name, str)
    queue.cron("@daily")(resize)  # type: ignore[type-var]
    queue.cron("@daily", delay=5)(clean)  # type: ignore[call-arg]
    queue.cron("@daily", tz=UTC)(clean)  # type: ignore[arg-type]
