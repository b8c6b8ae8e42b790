"""Tasks that depend on others: none starts before its parents have succeeded, and none ends otherwise than they say."""

from collections.abc import Iterator, Mapping

from tests.lab.history.entries import Final, History, Reserved, by_id

ENDED_WITHOUT = frozenset({"failed", "cancelled"})


def dependencies_hold(history: History) -> Iterator[str]:
    final = {task.id: task for task in history.final}
    reserved = by_id(history.reserved)
    succeeded = {
        one.id: one.at for one in sorted(history.sent, key=lambda one: -one.at) if one.kind == "Succeeded"
    }
    requeued = {one.id for one in history.wanted}
    for task in history.final:
        if not task.parents:
            continue
        yield from _ended_as_they_say(task, final, requeued, history.forgone)
        if task.meta.get("strict"):
            yield from _not_too_early(task, reserved.get(task.id, []), succeeded)


def _not_too_early(task: Final, entries: list[Reserved], succeeded: Mapping[str, float]) -> Iterator[str]:
    """A success is announced before it is handed over, so no child is handed out before its announcement."""
    for parent in task.parents:
        for entry in entries:
            if parent not in succeeded or entry.answered < succeeded[parent]:
                yield f"{task.id} was handed out under fence {entry.fence} before {parent} had succeeded"


def _ended_as_they_say(
    task: Final, final: Mapping[str, Final], requeued: set[str], forgone: set[str]
) -> Iterator[str]:
    states = {parent: final[parent].status for parent in task.parents if parent in final}
    removed = forgone if task.status == "success" else set[str]()  # before that, nobody may remove them
    if gone := set(task.parents) - states.keys() - removed:
        yield f"{task.id} depends on {sorted(gone)}, of whom nothing is known"
    refused = [parent for parent, status in states.items() if status in ENDED_WITHOUT]
    if task.meta.get("strict") and refused and task.status != "cancelled":
        yield f"{task.id} is {task.status}, and {refused[0]} is {states[refused[0]]}"
    if not task.meta.get("strict") and task.status == "cancelled":
        yield f"{task.id} was to run whatever became of its parents, and is cancelled"
    if task.status != "cancelled":
        return
    culprit = final.get(task.cancelled_by or "")
    if culprit is None:
        yield f"{task.id} is cancelled, and nobody did that"
    elif culprit.status not in ENDED_WITHOUT and culprit.id not in requeued:
        yield f"{task.id} was cancelled because of {culprit.id}, which is {culprit.status}"
