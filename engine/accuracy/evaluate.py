"""`sosie evaluate`: error rates of an extractor on a folder of photographs of known people."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from engine.accuracy.bootstrap import operating_points, rate_grid
from engine.accuracy.fusion import FusionGain, compare_fusion
from engine.accuracy.identification import Identification, identify_open_set
from engine.accuracy.labelled import LabelledFolder, PairFolds
from engine.accuracy.metrics import lowest_rate
from engine.accuracy.pairs import compare_all
from engine.accuracy.templates import single_templates
from engine.accuracy.tenfold import FoldAccuracy, fold_accuracy
from engine.errors import RequestError
from indexes.intervals import wilson_interval

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from engine.faces.extractor import Extracted
    from engine.matching.thresholds import OperatingPoint

HIGHEST_FMR = 1e-1
TABLE_RATES = {"1e-3": 1e-3, "1e-4": 1e-4, "1e-5": 1e-5, "1e-6": 1e-6}
BATCH = 64
NO_MATCH = np.float32(-1)
"""The score of a pair that lacks a vector: a face not acquired never matches."""

Progress = Callable[[int, int], None]
"""Told the photographs done and the photographs in all."""


class FaceExtractor(Protocol):
    """What an evaluation needs of `engine.faces.extractor.Extractor`."""

    @property
    def model_digest(self) -> str: ...

    @property
    def dim(self) -> int: ...

    def extract(self, images: Sequence[bytes]) -> list[Extracted]: ...


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """The vectors of a folder: float32[photographs, d], unit rows, zero where none was acquired.

    `failures` counts photographs without a vector by cause, `problems` the quality reasons of
    those with one; `failed` are the places of the former.
    """

    folder: LabelledFolder
    vectors: NDArray[np.float32]
    failed: NDArray[np.int64]
    failures: dict[str, int]
    problems: dict[str, int]

    def acquired(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The vectors that there are, and their people by the folder's numbers."""
        kept = np.ones(len(self.vectors), bool)
        kept[self.failed] = False
        return self.vectors[kept], self.folder.people[kept]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evaluation:
    """Rates from 0 to 1, intervals of 95 %.

    `points` run down from FMR 0.1 to the lowest supported rate; the intervals come from a
    bootstrap over people. `verification` is None without a pairs file, `identification` and
    `fusion` where too few people have three or four photographs. `failed_photographs` are paths
    in the folder and may name people; `to_dict` gives them only when asked to.
    """

    model_digest: str
    people: int
    photographs: int
    fta: float
    fta_interval: tuple[float, float]
    failures: dict[str, int]
    problems: dict[str, int]
    failed_photographs: tuple[str, ...]
    verification: FoldAccuracy | None
    mated_pairs: int
    nonmated_pairs: int
    points: tuple[OperatingPoint, ...]
    identification: Identification | None
    fusion: FusionGain | None
    extract_s: float
    seconds: float

    def point_at(self, fmr: float) -> OperatingPoint | None:
        """The point of this rate, None where the data don't support it."""
        return next((p for p in self.points if abs(p.fmr / fmr - 1) < 1e-6), None)

    def to_dict(self, *, with_failed: bool = False) -> dict[str, Any]:
        """What `sosie evaluate --json` prints; a rate that is not supported is null."""
        verification = self.verification
        return {
            "model_digest": self.model_digest,
            "people": self.people,
            "photographs": self.photographs,
            "accuracy": verification and verification.accuracy,
            "accuracy_std": verification and verification.accuracy_std,
            "fta": self.fta,
            "fta_interval": list(self.fta_interval),
            "failures": self.failures,
            "problems": self.problems,
            "mated_pairs": self.mated_pairs,
            "nonmated_pairs": self.nonmated_pairs,
            "lowest_fmr": self.points[-1].fmr if self.points else None,
            "fnmr_at_fmr": {
                name: _summarize(self.point_at(rate)) for name, rate in TABLE_RATES.items()
            },
            "det": [asdict(point) for point in self.points],
            "open_set": self.identification and self.identification.to_dict(),
            "fusion": self.fusion and self.fusion.to_dict(),
            "extract_seconds": self.extract_s,
            "seconds": self.seconds,
        } | ({"failed_photographs": list(self.failed_photographs)} if with_failed else {})


def evaluate(
    root: Path,
    pairs: Path | None,
    extractor: FaceExtractor,
    progress: Progress | None = None,
    *,
    seed: int = 0,
) -> Evaluation:
    """Extract every photograph of `root` (a folder a person) and compare all with all.

    `pairs` is a file as LFW's `pairs.txt`. An unreadable or faceless photograph is a failure to
    acquire: counted, left out of all pairs, and no match in the pairs file's folds. Raises
    `RequestError` where the folder or the file can't be judged.
    """
    start = time.perf_counter()
    folder = LabelledFolder.open(root)
    folds = None if pairs is None else PairFolds.read(pairs, folder)
    embeddings = embed_folder(folder, extractor, progress)
    extracted = time.perf_counter()
    singles = single_templates(*embeddings.acquired())
    scores = compare_all(singles)
    if not len(scores.mated) or not len(scores.nonmated):
        raise RequestError(
            "nothing to compare: faces of two people, and two of one of them, must be found"
        )
    supported = lowest_rate(len(scores.nonmated)) <= HIGHEST_FMR
    points = (
        operating_points(scores, rate_grid(HIGHEST_FMR, len(scores.nonmated)), seed=seed)
        if supported
        else ()
    )
    failed = len(embeddings.failed)
    return Evaluation(
        model_digest=extractor.model_digest,
        people=len(folder.names),
        photographs=len(folder.paths),
        fta=failed / len(folder.paths),
        fta_interval=wilson_interval(failed, len(folder.paths)),
        failures=embeddings.failures,
        problems=embeddings.problems,
        failed_photographs=tuple(
            folder.paths[place].relative_to(root).as_posix() for place in embeddings.failed
        ),
        verification=None if folds is None else _verify_folds(embeddings, folds),
        mated_pairs=len(scores.mated),
        nonmated_pairs=len(scores.nonmated),
        points=points,
        identification=identify_open_set(singles, seed=seed),
        fusion=compare_fusion(singles, seed=seed),
        extract_s=extracted - start,
        seconds=time.perf_counter() - start,
    )


def embed_folder(
    folder: LabelledFolder, extractor: FaceExtractor, progress: Progress | None = None
) -> Embeddings:
    """The vector of each photograph; what can't be acquired is counted, never raised."""
    vectors = np.zeros((len(folder.paths), extractor.dim), np.float32)
    failed: list[int] = []
    failures: Counter[str] = Counter()
    problems: Counter[str] = Counter()
    for start in range(0, len(folder.paths), BATCH):
        batch = folder.paths[start : start + BATCH]
        for place, one in enumerate(extractor.extract(list(map(_read, batch))), start):
            if isinstance(one, Exception) or one.vector is None:
                failed.append(place)
                failures.update([one.code] if isinstance(one, Exception) else one.problems[:1])
            else:
                vectors[place] = one.vector
                problems.update(one.problems)
        if progress:
            progress(start + len(batch), len(folder.paths))
    return Embeddings(
        folder,
        vectors,
        np.array(failed, dtype=np.int64),
        {str(cause): count for cause, count in failures.most_common()},
        {str(reason): count for reason, count in problems.most_common()},
    )


def _read(path: Path) -> bytes:
    """The file's bytes; none where it can't be read, which the extractor calls damaged."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


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
