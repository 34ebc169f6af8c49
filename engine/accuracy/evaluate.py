"""`sosie evaluate`: error rates of an extractor on a folder of photographs of known people."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.accuracy.acquisition import Acquisition, generalise_fnmr, measure_acquisition
from engine.accuracy.bootstrap import Share, count_strangers, operating_points, rate_grid
from engine.accuracy.conditions import Annotations, Conditions, measure_conditions
from engine.accuracy.dataset import (
    Embeddings,
    LabelledFolder,
    PairFolds,
    Progress,
    embed_folder,
)
from engine.accuracy.error_rates import FoldAccuracy, fold_accuracy, lowest_rate, require_support
from engine.accuracy.flagged import Flagged, flag_strangers
from engine.accuracy.fusion_gain import FusionGain, compare_fusion
from engine.accuracy.gallery_growth import GalleryGrowth, grow_gallery
from engine.accuracy.pair_scores import PairScores, compare_all, compare_mated, single_templates
from engine.errors import RequestError
from engine.matching.calibration import OperatingPoint

if TYPE_CHECKING:
    from engine.faces.extractor import Extractor

FORMAT = 4
"""Format version of `to_dict`."""
HIGHEST_FMR = 1e-1
TABLE_RATES = {"1e-3": 1e-3, "1e-4": 1e-4, "1e-5": 1e-5, "1e-6": 1e-6}
NO_MATCH = np.float32(-1)
"""Score of a pair without a vector: a face not acquired never matches."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evaluation:
    """Result of an evaluation; rates from 0 to 1, intervals of 95 %.

    `points` run down from FMR 0.1 to the lowest supported rate; the intervals come from a
    bootstrap over people. `generalised`: FNMR at TABLE_RATES with failures to acquire as misses.
    `verification` is None without a pairs file; `fusion` and `growth` are where too few people have
    three or four photographs. `embeddings` and `flagged` hold paths, which may
    name people; `to_dict` includes them only on request.
    """

    model_digest: str
    source: str
    embeddings: Embeddings
    acquisition: Acquisition
    verification: FoldAccuracy | None
    mated_pairs: int
    nonmated_pairs: int
    points: tuple[OperatingPoint, ...]
    generalised: dict[str, Share | None]
    growth: GalleryGrowth | None
    fusion: FusionGain | None
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
    def failures(self) -> dict[str, int]:
        """Photographs without a vector, by cause."""
        return self.embeddings.failures

    @property
    def fta(self) -> float:
        return self.acquisition.failed.value

    @property
    def fta_interval(self) -> tuple[float, float]:
        return self.acquisition.failed.low, self.acquisition.failed.high

    @property
    def failed_photographs(self) -> tuple[str, ...]:
        """Paths of the photographs without a face."""
        folder = self.embeddings.folder
        return tuple(
            folder.paths[place].relative_to(folder.root).as_posix()
            for place in self.embeddings.failed
        )

    def point_at(self, fmr: float) -> OperatingPoint | None:
        """The operating point of this rate, None where the data do not support it."""
        return _find_point(self.points, fmr)

    def to_dict(self, *, with_failed: bool = False, with_flagged: bool = False) -> dict[str, Any]:
        """The JSON of `sosie evaluate`; a rate that is not supported is null."""
        verification = self.verification
        report = {
            "format": FORMAT,
            "model_digest": self.model_digest,
            "source": self.source,
            "people": self.people,
            "photographs": self.photographs,
            "accuracy": verification and verification.accuracy,
            "accuracy_std": verification and verification.accuracy_std,
            "fta": self.fta,
            "fta_interval": list(self.fta_interval),
            "failures": self.failures,
            "problems": self.embeddings.problems,
            "acquisition": asdict(self.acquisition),
            "mated_pairs": self.mated_pairs,
            "nonmated_pairs": self.nonmated_pairs,
            "lowest_fmr": self.points[-1].fmr if self.points else None,
            **self._list_rates(),
            "gallery_growth": self.growth and asdict(self.growth),
            "fusion": self.fusion and asdict(self.fusion),
            **self.conditions.to_dict(),
            "flagged": self.flagged.to_dict(),
            "extract_seconds": self.extract_s,
            "seconds": self.seconds,
        }
        if with_failed:
            report["failed_photographs"] = list(self.failed_photographs)
        if with_flagged:
            report["flagged_photographs"] = self.flagged.to_rows(self.embeddings)
        return report

    def _list_rates(self) -> dict[str, Any]:
        return {
            "fnmr_at_fmr": {
                name: _summarize(self.point_at(rate)) for name, rate in TABLE_RATES.items()
            },
            "generalised_fnmr_at_fmr": {
                name: one and asdict(one) for name, one in self.generalised.items()
            },
            "det": [asdict(point) for point in self.points],
        }


def evaluate(
    root: Path,
    pairs: Path | None,
    extractor: Extractor,
    progress: Progress | None = None,
    *,
    attributes: Path | None = None,
    dates: Path | None = None,
    fmr: float | None = None,
    source: str | None = None,
    seed: int = 0,
) -> Evaluation:
    """Extract every photograph of `root` (a folder per person) and compare all pairs.

    `pairs` is a file like LFW's `pairs.txt`; for `attributes` and `dates` see
    `engine.accuracy.dataset`. `fmr` (by default 1e-4, or the lowest supported decade) sets the
    threshold for qualities, groups and ages. An unreadable or faceless photograph is a failure to
    acquire: counted, left out of all pairs, and no match in the folds of the pairs file. Raises
    `RequestError` where the folder or a file is invalid.
    """
    start = time.perf_counter()
    folder = LabelledFolder.open(root)
    folds = None if pairs is None else PairFolds.read(pairs, folder)
    if fmr is not None:
        require_support(fmr, count_strangers(np.bincount(folder.people)))
    annotations = Annotations.read(folder, attributes, dates)
    embeddings = embed_folder(folder, extractor, progress)
    extracted = time.perf_counter()
    named = source or root.name
    found = _judge(
        embeddings, folds, annotations, fmr, model=extractor.model_digest, source=named, seed=seed
    )
    return replace(found, extract_s=extracted - start, seconds=time.perf_counter() - start)


def _judge(
    embeddings: Embeddings,
    folds: PairFolds | None,
    annotations: Annotations,
    fmr: float | None,
    *,
    model: str,
    source: str,
    seed: int,
) -> Evaluation:
    """Everything but the durations."""
    singles = single_templates(*embeddings.acquired())
    assert (np.diff(singles.photographs[:, 0]) > 0).all(), "rows of templates are those acquired"
    scores = compare_all(singles)
    if not len(scores.mated) or not len(scores.nonmated):
        raise RequestError(
            "nothing to compare: faces of two people, and two of one of them, must be found"
        )
    mated = compare_mated(singles)
    flagged = flag_strangers(singles, scores.mated, scores.nonmated)
    points = _draw_points(scores, seed)
    return Evaluation(
        model_digest=model,
        source=source,
        embeddings=embeddings,
        acquisition=measure_acquisition(embeddings, seed=seed),
        verification=None if folds is None else _verify_folds(embeddings, folds),
        mated_pairs=len(scores.mated),
        nonmated_pairs=len(scores.nonmated),
        points=points,
        generalised=generalise_fnmr(
            embeddings, mated, singles.people, _list_thresholds(points), seed=seed
        ),
        growth=grow_gallery(singles, flagged.code_people(singles), seed=seed),
        fusion=compare_fusion(singles, seed=seed),
        conditions=measure_conditions(
            embeddings, singles, scores.nonmated, annotations, fmr, seed=seed
        ),
        flagged=flagged,
    )


def _draw_points(scores: PairScores, seed: int) -> tuple[OperatingPoint, ...]:
    """The points of the DET curve; none where not even the highest rate is supported."""
    if lowest_rate(len(scores.nonmated)) > HIGHEST_FMR:
        return ()
    return operating_points(scores, rate_grid(HIGHEST_FMR, len(scores.nonmated)), seed=seed)


def _find_point(points: Iterable[OperatingPoint], fmr: float) -> OperatingPoint | None:
    return next((p for p in points if abs(p.fmr / fmr - 1) < 1e-6), None)


def _list_thresholds(points: Iterable[OperatingPoint]) -> dict[str, float | None]:
    """Thresholds of TABLE_RATES, None where not supported."""
    found = {name: _find_point(points, rate) for name, rate in TABLE_RATES.items()}
    return {name: None if point is None else point.threshold for name, point in found.items()}


def _verify_folds(embeddings: Embeddings, folds: PairFolds) -> FoldAccuracy:
    left, right = embeddings.vectors[folds.photographs.T]
    scores = np.einsum("nd,nd->n", left, right)
    scores[np.isin(folds.photographs, embeddings.failed).any(axis=1)] = NO_MATCH
    return fold_accuracy(scores, folds.is_mated, folds.fold)


def _summarize(point: OperatingPoint | None) -> dict[str, float] | None:
    if point is None:
        return None
    return {
        "threshold": point.threshold,
        "fnmr": point.fnmr,
        "low": point.fnmr_low,
        "high": point.fnmr_high,
    }
