"""Nothing in sitq may reach for time, chance, threads or sockets where the simulation does not know of it."""

import ast
from pathlib import Path

import sitq
from tests.lab.sim.seams import seams, simulated
from tests.lab.sim.world import World

WATCHED = frozenset(
    {"time", "random", "secrets", "threading", "socket", "uuid", "subprocess", "multiprocessing"}
)
CALLS = frozenset({"urandom", "to_thread", "run_in_executor"})

ELSEWHERE = {
    "other processes and their pipes, which the kill harness has": {
        "sitq.worker.child", "sitq.worker.children", "sitq.worker.spawn", "sitq.worker.wire",
    },
    "the edges: a command line, a queue without a loop, signals": {
        "sitq.cli.worker", "sitq.cli.workers", "sitq.cli.arguments", "sitq.loop", "sitq.sync", "sitq.worker.signals",
    },
}  # fmt: skip
HARMLESS = {
    "sitq.backends.base": "a lock, and a thread asks whether it is itself",
    "sitq.backends.memory.backend": "a lock",
    "sitq.backends.sqlite.files": "waits for a lock that nobody holds across two callbacks",
    "sitq.backends.sqlite.lane": "its thread is replaced",
    "sitq.backends.sqlite.watch": "a lock",
    "sitq.clock": "replaced as a whole",
    "sitq.config": "a worker gets a name",
    "sitq.ids": "replaced as a whole",
    "sitq.serialization.encrypted": "nothing is encrypted here",
    "sitq.serialization.pickles": "a class that is carried",
    "sitq.serialization.tree": "a class that is carried",
    "sitq.worker.heartbeat": "its thread is replaced",
    "sitq.worker.outbox": "a lock",
    "sitq.worker.ownloop": "a lock; not played",
    "sitq.worker.portrait": "the name of the host",
    "sitq.worker.runners": "its threads are replaced",
}


def touching() -> set[str]:
    """The modules that import one of the watched modules, or call what they would be imported for."""
    root = Path(sitq.__file__).parent
    found = set[str]()
    for path in root.rglob("*.py"):
        name = ".".join(["sitq", *path.relative_to(root).with_suffix("").parts]).removesuffix(".__init__")
        if any(map(_touches, ast.walk(ast.parse(path.read_text())))):
            found.add(name)
    return found


def _touches(node: ast.AST) -> bool:
    match node:
        case ast.Import(names):
            return any(one.name in WATCHED for one in names)
        case ast.ImportFrom(module=module):
            return module in WATCHED
        case ast.Call(func=ast.Attribute(attr=attr, value=value)):
            return attr in CALLS or (attr in ("now", "utcnow") and ast.unparse(value) == "datetime")
    return False


def test_all_that_is_not_simulated_is_replaced_or_known() -> None:
    replaced = {place.partition(":")[0] for place in seams(World(1))}
    known = replaced | HARMLESS.keys() | set[str]().union(*ELSEWHERE.values())
    assert touching() - known == set()
    assert (HARMLESS.keys() | set[str]().union(*ELSEWHERE.values())) - touching() == set()


def test_everything_is_put_back() -> None:
    import sitq.backends.base
    import sitq.queue
    import sitq.worker.services

    def state() -> list[object]:
        services = sitq.worker.services
        return [services.SystemClock, services.Heartbeat, sitq.queue.datetime, sitq.backends.base.Bells._ring]

    before = state()
    with simulated(World(1)):
        assert not any(one is other for one, other in zip(before, state(), strict=True))
    assert state() == before
