"""Faces for the index suites, a synthetic population at any dimension, turned as a vault turns it;
and pairs of photographs, LFW's where it is, else made from a wheel's portrait.

The shipped population has the statistics of SFace, 128 numbers a face. For another dimension it
is stretched: means and covariances are laid into the larger space by a random orthonormal map,
or projected to the smaller one, and `_SPREAD` of each variance is spread evenly over all
dimensions, so that none is empty. Scores then fall much as SFace's do; it is no other model.

The population's groups of look-alikes are left out: an inverted file with more lists than there are
groups finds a face by its group, and would seem to miss a fifth of what it misses.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from bench.core.reports import Setup
from engine.accuracy.dataset import LabelledFolder
from engine.accuracy.photographs import Picture, encode_png, find_images, retake
from engine.accuracy.population import BLOCK, Population
from engine.errors import RequestError
from engine.matching.calibration import Thresholds
from indexes.base import Floats, Ints
from schema import frozen
from serving.deployment.models import build_thresholds, load_calibration
from serving.settings.settings import Settings

Vectors = Floats
Rows = Ints

_SPREAD = 0.1
_ROWS_FOR_ONE = 8
_MAP_SEED, _TURN_SEED = 20_191_201, 20_260_101


Near = tuple[Rows, Vectors]
"""Rows int64[m] of references, and probes of these people, float32[m, dim]."""


class Faces:
    """`references` float32[n, dim], unit rows, each fused of two photographs; and their probes.

    Probes are single photographs, as they come at a counter: never one of the reference's own.
    """

    def __init__(self, n: int, dim: int, seed: int) -> None:
        self._population = population_of(dim)
        self._turn = _orthonormal(dim, dim, _TURN_SEED)
        self._seed = seed
        self.references = self._turned(self._population.references(n, seed))

    def __len__(self) -> int:
        return len(self.references)

    @property
    def dim(self) -> int:
        return self._population.dim

    @property
    def setup(self) -> Setup:
        """What a report says of them."""
        return describe_faces(len(self), self.dim, self._seed)

    def mates(self, rows: Rows) -> Vectors:
        """float32[k, dim]: a fresh photograph of the people in these rows."""
        return self._turned(self._population.mates(rows, self._seed, photographs=1))

    def strangers(self, count: int) -> Vectors:
        """float32[count, dim]: a photograph each of people who are not in the gallery."""
        rows = np.arange(count, dtype=np.int64)
        return self._turned(self._population.mates(rows, self._seed + 1, photographs=1))

    def newcomers(self, count: int) -> Vectors:
        """float32[count, dim]: fused references of people who are not in the gallery."""
        return self._turned(self._population.references(count, self._seed + 2))

    def sample(self, count: int) -> Near:
        """Mates of random rows, at most as many as there are references."""
        # From a few blocks only: the population draws a block for any row of it.
        blocks = list(islice(self._blocks(), -(-_ROWS_FOR_ONE * count // BLOCK) + 1))
        rows = np.random.default_rng([self._seed, 11]).permutation(np.concatenate(blocks))
        return rows[:count], self.mates(rows[:count])

    def near(self, low: float, high: float, count: int) -> Near:
        """The first `count` mates whose score is in [low, high), or all where there are fewer."""
        rows, probes = [np.empty(0, np.int64)], [np.empty((0, self.dim), np.float32)]
        found = 0
        for block in self._blocks():
            mates = self.mates(block)
            scores = np.einsum("ij,ij->i", mates, self.references[block])
            kept = (scores >= low) & (scores < high)
            rows.append(block[kept])
            probes.append(mates[kept])
            found += int(kept.sum())
            if found >= count:
                break
        return np.concatenate(rows)[:count], np.concatenate(probes)[:count]

    def _blocks(self) -> Iterator[Rows]:
        """The rows in the blocks that the population draws at once, in random order."""
        blocks = -(-len(self) // BLOCK)
        for block in np.random.default_rng([self._seed, 12]).permutation(blocks):
            yield np.arange(block * BLOCK, min((block + 1) * BLOCK, len(self)))

    def _turned(self, vectors: Vectors) -> Vectors:
        return turn(vectors, self._turn)


def turn(vectors: Vectors, by: Vectors) -> Vectors:
    """Unit rows turned in place, block by block, as a vault turns templates: scores stay."""
    for start in range(0, len(vectors), BLOCK):
        rows = vectors[start : start + BLOCK] @ by
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        vectors[start : start + BLOCK] = rows
    return vectors


def population_of(dim: int) -> Population:
    """The shipped population, stretched or projected where it has another dimension."""
    shipped = replace(Population.load("sface"), group_share=0.0)
    if dim == shipped.dim:
        return shipped
    into = _orthonormal(max(dim, shipped.dim), min(dim, shipped.dim), _MAP_SEED)
    into = into if dim > shipped.dim else into.T
    return replace(
        shipped,
        mean=into @ shipped.mean,
        between=_spread(into @ shipped.between),
        within=_spread(into @ shipped.within),
    )


def describe_faces(references: int, dim: int, seed: int) -> Setup:
    """How many there are, and where they come from."""
    shipped = Population.load("sface").dim
    like = "with SFace's statistics"
    if dim != shipped:
        like = f"SFace's statistics stretched from {shipped} dimensions"
    population = f"synthetic, {like}, no look-alikes"
    return {"references": references, "dim": dim, "population": population, "seed": seed}


def default_thresholds() -> Thresholds:
    """Those of a deployment that changes no setting."""
    settings = Settings()
    return build_thresholds(settings, load_calibration(settings))


def _spread(factor: Vectors) -> Vectors:
    """The Cholesky factor of F Fᵀ with a part of its trace spread over all dimensions."""
    covariance = factor.astype(np.float64) @ factor.T.astype(np.float64)
    even = np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    mixed = (1 - _SPREAD) * covariance + _SPREAD * even
    spread: Vectors = np.linalg.cholesky(mixed).astype(np.float32)
    return spread


def _orthonormal(rows: int, columns: int, seed: int) -> Vectors:
    """float32[rows, columns] with orthonormal columns, uniformly distributed; rows >= columns."""
    normals = np.random.default_rng(seed).standard_normal((rows, columns))
    q, r = np.linalg.qr(normals)
    matrix: Vectors = (q * np.sign(np.diagonal(r))).astype(np.float32)
    return matrix


_QUERIES_AT_ONCE = 64
# Beyond what a float32 product of unit rows loses in 1,500 dimensions.
_MARGIN = 1e-4
Answer = tuple[Rows, Vectors]
"""Rows int64[m] and scores float32[m] for one query, best first, equal scores by ascending row."""


def find_best(queries: Vectors, rows: Vectors, k: int) -> list[Answer]:
    """By numpy alone, the k best rows of each query, or all where there are fewer. A product of
    float32 finds candidates, with a margin; their scores are computed in float64, rounded once."""
    few = min(k, len(rows))
    found = _answer(queries, rows, lambda scores: float(np.partition(scores, -few)[-few]))
    return [(best[:k], scores[:k]) for best, scores in found]


def find_reaching(queries: Vectors, rows: Vectors, threshold: float) -> list[Answer]:
    """By numpy, all rows at or above the threshold."""
    found = _answer(queries, rows, lambda _: threshold)
    # In float64, for numpy would round the threshold to the scores' float32.
    counts = [int((scores.astype(np.float64) >= threshold).sum()) for _, scores in found]
    return [(one[0][:count], one[1][:count]) for one, count in zip(found, counts, strict=True)]


def _answer(
    queries: Vectors, rows: Vectors, find_level: Callable[[Vectors], float]
) -> list[Answer]:
    """All that reach the level of their query, or miss it by the margin."""
    answers = []
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        some = queries[start : start + _QUERIES_AT_ONCE]
        for query, scores in zip(some, some @ rows.T, strict=True):
            near = np.flatnonzero(scores >= np.float32(find_level(scores) - _MARGIN))
            exact = _score_pairs(np.broadcast_to(query, (len(near), len(query))), rows[near])
            order = np.lexsort((near, -exact))
            answers.append((near[order], exact[order]))
    return answers


def find_pairs(rows: Vectors, threshold: float) -> tuple[Rows, Rows, Vectors]:
    """All pairs of different rows at or above: the smaller, the greater, their scores."""
    found = find_reaching(rows, rows, threshold)
    left = np.repeat(np.arange(len(rows)), [len(others) for others, _ in found])
    right, scores = (np.concatenate(side) for side in zip(*found, strict=True))
    order = np.lexsort((right, left))
    order = order[left[order] < right[order]]
    return left[order], right[order], scores[order]


def _score_pairs(one: Vectors, other: Vectors) -> Vectors:
    """float32[m] of float32[m, d] twice, computed in float64."""
    scores: Vectors = (one.astype(np.float64) * other).sum(axis=1).astype(np.float32)
    return scores


LFW = Path(__file__).parents[2] / "shared" / "lfw"
"""Beside the checkout; an installed package has none."""


@frozen
class PhotographPairs:
    """Files, two and two; `source` says what they show."""

    pairs: tuple[tuple[Path, Path], ...]
    source: str

    @property
    def photographs(self) -> tuple[Path, ...]:
        return tuple(path for pair in self.pairs for path in pair)


def find_faces(given: Path | None) -> Path:
    """The folder given, else LFW's; raises `RequestError` where there is none."""
    folder = given or LFW / "images"
    if not folder.is_dir():
        raise RequestError(f"no photographs in {folder}: give a folder in LFW's layout as --faces")
    return folder


@contextmanager
def open_pairs(faces: Path | None, count: int, seed: int) -> Iterator[PhotographPairs]:
    """So many pairs: of a folder in LFW's layout, else of astronaut portraits made for this run."""
    if faces is not None or (LFW / "images").is_dir():
        yield _draw_pairs(find_faces(faces), count, seed)
        return
    with TemporaryDirectory(prefix="sosie-bench-") as folder:
        yield _make_portraits(Path(folder), count)


def _draw_pairs(faces: Path, count: int, seed: int) -> PhotographPairs:
    """The first two photographs of a person each, of everybody before anybody comes again."""
    folder = LabelledFolder.open(faces)
    order = np.random.default_rng(seed).permutation(len(folder.names)).tolist()
    found = (np.flatnonzero(folder.people == person) for person in order)
    drawn = ((folder.paths[mine[0]], folder.paths[mine[1]]) for mine in found if len(mine) >= 2)
    pairs = tuple(islice(cycle(drawn), count))
    if not pairs:
        raise RequestError(f"nobody in {folder.root} has two photographs: give others as --faces")
    return PhotographPairs(pairs, f"{faces.parent.name}/{faces.name}")


def _make_portraits(folder: Path, count: int) -> PhotographPairs:
    """250x250 JPEGs of one portrait, taken anew again and again: the work of LFW, one face."""
    portrait = Picture("astronaut", encode_png(find_images("--faces").astronaut()[:250, 100:350]))
    paths = [folder / f"{number:05d}.jpg" for number in range(2 * count)]
    for number, path in enumerate(paths):
        path.write_bytes(retake(portrait, number).data)
    pairs = tuple(zip(paths[::2], paths[1::2], strict=True))
    return PhotographPairs(pairs, "scikit-image astronaut, taken anew (LFW is not here)")
