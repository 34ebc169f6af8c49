"""Who fails to enroll, by group: failure to enroll, further tries and seconds (ISO/IEC 19795-10).

A person is a document, from its first try to the first that is approved. They failed where none
was approved or left to people, and one was turned away for a photograph, for liveness or because
the two faces differ. No count from 1 to below `least` is told, nor one that would tell it.
"""

import csv
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from itertools import groupby
from pathlib import Path
from statistics import median_low

from engine.accuracy.pair_scores import wilson_interval
from engine.errors import RequestError
from engine.matching.calibration import Rate
from engine.matching.documents import find_time_zone
from engine.registry.database import Progress, untold
from engine.registry.enrollments import AttemptRecord
from engine.registry.rows import read_apart
from engine.registry.store import Reader
from schema.decoding import Value
from schema.reasons import About, Decision, Reason

_ABOUT_FACE = frozenset(
    one.value
    for one in Reason
    if one.row.about in (About.PHOTOGRAPH, About.LIVENESS) or one is Reason.FACE_MISMATCH
)
KEYS = ("document_id", "enrollment_id")
UNKNOWN = "unknown"

Labels = Mapping[str, Mapping[str, str]]
"""Groups by column, of each document or enrollment."""


class FailureCounts(Value):
    """The people of a group; rates are None where they are withheld. `seconds` is the median from
    the first try to the approval, of those who needed several."""

    by: str
    group: str
    people: int
    failed: Rate | None
    tried_again: Rate | None
    seconds: float | None


class FailureReport(Value):
    """Groups with at least `least` people, and how many more were withheld."""

    least: int
    groups: list[FailureCounts]
    withheld: int


@dataclass(slots=True)
class _Group:
    counts: Counter[str] = field(default_factory=Counter)
    # At two digits: as many entries as there are different ones, and not people.
    seconds: Counter[float] = field(default_factory=Counter)

    def add(self, tries: Sequence[AttemptRecord]) -> None:
        decisions = [one.decision for one in tries]
        is_approved = Decision.APPROVED in decisions
        last = decisions.index(Decision.APPROVED) if is_approved else len(tries) - 1
        self.counts["people"] += 1
        self.counts["again"] += last > 0
        if set(decisions) == {Decision.REJECTED}:
            self.counts["failed"] += any(not _ABOUT_FACE.isdisjoint(one.reasons) for one in tries)
        if is_approved and last:
            waited = tries[last].created_at - tries[0].created_at
            self.seconds[float(f"{waited.total_seconds():.2g}")] += 1


def report_failures(
    registry: Reader,
    span: tuple[datetime, datetime],
    time_zone: str,
    least: int,
    labels: Labels | None = None,
    progress: Progress = untold,
) -> FailureReport:
    """Of those who tried from one moment to before another: of all, by carrier, outlet and hour of
    the first try (of its outlet, else of `time_zone`), and by the columns of `labels`."""

    @cache
    def zone_of(outlet: str) -> str:
        known = read_apart([outlet], registry.outlets).get(outlet)
        return (known and known.time_zone) or time_zone

    groups: dict[str, dict[str, _Group]] = defaultdict(lambda: defaultdict(_Group))
    for key, person in groupby(registry.tries(*span, progress), key=lambda one: one.document_id):
        tries = sorted(person, key=lambda one: one.created_at)
        first = tries[0]
        hour = first.created_at.astimezone(find_time_zone(zone_of(first.outlet))).strftime("%H")
        names = {"all": "", "carrier": first.carrier, "outlet": first.outlet, "hour": hour}
        for column, known in (labels or {}).items():
            names[column] = known.get(str(key)) or known.get(first.id) or UNKNOWN
        for by, name in names.items():
            groups[by][name].add(tries)
    shown = [one for by, some in groups.items() for one in _describe(by, some, least)]
    return FailureReport(least, shown, sum(map(len, groups.values())) - len(shown))


def _describe(by: str, groups: Mapping[str, _Group], least: int) -> list[FailureCounts]:
    told = {
        what: _choose_told({name: one.counts[what] for name, one in groups.items()}, least)
        for what in ("people", "failed", "again")
    }

    def rate(name: str, what: str) -> Rate | None:
        events, people = groups[name].counts[what], groups[name].counts["people"]
        if name not in told[what]:
            return None
        return Rate(events / people, *wilson_interval(events, people))

    return [
        FailureCounts(
            by,
            name,
            groups[name].counts["people"],
            rate(name, "failed"),
            rate(name, "again"),
            # Of fewer a median would be one person's.
            median_low(seconds.elements()) if seconds.total() >= least else None,
        )
        for name in sorted(told["people"])
        for seconds in (groups[name].seconds,)
    ]


def _choose_told(counts: Mapping[str, int], least: int) -> set[str]:
    """Those whose count may be told: none of them, or so many that what is withheld is at least
    `least` together, else it would be what is left of the whole."""
    nobody = {name for name, people in counts.items() if not people}
    ordered = sorted(counts.keys() - nobody, key=lambda name: (counts[name], name))
    withheld = 0
    for place, name in enumerate(ordered):
        if counts[name] >= least and (not place or withheld >= least):
            return nobody | set(ordered[place:])
        withheld += counts[name]
    return nobody


def read_labels(path: Path) -> Labels:
    """The columns of a CSV beside `document_id` or `enrollment_id`; an empty cell is unknown."""
    labels: dict[str, dict[str, str]] = defaultdict(dict)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file, restval="")
            names = rows.fieldnames or ()
            key = next((one for one in KEYS if one in names), None)
            if key is None:
                raise RequestError(f"{path.name} needs a column `document_id` or `enrollment_id`")
            # One text for each label, and not for each line.
            texts: dict[str, str] = {}
            for row in rows:
                for name in names:
                    if name not in KEYS and (label := row[name].strip()):
                        labels[name][row[key]] = texts.setdefault(label, label)
    except (OSError, UnicodeDecodeError, csv.Error):
        raise RequestError(f"{path.name} can't be read: give a CSV in UTF-8") from None
    return labels
