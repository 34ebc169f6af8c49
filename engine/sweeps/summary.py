"""Totals over the groups of a sweep: in all, by outlet, by carrier, by week."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from engine.sweeps.sweep_model import Group, GroupKind, LineFact
from schema.lines import LineStatus

_WEEK = timedelta(weeks=1)

_SellerOf = Callable[[LineFact], tuple[str, str | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Totals; a document or line that several groups share counts once."""

    groups: int
    kinds: Mapping[GroupKind, int]
    identities: int
    lines: int
    disputed_lines: int
    closed_lines: int
    carriers: int
    outlets: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Seller:
    """Totals of an outlet, or of a carrier with all its outlets (`outlet` is None)."""

    carrier: str
    outlet: str | None
    groups: int
    identities: int
    lines: int
    disputed_lines: int
    highest_risk: float


@dataclass(frozen=True, slots=True)
class Week:
    """A week (ISO 8601, UTC) by its first day, and the number of lines opened in it."""

    monday: date
    lines: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Totals; outlets and carriers with most lines first; weeks in order, empty ones left out."""

    totals: Totals
    outlets: tuple[Seller, ...]
    carriers: tuple[Seller, ...]
    weeks: tuple[Week, ...]

    def counts(self) -> dict[str, Any]:
        """The totals as plain JSON, for `SweepRecord.summary`."""
        return asdict(self.totals) | {
            "kinds": {kind.value: count for kind, count in self.totals.kinds.items()}
        }


def summarise(groups: Sequence[Group]) -> Summary:
    """Sums up all groups."""
    lines = {line.line_id: line for group in groups for line in _lines(group)}
    found = Counter(group.kind for group in groups)
    outlets = _count_sellers(groups, lambda line: (line.carrier, line.outlet))
    carriers = _count_sellers(groups, lambda line: (line.carrier, None))
    return Summary(
        totals=Totals(
            groups=len(groups),
            kinds={kind: found[kind] for kind in GroupKind},
            identities=len({one.document_id for group in groups for one in group.identities}),
            lines=len(lines),
            disputed_lines=_count_status(lines.values(), LineStatus.DISPUTED),
            closed_lines=_count_status(lines.values(), LineStatus.CLOSED),
            carriers=len(carriers),
            outlets=len(outlets),
        ),
        outlets=outlets,
        carriers=carriers,
        weeks=_count_weeks(lines.values()),
    )


def monday_of(moment: datetime) -> date:
    """The first day of this moment's week, in UTC."""
    day = moment.astimezone(UTC).date()
    return day - timedelta(days=day.weekday())


def fill_weeks(weeks: Sequence[Week], most: int) -> tuple[Week, ...]:
    """The last `most` weeks up to the last opening, with empty weeks as zeros."""
    if not weeks:
        return ()
    lines = {week.monday: week.lines for week in weeks}
    last = weeks[-1].monday
    span = min((last - weeks[0].monday) // _WEEK + 1, most)
    mondays = (last - _WEEK * back for back in reversed(range(span)))
    return tuple(Week(monday, lines.get(monday, 0)) for monday in mondays)


def _lines(group: Group) -> Iterable[LineFact]:
    return (line for identity in group.identities for line in identity.lines)


def _count_status(lines: Iterable[LineFact], status: LineStatus) -> int:
    return sum(line.status == status for line in lines)


def _count_weeks(lines: Iterable[LineFact]) -> tuple[Week, ...]:
    counts = Counter(monday_of(line.opened_at) for line in lines)
    return tuple(Week(monday, counts[monday]) for monday in sorted(counts))


class _Tally:
    """Distinct groups, documents and lines of one seller."""

    def __init__(self) -> None:
        self.groups: set[str] = set()
        self.documents: set[str] = set()
        self.lines: dict[str, LineFact] = {}
        self.highest_risk = 0.0


def _count_sellers(groups: Sequence[Group], seller_of: _SellerOf) -> tuple[Seller, ...]:
    tallies: defaultdict[tuple[str, str | None], _Tally] = defaultdict(_Tally)
    for group in groups:
        for identity in group.identities:
            for line in identity.lines:
                tally = tallies[seller_of(line)]
                tally.groups.add(group.key)
                tally.documents.add(identity.document_id)
                tally.lines[line.line_id] = line
                tally.highest_risk = max(tally.highest_risk, group.risk)
    sellers = [
        Seller(
            carrier=carrier,
            outlet=outlet,
            groups=len(tally.groups),
            identities=len(tally.documents),
            lines=len(tally.lines),
            disputed_lines=_count_status(tally.lines.values(), LineStatus.DISPUTED),
            highest_risk=tally.highest_risk,
        )
        for (carrier, outlet), tally in tallies.items()
    ]
    return tuple(sorted(sellers, key=lambda one: (-one.lines, one.carrier, one.outlet or "")))
