"""A script without an event loop, and a worker in a process of its own.

    python -m examples.sync_client

Prints

    2 tasks stored, nothing runs yet: pending, pending
    worker started
    a.png is 300 pixels wide
    hello from a function of this script
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from examples.images import resize
from sitq import SyncTaskQueue


def greet() -> str:
    """The worker cannot import this script. So the function itself travels with the call."""
    return "hello from a function of this script"


def main(db: Path) -> None:
    with SyncTaskQueue(db) as queue:
        # The worker imports `examples.images`, which it can, because it starts in the same folder as this script.
        resized = queue.enqueue(resize, "a.png", width=300)
        greeted = queue.enqueue(greet)
        print(f"2 tasks stored, nothing runs yet: {resized.status()}, {greeted.status()}")

        # As in a shell: python -m sitq worker sync_client.db
        command = [sys.executable, "-m", "sitq", "worker", str(db), "--log-level", "error"]
        worker = subprocess.Popen(command)
        try:
            print("worker started")
            print(resized.result(timeout=30))
            print(greeted.result(timeout=30))
        finally:
            worker.terminate()
            worker.wait()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder) / "sync_client.db")
