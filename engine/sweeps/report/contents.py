"""The contents of a sweep report, and its texts: numbers, dates, names, kinds and risk terms."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from datetime import UTC, datetime
from typing import Any

from engine.cases.decided import MeasuredPrecision
from engine.formatting import count, percent, plural, with_interval
from engine.matching.calibration import CalibrationCurve, Rate
from engine.sweeps.likelihood import MINUTES
from engine.sweeps.risk import BURST, SCALES, RankedOutlet, SweepSummary
from indexes.base import Floats
from schema import frozen
from schema.sweeps import Group, GroupKind, RiskTerm, SweepTerms


@frozen(kw_only=True, eq=False)
class ReportedSweep:
    """The sweep: the gallery at `sequence`, with so many references."""

    id: str
    terms: SweepTerms
    made_at: datetime
    sequence: int
    references: int
    comparisons: int
    seconds: float
    same_document_pairs: int
    """Left out of `scores`: one person under one document is expected."""
    excepted_pairs: int
    """Left out as confirmed twins or mistakes."""
    ranking: Mapping[str, Any] | None = None
    """Of a sweep with a budget, `budget.Ranking.to_dict`: how its groups were chosen."""


@frozen(kw_only=True)
class Chance:
    """Pairs expected by chance of this sweep's comparisons at its threshold, and the calibration
    behind them: its curve of fused references, and its data."""

    false_pairs: Rate
    curve: CalibrationCurve
    source: str


@frozen(kw_only=True, eq=False)
class ReportInput:
    """Everything that a report shows.

    `scores`: float32[m], of every pair found between different documents; of a sweep with a budget,
    of those in its groups. `groups`: ranked, highest risk first. `judged`: of all pairs judged so
    far. `cases`: case id by group key. `carrier_names`: by carrier code. `crops`: aligned faces,
    JPEG or PNG, by document id; without it the report holds no face.
    """

    sweep: ReportedSweep
    chance: Chance
    scores: Floats
    groups: Sequence[Group]
    summary: SweepSummary
    liveness: Sequence[RankedOutlet] = ()
    """Outlets where liveness checks failed, or proofs came without a face, ranked."""
    fraud_in_use: int = 0
    """Cases that were decided to be fraud and have lines in use, of whatever sweep."""
    judged: MeasuredPrecision | None = None
    cases: Mapping[str, str] = field(default_factory=dict)
    carrier_names: Mapping[str, str] = field(default_factory=dict)
    crops: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    console: str = ""
    """The address of the console, where a report may link its cases; empty: it names them alone."""


KIND_NAMES = {
    GroupKind.ONE_FACE: "One face, many documents",
    GroupKind.ONE_DOCUMENT: "One document, many faces",
    GroupKind.RESALE_RING: "Resale ring",
}
KIND_MEANINGS = {
    GroupKind.ONE_FACE: "Documents whose holders seem to be one person.",
    GroupKind.ONE_DOCUMENT: "A document that different people seem to have used.",
    GroupKind.RESALE_RING: "Lines that are used by other people than those who opened them.",
}


def format_rate(rate: Rate) -> str:
    """An expected count with its interval."""
    return with_interval(rate.value, rate.low, rate.high, rate.is_bound, write=count)


def format_share(share: float) -> str:
    """Per cent, on one line."""
    return percent(share).replace(" ", "\N{NO-BREAK SPACE}")


def format_moment(moment: datetime) -> str:
    """The date and time in UTC, to the minute."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def format_day(moment: datetime) -> str:
    """The date in UTC."""
    return moment.astimezone(UTC).date().isoformat()


@frozen
class RiskReason:
    """A term of a risk as text, with its points and the `most` it can bring; None of a ratio."""

    text: str
    points: float
    most: float | None


_EVENTS = {
    GroupKind.ONE_FACE: "opening",
    GroupKind.ONE_DOCUMENT: "attempt",
    GroupKind.RESALE_RING: "change",
}
_TEXTS: Mapping[str, Callable[[float], str]] = {
    "identities": lambda value: plural(
        int(value), "document with one face", "documents with one face"
    ),
    "attempts": lambda value: plural(int(value), "foreign face tried it", "foreign faces tried it"),
    "changed_lines": lambda value: plural(int(value), "line changed face", "lines changed face"),
    "carriers": lambda value: plural(int(value), "carrier"),
    "outlets": lambda value: plural(int(value), "outlet"),
    "score": lambda value: f"link margin {format_share(round(value, 2))}",
    "disputes": lambda value: plural(int(value), "open dispute"),
}


def describe_term(term: RiskTerm, kind: GroupKind) -> RiskReason:
    """Describes a term; one without a text here is shown by its name."""
    if term.name in RATIO_TEXTS:
        return RiskReason(_describe_ratio(term), term.points, None)
    scale = SCALES.get(term.name)
    return RiskReason(
        _describe_value(term, kind), term.points, scale[-1][1] if scale else term.points
    )


RATIO_TEXTS: Mapping[str, str] = {
    "prior": "Before a face is compared",
    "score_ratio": "The score of the strongest pair",
    "same_outlet_minutes": f"One outlet within {MINUTES} minutes",
    "same_outlet_day": "One outlet within a day",
    "same_outlet_month": "One outlet within 30 days",
    "same_outlet": "One outlet at different times",
    "other_outlet": "Never one outlet",
    "alike_name_and_birth": "Similar names and one birth date",
    "alike_name": "Similar names, other birth dates",
    "same_birth": "One birth date, other names",
    "other_name_and_birth": "Other names and birth dates",
    "similar_name": "Similar names",
    "other_name": "Other names",
    "close_number": "Passport numbers that are close",
    "distant_number": "Passport numbers that are not close",
    "disputed": "A line is disputed",
    "not_disputed": "No line is disputed",
    "further_identities": "Further identities",
}
"""What the terms of a sweep with a budget say of a group's strongest pair (`likelihood`)."""


def _describe_ratio(term: RiskTerm) -> str:
    text = RATIO_TEXTS[term.name]
    if term.name == "prior":
        return f"{text}: one reference in {count(term.value)} is the same person's"
    if term.name == "further_identities":
        return plural(int(term.value), "further identity", "further identities")
    return f"{text}: {count(term.value)} times as likely of one person"


def _describe_value(term: RiskTerm, kind: GroupKind) -> str:
    if term.name == "burst":
        return f"{plural(int(term.value), _EVENTS[kind])} within {BURST.days} days"
    write = _TEXTS.get(term.name)
    return write(term.value) if write else f"{term.name.replace('_', ' ')}: {term.value:g}"
