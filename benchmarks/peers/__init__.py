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
    "honker",
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
