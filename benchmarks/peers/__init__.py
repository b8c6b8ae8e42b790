"""Other task queues, one small module each, behind one interface: see `interface`.

Only a process of its own, with an interpreter that has the package, calls its functions.
"""

from typing import Final

NAMES: Final = (
    "sitq",
    "huey",
    "litequeue",
    "potatoq",
    "tinyjobs",
    "taskito",
    "localqueue",
    "qler",
    "arq",
    "saq",
    "streaq",
    "taskiq",
    "dramatiq",
    "rq",
    "celery",
    "repid",
    "procrastinate",
    "pgqueuer",
    "chancy",
    "oban",
)
"""In the order of the table: by where they store tasks."""

LEFT_OUT: Final = {
    "honker": "its wheels need glibc 2.38 and it publishes no sources",
    "DBOS, absurd": "durable workflows: what they store of each step is another work than a queue's",
    "APScheduler 3": "a scheduler: it stores when something is due, not tasks for workers in other processes",
    "persist-queue": "a queue without workers, leases or results; litequeue and localqueue stand for its kind",
    "django-tasks, firm-queue": "need a Django project or a port of Rails' configuration around them",
    "docket": "its tasks are tied to its own dependency injection; taskiq and streaq stand for streams of Redis",
}
"""What is not measured, and why."""
