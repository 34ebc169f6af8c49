"""Suite `accuracy`: error rates on photographs of known people, and what a second one is worth.

Cross-validation is over people: two halves, each fitted on and measured on in turn, drawn anew five
times. A smaller fold would hold too few strangers for an FMR of 1e-4.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from bench.core.machine import clock
from bench.core.reports import Figure, Measured, Result, Setup, Skipped, SuiteOutput
from bench.data.photographs import find_faces
from bench.suites.degraded import measure_degraded
from engine.accuracy.evaluate import Evaluation, evaluate
from engine.accuracy.pair_scores import (
    MIN_EXPECTED_PAIRS,
    MOST_PHOTOGRAPHS,
    TemplateSet,
    compare_all,
    keep_people,
    limit_photographs,
    single_templates,
)
from engine.errors import RequestError
from engine.faces.extractor import open_extractor
from serving.deployment.models import build_thresholds, load_calibration
from serving.settings.settings import Settings

REPEATS, FOLDS = 5, 2
VERIFY_FMR = 1e-4
HELD_OUT = "People not fitted on"
MEASURED = ("verify_fmr_least", "verify_fmr_most", "verify_fnmr")


def split_people(singles: TemplateSet, *, seed: int) -> Iterator[tuple[TemplateSet, TemplateSet]]:
    """The templates to fit on and those to measure on, of other people, for every fold."""
    present = np.unique(singles.people)
    rng = np.random.default_rng(seed)
    for _ in range(REPEATS):
        for held in np.array_split(rng.permutation(present), FOLDS):
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
    found = np.array(rows)
    figures = tuple(
        Figure(f"verify, {name}", "share", float(one.mean()), float(one.min()), float(one.max()))
        for name, one in zip(names, found.T, strict=True)
    )
    fmr = found[:, :2]
    worst = (float(fmr.min()), float(fmr.max()), float(found[:, 2:].mean(axis=0).max()))
    return Result(HELD_OUT, setup, figures), dict(zip(MEASURED, worst, strict=True))


QUICK = {"people": 100}
CHECKED_FMR = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyConfig:
    """`people`: only the first so many folders."""

    people: int | None = None
    faces: Path | None = None
    seed: int = 0


def run(config: AccuracyConfig) -> SuiteOutput:
    faces = find_faces(config.faces)
    with _first_people(faces, config.people) as folder, open_extractor() as extractor:
        evaluation, seconds = clock(lambda: evaluate(folder, extractor))
    singles = single_templates(*evaluation.embeddings.acquired())
    settings = Settings()
    shipped = build_thresholds(settings, load_calibration(settings))
    point = evaluation.point_at(CHECKED_FMR)
    measured: dict[str, Measured] = {
        "fnmr_at_fmr_1e-4": Skipped(_unsupported(evaluation)) if point is None else point.fnmr,
        "fta": evaluation.fta,
        "evaluate_seconds": seconds,
    }
    result, found = check_verify(singles, shipped.verify, config.seed)
    with open_extractor() as extractor:
        degraded, kept = measure_degraded(
            extractor, faces, shipped.verify, is_part=config.people is not None
        )
    return (result, *degraded), {**measured, **found, **kept}


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


def _unsupported(evaluation: Evaluation) -> str:
    return f"{evaluation.nonmated_pairs:,} non-mated pairs are too few for this rate"
