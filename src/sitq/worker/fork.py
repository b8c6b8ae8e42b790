"""User code that forks."""

import os


def end_if_forked(pid: int) -> None:
    """End the process of a child that user code forked and that came back from the call: it is no worker, and what it
    shares with one, the loop's wake-up pipe for example, is not its to use.
    """
    if os.getpid() != pid:
        os._exit(os.EX_SOFTWARE)
