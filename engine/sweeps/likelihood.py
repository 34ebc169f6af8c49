"""The likelihood ratio of a pair of documents: how much likelier what is known of both is if they
are one person's than if they are two people's.

A million references make half a million million pairs, and with a model of limited strength
hundreds of thousands of strangers reach any threshold that finds most rings. A sweep with a budget
keeps these pairs and puts those first that are suspicious beyond their score. Each circumstance
has one of a few values, and a value's ratio is its share among pairs of one person over its share
among strangers:

- *of strangers* from the sweep itself: the pairs in the lowest part of its scores, nearly all
  of whom are strangers who look alike. They share an outlet, an age or a name more often than any
  two subscribers do, so what comes with looking alike counts for nothing here;
- *of one person* a stated assumption, which pairs that people have judged fraud correct. Only
  those count that no sweep with a budget had found: it would learn what it looked for.

Circumstances that depend on each other are one: outlet and time, name and birth date. No ratio of
one is beyond `MOST_RATIO`, and what a registry does not know is left out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import field
from datetime import date

import numpy as np
from numpy.typing import NDArray

from engine.errors import CalibrationError
from engine.matching.calibration import CalibrationCurve
from engine.sweeps.clustering import Documents
from indexes.base import Doubles, Flags, Ints
from schema import frozen

POINTS_A_DECADE = 5.0
"""Of a term for each factor of ten in its ratio."""
EVEN_POINTS = 50.0
"""Where a group's terms come to this, its strongest pair is as likely one person as not."""
SECOND_IDENTITIES = 0.01
"""The share of references that have a second identity, assumed before anything is compared. It
moves all groups alike; only what further identities add depends on it."""
MOST_RATIO, LEAST_RATIO = 1e3, 0.1
"""Of one circumstance: no coincidence alone makes a case."""
BEYOND_DECADES = 2.0
"""So far the false match rate is taken to fall on beyond the calibration, in its slope there;
scores above are hardly told apart."""
ASSUMED_PAIRS = 50
"""The weight of an assumption: as much as so many judged pairs."""
STRANGERS = 0.5
"""Strangers are read from the pairs below the score that this share of them reaches."""

MINUTES, DAY_MINUTES, MONTH_MINUTES = 15, 24 * 60, 30 * 24 * 60
_WINDOWS = np.array([MINUTES, DAY_MINUTES, MONTH_MINUTES])
MOST_LINES = 1_000
"""Lines of one document that are compared with another's."""
AT_ONCE = 1 << 21
"""Pairs of lines that are compared at once: a quarter of a gigabyte."""
UNKNOWN = -1
Codes = Ints
"""int64[m]: the value of a circumstance for each pair, as its place in `CIRCUMSTANCES`, or
`UNKNOWN`."""

CIRCUMSTANCES: Mapping[str, Mapping[str, float]] = {
    "opening": {
        "same_outlet_minutes": 0.25,
        "same_outlet_day": 0.10,
        "same_outlet_month": 0.10,
        "same_outlet": 0.10,
        "other_outlet": 0.45,
    },
    # Of two documents that both tell a birth date.
    "person": {
        "alike_name_and_birth": 0.10,
        "alike_name": 0.10,
        "same_birth": 0.10,
        "other_name_and_birth": 0.70,
    },
    "name": {"similar_name": 0.20, "other_name": 0.80},
    "number": {"close_number": 0.10, "distant_number": 0.90},
    "dispute": {"disputed": 0.10, "not_disputed": 0.90},
}
"""Each circumstance, its values from the most telling on, and the share of the pairs of one person
that is assumed to have each."""
OPENING, PERSON, NAME, NUMBER, DISPUTE = CIRCUMSTANCES
NEAR_CIRCUMSTANCES = (OPENING, DISPUTE)
"""What numbers in memory tell; the others take a look at sealed data."""
ALIKE_NAME = 85.0
"""Of 100, by rapidfuzz: words in any order, so "Li Wei" and "Wei Lii" are alike, and two people who
share a common family name are not."""
COMMON_SHARE, MOST_BEARERS = 1e-3, 20
"""A name is common from this share of the documents looked at on, and from so many bearers."""
CLOSE_NUMBERS = 50
USUAL_PAIRS = 5
"""So many pairs of strangers at one outlet may be chance, whatever its size."""
LEAST_STRANGERS = 200
"""From fewer pairs of strangers no ratio is taken."""


@frozen
class ScoreRatio:
    """The likelihood ratio of a score, from a calibration's curve of fused references.

    The density of strangers follows the false match rate, its logarithm straight between decades,
    and beyond the last rate for `BEYOND_DECADES`. That of mates, measured up to there, rises beyond
    it in a straight line that holds the rest of them. The ratio never falls with the score.
    """

    _scores: Doubles
    _rates: Doubles
    slope: float
    """Decades of the false match rate for each 1 of score, at the calibration's end."""
    _mated: float
    _rise: float

    @classmethod
    def of(cls, curve: CalibrationCurve) -> ScoreRatio:
        """`CalibrationError` where the curve has no decade to take a slope from."""
        points = [curve.points[-1]]
        for point in reversed(curve.points):
            if point.fmr >= 9.99 * points[-1].fmr and point.threshold < points[-1].threshold:
                points.append(point)
        if len(points) < 2:
            raise CalibrationError(
                "the calibration spans less than a decade of false match rates, which a budget "
                "ranks by: calibrate on more people"
            )
        last, back = points[0], points[min(2, len(points) - 1)]
        slope = math.log10(back.fmr / last.fmr) / (last.threshold - back.threshold)
        before = points[1]
        width = last.threshold - before.threshold
        # Where none was missed, one person in all might have been.
        mated = max((last.fnmr - before.fnmr) / width, 1 / (curve.people * width))
        room = max(1 - last.threshold, 1e-3)
        rise = max(2 * (1 - last.fnmr - mated * room) / room**2, 0.0)
        points.reverse()
        scores, rates = zip(*((one.threshold, math.log10(one.fmr)) for one in points), strict=True)
        return cls(np.array(scores), np.array(rates), slope, mated, rise)

    @property
    def end(self) -> float:
        """The last score of which the calibration knows a false match rate."""
        return float(self._scores[-1])

    def log_rate(self, scores: NDArray[np.floating]) -> Doubles:
        """The decimal logarithm of the false match rate at these scores, float64[m]."""
        beyond = np.clip((scores - self.end) * self.slope, 0, BEYOND_DECADES)
        rates: Doubles = np.interp(scores, self._scores, self._rates) - beyond
        return rates

    def score_at(self, rate: float) -> float:
        """The score that this share of strangers reaches, as far as the rate is taken to fall."""
        beyond = float(self._rates[-1]) - math.log10(rate)
        if beyond <= 0:
            return float(np.interp(-math.log10(rate), -self._rates, self._scores))
        return self.end + min(beyond, BEYOND_DECADES) / self.slope

    def log_ratio(self, scores: NDArray[np.floating]) -> Doubles:
        """The decimal logarithm of the ratio, float64[m]."""
        mated = self._mated + self._rise * np.clip(scores - self.end, 0, None)
        strangers = self.log_rate(scores) + math.log10(math.log(10) * self.slope)
        ratios: Doubles = np.log10(mated) - strangers
        return ratios


@frozen(eq=False)
class Openings:
    """Every line as numbers: its document, ascending, its outlet, the minute it was opened in, and
    whether it is disputed; int64[n], int32[n], int64[n], bool[n]."""

    documents: Documents
    outlets: NDArray[np.int32]
    minutes: Ints
    is_disputed: Flags

    def compare(self, one: Documents, other: Documents) -> tuple[Codes, Ints]:
        """How their lines were opened, of each document the first `MOST_LINES`: the most telling
        value of any two, unknown without lines; and at which outlet, int64[m], -1 at none."""
        codes, places = np.full(len(one), UNKNOWN, np.int64), np.full(len(one), -1, np.int64)
        starts, counts = self._find(one)
        others, more = self._find(other)
        known = np.flatnonzero(counts * more)
        # Documents with many lines would fill the memory: not all pairs of lines at once.
        ends = np.cumsum(counts[known] * more[known])
        cuts = np.searchsorted(ends, np.arange(AT_ONCE, ends.max(initial=0), AT_ONCE))
        for rows in np.split(known, cuts):
            if len(rows):
                codes[rows], places[rows] = self._compare_lines(
                    starts[rows], counts[rows], others[rows], more[rows]
                )
        return codes, places

    def _compare_lines(
        self, starts: Ints, counts: Ints, others: Ints, more: Ints
    ) -> tuple[Codes, Ints]:
        """The same of pairs that all have lines, by where these begin and how many there are."""
        sizes = counts * more
        ends = np.cumsum(sizes)
        pair = np.repeat(np.arange(len(sizes)), sizes)
        place = np.arange(ends[-1]) - (ends - sizes)[pair]
        left, right = starts[pair] + place // more[pair], others[pair] + place % more[pair]
        gaps = np.abs(self.minutes[left] - self.minutes[right])
        same = self.outlets[left] == self.outlets[right]
        found = np.where(same, np.searchsorted(_WINDOWS, gaps), len(_WINDOWS) + 1)
        best = np.lexsort((self.outlets[left], found, pair))[ends - sizes]
        return found[best], np.where(same[best], self.outlets[left[best]], -1)

    def find_excess(self, shared: Ints) -> Doubles:
        """Of each outlet, what is taken off the logarithm of a ratio there: how many more pairs of
        strangers share it than its size lets expect, given the outlets that such pairs `shared`.

        Where people of one origin live, strangers look alike and go to one outlet.
        """
        size = 1 + int(self.outlets.max(initial=0))
        shares = np.bincount(self.outlets, minlength=size).astype(np.float64) ** 2
        expected = len(shared) * shares / max(shares.sum(), 1.0)
        found = np.bincount(shared, minlength=size)
        excess = (found + USUAL_PAIRS) / (expected + USUAL_PAIRS)
        logs: Doubles = np.log10(np.maximum(excess, 1))
        return np.append(logs, 0.0)

    def list_disputes(self, one: Documents, other: Documents) -> Codes:
        """The code for each pair: whether a line of either is disputed."""
        disputed = np.unique(self.documents[self.is_disputed])
        return np.where(np.isin(one, disputed) | np.isin(other, disputed), 0, 1)

    def _find(self, documents: Documents) -> tuple[Ints, Ints]:
        """The start of each one's lines, and their number."""
        starts = np.searchsorted(self.documents, documents)
        counts = np.searchsorted(self.documents, documents, "right") - starts
        return starts, np.minimum(counts, MOST_LINES)


@frozen
class Particulars:
    """A document's particulars of its holder, for comparison alone; its repr shows nothing.

    `birth` where its number tells it; `serial`: issuer and number, where these are given in order.
    """

    name: str = field(default="", repr=False)
    birth: date | None = field(default=None, repr=False)
    serial: tuple[str, int] | None = field(default=None, repr=False)


ReadParticulars = Callable[[Documents], Mapping[int, Particulars]]
"""Takes documents by number; one of which nothing is known is left out."""


def compare_particulars(
    one: Documents, other: Documents, known: Mapping[int, Particulars]
) -> dict[str, Codes]:
    """The circumstances `PERSON`, `NAME` and `NUMBER` of pairs.

    A name that many of `known` bear says nothing: it would say more of where people come from.
    """
    bearers = Counter(document.name for document in known.values())
    most = max(MOST_BEARERS, len(known) * COMMON_SHARE)
    common = {name for name, count in bearers.items() if count > most}
    rows = [
        _compare(known.get(left, _NOTHING), known.get(right, _NOTHING), common)
        for left, right in zip(one.tolist(), other.tolist(), strict=True)
    ]
    columns = np.array(rows, np.int64).reshape(-1, 3).T
    return dict(zip((PERSON, NAME, NUMBER), columns, strict=True))


_NOTHING = Particulars()


def _compare(one: Particulars, other: Particulars, common: Collection[str]) -> tuple[int, int, int]:
    number = UNKNOWN
    if one.serial and other.serial and one.serial[0] == other.serial[0]:
        number = int(abs(one.serial[1] - other.serial[1]) > CLOSE_NUMBERS)
    if not one.name or not other.name or one.name in common or other.name in common:
        return UNKNOWN, UNKNOWN, number
    is_alike = are_alike(one.name, other.name)
    if one.birth is None or other.birth is None:
        return UNKNOWN, int(not is_alike), number
    return 2 * (not is_alike) + (one.birth != other.birth), UNKNOWN, number


def are_alike(one: str, other: str) -> bool:
    """True where two names, as `normalise_name` writes them, may be one in two spellings."""
    # Not above: a service runs without it, as without pyarrow.
    from rapidfuzz import fuzz  # noqa: PLC0415

    return fuzz.token_sort_ratio(one, other, score_cutoff=ALIKE_NAME) > 0


@frozen
class Estimate:
    """The ratio of one value of a circumstance: shares among `compared` pairs of strangers, and
    among mates, corrected by `judged` pairs of fraud."""

    circumstance: str
    value: str
    mated: float
    strangers: float
    compared: int
    judged: int

    @property
    def ratio(self) -> float:
        # Where all strangers share an outlet, it is not suspicious to share none.
        most = 1.0 if self.value == list(CIRCUMSTANCES[self.circumstance])[-1] else MOST_RATIO
        return min(max(self.mated / self.strangers, LEAST_RATIO), most)


def estimate(circumstance: str, strangers: Codes, judged: Codes) -> list[Estimate]:
    """The values of a circumstance; nothing where too few pairs of strangers tell it."""
    values = CIRCUMSTANCES[circumstance]
    many, few = (
        np.bincount(codes[codes != UNKNOWN], minlength=len(values)) for codes in (strangers, judged)
    )
    compared, seen = int(many.sum()), int(few.sum())
    if compared < LEAST_STRANGERS:
        return []
    return [
        Estimate(
            circumstance,
            value,
            (assumed * ASSUMED_PAIRS + few[place]) / (ASSUMED_PAIRS + seen),
            # Jeffreys' half, so that what was never seen is rare and not impossible.
            (many[place] + 0.5) / (compared + 0.5 * len(values)),
            compared,
            seen,
        )
        for place, (value, assumed) in enumerate(values.items())
    ]


def log_ratios(codes: Codes, estimates: Sequence[Estimate], less: Doubles | float = 0.0) -> Doubles:
    """The decimal logarithm of each pair's ratio, float64[m], `less` than in general but not below
    `LEAST_RATIO`; 0 where it is unknown."""
    if not estimates:
        return np.zeros(len(codes))
    table = np.array([*(math.log10(one.ratio) for one in estimates), 0.0])
    ratios: Doubles = np.maximum(table[codes] - less, math.log10(LEAST_RATIO))
    return ratios


def prior_log_odds(references: int) -> float:
    """The decimal logarithm of the odds that another reference is the same person's."""
    return math.log10(SECOND_IDENTITIES / max(references, 2))
