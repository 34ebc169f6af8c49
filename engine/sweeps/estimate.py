"""The estimate before a sweep: its cost, the false pairs to expect, and a proposed threshold.

False pairs are those of strangers at or above the threshold: the false match rate of fused
references times the comparisons. A gallery of a million makes half a million million of them, so
a rate that is low enough for a search can be far too high for a sweep.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING

from engine.errors import RateUnsupported, RequestError
from engine.matching.calibration import CalibrationCurve, Rate
from engine.sweeps.budget import PAIRS_A_CASE, choose_threshold
from engine.sweeps.likelihood import ScoreRatio
from indexes.joining import PAIRS_LIMIT, PIECE_RECORDS, TILE_ROWS
from schema import frozen
from schema.sweeps import EstimatedThreshold, SweepProgress, SweepScope, SweepTerms

if TYPE_CHECKING:
    from indexes.joining.join import Progress

FALSE_PAIRS_PER_REFERENCE = 0.01
"""The budget of the proposal: if one reference in a hundred belongs to a ring, about half of the
pairs found are true."""

MOST_BUDGET = 10_000
"""Groups that a budget may ask for."""

LOOSEST_FMR = 1e-4
"""No proposal is looser than verification: a pair that fails there is no finding here."""

# Of a join: ids, places, flags and digests of each reference; a row of a block besides its codes;
# a pair from its run to its place in a group.
_BYTES_A_REFERENCE, _BYTES_A_BLOCK_ROW, _BYTES_A_PAIR = 192, 64, 120
# With a budget also of each reference's line: as read, and as numbers.
_BYTES_A_LINE = 160
# Python and its libraries.
_PROCESS_BYTES = 250 << 20


@frozen(kw_only=True)
class SweepOrder:
    """A threshold, or the false match rate that chooses it, or neither for the proposed one.

    `is_unsupported_allowed` accepts a threshold for which the calibration has only an upper bound.
    With a `budget` of groups the proposed one lets in as many strangers as can be ranked.
    """

    threshold: float | None = None
    fmr: float | None = None
    scope: SweepScope = SweepScope.ALL
    is_unsupported_allowed: bool = False
    budget: int | None = None

    def __post_init__(self) -> None:
        if self.budget is not None and not 1 <= self.budget <= MOST_BUDGET:
            raise RequestError(f"a budget is of 1 to {MOST_BUDGET:,} groups")
        if self.threshold is not None and self.fmr is not None:
            raise RequestError("two thresholds are given: choose a score or a false match rate")
        # In this form NaN is refused too.
        if self.threshold is not None and not -1 <= self.threshold <= 1:
            raise RequestError("the threshold is a cosine: choose a score from -1 to 1")
        if self.fmr is not None and not 0 < self.fmr < 1:
            raise RequestError("a false match rate lies between 0 and 1")

    @property
    def is_open(self) -> bool:
        """True where the threshold is left to the proposal."""
        return self.threshold is None and self.fmr is None


@frozen(kw_only=True)
class GallerySize:
    """Size of a sweep: `new` of the `references` are compared with all. `held_bytes` of memory are
    in use already."""

    references: int
    new: int
    sequence: int
    dim: int
    held_bytes: int = 0

    @property
    def comparisons(self) -> int:
        """Pairs with at least one new reference."""
        return self.new * (self.references - self.new) + self.new * (self.new - 1) // 2


@frozen(kw_only=True)
class ExpectedSweep:
    """The estimate for a sweep with these terms.

    `is_supported` is False above `highest_supported`, where the calibration can bound the false
    pairs but not measure them. `memory_bytes` is the peak of the process, the gallery included.
    """

    terms: SweepTerms
    references: int
    new_references: int
    sequence: int
    comparisons: int
    duration_s: float
    memory_bytes: int
    false_pairs: Rate
    is_supported: bool
    highest_supported: float
    proposal: EstimatedThreshold

    def require_sound(self, request: SweepOrder) -> None:
        """Raises `RateUnsupported` if the calibration does not support the threshold, and
        `RequestError` if more pairs would be found than can be kept."""
        if self.false_pairs.low > PAIRS_LIMIT:
            raise RequestError(
                f"about {self.false_pairs.value:.2g} pairs of strangers reach "
                f"{self.terms.threshold:.4f}, and {PAIRS_LIMIT:,} can be kept: raise the threshold"
            )
        is_ranked = request.is_open and request.budget is not None
        if request.is_unsupported_allowed or is_ranked:
            return
        if request.is_open and not self.proposal.is_within_budget:
            raise RateUnsupported(
                f"no threshold that the calibration supports keeps to {self.proposal.budget:,.3g} "
                f"false pairs here (the highest, {self.proposal.threshold:.4f}, brings "
                f"{self.proposal.false_pairs}): give a budget of cases (--budget 500), choose a "
                "threshold or a rate, or calibrate a stronger model"
            )
        if not self.is_supported:
            raise RateUnsupported(
                f"a threshold of {self.terms.threshold:.4f} is beyond the calibration, which ends "
                f"at {self.highest_supported:.4f}: {self.false_pairs} false pairs is all that it "
                "can say; lower the threshold, or allow one that is not supported"
            )


def expect(
    request: SweepOrder,
    size: GallerySize,
    curve: CalibrationCurve,
    *,
    pace: float,
    budget: float = FALSE_PAIRS_PER_REFERENCE,
    at_least: float = -1.0,
    review: float = -1.0,
) -> ExpectedSweep:
    """What to expect, at `pace` comparisons a second; `budget` is of false pairs a new reference.

    `curve` is of fused references, `at_least` the threshold of the sweep that this continues.
    Nobody asks for less than `review` or the proposal, whichever is lower: a sweep shows people's
    faces for being alike, and not because somebody wants to see them. `RateUnsupported` for a rate
    that the curve does not support, `RequestError` for a threshold below these.
    """
    proposal = propose(size, curve, budget)
    lowest = -1.0 if request.is_open else min(review, proposal.threshold)
    wanted = proposal.threshold
    if request.budget is not None:
        ratio = ScoreRatio.of(curve)
        wanted = choose_threshold(ratio, request.budget, size.comparisons, LOOSEST_FMR)
    threshold = _choose(request, curve, max(wanted, at_least))
    if threshold < lowest:
        raise RequestError(
            f"a threshold of {threshold:.4f} would bring strangers into cases: the lowest that may "
            f"be asked for here is {lowest:.4f}"
        )
    if threshold < at_least:
        raise RequestError(
            f"the last sweep looked from {at_least:.4f} on, so what lies between that and "
            f"{threshold:.4f} is not known of its references: sweep all, or take as much"
        )
    rate = curve.fmr_at(threshold)
    return ExpectedSweep(
        terms=SweepTerms(threshold=float(threshold), scope=request.scope, budget=request.budget),
        references=size.references,
        new_references=size.new,
        sequence=size.sequence,
        comparisons=size.comparisons,
        duration_s=size.comparisons / pace,
        memory_bytes=_memory(size, rate, request.budget),
        false_pairs=rate.times(size.comparisons),
        is_supported=not rate.is_bound,
        highest_supported=curve.points[-1].threshold,
        proposal=proposal,
    )


def _choose(request: SweepOrder, curve: CalibrationCurve, otherwise: float) -> float:
    if request.threshold is not None:
        return request.threshold
    return otherwise if request.fmr is None else curve.threshold_at(request.fmr)


def propose(size: GallerySize, curve: CalibrationCurve, budget: float) -> EstimatedThreshold:
    """Proposes a threshold within a `budget` of false pairs per new reference."""
    allowed = budget * size.new
    wanted = min(allowed / size.comparisons, LOOSEST_FMR) if size.comparisons else LOOSEST_FMR
    fmr = min(max(wanted, curve.lowest_fmr), curve.points[0].fmr)
    threshold = curve.threshold_at(fmr)
    return EstimatedThreshold(
        threshold=threshold,
        fmr=fmr,
        false_pairs=curve.fmr_at(threshold).times(size.comparisons),
        budget=allowed,
        is_within_budget=fmr <= wanted,
    )


def _memory(size: GallerySize, rate: Rate, budget: int | None) -> int:
    blocks = 2 * min(size.references, TILE_ROWS) * (size.dim + _BYTES_A_BLOCK_ROW)
    pairs, a_reference = rate.times(size.comparisons).high, _BYTES_A_REFERENCE
    if budget is not None:
        pairs = min(pairs, PIECE_RECORDS + PAIRS_A_CASE * budget)
        a_reference += _BYTES_A_LINE
    references = a_reference * size.references
    return int(_PROCESS_BYTES + size.held_bytes + references + blocks + _BYTES_A_PAIR * pairs)


class ProgressCount:
    """Progress of a join with the remaining time, at the pace of this run alone.

    An earlier run may have been on another machine, or beside other work. `pace` is in comparisons
    per second, None before the first tile.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._begun: tuple[float, int] | None = None
        self.pace: float | None = None

    def count(self, progress: Progress) -> SweepProgress:
        """The progress of the sweep; without a remaining time before the first tile."""
        now = self._clock()
        if self._begun is None:
            self._begun = (now, progress.comparisons)
        began, before = self._begun
        if progress.comparisons > before:
            self.pace = (progress.comparisons - before) / max(now - began, 1e-9)
        left = progress.comparisons_total - progress.comparisons
        remaining_s = None if self.pace is None else left / self.pace
        return SweepProgress(
            comparisons=progress.comparisons,
            comparisons_total=progress.comparisons_total,
            pairs=progress.pairs,
            remaining_s=remaining_s if left else 0.0,
        )
