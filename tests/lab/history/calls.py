"""What calls say and what is there: tasks that were asked for, refused, looked up, cancelled and removed."""

from collections.abc import Iterator

from tests.lab.history.entries import FINISHED, History


def calls_did_what_they_said(history: History) -> Iterator[str]:
    there = {task.id for task in history.final}
    if history.asked is not None:
        for task_id in sorted((there | history.acknowledged) - history.asked):
            yield f"{task_id} is there, and nobody asked for it"
    for task_id in sorted(history.refused & there):
        yield f"{task_id} was refused and is there"
    for look in history.looked:
        if not look.found and look.id not in history.forgone:
            yield f"{look.id} was acknowledged, and who was told so did not find it"


def cancelled_stay_so(history: History) -> Iterator[str]:
    final = {task.id: task for task in history.final}
    stopped = {one.id: one for one in history.stopped}
    for task in history.final:
        unasked = task.status == "cancelled" and task.id not in history.unwanted
        if unasked and not task.parents:  # of those with parents see `kin`
            yield f"{task.id} is cancelled, and nobody did that"
    for task_id in stopped.keys() & final.keys():
        if final[task_id].status != "cancelled":
            yield f"{task_id} was cancelled, and ends as {final[task_id].status}"
    for entry in history.reserved:
        if entry.id in stopped and entry.asked > stopped[entry.id].answered:
            yield f"{entry.id} was cancelled, and handed out after that under fence {entry.fence}"


def leases_are_there(history: History) -> Iterator[str]:
    for one in (*history.seen, *history.final):
        if one.status == "running" and not one.due:
            yield f"{one.id} is running under fence {one.fence} without a lease"
        if one.status in FINISHED and one.due:
            yield f"{one.id} is {one.status} and would be reserved again"


def written_together(history: History) -> Iterator[str]:
    """The metadata say which tasks were stored, and which are to succeed, together with a row of the application."""
    if history.beside is None:
        return
    stored = sorted(one.id for one in history.beside if not one.mark)
    effects = sorted((one.id, one.mark) for one in history.beside if one.mark)
    bought = sorted(task.id for task in history.final if task.meta.get("order"))
    if twice := {one for one in stored if stored.count(one) > 1}:
        yield f"rows of an application are there twice, for {sorted(twice)}"
    for task_id in sorted(set(stored) ^ set(bought)):
        what, lacks = ("row", "task") if task_id in stored else ("task", "row")
        yield f"{task_id}: the {what} that was written with its {lacks} is there, and the {lacks} is not"
    results = sorted(
        (task.id, task.result or "")
        for task in history.final
        if task.meta.get("effect") and task.status == "success"
    )
    if effects != results:
        differ = sorted(set(effects) ^ set(results)) or [one for one in effects if effects.count(one) > 1]
        yield f"tasks that committed their own success, and what they committed with it, differ: {differ}"
