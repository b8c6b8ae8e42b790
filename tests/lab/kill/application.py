"""What the command `sitq worker` is given: a queue that writes a journal, in the folder that a variable names."""

import os
import threading
from pathlib import Path

FOLDER = "SITQ_LAB_FOLDER"
PARENT = "SITQ_LAB_PARENT"
"""The number of the end of a pipe whose other end is closed when the parent is gone."""


def queue() -> object:
    """Make the queue; end this process when its parent is gone."""
    from sitq import TaskQueue
    from tests.lab.kill.crew import journalled

    parent = int(os.environ[PARENT])
    threading.Thread(target=lambda: (os.read(parent, 1), os._exit(3)), daemon=True).start()
    backend, _ = journalled(Path(os.environ[FOLDER]))
    return TaskQueue(backend)
