"""Who is to be woken: the listeners of this process, and those of the others, which a table tells.

The bells ring inside this process; the doorbell is rung by the others, the ringer rings theirs.
"""

import logging
import sqlite3
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from sitq.backends.base import Bells
from sitq.backends.sqlite.doorbell import Doorbell, Ringer
from sitq.backends.sqlite.rings import Rings
from sitq.backends.sqlite.schema import MICROSECOND
from sitq.model import CancelTopic, QueueTopic, TaskTopic, Topic

_REFRESH: Final = timedelta(seconds=60) // MICROSECOND
_LIFETIME: Final = timedelta(minutes=10) // MICROSECOND

logger = logging.getLogger("sitq.sqlite")

_ANNOUNCE: Final = """
INSERT OR REPLACE INTO sitq_listeners (port, token, queues, tasks, cancels, seen_at) VALUES (?, ?, ?, ?, ?, ?)
"""


class Listeners:
    """What one backend object knows of them.

    Attributes:
        rings: Filled by the operations of a transaction and read after its commit, both on the writer's thread.
    """

    def __init__(self, bells: Bells) -> None:
        self.rings = Rings()
        self.doorbell = Doorbell(bells)
        self.ringer = Ringer()
        self._bells = bells
        self._announced: dict[type[Topic], int] = {}
        self._refreshed_at = 0

    def close(self) -> None:
        self._announced.clear()
        self.doorbell.close()
        self._bells.ring_all()

    def silence(self) -> None:
        """Let go of the sockets to the others, when no transaction comes any more."""
        self.ringer.close()

    # -- The list ----------------------------------------------------------------------------------

    @property
    def listed_at(self) -> int | None:
        """The port under which this process is on the list of listeners, if it is."""
        return self.doorbell.port if self._announced else None

    def announce(self, kinds: set[type[Topic]], now: int) -> Callable[[sqlite3.Connection], None] | None:
        """What tells the other processes that this one wants to be rung; None if they know it already."""
        known = all(self._announced.get(kind, 0) > now - _REFRESH for kind in kinds)
        if self.doorbell.port is None or known:
            return None
        self._announced.update(dict.fromkeys(kinds, now))
        return lambda db: self.refresh(db, now)

    def take_back(self, kinds: set[type[Topic]]) -> None:
        """Who knows whether the others were told: the next announcement is made in any case."""
        self._announced.update(dict.fromkeys(kinds, 0))

    def refresh_if_old(self, db: sqlite3.Connection, now: int) -> None:
        if now - self._refreshed_at >= _REFRESH:
            self.refresh(db, now)

    def refresh(self, db: sqlite3.Connection, now: int) -> None:
        """Keep this process on the list, and take those off it who did not do that for long."""
        if self.listed_at is None:
            return
        self._refreshed_at = now
        topics = (topic in self._announced for topic in (QueueTopic, TaskTopic, CancelTopic))
        db.execute(_ANNOUNCE, (self.listed_at, self.doorbell.token, *topics, now))
        db.execute("DELETE FROM sitq_listeners WHERE seen_at < ?", (now - _LIFETIME,))

    # -- The ring ----------------------------------------------------------------------------------

    def committed(self) -> Rings:
        """Take what the transaction that was just committed has to ring."""
        rings, self.rings = self.rings, Rings()
        return rings

    def ring_here(self, rings: Rings) -> None:
        """Ring the bells of this process."""
        if rings.queues:
            self._bells.ring_queues(rings.queues)
        if rings.tasks:
            self._bells.ring_tasks(rings.tasks)
        if rings.cancels:
            self._bells.ring_cancels()

    def ring_others(self, db: sqlite3.Connection, rings: Rings) -> None:
        if not rings:
            return
        try:
            self.ringer.ring(db, self.doorbell.port, rings)
        except sqlite3.Error:
            logger.debug("could not ring the other processes; they will poll", exc_info=True)
