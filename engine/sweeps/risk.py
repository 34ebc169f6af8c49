"""The risk of a group: points for stated terms, by which groups are ranked; of an outlet, by its
liveness results; and totals over the groups of a sweep.

Each term counts one thing and brings points by its scale in `SCALES`: straight lines between the
values, constant before the first and after the last. More never brings less. The terms of a kind
bring 100 points at most. They say in which order to look, not how likely fraud is.
"""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np

from engine.accuracy.pair_scores import wilson_interval
from engine.registry.enrollments import LivenessCount
from schema import frozen
from schema.lines import LineStatus
from schema.sweeps import Group, GroupKind, Identity, LineFact, RiskTerm

_WEEK = timedelta(weeks=1)

_SellerOf = Callable[[LineFact], tuple[str, str | None]]


@frozen(kw_only=True)
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


@frozen(kw_only=True)
class Seller:
    """Totals of an outlet, or of a carrier with all its outlets (`outlet` is None)."""

    carrier: str
    outlet: str | None
    groups: int
    identities: int
    lines: int
    disputed_lines: int
    highest_risk: float


@frozen
class Week:
    """A week (ISO 8601, UTC) by its first day, and the number of lines opened in it."""

    monday: date
    lines: int


@frozen(kw_only=True)
class SweepSummary:
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


def summarise(groups: Sequence[Group]) -> SweepSummary:
    """Sums up all groups."""
    lines = {line.line_id: line for group in groups for line in group.lines}
    found = Counter(group.kind for group in groups)
    outlets = _count_sellers(groups, lambda line: (line.carrier, line.outlet))
    carriers = _count_sellers(groups, lambda line: (line.carrier, None))
    return SweepSummary(
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


BURST = timedelta(days=7)
"""Openings within this time count as a burst."""

LIVENESS_WINDOW = timedelta(days=90)
"""Liveness results before a sweep that outlets are ranked by."""

FEW_FAILED = 3

Scale = tuple[tuple[float, float], ...]
"""Values and their points, both ascending."""

SCALES: dict[str, Scale] = {
    # Documents of one face; one is normal.
    "identities": ((1, 0), (2, 12), (3, 18), (5, 24), (10, 30), (20, 35)),
    # Foreign faces that tried one document; one may be a mistake at the counter.
    "attempts": ((1, 0), (2, 15), (3, 25), (5, 35), (10, 50)),
    # Lines of a ring that answered with another face.
    "changed_lines": ((1, 0), (3, 20), (5, 30), (10, 42), (20, 50)),
    "carriers": ((1, 0), (2, 7), (3, 10)),
    "outlets": ((1, 0), (2, 4), (5, 10)),
    # The most openings (or changes, or attempts) within `BURST`.
    "burst": ((1, 0), (2, 4), (5, 10), (10, 15)),
    # How far the weakest link lies above the threshold, as a share of what lies above it.
    "score": ((0, 0), (0.5, 15)),
    # Lines that their holders say they never opened, not decided yet.
    "disputes": ((0, 0), (1, 9), (3, 15)),
}

TERMS: dict[GroupKind, tuple[str, ...]] = {
    GroupKind.ONE_FACE: ("identities", "carriers", "outlets", "burst", "score", "disputes"),
    GroupKind.ONE_DOCUMENT: ("attempts", "carriers", "outlets", "burst", "disputes"),
    GroupKind.RESALE_RING: ("changed_lines", "carriers", "outlets", "burst", "disputes"),
}


def assess_faces(
    identities: Sequence[Identity], weakest: float, threshold: float
) -> tuple[RiskTerm, ...]:
    """The terms of documents with one face; `weakest` is the score of their weakest link."""
    lines = [line for identity in identities for line in identity.lines]
    margin = (weakest - threshold) / (1 - threshold) if threshold < 1 else 0.0
    return assess(
        GroupKind.ONE_FACE,
        len(identities),
        ((line.carrier, line.outlet) for line in lines),
        [line.opened_at for line in lines],
        sum(identity.disputes for identity in identities),
        min(max(margin, 0.0), 1.0),
    )


def assess(
    kind: GroupKind,
    count: int,
    sellers: Iterable[tuple[str, str]],
    moments: Sequence[datetime],
    disputes: int,
    score: float = 0.0,
) -> tuple[RiskTerm, ...]:
    """The terms of `count` documents of one face, foreign attempts or changed lines at these
    (carrier, outlet)."""
    places = set(sellers)
    values = {
        TERMS[kind][0]: float(count),
        "carriers": float(len({carrier for carrier, _ in places})),
        "outlets": float(len(places)),
        "burst": float(count_burst(moments)),
        "score": score,
        "disputes": float(disputes),
    }
    return tuple(
        RiskTerm(name, values[name], points_of(name, values[name])) for name in TERMS[kind]
    )


def count_burst(moments: Sequence[datetime]) -> int:
    """The most moments that lie within `BURST` of one of them."""
    ordered = sorted(moments)
    return max(
        (bisect_right(ordered, moment + BURST) - i for i, moment in enumerate(ordered)), default=0
    )


def points_of(name: str, value: float) -> float:
    """The points of a term, to a tenth."""
    values, points = zip(*SCALES[name], strict=True)
    return round(float(np.interp(value, values, points)), 1)


def total_of(terms: Iterable[RiskTerm]) -> float:
    """The sum of all points: 0 to 100."""
    return round(sum(term.points for term in terms), 1)


def rank(groups: Iterable[Group]) -> list[Group]:
    """Sorts by highest risk, then most identities, then key."""
    return sorted(groups, key=lambda group: (-group.risk, -len(group.identities), group.key))


@frozen
class RankedOutlet:
    """Liveness results of an outlet, signed ones and those of a judge of the picture; `lowest` is
    the lower end of the 95 % interval of the share that failed. `proofs` came without a face."""

    carrier: str
    outlet: str
    signed: int
    signed_failed: int
    judged: int
    judged_failed: int
    proofs: int
    lowest: float


def rank_outlets(counts: Iterable[LivenessCount]) -> tuple[RankedOutlet, ...]:
    """The outlets with failed liveness results, by the lower end of their share's interval, those
    with fewer than `FEW_FAILED` after them: not by customers, nor one whose only customer failed.
    Where none failed, last, those with most proofs first."""
    sellers: dict[tuple[str, str], dict[bool, LivenessCount]] = {}
    for one in counts:
        sellers.setdefault((one.carrier, one.outlet), {})[one.is_judged] = one
    outlets = []
    for (carrier, outlet), found in sellers.items():
        nothing = LivenessCount(carrier, outlet, False, 0, 0)
        signed, judged = found.get(False, nothing), found.get(True, nothing)
        failed = signed.failed + judged.failed
        if failed or signed.proofs:
            results = signed.results + judged.results
            lowest = wilson_interval(failed, results)[0] if failed else 0.0
            told = (signed.results, signed.failed, judged.results, judged.failed, signed.proofs)
            outlets.append(RankedOutlet(carrier, outlet, *told, lowest))
    return tuple(sorted(outlets, key=_place_outlet))


def _place_outlet(one: RankedOutlet) -> tuple[bool, float, int, str, str]:
    is_few = one.signed_failed + one.judged_failed < FEW_FAILED
    return is_few, -one.lowest, -one.proofs, one.carrier, one.outlet
