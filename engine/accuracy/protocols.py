"""Evaluation by a protocol: which photographs are compared is told, as a service compares them.

Two protocols: everybody's photographs in `live/` against the portraits in `portrait/`, or the pairs
of a file. A comparison is an *attempt*: a photograph that gave no template, or that an enrollment
would send back, fails it. So the rates are generalised (ISO/IEC 19795-1): GFNMR, the share of
honest attempts that fail for any reason, and GFMR, the share of strangers' attempts that pass.

Between live photographs and portraits people are weighed (`engine.accuracy.pair_scores`); of a
file every pair weighs one. Intervals are 95 %, by a bootstrap over people at a fixed threshold.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.accuracy.bootstrap import Share, draw_people, refuse_few, share_of, summarize
from engine.accuracy.dataset import (
    SIDES,
    Embeddings,
    LabelledFolder,
    Labels,
    Progress,
    embed_folder,
    read_annotations,
    read_pairs,
)
from engine.accuracy.error_rates import lowest_rate, thresholds_at
from engine.accuracy.pair_scores import MOST_PHOTOGRAPHS
from engine.errors import RequestError

if TYPE_CHECKING:
    from engine.faces.extractor import Extractor

FORMAT = 1
LIVE_PORTRAIT, PAIRS = "live_portrait", "pairs"
MOST_ATTEMPTS = 10_000_000
NO_SCORE = np.float32(-2)
"""Of an attempt without a template: below every threshold."""
TABLE_RATES = {"1e-2": 1e-2, "1e-3": 1e-3, "1e-4": 1e-4, "1e-5": 1e-5}
DRAWN_AT_ONCE = 20_000


@dataclass(frozen=True, slots=True, eq=False)
class Attempts:
    """Compared photographs of a folder, `left` and `right` int32[k], and their scores float32[k].

    `is_unfit` bool[photographs]: without a template, or sent back. `is_weighed`: the attempts of
    two people weigh one together, otherwise each weighs one.
    """

    folder: LabelledFolder
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    scores: NDArray[np.float32]
    is_unfit: NDArray[np.bool_]
    is_weighed: bool

    @property
    def is_mated(self) -> NDArray[np.bool_]:
        people = self.folder.people
        mated: NDArray[np.bool_] = people[self.left] == people[self.right]
        return mated

    @property
    def is_fit(self) -> NDArray[np.bool_]:
        fit: NDArray[np.bool_] = ~(self.is_unfit[self.left] | self.is_unfit[self.right])
        return fit

    def keep(self, wanted: NDArray[np.bool_]) -> Attempts:
        """The attempts selected by the mask bool[k]."""
        parts = (self.left[wanted], self.right[wanted], self.scores[wanted])
        return Attempts(self.folder, *parts, self.is_unfit, self.is_weighed)

    def share(self, happened: NDArray[np.bool_], weights: NDArray[np.float32]) -> Share:
        """Share of these attempts that `happened`; all mated, or none."""
        people = self.folder.people
        left, right = people[self.left], people[self.right]
        if self.is_mated.all():
            return share_of(left, happened, weights, is_mean=self.is_weighed)
        codes = left.astype(np.int64) * len(weights) + right
        pairs, place, counts = np.unique(codes, return_inverse=True, return_counts=True)
        events = np.bincount(place[happened], minlength=len(pairs))
        shares, trials = (
            (events / counts, np.ones(len(pairs))) if self.is_weighed else (events, counts)
        )
        one, other = np.divmod(pairs, len(weights))
        matched = _weigh(one, other, shares, weights)
        drawn = _weigh(one, other, trials, weights)
        asked = len(np.unique(np.concatenate([one, other])))
        value = float(shares.sum() / trials.sum())
        return summarize(events, len(left), asked, matched, drawn, len(pairs), value=value)


def _weigh(
    one: NDArray[np.int64],
    other: NDArray[np.int64],
    amounts: NDArray[np.float64] | NDArray[np.int64],
    weights: NDArray[np.float32],
) -> NDArray[np.float64]:
    """float64[replicates]: the amount of each pair of people, times how often both are drawn."""
    total = np.zeros(weights.shape[1])
    rows = np.flatnonzero(amounts)
    for start in range(0, len(rows), DRAWN_AT_ONCE):
        part = rows[start : start + DRAWN_AT_ONCE]
        drawn = weights[one[part]] * weights[other[part]]
        total += amounts[part].astype(np.float64) @ drawn
    return total


@dataclass(frozen=True, slots=True)
class Rates:
    """Rates at a threshold; None where there is no such attempt.

    `fnmr` and `fmr` are of attempts whose two photographs are fit, the generalised ones of all.
    """

    threshold: float
    fnmr: Share | None
    fmr: Share | None
    generalised_fnmr: Share | None
    generalised_fmr: Share | None


@dataclass(frozen=True, slots=True)
class GroupRates:
    """Generalised rates of one label, at the common threshold; `refused` says why there is none."""

    label: str
    people: int
    mated: int
    nonmated: int
    generalised_fnmr: Share | None
    generalised_fmr: Share | None
    refused: str | None


def attempt_all(embeddings: Embeddings) -> Attempts:
    """Everybody's first live photographs against everybody's first portraits."""
    folder = embeddings.folder
    sides = []
    for side in SIDES:
        places = np.flatnonzero(folder.is_side(side))
        people = folder.people[places]
        rank = np.arange(len(places)) - np.searchsorted(people, people)
        sides.append(places[rank < MOST_PHOTOGRAPHS].astype(np.int32))
    live, portraits = sides
    if len(live) * len(portraits) > MOST_ATTEMPTS:
        raise RequestError(
            f"{len(live):,} live photographs against {len(portraits):,} portraits are too many "
            f"attempts: give at most {MOST_ATTEMPTS:,}, or name the pairs in a file"
        )
    scores = embeddings.vectors[live] @ embeddings.vectors[portraits].T
    left = np.repeat(live, len(portraits))
    right = np.tile(portraits, len(live))
    return _attempt(embeddings, left, right, scores.ravel(), is_weighed=True)


def attempt_pairs(embeddings: Embeddings, pairs: NDArray[np.int64]) -> Attempts:
    """The attempts of a pairs file: int64[k, 2]."""
    left, right = pairs.T.astype(np.int32)
    scores = np.einsum("kd,kd->k", embeddings.vectors[left], embeddings.vectors[right])
    return _attempt(embeddings, left, right, scores, is_weighed=False)


def _attempt(
    embeddings: Embeddings,
    left: NDArray[np.int32],
    right: NDArray[np.int32],
    scores: NDArray[np.float32],
    *,
    is_weighed: bool,
) -> Attempts:
    is_failed = embeddings.is_failed
    scores[is_failed[left] | is_failed[right]] = NO_SCORE
    is_unfit = is_failed | np.array([bool(reasons) for reasons in embeddings.reasons])
    return Attempts(embeddings.folder, left, right, scores, is_unfit, is_weighed)


def measure_rates(attempts: Attempts, threshold: float, weights: NDArray[np.float32]) -> Rates:
    """All rates at one threshold."""

    has_passed = attempts.is_fit & (attempts.scores >= threshold)

    def rate(wanted: NDArray[np.bool_], happened: NDArray[np.bool_]) -> Share | None:
        return attempts.keep(wanted).share(happened[wanted], weights) if wanted.any() else None

    is_mated, is_fit = attempts.is_mated, attempts.is_fit
    return Rates(
        threshold=threshold,
        fnmr=rate(is_mated & is_fit, ~has_passed),
        fmr=rate(~is_mated & is_fit, has_passed),
        generalised_fnmr=rate(is_mated, ~has_passed),
        generalised_fmr=rate(~is_mated, has_passed),
    )


def find_thresholds(attempts: Attempts) -> dict[str, float | None]:
    """The smallest threshold whose FMR among fit strangers is at most each of TABLE_RATES.

    None where their attempts do not support the rate.
    """
    strangers = attempts.keep(~attempts.is_mated & attempts.is_fit)
    people = attempts.folder.people
    codes = people[strangers.left].astype(np.int64) * len(attempts.folder.names)
    _, place, counts = np.unique(
        codes + people[strangers.right], return_inverse=True, return_counts=True
    )
    weights = 1 / counts[place] if attempts.is_weighed else np.ones(len(place))
    found: dict[str, float | None] = dict.fromkeys(TABLE_RATES)
    lowest = lowest_rate(len(weights)) * (1 - 1e-9)
    supported = {name: rate for name, rate in TABLE_RATES.items() if rate >= lowest}
    if supported:
        scores = thresholds_at(strangers.scores, np.array(list(supported.values())), weights)
        found |= zip(supported, scores.tolist(), strict=True)
    return found


def compare_labels(
    attempts: Attempts, labels: Labels, threshold: float, weights: NDArray[np.float32]
) -> tuple[GroupRates, ...]:
    """Generalised rates of each group of a column.

    An attempt is of the group of its labelled photographs: of none where these differ.
    """
    left, right = labels.codes[attempts.left], labels.codes[attempts.right]
    groups = np.where(left < 0, right, left)
    groups[(left >= 0) & (right >= 0) & (left != right)] = -1
    found = []
    for number, name in enumerate(labels.names):
        own = attempts.keep(groups == number)
        mated = int(own.is_mated.sum())
        people = len(np.unique(attempts.folder.people[own.left[own.is_mated]]))
        refused = refuse_few(people, "people with an honest attempt")
        fnmr = fmr = None
        if not refused:
            rates = measure_rates(own, threshold, weights)
            fnmr, fmr = rates.generalised_fnmr, rates.generalised_fmr
        nonmated = len(own.scores) - mated
        found.append(GroupRates(name, people, mated, nonmated, fnmr, fmr, refused))
    return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtocolEvaluation:
    """Result of an evaluation by a protocol; rates from 0 to 1.

    `rates`: at the model's threshold `verify`, or without one at the lowest of TABLE_RATES that
    these attempts support; `set_by` says which. `sent_back`: of photographs, by side.
    """

    protocol: str
    model_digest: str
    source: str
    people: int
    photographs: int
    mated: int
    nonmated: int
    set_by: str
    rates: Rates
    sent_back: dict[str, Share]
    reasons: dict[str, int]
    at_fmr: dict[str, Rates | None]
    attributes: dict[str, tuple[GroupRates, ...]]
    extract_s: float
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The JSON of `sosie evaluate` with a protocol; a rate that is not supported is null."""
        report = asdict(self)
        report["extract_seconds"] = report.pop("extract_s")
        return {"format": FORMAT, **report}


def evaluate_protocol(
    root: Path,
    extractor: Extractor,
    progress: Progress | None = None,
    *,
    pairs: Path | None = None,
    attributes: Path | None = None,
    verify: tuple[float, str] | None = None,
    source: str | None = None,
) -> ProtocolEvaluation:
    """Extract every photograph of `root` and compare those of the protocol.

    `pairs`: a file (`engine.accuracy.dataset.read_pairs`), otherwise live photographs against
    portraits. `verify`: the threshold in use, and what set it. Raises `RequestError` where the
    folder or a file is invalid.
    """
    start = time.perf_counter()
    folder = LabelledFolder.open(root)
    chosen = None if pairs is None else read_pairs(pairs, folder)
    columns = read_annotations(folder, attributes, None).columns
    embeddings = embed_folder(folder, extractor, progress)
    extracted = time.perf_counter()
    attempts = attempt_all(embeddings) if chosen is None else attempt_pairs(embeddings, chosen)
    mated = _count_mated(attempts)
    used = np.unique(np.concatenate([attempts.left, attempts.right]))
    weights = draw_people(folder.people[used], len(folder.names))
    thresholds = find_thresholds(attempts)
    threshold, set_by = verify or _choose_threshold(thresholds)
    groups = {one.column: compare_labels(attempts, one, threshold, weights) for one in columns}
    return ProtocolEvaluation(
        protocol=LIVE_PORTRAIT if chosen is None else PAIRS,
        model_digest=extractor.model_digest,
        source=source or root.name,
        people=len(np.unique(folder.people[used])),
        photographs=len(used),
        mated=mated,
        nonmated=len(attempts.scores) - mated,
        set_by=set_by,
        rates=measure_rates(attempts, threshold, weights),
        sent_back=dict(_share_sides(attempts, weights)),
        reasons=embeddings.failures | embeddings.problems,
        at_fmr={
            name: None if one is None else measure_rates(attempts, one, weights)
            for name, one in thresholds.items()
        },
        attributes=groups,
        extract_s=extracted - start,
        seconds=time.perf_counter() - start,
    )


def _count_mated(attempts: Attempts) -> int:
    mated = int(attempts.is_mated.sum())
    if not mated or mated == len(attempts.scores):
        raise RequestError("nothing to compare: give honest attempts and those of strangers")
    return mated


def _choose_threshold(thresholds: Mapping[str, float | None]) -> tuple[float, str]:
    supported = [(name, one) for name, one in thresholds.items() if one is not None]
    if not supported:
        raise RequestError(
            "these strangers' attempts support no FMR of 0.01, and the model has no calibration: "
            "run sosie calibrate, or give more people"
        )
    name, threshold = supported[-1]
    return threshold, f"FMR {name} among these strangers, for want of a calibration"


def _share_sides(attempts: Attempts, weights: NDArray[np.float32]) -> Iterator[tuple[str, Share]]:
    """By side: the photographs that give no template, or are sent back."""
    names = SIDES if attempts.is_weighed else ("first", "second")
    for name, side in zip(names, (attempts.left, attempts.right), strict=True):
        places = np.unique(side)
        yield name, share_of(attempts.folder.people[places], attempts.is_unfit[places], weights)
