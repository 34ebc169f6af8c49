"""Suite `accuracy`: error rates on photographs of known people, and what a second one is worth.

Cross-validation is over people: two halves, each fitted on and measured on in turn, drawn anew five
times. A smaller fold would hold too few strangers for an FMR of 1e-4.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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
from engine.accuracy.calibrate import fit_transform
from engine.accuracy.dataset import Embeddings, read_lfw_pairs
from engine.accuracy.error_rates import MIN_EXPECTED_PAIRS, lowest_rate, threshold_at
from engine.accuracy.evaluate import Evaluation, evaluate
from engine.accuracy.pair_scores import (
    MOST_PHOTOGRAPHS,
    PairScores,
    TemplateSet,
    compare_all,
    fuse,
    fused_templates,
    keep_people,
    limit_photographs,
    single_templates,
)
from engine.accuracy.population import Population
from engine.errors import RequestError
from engine.faces.extractor import open_extractor
from engine.matching.calibration import ONE_PERSON_FACTOR, Thresholds
from engine.matching.checks.picture import measure_agreement
from engine.models.catalog import builtin_card
from engine.models.transform import Transform, read_transform
from schema.decisions import Comparison
from serving.deployment.models import build_thresholds, load_calibration
from serving.settings.settings import Settings

REPEATS, FOLDS = 5, 2
VERIFY_FMR = 1e-4
HELD_OUT = "People not fitted on"
MEASURED = ("verify_fmr_least", "verify_fmr_most", "verify_fnmr")
SEVERAL_FRAMES = "Several live frames"
FRAMES, DRAWS = (2, 3, 5), 4
"""Frames that are fused, and how often photographs are drawn for them in each half."""
GAIN_OF_THREE = "three_frames_gain"


def _list_columns(
    rows: Iterable[Sequence[float]], names: Sequence[str]
) -> tuple[tuple[Figure, ...], NDArray[np.float64]]:
    """Shares by their names, with mean, least and most over the halves; and the rows."""
    found: NDArray[np.float64] = np.array(list(rows))
    return tuple(
        Figure(name, "share", float(column.mean()), float(column.min()), float(column.max()))
        for name, column in zip(names, found.T, strict=True)
    ), found


def split_people(
    singles: TemplateSet, *, seed: int, repeats: int = REPEATS, folds: int = FOLDS
) -> Iterator[tuple[TemplateSet, TemplateSet]]:
    """The templates to fit on and those to measure on, of other people, for every fold."""
    present = np.unique(singles.people)
    rng = np.random.default_rng(seed)
    for _ in range(repeats):
        for held in np.array_split(rng.permutation(present), folds):
            fitted = np.setdiff1d(present, held)
            yield keep_people(singles, fitted), keep_people(singles, held)


def check_verify(
    singles: TemplateSet, shipped: float, seed: int
) -> tuple[Result, dict[str, Measured]]:
    """FMR and FNMR on people that the threshold was not fitted on; the shipped one's beside it.

    The FNMR is that of the first two photographs of each person.
    """
    few = limit_photographs(singles, MOST_PHOTOGRAPHS)
    people = len(np.unique(few.people))
    setup: Setup = {"people": people, "repeats": REPEATS, "folds": FOLDS, "seed": seed}
    strangers = (people // FOLDS) ** 2 / 2
    if strangers * VERIFY_FMR < MIN_EXPECTED_PAIRS:
        few_people = f"{people:,} people are too few for FMR {VERIFY_FMR:.0e} in half of them"
        result = Result(HELD_OUT, setup, (Figure.skip("verify", "share", few_people),))
        return result, dict.fromkeys(MEASURED, Skipped(few_people))
    rows = []
    for fitted, held in split_people(few, seed=seed):
        (threshold,) = compare_all(fitted).thresholds_at(np.array([VERIFY_FMR]))
        strangers_held, first_two = compare_all(held), compare_all(limit_photographs(held, 2))
        limits = (threshold, shipped)
        fmrs = [strangers_held.fmr_at(one) for one in limits]
        rows.append([*fmrs, *(float((first_two.mated < one).mean()) for one in limits)])
    names = ("FMR", "FMR of the shipped one", "FNMR", "FNMR of the shipped one")
    figures, found = _list_columns(rows, [f"verify, {name}" for name in names])
    fmr = found[:, :2]
    worst = (float(fmr.min()), float(fmr.max()), float(found[:, 2:].mean(axis=0).max()))
    return Result(HELD_OUT, setup, figures), dict(zip(MEASURED, worst, strict=True))


def name_frames(frames: int, what: str) -> str:
    """The name of a figure on so many frames fused."""
    return f"{frames} frames, {what}"


def check_frames(
    singles: TemplateSet, shipped: Thresholds, seed: int
) -> tuple[Result, dict[str, Measured]]:
    """FNMR of several live frames fused, against one portrait, and of the first frame alone.

    Frames are photographs of different days. Both are measured over the same people, those with
    enough photographs, at thresholds of FMR 1e-4 that the other half of the people gives. Beside
    them the FMR of the shipped `verify`, and how many are refused because the frames differ:
    honest ones, and those of whom one frame shows somebody else.
    """
    counts = np.diff(singles.starts())
    people = int((counts > 0).sum())
    setup: Setup = {"people": people, "repeats": REPEATS, "folds": FOLDS, "seed": seed}
    figures: list[Figure] = []
    gains: dict[int, Measured] = {}
    for frames in FRAMES:
        able = int((counts > frames).sum())
        setup[f"people_with_{frames + 1}_photographs"] = able
        if (able // FOLDS) * (people // FOLDS) * VERIFY_FMR < MIN_EXPECTED_PAIRS:
            few_people = f"{able:,} people with {frames + 1} photographs are too few"
            figures.append(Figure.skip(name_frames(frames, FUSED_FNMR), "share", few_people))
            gains[frames] = Skipped(few_people)
            continue
        named = [name_frames(frames, name) for name in FRAME_FIGURES]
        more, found = _list_columns(_measure_halves(singles, frames, shipped, seed), named)
        figures += more
        one, fused = found.mean(axis=0)[:2]
        # No miss at all is at least as good as half a miss.
        gains[frames] = float(one / max(fused, 0.5 / (able * REPEATS * DRAWS)))
    return Result(SEVERAL_FRAMES, setup, tuple(figures)), {GAIN_OF_THREE: gains[3]}


SINGLE_FNMR, FUSED_FNMR = "FNMR of the first alone", "FNMR"
FUSED_FMR = "FMR of `verify`"
REFUSED, MIXED = "refused as differing", "one frame of somebody else, not refused"
FRAME_FIGURES = (SINGLE_FNMR, FUSED_FNMR, FUSED_FMR, REFUSED, MIXED)


@dataclass(frozen=True, slots=True)
class _Draw:
    """`frames` float32[n, k, d] of whoever has enough photographs, `portraits` float32[m, d] of
    everybody, another photograph each; `own` int64[n] says which portrait is whose."""

    frames: NDArray[np.float32]
    portraits: NDArray[np.float32]
    own: NDArray[np.int64]

    def score(self, *, is_fused: bool) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mated float32[n] and non-mated scores, of the frames fused or of the first alone."""
        probes = fuse(*self.frames.swapaxes(0, 1)) if is_fused else self.frames[:, 0]
        scores = probes @ self.portraits.T
        return scores[np.arange(len(probes)), self.own], scores[self._strangers]

    def measure_fmr(self, shipped: Thresholds) -> float:
        """The FMR of the shipped `verify`, which follows how much the fused frames differ."""
        lengths = np.linalg.norm(self.frames.mean(axis=1), axis=1)
        limits = np.array([[shipped.verify_for(float(length))] for length in lengths])
        limits = np.broadcast_to(limits, self._strangers.shape)[self._strangers]
        return float((self.score(is_fused=True)[1] >= limits).mean())

    @property
    def _strangers(self) -> NDArray[np.bool_]:
        found = np.ones((len(self.frames), len(self.portraits)), bool)
        found[np.arange(len(self.frames)), self.own] = False
        return found

    def measure_agreement(self, *, is_mixed: bool) -> NDArray[np.float64]:
        """float64[n]: how far the frames of each agree, where mixed with one of the next person."""
        frames = self.frames.copy()
        if is_mixed:
            frames[:, -1] = np.roll(self.frames[:, -1], 1, axis=0)
        return np.array([measure_agreement(one) for one in frames])


def _draw(singles: TemplateSet, count: int, rng: np.random.Generator) -> _Draw:
    starts = singles.starts()
    sizes = np.diff(starts)
    present = np.flatnonzero(sizes)
    rows = [starts[person] + rng.permutation(sizes[person]) for person in present]
    own = np.flatnonzero(sizes[present] > count)
    frames = np.stack([rows[place][:count] for place in own])
    # Whoever has enough photographs has one more than the frames.
    portraits = np.array([each[min(count, len(each) - 1)] for each in rows])
    return _Draw(singles.vectors[frames], singles.vectors[portraits], own)


def _measure_halves(
    singles: TemplateSet, frames: int, shipped: Thresholds, seed: int
) -> Iterator[tuple[float, ...]]:
    """A row of `FRAME_FIGURES` for each half of the people."""
    rng = np.random.default_rng(seed)
    for fitted, held in split_people(singles, seed=seed):
        fit = [_draw(fitted, frames, rng) for _ in range(DRAWS)]
        test = [_draw(held, frames, rng) for _ in range(DRAWS)]
        fnmr, one_person = [], 1.0
        for is_fused in (False, True):
            strangers = np.concatenate([one.score(is_fused=is_fused)[1] for one in fit])
            threshold = threshold_at(strangers, VERIFY_FMR)
            mated = np.concatenate([one.score(is_fused=is_fused)[0] for one in test])
            fnmr.append(float((mated < threshold).mean()))
            if not is_fused:
                one_person = threshold_at(strangers, VERIFY_FMR * ONE_PERSON_FACTOR)
        fmr = float(np.mean([one.measure_fmr(shipped) for one in test]))
        honest, mixed = (
            np.concatenate([one.measure_agreement(is_mixed=is_mixed) for one in test])
            for is_mixed in (False, True)
        )
        yield *fnmr, fmr, float((honest < one_person).mean()), float((mixed >= one_person).mean())


TRANSFORM_FMR = 1e-5
GAINED = ("transform_gain",)


def check_transform(plain: TemplateSet, seed: int) -> tuple[Result, dict[str, Measured]]:
    """FNMR at FMR 1e-5 of one photograph against one, without a transform and with one that was
    fitted on other people; `plain` are vectors as the model gives them."""
    few = limit_photographs(plain, MOST_PHOTOGRAPHS)
    people = len(np.unique(few.people))
    setup: Setup = {"people": people, "repeats": REPEATS, "folds": FOLDS, "seed": seed}
    if (people // FOLDS) ** 2 / 2 * TRANSFORM_FMR < MIN_EXPECTED_PAIRS:
        few_people = f"{people:,} people are too few for FMR {TRANSFORM_FMR:.0e} in half of them"
        result = Result(TRANSFORMED, setup, (Figure.skip("FNMR", "share", few_people),))
        return result, dict.fromkeys(GAINED, Skipped(few_people))
    rows = []
    for fitted, held in split_people(few, seed=seed):
        transform = fit_transform(fitted.vectors, fitted.people)
        moved = replace(held, vectors=transform.apply(held.vectors))
        rows.append([_fnmr_at(compare_all(one), TRANSFORM_FMR) for one in (held, moved)])
    figures, found = _list_columns(
        ((plain, moved, plain - moved) for plain, moved in rows),
        ("FNMR without", "FNMR with a transform", "gain"),
    )
    return Result(TRANSFORMED, setup, figures), {"transform_gain": float(found[:, 2].mean())}


TRANSFORMED = "A transform fitted on other people"


def _fnmr_at(scores: PairScores, rate: float) -> float:
    """The FNMR of a person at this FMR of these strangers."""
    missed = scores.missed(scores.thresholds_at(np.array([rate])))
    return float(missed.sum() / len(np.unique(scores.mated_people)))


if TYPE_CHECKING:
    from engine.accuracy.evaluate import FusionGain


RESEMBLANCE = "Synthetic population"
SYNTHETIC = 6_000
"""Of whom all pairs support a rate of 1e-6."""
MIN_NONMATED_PAIRS = 1_000_000
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
