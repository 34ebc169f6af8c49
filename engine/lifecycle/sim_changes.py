"""When a number got the SIM that it has, as far as its carrier reports that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta

from engine.errors import NotFound, NotReported
from engine.lifecycle.rules import SIM_CHANGES
from engine.matching.lines import LINE_UNKNOWN, find_line
from engine.registry.reader import Reader


@dataclass(frozen=True, slots=True)
class SimChangeTerms:
    """`since`: the carriers that report every change, by code, and from which day on; `kept`: how
    long events stay, None for good."""

    since: Mapping[str, date] = field(default_factory=dict)
    kept: timedelta | None = None

    def monitored(self, carrier: str, now: datetime) -> timedelta | None:
        """How far back all changes of a carrier's lines are known; None where they are not."""
        first = self.since.get(carrier)
        if first is None:
            return None
        known = max(now - datetime.combine(first, time(), UTC), timedelta())
        return known if self.kept is None else min(known, self.kept)

    def find(self, registry: Reader, number: str, carrier: str | None, now: datetime) -> SimChange:
        """The last change of SIM of the line in use with this number, of a carrier where it is
        given.

        `NotFound` for no such line, and for another carrier's; `NotReported` where its carrier does
        not report them: nothing known is not that nothing happened.
        """
        line = find_line(registry, number)
        if line is None or carrier not in (None, line.carrier):
            raise NotFound(LINE_UNKNOWN)
        monitored = self.monitored(line.carrier, now)
        if monitored is None:
            raise NotReported("the carrier of this number does not report changes of SIM here")
        changed = registry.life.newest_of([line.id], SIM_CHANGES).get(line.id)
        at = line.opened_at if changed is None else max(changed, line.opened_at)
        return SimChange(line.id, at if at >= now - monitored else None, monitored)


@dataclass(frozen=True, slots=True)
class SimChange:
    """The last change of a line's SIM, its opening included; None: none within what is known."""

    line_id: str
    at: datetime | None
    monitored: timedelta
