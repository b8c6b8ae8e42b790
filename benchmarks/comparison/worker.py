"""A worker of a peer, in a process of its own. Arguments: PEER PLACE CONCURRENCY. Begins at a line on its input."""

import os
import sys

from benchmarks.peers import interface, work


def main(name: str, place: str, concurrency: str) -> None:
    """Load what is needed, say so, wait for the word, work until the process is killed."""
    where = interface.Place.from_json(place)
    os.environ[work.VARIABLE] = str(where.marks)
    os.chdir(where.folder)
    adapter = interface.load(name)
    print("ready", flush=True)
    sys.stdin.readline()
    # Whatever a peer prints would be taken for an answer, or fill the pipe.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    adapter.work(where, int(concurrency))


if __name__ == "__main__":
    main(*sys.argv[1:])
