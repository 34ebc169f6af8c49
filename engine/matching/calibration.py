"""From error rates to scores and back: a model's calibration, and the thresholds it gives.

A pair matches at `score >= threshold`. Rates outside what the calibration data can support are
refused by name, or answered with an upper bound that says so; nothing is extrapolated.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import reduce
from itertools import pairwise
from operator import add
from typing import TYPE_CHECKING, NamedTuple, Self

import msgspec
import numpy as np
from msgspec import structs

from engine.errors import CalibrationError, RateUnsupported
from engine.formatting import with_interval
from indexes.base import Doubles, Floats
from schema import frozen
from schema.decisions import CalibrationSource, Comparison, DecidingScores, Interval
from schema.decoding import StrictValue, prepare

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


CERTAIN_PEOPLE, CERTAIN_PAIRS = 500, 100_000
"""Of fewer people, or pairs of people, `certain` is not set: 50 have rejected 6 % of newcomers."""
UNSET = 1.0
"""A score of `certain` that only the same picture reaches."""
FORMAT = 1
"""Of the calibration file; a file of another format is refused."""


class Rate(Interval, frozen=True):
    """A rate, or an expected count, that can be multiplied and added."""

    is_bound: bool = False

    def times(self, factor: float) -> Rate:
        return Rate(self.value * factor, self.low * factor, self.high * factor, self.is_bound)

    def __add__(self, other: Rate) -> Rate:
        """The most that both bring together, as searches that may find the same do."""
        is_bound = self.is_bound or other.is_bound
        both = self.value + other.value, self.low + other.low, self.high + other.high
        return Rate(*both, is_bound=is_bound)

    def __str__(self) -> str:
        return with_interval(self.value, self.low, self.high, self.is_bound)


class OperatingPoint(StrictValue, kw_only=True):
    """A false match rate, the smallest threshold that keeps it, and what it costs.

    `fmr_low`, `fmr_high`: interval of the FMR at that threshold. `threshold_low`,
    `threshold_high`: interval of the threshold for that FMR. `fnmr_low`, `fnmr_high`: interval
    of the FNMR at that FMR. All 95 %.
    """

    fmr: float
    fmr_low: float
    fmr_high: float
    threshold: float
    threshold_low: float
    threshold_high: float
    fnmr: float
    fnmr_low: float
    fnmr_high: float


class CalibrationCurve(StrictValue, kw_only=True):
    """Operating points of one kind of comparison, FMR falling and thresholds rising.

    `stranger_pairs` counts pairs of different people, however many photographs they have;
    `highest_nonmated` is the highest score that two of them reached.
    """

    people: int
    mated_pairs: int
    nonmated_pairs: int
    stranger_pairs: int
    highest_nonmated: float
    points: tuple[OperatingPoint, ...]

    def __post_init__(self) -> None:
        rising = all(a.threshold <= b.threshold and a.fmr > b.fmr for a, b in pairwise(self.points))
        if not self.points or not rising:
            raise CalibrationError(
                "the calibration's operating points are not in order: fit it again"
            )

    @property
    def certain_margin_holds(self) -> bool:
        """Whether so many people were compared that the highest score of two says something."""
        return self.people >= CERTAIN_PEOPLE and self.stranger_pairs >= CERTAIN_PAIRS

    def place_certain(self, margin: float) -> float:
        """The margin above every two strangers; UNSET of too few people."""
        return min(self.highest_nonmated + margin, UNSET) if self.certain_margin_holds else UNSET

    @property
    def lowest_fmr(self) -> float:
        """The lowest false match rate that the data support."""
        return self.points[-1].fmr

    def threshold_at(self, fmr: float) -> float:
        """The threshold that keeps `fmr`, interpolated in log FMR.

        Raises `RateUnsupported` below `lowest_fmr` or above the highest rate calibrated.
        """
        if not self.lowest_fmr * (1 - 1e-9) <= fmr <= self.points[0].fmr * (1 + 1e-9):
            raise RateUnsupported(
                f"a false match rate of {fmr:g} is not supported by {self.nonmated_pairs:,} "
                f"non-mated pairs: ask for {self.lowest_fmr:.2g} to {self.points[0].fmr:g}"
            )
        for upper, lower in pairwise(self.points):
            if fmr >= lower.fmr:
                share = math.log(fmr / upper.fmr) / math.log(lower.fmr / upper.fmr)
                return upper.threshold + max(share, 0.0) * (lower.threshold - upper.threshold)
        return self.points[-1].threshold

    def fmr_at(self, score: float) -> Rate:
        """The FMR of a threshold at `score`: measured, or an upper bound beyond `lowest_fmr`.

        The bound is the upper end of the lowest supported rate, since FMR only falls as the
        score rises. Above every non-mated score seen it is, where lower, 3 over the pairs of
        different people (the rule of three); pairs of photographs are not independent.
        """
        last = self.points[-1]
        if score > last.threshold:
            bound = last.fmr_high
            if score > self.highest_nonmated:
                bound = min(bound, 3 / self.stranger_pairs)
            return Rate(bound, 0.0, bound, is_bound=True)
        before: tuple[float, ...] = (-1.0, 1.0, 1.0, 1.0)
        for point in self.points:
            after = (point.threshold, point.fmr, point.fmr_low, point.fmr_high)
            if score < point.threshold:
                break
            before = after
        width = after[0] - before[0]
        share = min(max((score - before[0]) / width, 0.0), 1.0) if width > 0 else 1.0
        value, low, high = (
            math.exp((1 - share) * math.log(a) + share * math.log(b)) if a > 0 and b > 0 else b
            for a, b in zip(before[1:], after[1:], strict=True)
        )
        return Rate(value, min(low, value), max(high, value))


class Calibration(CalibrationSource, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The error rates of one model, measured on `source`; belongs to `model_digest` alone.

    `version` counts the calibrations of a card, and is recorded with every decision. Rates weigh
    people, of whom at most `most_photographs` are compared; 0 is for calibrations made before that,
    in which whoever had the most photographs weighed the most.
    """

    model_digest: str
    curves: Mapping[Comparison, CalibrationCurve]
    version: int = 1
    most_photographs: int = 0

    def threshold_at(self, fmr: float, kind: Comparison) -> float:
        """The threshold for `fmr`, interpolated in log FMR; raises `RateUnsupported`."""
        return self.curve(kind).threshold_at(fmr)

    def fmr_at(self, score: float, kind: Comparison) -> Rate:
        """The FMR of a threshold at `score`, or "at most" beyond the data."""
        return self.curve(kind).fmr_at(score)

    def expected_false_candidates(self, gallery_size: int, score: float, kind: Comparison) -> Rate:
        """Strangers at or above `score` in one search of `gallery_size` references.

        `kind` says what the probe is: of one photograph, `FUSED_TO_ONE`, or fused, `FUSED`.
        """
        return self.fmr_at(score, kind).times(gallery_size)

    def expect_together(
        self, gallery_size: int, asked: Sequence[tuple[float, Comparison]]
    ) -> Interval:
        """The expected number of strangers in one search of `gallery_size` for faces that are
        asked for at a score each; the most, since one stranger may be like several of them."""
        return reduce(add, [self.expected_false_candidates(gallery_size, *one) for one in asked])

    def curve(self, kind: Comparison) -> CalibrationCurve:
        if kind not in self.curves:
            raise CalibrationError(f"the calibration lacks {kind} comparisons: fit it again")
        return self.curves[kind]

    def save(self, path: Path) -> None:
        """Write the file that `load` reads; it holds rates and counts only, nothing of a person."""
        written = {"format": FORMAT, **msgspec.to_builtins(self, str_keys=True)}
        path.write_text(json.dumps(written, indent=1) + "\n", "utf-8")

    @classmethod
    def load(cls, path: Path, model_digest: str | None) -> Self:
        """Read a calibration; raises `CalibrationError` where it belongs to another model (None:
        any may be)."""
        try:
            fields = json.loads(path.read_text("utf-8"))
            found = fields.pop("format")
            if found != FORMAT:
                raise CalibrationError(
                    f"the calibration has format {found}, this version reads {FORMAT}: fit it again"
                )
            calibration = msgspec.convert(fields, prepare(cls))
        except OSError as error:
            raise CalibrationError(
                f"no calibration can be read at {path.name}: {error.strerror}"
            ) from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CalibrationError(
                f"{path.name} is not a calibration: fit it again with this version"
            ) from error
        if model_digest not in (None, calibration.model_digest):
            raise CalibrationError(
                "the calibration was fitted for another model: "
                f"{calibration.model_digest[:12]}, not {str(model_digest)[:12]}"
            )
        return calibration


@frozen(kw_only=True)
class ThresholdRates:
    """An operator's choice: false match rates, and how far beyond all data `certain` stands.

    `review_false_candidates`, unless it is 0, sets `review` instead: as many false candidates may a
    search bring, however large the gallery is.
    """

    verify: float = 1e-4
    same_document: float = 1e-4
    review: float = 1e-6
    certain_margin: float = 0.06
    review_false_candidates: float = 0.0

    def review_in(self, references: int, lowest_fmr: float) -> float:
        """The rate for `review` in a gallery of this size: never below what the data support, nor
        above `same_document`.

        Sizes are rounded up to 1, 2 or 5 times a power of ten, so that the threshold of a gallery
        that grows changes seldom.
        """
        if not self.review_false_candidates:
            return self.review
        power = 10.0 ** math.floor(math.log10(max(references, 1)))
        size = next(step * power for step in (1, 2, 5, 10) if step * power >= references)
        rate = self.review_false_candidates / size
        return max(lowest_fmr, min(rate, self.same_document))


ONE_PERSON_FACTOR = 10.0
"""Frames of one attempt need less proof of being one person than a face needs against a document:
whoever mixes in another's must still pass that, and frames of days apart are one person's."""


class OfKind(NamedTuple):
    """The thresholds of one kind of comparison with references."""

    same_document: float
    review: float
    certain: float


class Thresholds(DecidingScores, frozen=True, kw_only=True):
    """The scores that decisions depend on.

    - `verify`: live photograph against portrait (one-to-one).
    - `verify_fused`: the most that `verify` becomes where several frames of the live face are fused
      (fused): strangers score higher against the mean of several photographs. Of up to eight,
      against one portrait, this curve keeps the rate that one photograph has at `verify`;
      `fused_to_one`, of two, does not beyond three.
    - `one_person`: of several frames one must score at least this with each other (one-to-one, at
      `ONE_PERSON_FACTOR` times the rate of `verify`).
    - `same_document`: a returning subscriber's probe against the document's reference (fused).
    - `review`: from here on another document's reference is a possible duplicate (fused). At the
      default 1e-6 a search of 100,000 references brings 0.1 false candidates; it may also follow
      the gallery's size (`ThresholdRates.review_in`).
    - `certain`: from here on it is a duplicate (fused). No rate is promised, because none can be
      measured. It is the highest score that two strangers reached, in all fused comparisons of the
      calibration, plus a margin. For SFace on LFW those are two brothers at 0.54, and a factor ten
      in FMR costs about 0.06 between 1e-3 and 1e-6, hence the default margin: 0.60 stands about a
      decade beyond the worst impostor known, and 2 % of fused mates fall between it and `review`.
      Of fewer than `CERTAIN_PEOPLE` it is `UNSET`: nothing is rejected by 1:N alone.
    - `same_document_single`, `review_single`, `certain_single`: the same three where one
      photograph, live or portrait, is held against a fused reference (fused-to-one); its scores are
      lower. `on_fused_scale` lays such a score beside the fused ones. Where they are not set, as in
      decisions recorded before single photographs were held, the fused ones are theirs.

    Decisions recorded before there were frames have neither `verify_fused` nor `one_person`; where
    they are not set, no frames are fused and no fused face matches.
    """

    verify_fused: float = 1.0
    one_person: float = 1.0

    def __post_init__(self) -> None:
        scores = [score for score in structs.asdict(self).values() if score is not None]
        if not all(-1 <= score <= 1 for score in scores):
            raise CalibrationError("thresholds are cosines: choose scores from -1 to 1")
        for kind in (Comparison.FUSED, Comparison.FUSED_TO_ONE):
            own = self.of(kind)
            if not own.certain > own.review:
                raise CalibrationError(
                    f"certain ({own.certain:.3f}) must exceed review ({own.review:.3f}): "
                    "widen the margin or allow review a higher rate"
                )

    def of(self, kind: Comparison) -> OfKind:
        """The thresholds of such comparisons with a reference."""
        fused = OfKind(self.same_document, self.review, self.certain)
        if kind is Comparison.FUSED:
            return fused
        single = self.same_document_single, self.review_single, self.certain_single
        return OfKind(*(at if own is None else own for own, at in zip(single, fused, strict=True)))

    @property
    def lowest_review(self) -> float:
        """The score from which any comparison with a reference may be a possible duplicate."""
        return min(self.of(kind).review for kind in (Comparison.FUSED, Comparison.FUSED_TO_ONE))

    def on_fused_scale(self, scores: float | Floats, kind: Comparison) -> Doubles:
        """Scores of such comparisons, each as far from the fused thresholds as it is from its own:
        it reaches one exactly where it reaches its own."""
        # Sorted, since the rate for `review` may be chosen above that for `same_document`.
        own, fused = (sorted(self.of(one)) for one in (kind, Comparison.FUSED))
        if own == fused:
            return np.asarray(scores, np.float64)
        return np.asarray(np.interp(scores, (-1.0, *own, 1.0), (-1.0, *fused, 1.0)))

    def verify_for(self, length: float) -> float:
        """`verify` of a mean that had this length before it was normalised, 1 for one photograph.

        A fused score is the mean of the frames' scores, over that length. Frames that are alike,
        as in a burst, need no more than `verify` of that mean; others reach `verify_fused` first.
        """
        return min(self.verify_fused, max(self.verify, self.verify / length))

    @classmethod
    def from_calibration(
        cls, calibration: Calibration, rates: ThresholdRates | None = None, references: int = 0
    ) -> Self:
        """The thresholds of `rates` for searches of so many references; raises `RateUnsupported`
        where the data can't give one."""
        rates = rates or ThresholdRates()
        single = calibration.curve(Comparison.ONE_TO_ONE)
        fused = calibration.curve(Comparison.FUSED)
        to_one = calibration.curve(Comparison.FUSED_TO_ONE)
        review = rates.review_in(references, fused.lowest_fmr)
        same_document = fused.threshold_at(rates.same_document)
        between_frames = min(rates.verify * ONE_PERSON_FACTOR, single.points[0].fmr)
        review_single = to_one.threshold_at(max(review, to_one.lowest_fmr))
        # Where the data are too few for the rate, the side that lets fewer pass.
        same_document_single = same_document
        if rates.same_document >= to_one.lowest_fmr:
            same_document_single = to_one.threshold_at(rates.same_document)
        elif review <= rates.same_document:
            # In the order of the fused ones, or one of them would be reached by less than its own.
            review_single = max(review_single, same_document_single)
        return cls(
            verify=single.threshold_at(rates.verify),
            same_document=same_document,
            review=fused.threshold_at(review),
            certain=fused.place_certain(rates.certain_margin),
            verify_fused=max(_keep_fused(fused, rates.verify), single.threshold_at(rates.verify)),
            one_person=single.threshold_at(between_frames),
            same_document_single=same_document_single,
            review_single=review_single,
            certain_single=to_one.place_certain(rates.certain_margin),
        )


def _keep_fused(fused: CalibrationCurve, fmr: float) -> float:
    """The fused threshold for a rate; where the data have too few fused photographs for it, the
    highest score of two strangers."""
    return fused.threshold_at(fmr) if fmr >= fused.lowest_fmr else fused.highest_nonmated
