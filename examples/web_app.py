"""A web application with a queue and a worker in its own process: POST starts a job, GET tells how far it is.

    uvicorn examples.web_app:app                (or python -m examples.web_app)
    curl -d '{"name": "a.png", "width": 300}' http://127.0.0.1:8000/resize
    curl http://127.0.0.1:8000/jobs/ID?wait=5

The first answers 202 with {"id": ID}, the second one

    {"status": "success", "value": "a.png is 300 pixels wide", "error": null}

Jobs are in `web_app.db`, or in the file that the environment variable SITQ_DB names. Those that are there when the
application stops are done after its next start.
"""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from examples.images import resize
from sitq import TaskNotFoundError, TaskQueue, TaskTimeoutError, Worker


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncGenerator[dict[str, TaskQueue]]:
    """Work for as long as the application lives. At the end running jobs may finish."""
    db = os.environ.get("SITQ_DB", "web_app.db")
    async with TaskQueue(db) as queue, Worker(queue, concurrency=4, shutdown_timeout=10):
        yield {"queue": queue}


async def start_resize(request: Request) -> JSONResponse:
    job = await request.json()
    task_id = await request.state.queue.enqueue(resize, job["name"], width=job["width"])
    return JSONResponse({"id": task_id}, status_code=202, headers={"location": f"/jobs/{task_id}"})


async def show_job(request: Request) -> JSONResponse:
    queue, task_id = request.state.queue, request.path_params["task_id"]
    try:
        try:
            result = await queue.get_result(task_id, timeout=float(request.query_params.get("wait", 0)))
        except TaskTimeoutError:
            result = await queue.get_result(task_id)
    except TaskNotFoundError:
        return JSONResponse({"error": "no such job"}, status_code=404)
    return JSONResponse({"status": result.status, "value": result.value, "error": result.error})


routes = [
    Route("/resize", start_resize, methods=["POST"]),
    Route("/jobs/{task_id}", show_job),
]
app = Starlette(routes=routes, lifespan=lifespan)

if __name__ == "__main__":
    uvicorn.run(app)
