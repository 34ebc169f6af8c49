"""Suite `accuracy`: error rates on photographs of known people, and what a second one is worth."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bench.core.machine import clock
from bench.core.reports import Figure, Measured, Result, Setup, Skipped, SuiteOutput
from bench.data.photographs import find_faces, find_pairs_file
from bench.suites.degraded import measure_degraded
from bench.suites.held_out import check_frames, check_transform, check_verify
from engine.accuracy.dataset import Embeddings, read_lfw_pairs
from engine.accuracy.error_rates import lowest_rate
from engine.accuracy.evaluate import Evaluation, evaluate
from engine.accuracy.pair_scores import (
    MOST_PHOTOGRAPHS,
    PairScores,
    TemplateSet,
    compare_all,
    fused_templates,
    limit_photographs,
    single_templates,
)
from engine.accuracy.population import MIN_NONMATED_PAIRS, Population
from engine.errors import RequestError
from engine.faces.extractor import open_extractor
from engine.models.catalog import builtin_card
from engine.models.transform import Transform, read_transform
from schema.thresholds import Comparison
from serving.deployment.models import build_thresholds, load_calibration
from serving.settings.settings import Settings

if TYPE_CHECKING:
    from engine.accuracy.evaluate import FusionGain


RESEMBLANCE = "Synthetic population"
SYNTHETIC = 6_000
"""Of whom all pairs support a rate of 1e-6."""
RATES = (1e-3, 1e-4, 1e-5, 1e-6)
MATED_SCORES = (0.472, 0.602)


def compare_population(singles: TemplateSet, seed: int) -> Result:
    """Thresholds of the synthetic population and of photographs at equal false match rates.

    At most eight photographs of a person; none where they have too few pairs to show a tail.
    """
    setup: Setup = {
        "synthetic_people": SYNTHETIC,
        "most_photographs": MOST_PHOTOGRAPHS,
        "seed": seed,
    }
    few = limit_photographs(singles, MOST_PHOTOGRAPHS)
    real = compare_all(few)
    if len(real.nonmated) < MIN_NONMATED_PAIRS:
        reason = f"{len(real.nonmated):,} non-mated pairs don't show a tail"
        return Result(RESEMBLANCE, setup, (Figure.skip("thresholds", "score", reason),))
    population = Population.load("sface")
    faces = population.samples(population.people(SYNTHETIC, seed), seed)
    fused = compare_all(fused_templates(few, MOST_PHOTOGRAPHS))
    references = population.references(SYNTHETIC, seed)
    made = np.einsum("nd,nd->n", references, population.mates(np.arange(SYNTHETIC), seed))
    people = len(np.unique(fused.mated_people))
    missed = fused.missed(np.array(MATED_SCORES, np.float32)).sum(axis=1) / people
    figures = [
        *_list("single, photographs", real),
        *_list("single, synthetic", _compare_people(faces)),
        *_list("fused, photographs", fused),
        *_list("fused, synthetic", _compare_people(references)),
    ]
    for score, share in zip(MATED_SCORES, missed, strict=True):
        for name, one in (("photographs", share), ("synthetic", (made < score).mean())):
            figures.append(Figure(f"fused, {name}: mates below {score}", "share", float(one)))
    return Result(RESEMBLANCE, setup, tuple(figures))


def _compare_people(faces: NDArray[np.float32]) -> PairScores:
    return compare_all(single_templates(faces, np.arange(len(faces))))


def _list(name: str, scores: PairScores) -> list[Figure]:
    return [
        Figure(f"{name}, FMR {rate:.0e}", "score", float(scores.thresholds_at(np.array([rate]))[0]))
        if rate >= lowest_rate(len(scores.nonmated))
        else Figure.skip(f"{name}, FMR {rate:.0e}", "score", "too few pairs for this rate")
        for rate in RATES
    ]


QUICK = {"people": 100}
CHECKED_FMR = 1e-4
FUSION_FMR = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyConfig:
    """`people`: only the first so many folders; a part of them has no ten folds of pairs."""

    people: int | None = None
    faces: Path | None = None
    pairs: Path | None = None
    seed: int = 0


def run(config: AccuracyConfig) -> SuiteOutput:
    faces = find_faces(config.faces)
    pairs = None if config.people else find_pairs_file(config.pairs, faces)
    with _first_people(faces, config.people) as folder, open_extractor() as extractor:
        evaluation, seconds = clock(lambda: evaluate(folder, extractor))
    singles = single_templates(*evaluation.embeddings.acquired())
    settings = Settings()
    shipped = build_thresholds(settings, load_calibration(settings))
    transform = read_transform(builtin_card("sface"))
    plain = singles if transform is None else _undo(singles, transform)
    point = evaluation.point_at(CHECKED_FMR)
    measured: dict[str, Measured] = {
        "accuracy": Skipped(NO_FOLDS),
        "fnmr_at_fmr_1e-4": Skipped(_unsupported(evaluation)) if point is None else point.fnmr,
        "fta": evaluation.fta,
        "evaluate_seconds": seconds,
        **_measure_fusion(evaluation.fusion),
    }
    mean = Figure.skip("mean of the folds", "share", NO_FOLDS)
    if pairs is not None:
        measured["accuracy"] = value = float(_judge_folds(evaluation.embeddings, pairs).mean())
        mean = Figure(mean.name, mean.unit, value)
    setup: Setup = {
        "faces": f"{faces.parent.name}/{faces.name}",
        "people": evaluation.people,
        "photographs": evaluation.photographs,
        "mated_pairs": evaluation.mated_pairs,
        "nonmated_pairs": evaluation.nonmated_pairs,
    }
    results = [Result("Accuracy", setup, (mean,)), compare_population(singles, config.seed)]
    for result, found in (
        check_verify(singles, shipped.verify, config.seed),
        check_frames(singles, shipped, config.seed),
        check_transform(plain, config.seed),
    ):
        results.append(result)
        measured |= found
    with open_extractor() as extractor:
        degraded, kept = measure_degraded(
            extractor, faces, shipped.verify, is_part=config.people is not None
        )
    return (*results, *degraded), {**measured, **kept}


def _undo(singles: TemplateSet, transform: Transform) -> TemplateSet:
    return replace(singles, vectors=transform.undo(singles.vectors))


@contextmanager
def _first_people(faces: Path, count: int | None) -> Iterator[Path]:
    """The folder itself, or one of links to its first people."""
    if count is None:
        yield faces
        return
    people = sorted(path for path in faces.iterdir() if path.is_dir())[:count]
    if len(people) < 2:
        raise RequestError("two people at least are needed to compare: raise --n")
    with TemporaryDirectory(prefix="sosie-bench-") as folder:
        for person in people:
            (Path(folder) / person.name).symlink_to(person.resolve())
        yield Path(folder)


Folds = NDArray[np.float64]
"""The accuracy of each fold."""
NO_MATCH = np.float32(-1)
"""Score of a pair without a vector: a face that was not acquired never matches."""


def _judge_folds(embeddings: Embeddings, pairs: Path) -> Folds:
    photographs, fold = read_lfw_pairs(pairs, embeddings.folder)
    scores = np.einsum("nd,nd->n", *embeddings.vectors[photographs.T])
    scores[np.isin(photographs, embeddings.failed).any(axis=1)] = NO_MATCH
    people = embeddings.folder.people[photographs]
    return fold_accuracy(scores, people[:, 0] == people[:, 1], fold)


def fold_accuracy(
    scores: NDArray[np.float32], is_mated: NDArray[np.bool_], fold: NDArray[np.int64]
) -> Folds:
    """Accuracy of each fold at the best threshold of all other folds.

    Huang, Ramesh, Berg and Learned-Miller (2007).
    """
    accuracies = []
    for number in np.unique(fold):
        others = fold != number
        threshold = best_threshold(scores[others], is_mated[others])
        accuracies.append(((scores[~others] >= threshold) == is_mated[~others]).mean())
    return np.array(accuracies)


def best_threshold(scores: NDArray[np.float32], is_mated: NDArray[np.bool_]) -> float:
    """The threshold with the most correct decisions, halfway between two scores.

    Of several equally good, the middle one.
    """
    order = np.argsort(scores)
    ordered, mated = scores[order], is_mated[order]
    candidates, first = np.unique(ordered, return_index=True)
    missed = np.append(0, mated.cumsum())[first]
    refused = first - missed
    right = (mated.sum() - missed) + refused
    best = np.flatnonzero(right == right.max())
    chosen = int(best[len(best) // 2])
    below = candidates[max(chosen - 1, 0)]
    return (float(below) + float(candidates[chosen])) / 2


def _measure_fusion(fusion: FusionGain | None) -> dict[str, Measured]:
    found = {
        kind: point.fnmr
        for kind, points in (fusion.points if fusion else {}).items()
        for point in points
        if abs(point.fmr / FUSION_FMR - 1) < 1e-6
    }
    if fusion is None or len(found) < len(Comparison):
        few = Skipped(f"too few people with four photographs for FMR {FUSION_FMR:.0e}")
        return {"fused_to_one_gain": few, "fused_to_fused_fnmr": few}
    # No miss at all is at least as good as half a miss.
    least = max(found[Comparison.FUSED_TO_ONE], 0.5 / fusion.mated_pairs)
    return {
        "fused_to_one_gain": found[Comparison.ONE_TO_ONE] / least,
        "fused_to_fused_fnmr": found[Comparison.FUSED],
    }


NO_FOLDS = "no pairs file, or only a part of the people: give --pairs, and no --n"


def _unsupported(evaluation: Evaluation) -> str:
    return f"{evaluation.nonmated_pairs:,} non-mated pairs are too few for this rate"
