"""What may be done besides with stores that outlive the object, and with those that have several clients."""

import shutil
import sqlite3
from contextlib import closing
from copy import deepcopy
from typing import Any

import pytest
from hypothesis.stateful import rule

from sitq.backends.base import finished
from sitq.model import Succeeded
from tests.lab.model import draws
from tests.lab.model.compare import said
from tests.lab.model.draws import Drawn
from tests.lab.model.drive import Tally, folder_in_memory
from tests.lab.model.machine import Histories
from tests.stores import Store


def histories(store: Store, tally: Tally) -> Histories:
    """A machine with all that this kind of store can do."""
    if store.shared:
        return SharedHistories(store, tally)
    return LastingHistories(store, tally) if store.survives_close else Histories(store, tally)


class LastingHistories(Histories):
    @rule()
    def reopen(self) -> None:
        self.run(self.backend.close())
        self.run(self.backend.open())


class SharedHistories(Histories):
    @rule(how=draws.restarts)
    def restart(self, how: str) -> None:
        """Go on with the same object; or with a new one; or with what a kill would leave."""
        if how == "closed":
            self.run(self.backend.close())
            self.run(self.backend.open())
        elif how == "replaced":
            former, self.backend = self.backend, self.store.make(self.folder, self.clock)
            self.run(self.backend.open())
            self.run(former.close())
        else:
            self.crash()

    def crash(self) -> None:
        """The files as they are now, with nothing closed."""
        left = folder_in_memory()
        shutil.copytree(self.folder, left, dirs_exist_ok=True)
        self.run(self.backend.close())
        shutil.rmtree(self.folder)
        self.folder = left
        self.backend = self.store.make(self.folder, self.clock)
        self.run(self.backend.open())

    @rule(tasks=draws.more_tasks, room=draws.room, ending=draws.endings, lines=draws.notes)
    def within(
        self, tasks: list[Drawn], room: dict[str, int], ending: tuple[int | None, bool], lines: Any
    ) -> None:
        """In a transaction of the application, which ends one way or the other."""
        (number, commits), now = ending, self.clock.now()
        before = self.model if commits else deepcopy(self.model)
        with closing(sqlite3.connect(self.folder / "tasks.db")) as db:
            inside = self.backend.within(db)
            batch = self.batch(tasks, now)
            expected = self.model.enqueue(batch, room, now)
            if isinstance(expected, Exception):
                with pytest.raises(type(expected)):
                    finished(inside.enqueue(batch, max_pending=room))
            else:
                assert finished(inside.enqueue(batch, max_pending=room)) == expected
            if number is not None:
                held, notes = self.hold(number), said(self.hold, lines)
                accepted = self.model.current(held, running=True) is not None
                if accepted:
                    self.model.write_all(notes, now)
                    assert self.model.apply(Succeeded(held, b"inside"), now)
                    self.model.follow(now)
                assert finished(inside.complete(Succeeded(held, b"inside"), notes=lambda: notes)) is accepted
            if commits:
                db.commit()
        self.model = before
