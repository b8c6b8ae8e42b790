"""When the tasks of a rate started: plain functions of a connection.

Starts are kept as far back as the widest rate of their key looks, and are numbered. So how many fall into a period, and
when the next one is allowed, takes two seeks, however many there are.
"""

import json
import sqlite3
from datetime import timedelta
from typing import Final, NamedTuple

from sitq.backends.sqlite.schema import MICROSECOND

_MOST_FORGOTTEN: Final = 1_000
"""How many rates one call forgets."""
_LOOKED_AT_AGAIN: Final = timedelta(hours=1) // MICROSECOND
"""After how long, when a rate could not be forgotten."""

_EXPECT: Final = """
INSERT INTO sitq_rates (key, period, over_at) VALUES (?, ?, ?)
ON CONFLICT (key) DO UPDATE SET period = max(period, excluded.period), over_at = max(over_at, excluded.over_at)
"""
_START: Final = """
INSERT INTO sitq_rates (key, period, starts, over_at) VALUES (?1, ?2, 1, ?3 + ?2)
ON CONFLICT (key) DO UPDATE SET
    period = max(period, excluded.period), starts = starts + 1,
    over_at = max(over_at, ?3 + max(period, excluded.period))
RETURNING id, starts, period
"""
# Not before the one in front of it, whose caller may have read its clock later and been faster: by numbers and by
# instants they come in one order.
_NUMBERED: Final = """
INSERT INTO sitq_starts (rate, number, at)
VALUES (?1, ?2, max(?3, coalesce((SELECT at FROM sitq_starts WHERE rate = ?1 AND number = ?2 - 1), ?3)))
"""
_FIRST_WITHIN: Final = """
SELECT number, at FROM sitq_starts WHERE rate = ? AND at > ? ORDER BY at, number LIMIT 1
"""
_OVER: Final = """
SELECT id, EXISTS (SELECT 1 FROM sitq_limits INDEXED BY sitq_paced WHERE rate_key = sitq_rates.key)
FROM sitq_rates INDEXED BY sitq_rates_over WHERE over_at <= ? LIMIT ?
"""
_KEEP: Final = "UPDATE sitq_rates SET over_at = ? WHERE id IN (SELECT value FROM json_each(?))"
_AT: Final = "SELECT at FROM sitq_starts WHERE rate = ? AND number >= ? ORDER BY number LIMIT 1"


class Room(NamedTuple):
    """How many may start now, and when the next one may if none can or if all of these have."""

    free: int
    opens_at: int


def expect(db: sqlite3.Connection, key: str, period: int, due_at: int) -> None:
    """A task was stored: starts are remembered for as long as its rate looks back."""
    db.execute(_EXPECT, (key, period, due_at + period))


def may_bound(db: sqlite3.Connection, at: int) -> bool:
    """Whether there is a rate whose starts may matter at that instant."""
    return db.execute("SELECT 1 FROM sitq_rates WHERE over_at > ? LIMIT 1", (at,)).fetchone() is not None


def room(db: sqlite3.Connection, key: str, count: int, period: int, now: int) -> Room:
    known = db.execute("SELECT id, starts FROM sitq_rates WHERE key = ?", (key,)).fetchone()
    first = None if known is None else db.execute(_FIRST_WITHIN, (known[0], now - period)).fetchone()
    if known is None or first is None:
        return Room(count, now + period)
    rate, starts = known
    free = count - (starts - first[0] + 1)
    if free > 0:
        return Room(free, first[1] + period)
    [[at]] = db.execute(_AT, (rate, starts - count + 1)).fetchall()
    return Room(0, at + period)


def start(db: sqlite3.Connection, key: str, period: int, now: int) -> None:
    [[rate, number, widest]] = db.execute(_START, (key, period, now)).fetchall()
    db.execute(_NUMBERED, (rate, number, now))
    db.execute("DELETE FROM sitq_starts WHERE rate = ? AND at <= ?", (rate, now - widest))


def forget_over(db: sqlite3.Connection, now: int) -> None:
    """Drop the rates that no task has any more and whose starts bound nobody.

    One that is dropped too early knows the period of those tasks no more, and forgets the starts that bound them.
    """
    found = db.execute(_OVER, (now, _MOST_FORGOTTEN)).fetchall()
    over = [rate for rate, in_use in found if not in_use]
    for table, column in (("sitq_starts", "rate"), ("sitq_rates", "id")):
        sql = f"DELETE FROM {table} WHERE {column} IN (SELECT value FROM json_each(?))"
        db.execute(sql, (json.dumps(over),))
    # Out of the way of the next calls.
    db.execute(_KEEP, (now + _LOOKED_AT_AGAIN, json.dumps([rate for rate, in_use in found if in_use])))
