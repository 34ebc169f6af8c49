"""`sosie evaluate`: error rates of an extractor on a folder of photographs of known people."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from engine.accuracy.bootstrap import (
    Share,
    count_strangers,
    draw_people,
    operating_points,
    rate_grid,
    share_of,
    share_of_counts,
)
from engine.accuracy.conditions import Conditions, measure_conditions
from engine.accuracy.dataset import (
    Embeddings,
    LabelledFolder,
    Labels,
    Progress,
    embed_folder,
    read_attributes,
)
from engine.accuracy.pair_scores import (
    MOST_PHOTOGRAPHS,
    ComparedPairs,
    TemplateSet,
    compare_all,
    compare_mated,
    find_close_strangers,
    limit_photographs,
    lowest_rate,
    require_support,
    single_templates,
    thresholds_at,
)
from engine.errors import RequestError
from engine.matching.calibration import OperatingPoint
from indexes.base import Floats, Ints
from schema import frozen
from schema.decoding import Value

GALLERIES = (10_000, 100_000, 1_000_000)
FPIR = 0.1
"""Share of strangers' searches with a candidate."""


class RatePoint(Value):
    """A threshold, and the FNMR there with its interval."""

    threshold: float
    fnmr: float
    low: float
    high: float


if TYPE_CHECKING:
    from engine.faces.extractor import Extractor

FORMAT = 7
"""Format version of `to_dict`."""
HIGHEST_FMR = 1e-1
TABLE_RATES = {"1e-3": 1e-3, "1e-4": 1e-4, "1e-5": 1e-5, "1e-6": 1e-6}


@frozen
class Acquisition:
    """Failure to acquire (ISO/IEC 19795-1): shares of all photographs, with their intervals.

    `failed`: without a template, by cause in `failures`. `sent_back`: failed, or refused by an
    enrollment, by cause in `problems`; a photograph may have several.
    """

    failed: Share
    failures: dict[str, Share]
    sent_back: Share
    problems: dict[str, Share]


def measure_acquisition(embeddings: Embeddings) -> Acquisition:
    """Failure to acquire over all photographs of the folder."""
    people = embeddings.folder.people
    weights = draw_people(people, len(embeddings.folder.names))
    is_failed = embeddings.is_failed

    def having(reason: str, *, failed: bool) -> Share:
        holds = np.array([reason in reasons for reasons in embeddings.reasons])
        return share_of(people, holds & (is_failed == failed), weights)

    is_unfit = np.array([bool(reasons) for reasons in embeddings.reasons])
    return Acquisition(
        failed=share_of(people, is_failed, weights),
        failures={name: having(name, failed=True) for name in embeddings.failures},
        sent_back=share_of(people, is_failed | is_unfit, weights),
        problems={name: having(name, failed=False) for name in embeddings.problems},
    )


def generalise_fnmr(
    embeddings: Embeddings,
    mated: ComparedPairs,
    people: Ints,
    thresholds: Mapping[str, float | None],
) -> dict[str, Share | None]:
    """Generalised FNMR: share of mated pairs of photographs that do not match, by threshold.

    The FNMR of templates leaves out photographs without one; an enrollment cannot. Here all mated
    pairs of the first eight photographs of a person count, those of photographs without a template
    as missed, and every person weighs one. `mated` are all comparisons of the templates, whose
    `people` are int64[n]; None without a threshold. Intervals by a bootstrap over people.
    """
    owners = embeddings.folder.people
    population = len(embeddings.folder.names)
    starts = np.searchsorted(owners, np.arange(population + 1))
    photographs = np.minimum(np.diff(starts), MOST_PHOTOGRAPHS)
    pairs = photographs * (photographs - 1) // 2
    weights = draw_people(np.flatnonzero(pairs), population)
    is_first = (np.arange(len(owners)) - starts[owners] < MOST_PHOTOGRAPHS)[embeddings.places]
    kept = mated.keep(is_first[mated.left] & is_first[mated.right])

    def share(threshold: float) -> Share:
        matched = np.bincount(people[kept.left[kept.scores >= threshold]], minlength=population)
        return share_of_counts(pairs - matched, pairs, weights, is_mean=True)

    return {name: one if one is None else share(one) for name, one in thresholds.items()}


MATE_QUANTILE = 0.25
"""Strangers who score higher than a quarter of the mates may be one person."""
MAX_FLAGGED_PAIRS = 1000
"""Limit of flagged pairs; a model that distinguishes nobody would flag all."""


@frozen(eq=False)
class Flagged:
    """Flagged `pairs` as rows of templates, highest score first.

    Pairs from `suspect_score` on are flagged; `mates_reaching` is the share of mated pairs above
    it.
    """

    pairs: ComparedPairs
    suspect_score: float
    mates_reaching: float

    def to_dict(self) -> dict[str, Any]:
        return {
            "pairs": len(self.pairs),
            "suspect_score": self.suspect_score,
            "mates_reaching": self.mates_reaching,
        }

    def to_rows(self, embeddings: Embeddings) -> list[dict[str, Any]]:
        """The pairs with the paths of their photographs, which may name people."""
        places = embeddings.places
        columns = (places[self.pairs.left], places[self.pairs.right], self.pairs.scores)
        return [
            {
                "photograph": embeddings.folder.name(left),
                "other": embeddings.folder.name(right),
                "score": float(score),
            }
            for left, right, score in zip(*columns, strict=True)
        ]


def flag_strangers(singles: TemplateSet, mated: Floats, nonmated: Floats) -> Flagged:
    """Flag pairs of strangers who may be one person under two names, by an error of the labels.

    All figures still count every photograph as it is labelled. `mated` are all mated scores of
    `singles`; `nonmated` those of strangers, of some photographs of each person at least.
    """
    limit = thresholds_at(nonmated, np.array([min(MAX_FLAGGED_PAIRS / len(nonmated), 0.5)]))[0]
    suspect = max(float(np.quantile(mated, MATE_QUANTILE)), float(limit))
    found = find_close_strangers(singles, suspect)
    return Flagged(
        pairs=found.keep(np.argsort(-found.scores, kind="stable")),
        suspect_score=suspect,
        mates_reaching=float((mated >= suspect).mean()),
    )


@frozen(kw_only=True, eq=False)
class Evaluation:
    """Result of an evaluation; rates from 0 to 1, intervals of 95 %.

    `points` run down from FMR 0.1 to the lowest supported rate, over the `mated_pairs` and
    `nonmated_pairs` of at most eight photographs of a person, in which people are weighed
    (`PairScores`); the intervals come from a bootstrap over people. `generalised`: FNMR at
    TABLE_RATES with failures to acquire as misses. `embeddings` and `flagged` hold paths, which may
    name people; `to_dict` includes them only on request.
    """

    model_digest: str
    source: str
    embeddings: Embeddings
    acquisition: Acquisition
    mated_pairs: int
    nonmated_pairs: int
    points: tuple[OperatingPoint, ...]
    generalised: dict[str, Share | None]
    conditions: Conditions
    flagged: Flagged
    extract_s: float = 0.0
    seconds: float = 0.0

    @property
    def people(self) -> int:
        return len(self.embeddings.folder.names)

    @property
    def photographs(self) -> int:
        return len(self.embeddings.folder.paths)

    @property
    def fta(self) -> float:
        return self.acquisition.failed.value

    def point_at(self, fmr: float) -> OperatingPoint | None:
        """The operating point of this rate, None where the data do not support it."""
        return find_point(self.points, fmr)

    def to_dict(self, *, with_failed: bool = False, with_flagged: bool = False) -> dict[str, Any]:
        """The JSON of `sosie evaluate`; a rate that is not supported is null."""
        report: dict[str, Any] = {
            "format": FORMAT,
            "model_digest": self.model_digest,
            "source": self.source,
            "people": self.people,
            "photographs": self.photographs,
            "fta": self.fta,
            "fta_interval": [self.acquisition.failed.low, self.acquisition.failed.high],
            "failures": self.embeddings.failures,
            "problems": self.embeddings.problems,
            "acquisition": self.acquisition,
            "mated_pairs": self.mated_pairs,
            "nonmated_pairs": self.nonmated_pairs,
            "lowest_fmr": self.points[-1].fmr if self.points else None,
            "fnmr_at_fmr": {
                name: _summarize(self.point_at(rate)) for name, rate in TABLE_RATES.items()
            },
            "generalised_fnmr_at_fmr": self.generalised,
            "det": self.points,
            "galleries": {str(size): one for size, one in list_galleries(self.points)},
            "common_fmr": self.conditions.common_fmr,
            "common_threshold": self.conditions.threshold,
            "quality_bands": self.conditions.quality,
            "attributes": self.conditions.attributes,
            "flagged": self.flagged.to_dict(),
            "extract_seconds": self.extract_s,
            "seconds": self.seconds,
        }
        if with_failed:
            report["failed_photographs"] = [
                self.embeddings.folder.name(place) for place in self.embeddings.failed
            ]
        if with_flagged:
            report["flagged_photographs"] = self.flagged.to_rows(self.embeddings)
        plain: dict[str, Any] = msgspec.to_builtins(report, str_keys=True, enc_hook=float)
        return plain


def evaluate(
    root: Path,
    extractor: Extractor,
    progress: Progress | None = None,
    *,
    attributes: Path | None = None,
    fmr: float | None = None,
    source: str | None = None,
) -> Evaluation:
    """Extract every photograph of `root` (a folder per person) and compare pairs of them.

    For `attributes` see `engine.accuracy.dataset`. `fmr` (by default 1e-4, or the lowest supported
    decade) sets the threshold for qualities and groups. An unreadable or faceless photograph is a
    failure to acquire: counted, and left out of the pairs. Raises `RequestError` where the folder
    or a file is invalid.
    """
    start = time.perf_counter()
    folder = LabelledFolder.open(root)
    if fmr is not None:
        require_support(fmr, count_strangers(np.bincount(folder.people)))
    labels = () if attributes is None else read_attributes(attributes, folder)
    embeddings = embed_folder(folder, extractor, progress)
    extracted = time.perf_counter()
    named = source or root.name
    found = _judge(embeddings, labels, fmr, model=extractor.model_digest, source=named)
    return replace(found, extract_s=extracted - start, seconds=time.perf_counter() - start)


def _judge(
    embeddings: Embeddings,
    labels: tuple[Labels, ...],
    fmr: float | None,
    *,
    model: str,
    source: str,
) -> Evaluation:
    """Everything but the durations."""
    singles = single_templates(*embeddings.acquired())
    assert (np.diff(singles.photographs[:, 0]) > 0).all(), "rows of templates are those acquired"
    scores = compare_all(limit_photographs(singles, MOST_PHOTOGRAPHS))
    if not len(scores.mated) or not len(scores.nonmated):
        raise RequestError(
            "nothing to compare: faces of two people, and two of one of them, must be found"
        )
    mated = compare_mated(singles)
    flagged = flag_strangers(singles, mated.scores, scores.nonmated)
    points: tuple[OperatingPoint, ...] = ()
    if lowest_rate(len(scores.nonmated)) <= HIGHEST_FMR:
        points = operating_points(scores, rate_grid(HIGHEST_FMR, len(scores.nonmated)))
    found = {name: find_point(points, rate) for name, rate in TABLE_RATES.items()}
    thresholds = {name: None if one is None else one.threshold for name, one in found.items()}
    return Evaluation(
        model_digest=model,
        source=source,
        embeddings=embeddings,
        acquisition=measure_acquisition(embeddings),
        mated_pairs=len(scores.mated),
        nonmated_pairs=len(scores.nonmated),
        points=points,
        generalised=generalise_fnmr(embeddings, mated, singles.people, thresholds),
        conditions=measure_conditions(embeddings, singles, scores, labels, fmr),
        flagged=flagged,
    )


def find_point(points: Iterable[OperatingPoint], fmr: float) -> OperatingPoint | None:
    """The operating point of this rate, None where there is none."""
    return next((p for p in points if abs(p.fmr / fmr - 1) < 1e-6), None)


def list_galleries(points: Sequence[OperatingPoint]) -> Iterator[tuple[int, OperatingPoint | None]]:
    """Of each size of GALLERIES the point that keeps FPIR there, None where none is supported.

    Were comparisons independent, FPIR = 1 - (1 - FMR)^N; the FNIR is then the FNMR.
    """
    for size in GALLERIES:
        fmr = -math.expm1(math.log1p(-FPIR) / size)
        yield size, next((one for one in points if one.fmr <= fmr), None)


def _summarize(point: OperatingPoint | None) -> RatePoint | None:
    if point is None:
        return None
    return RatePoint(point.threshold, point.fnmr, point.fnmr_low, point.fnmr_high)
