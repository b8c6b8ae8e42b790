"""The id of a request travels with its tasks, without being an argument.

    python -m examples.request_context

Prints

    order 1 charged: request r-1, on a thread beside it r-1
    order 1 labelled: request r-1
    order 2 charged: request r-2, on a thread beside it r-2
    order 2 labelled: request r-2
    order 3 labelled: request none
"""

import asyncio
import contextvars
import tempfile
from pathlib import Path

from examples.surroundings import charge, print_label, request_id
from sitq import ContextVars, TaskHandle, TaskQueue, Worker


async def serve(queue: TaskQueue, order: int) -> list[TaskHandle[str]]:
    """One request, as a web framework runs it: in a context of its own."""
    request_id.set(f"r-{order}")
    return [await queue.enqueue(charge, order), await queue.enqueue(print_label, order)]


async def main(db: Path) -> None:
    async with TaskQueue(db, context_providers=[ContextVars(request_id)]) as queue, Worker(queue):
        async with asyncio.TaskGroup() as group:
            requests = [
                group.create_task(serve(queue, order), context=contextvars.copy_context()) for order in (1, 2)
            ]
        handles = [handle for request in requests for handle in request.result()]
        handles.append(await queue.enqueue(print_label, 3))  # outside of a request
        for handle in handles:
            print(await handle.result(timeout=30))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        asyncio.run(main(Path(name) / "request_context.db"))
