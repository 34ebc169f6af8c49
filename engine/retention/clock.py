"""The clock that retention goes by: a wrong one would delete everything at once, for good.

The registry itself bears witness. Whatever it stores has an entry in the audit chain, with its
moment; a clock that was set leaves a jump between two entries, or after the last. Between two days
of a running service there is always an entry: that of the daily run.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from engine.errors import ClockImplausible, RequestError
from engine.registry.audit import AuditEntry, newest_of, read_moments
from engine.registry.store import Reader, Store
from engine.retention.job import RUN

CONFIRMED = "clock.confirmed"
"""Action of the audit entry by which an operator vouches for the clock."""
MOST_SILENCE = timedelta(days=7)
"""The longest time without any audit entry that is taken as it is."""
MOST_BACKWARDS = timedelta(days=1)
"""So far the moment of an entry may lie before that of the one before it."""
MOST_SET = timedelta(hours=1)
"""By so much a clock may be set while a service runs."""
_ADVICE = (
    "nothing is deleted: set the clock right, then run "
    "`sosie retention confirm-clock DAY` with today's date"
)


Seen = tuple[int, datetime | None]
"""The number and moment of the last entry of the audit chain that was looked at."""


def check_clock(reader: Reader, now: datetime, seen: Seen | None = None) -> Seen:
    """`ClockImplausible` where the clock, or the entries since retention last ran, jumped.

    A run and a confirmation settle what lies before them. What was `seen` before is not read again.
    """
    if seen is None:
        newest = newest_of(reader, (RUN, CONFIRMED))
        seen = (0, None) if newest is None else (newest.number, newest.at)
    last, before = seen
    for number, at in read_moments(reader, last):
        if before is not None:
            _require_near(before, at, f"entry {number} of the audit chain")
        last, before = number, at
    if before is not None:
        _require_near(before, now, "this clock")
    return last, before


def find_clock_fault(reader: Reader, now: datetime) -> str | None:
    """The reason for which `check_clock` would refuse, in one line; None where it would not."""
    try:
        check_clock(reader, now)
    except ClockImplausible as error:
        return str(error)
    return None


def check_step(reader: Reader, expected: datetime, now: datetime, elapsed: timedelta) -> None:
    """`ClockImplausible` where the clock was set by more than an hour since it was last looked at.

    `expected` is that look's moment and the time that has `elapsed` since, which no setting of a
    clock changes.
    """
    if abs(now - expected) <= MOST_SET:
        return
    confirmed = newest_of(reader, (CONFIRMED,))
    if confirmed is not None and timedelta() <= now - confirmed.at <= elapsed + MOST_SET:
        return
    raise ClockImplausible(
        f"the clock was set from {_show(expected)} to {_show(now)} while the service ran; {_ADVICE}"
    )


def confirm_clock(store: Store, today: date, now: datetime, actor: str) -> None:
    """Has it on record that the clock is right, in the operator's own words of what day it is.

    `RequestError` where the clock says another day (UTC).
    """
    if now.astimezone(UTC).date() != today:
        raise RequestError(
            f"this machine's clock says {_show(now)} (UTC): set it right, or give today's date"
        )
    store.note(AuditEntry(actor, CONFIRMED, "clock", {"today": today.isoformat()}))


def _require_near(before: datetime, after: datetime, what: str) -> None:
    if -MOST_BACKWARDS <= after - before <= MOST_SILENCE:
        return
    raise ClockImplausible(
        f"{what} says {_show(after)}, and the entry before it {_show(before)}; {_ADVICE}"
    )


def _show(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M")
