"""A synthetic population of any size with a model's own statistics.

A face is `mean + person + s * noise`, normalised. `person` and `noise` are Gaussian with the
model's between-person and within-person covariance (the two-covariance model of Brümmer and De
Villiers 2010). Two departures from it, because its tails are too thin:

- photographs differ in how poor they are: `s` is log-normal, once a photograph;
- strangers can look alike: people belong to one of `groups`, and `group_share` of the variance
  of `person` is common to a group. All draws share the same groups, whatever their seed.

A real face belongs to no such group, so it has fewer look-alikes here than among real people.

It consists of means, covariances and four numbers, without a vector of any photograph.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from engine.accuracy.error_rates import thresholds_at
from engine.accuracy.pair_scores import (
    PairScores,
    Templates,
    compare_all,
    fuse,
    limit_photographs,
    single_templates,
)
from engine.errors import CalibrationError

DATA_FOLDER = Path(__file__).parent / "data"
BLOCK = 1024
"""Rows drawn from one random stream: any slice gives the same rows."""
PEOPLE, PHOTOGRAPHS = 0, 1
"""Kinds of random streams; the n-th photograph of everyone has the stream `PHOTOGRAPHS + n`."""
GROUP_SEED = 20_190_712


@dataclass(frozen=True, slots=True, eq=False)
class Population:
    """A fitted population: `mean` float32[d], lower Cholesky factors `between` and `within`
    float32[d, d], and the parameters of noise and groups."""

    mean: NDArray[np.float32]
    between: NDArray[np.float32]
    within: NDArray[np.float32]
    noise_log_mean: float
    noise_log_std: float
    groups: int
    group_share: float
    model_digest: str

    @property
    def dim(self) -> int:
        return len(self.mean)

    def people(self, n: int, seed: int) -> NDArray[np.float32]:
        """Latent people float32[n, d] for `samples`; the first rows do not depend on `n`."""
        groups = self._group_means()
        blocks = [self._people_block(block, seed, groups) for block in range(-(-n // BLOCK))]
        return np.concatenate([np.empty((0, self.dim), np.float32), *blocks])[:n]

    def samples(
        self, latent: NDArray[np.float32], seed: int, photograph: int = 0
    ) -> NDArray[np.float32]:
        """One photograph of each person, unit rows float32[n, d]; others by `photograph`."""
        faces = np.empty_like(latent)
        for start in range(0, len(latent), BLOCK):
            rows = slice(start, start + BLOCK)
            faces[rows] = self._photograph(latent[rows], start // BLOCK, seed, photograph)
        return faces

    def references(self, n: int, seed: int) -> NDArray[np.float32]:
        """References float32[n, d], unit rows, of people `0..n-1`, each fused of two photographs.

        Another seed gives strangers to them.
        """
        groups = self._group_means()
        references = np.empty((n, self.dim), np.float32)
        for block in range(-(-n // BLOCK)):
            rows = references[block * BLOCK : (block + 1) * BLOCK]
            rows[:] = self._template_block(block, seed, (0, 1), groups)[: len(rows)]
        return references

    def mates(
        self, rows: NDArray[np.int64], seed: int, *, photographs: int = 2
    ) -> NDArray[np.float32]:
        """Probes float32[k, d], unit rows, of the people in `rows` of `references(n, seed)`.

        Of one new photograph, or fused of two: never of the reference's own.
        """
        assert photographs in (1, 2)
        groups = self._group_means()
        probes = np.empty((len(rows), self.dim), np.float32)
        fresh = tuple(range(2, 2 + photographs))
        blocks, offsets = np.divmod(rows, BLOCK)
        for block in np.unique(blocks):
            chosen = blocks == block
            probes[chosen] = self._template_block(int(block), seed, fresh, groups)[offsets[chosen]]
        return probes

    def save(self, path: Path) -> None:
        with path.open("wb") as file:
            np.savez_compressed(file, **asdict(self))

    @classmethod
    def load(cls, name: str = "sface") -> Self:
        """The shipped population of a built-in model; raises `CalibrationError`."""
        return cls.read(DATA_FOLDER / f"{name}.population.npz")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file of `save`; raises `CalibrationError` where it is not one."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                fields = {name: stored[name] for name in cls.__slots__}
        except FileNotFoundError as error:
            raise CalibrationError(f"no population {path.name}: fit one first") from error
        except (OSError, ValueError, KeyError) as error:
            raise CalibrationError(f"{path.name} is not a population: fit it again") from error
        return cls(**{name: x if x.ndim else x.item() for name, x in fields.items()})

    def _template_block(
        self, block: int, seed: int, photographs: tuple[int, ...], groups: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        latent = self._people_block(block, seed, groups)
        faces = [self._photograph(latent, block, seed, one) for one in photographs]
        return fuse(faces[0], faces[1]) if len(faces) == 2 else faces[0]

    def _people_block(
        self, block: int, seed: int, groups: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """float32[BLOCK, d]: latent people, not normalised."""
        rng = np.random.default_rng([seed, PEOPLE, block])
        own = rng.standard_normal((BLOCK, self.dim), dtype=np.float32)
        group = groups[rng.integers(0, self.groups, BLOCK)]
        share = np.float32(self.group_share)
        traits = np.sqrt(1 - share) * own + np.sqrt(share) * group
        latent: NDArray[np.float32] = self.mean + traits @ self.between.T
        return latent

    def _group_means(self) -> NDArray[np.float32]:
        """float32[groups, d], white."""
        rng = np.random.default_rng(GROUP_SEED)
        return rng.standard_normal((self.groups, self.dim), dtype=np.float32)

    def _photograph(
        self, latent: NDArray[np.float32], block: int, seed: int, photograph: int
    ) -> NDArray[np.float32]:
        """float32[len(latent), d], unit rows; `latent` begins at the block's first row."""
        rng = np.random.default_rng([seed, PHOTOGRAPHS + photograph, block])
        noise = rng.standard_normal((BLOCK, self.dim), dtype=np.float32)[: len(latent)]
        logs = rng.standard_normal(BLOCK, dtype=np.float32)[: len(latent)]
        scale = np.exp(self.noise_log_mean + self.noise_log_std * logs).astype(np.float32)
        faces: NDArray[np.float32] = latent + scale[:, None] * (noise @ self.within.T)
        faces /= np.linalg.norm(faces, axis=1, keepdims=True)
        return faces


PHOTOGRAPHS_OF_A_PERSON = 8
"""At most, per person: otherwise the statistics are those of a few celebrities."""
ITERATIONS = 30
MATED_LEVELS = np.array([0.01, 0.05, 0.25, 0.5, 0.75, 0.95])
TAIL_RATES = 10.0 ** np.array([-3, -3.5, -4, -4.5, -5])
MIN_NONMATED_PAIRS = 1_000_000
TRIALS = 4_000
RELATED_TRIALS = 30_000


def fit_population(
    vectors: NDArray[np.float32], people: NDArray[np.int64], *, model_digest: str, seed: int = 0
) -> Population:
    """Fit a population to a model's vectors (float32[n, d], unit rows).

    Covariances by expectation maximisation; the noise's log-normal by the quantiles of mated
    scores; the look-alike groups by the FMR at thresholds of 1e-3 to 1e-5. Raises
    `CalibrationError` where there are too few photographs for that tail.
    """
    singles = limit_photographs(single_templates(vectors, people), PHOTOGRAPHS_OF_A_PERSON)
    scores = compare_all(singles)
    if len(scores.nonmated) < MIN_NONMATED_PAIRS or not len(scores.mated):
        raise CalibrationError(
            f"{len(scores.nonmated):,} non-mated pairs are too few for the tail: "
            f"a population needs {MIN_NONMATED_PAIRS:,}"
        )
    mean, between, within = _fit_covariances(singles)
    gaussian = Population(
        mean=mean.astype(np.float32),
        between=np.linalg.cholesky(between).astype(np.float32),
        within=np.linalg.cholesky(within).astype(np.float32),
        noise_log_mean=0.0,
        noise_log_std=0.0,
        groups=1,
        group_share=0.0,
        model_digest=model_digest,
    )
    rng = np.random.default_rng(seed)
    return _fit_groups(_fit_noise(gaussian, scores, rng), scores, rng)


def _fit_covariances(
    singles: Templates,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Two-covariance model by expectation maximisation; people are grouped by photographs.

    The mean float64[d], and the covariances between and within people float64[d, d].
    """
    starts = singles.starts()
    present = np.flatnonzero(np.diff(starts))
    rows = singles.vectors.astype(np.float64)
    counts = np.diff(starts)[present]
    means = np.add.reduceat(rows, starts[present]) / counts[:, None]
    person = np.repeat(np.arange(len(present)), counts)
    residuals = rows - means[person]
    mean = means.mean(axis=0)
    within = residuals.T @ residuals / (counts - 1).sum()
    ridge = 1e-6 * np.trace(within) / len(mean) * np.eye(len(mean))
    between = np.cov(means.T)
    for _ in range(ITERATIONS):
        inverse_between = np.linalg.inv(between + ridge)
        inverse_within = np.linalg.inv(within + ridge)
        expected = np.empty_like(means)
        spread, repeated_spread = np.zeros_like(between), np.zeros_like(within)
        for count in np.unique(counts):
            same = counts == count
            posterior = np.linalg.inv(inverse_between + count * inverse_within)
            expected[same] = count * (means[same] - mean) @ inverse_within @ posterior
            spread += same.sum() * posterior
            repeated_spread += same.sum() * count * posterior
        between = (expected.T @ expected + spread) / len(means)
        residuals = rows - mean - expected[person]
        within = (residuals.T @ residuals + repeated_spread) / len(rows)
        mean = mean + residuals.mean(axis=0)
    return mean, between + ridge, within + ridge


def _fit_noise(population: Population, scores: PairScores, rng: np.random.Generator) -> Population:
    """Fit the log-normal scale of the noise to the measured quantiles of mated scores."""
    shape = (TRIALS * 4, population.dim)
    face = population.mean + rng.standard_normal(shape, np.float32) @ population.between.T
    one, two = (rng.standard_normal(shape, np.float32) @ population.within.T for _ in range(2))
    logs = rng.standard_normal((2, len(face)))
    # A score depends on these six products and both scales only: vectors are drawn once.
    pairs = ((face, face), (face, one), (face, two), (one, one), (two, two), (one, two))
    dots = [np.einsum("nd,nd->n", left, right) for left, right in pairs]
    wanted = np.quantile(scores.mated, MATED_LEVELS)

    def miss(log_mean: float, log_std: float) -> float:
        a, b = np.exp(log_mean + log_std * logs)
        ff, f1, f2, n1, n2, n12 = dots
        inner = ff + a * f1 + b * f2 + a * b * n12
        norms = (ff + 2 * a * f1 + a * a * n1) * (ff + 2 * b * f2 + b * b * n2)
        found = np.quantile(inner / np.sqrt(norms), MATED_LEVELS)
        return float(((found - wanted) ** 2).sum())

    grid = product(np.arange(-0.3, 0.301, 0.03), np.arange(0.0, 0.801, 0.04))
    log_mean, log_std = min(grid, key=lambda pair: miss(*pair))
    return replace(population, noise_log_mean=float(log_mean), noise_log_std=float(log_std))


def _fit_groups(population: Population, scores: PairScores, rng: np.random.Generator) -> Population:
    """Fit the number of groups and their share of variance to the measured FMR tail.

    One pair of people in `groups` is of the same group.
    """
    thresholds = thresholds_at(scores.nonmated, TAIL_RATES)
    seed = int(rng.integers(2**31))
    strangers = population.samples(population.people(TRIALS, seed), seed)
    apart = _tail(strangers @ strangers.T, np.triu(np.ones((TRIALS, TRIALS), bool), 1), thresholds)
    fits = []
    for share in np.arange(0.05, 0.601, 0.05):
        related = _draw_related(population, float(share), rng)
        together = _tail(related, np.ones(len(related), bool), thresholds)
        for groups in np.unique(np.geomspace(10, 5000, 80).astype(int)):
            fmr = (1 - 1 / groups) * apart + together / groups
            miss = float((np.log(np.maximum(fmr, 1e-9) / TAIL_RATES) ** 2).sum())
            fits.append((miss, int(groups), float(share)))
    _, groups, share = min(fits)
    return replace(population, groups=groups, group_share=share)


def _draw_related(
    population: Population, share: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """float32[RELATED_TRIALS]: scores of two people of one group, a photograph of each."""
    shape = (RELATED_TRIALS, population.dim)
    common = np.sqrt(np.float32(share)) * rng.standard_normal(shape, np.float32)
    faces = []
    for photograph in range(2):
        own = np.sqrt(np.float32(1 - share)) * rng.standard_normal(shape, np.float32)
        latent = population.mean + (common + own) @ population.between.T
        faces.append(population.samples(latent, int(rng.integers(2**31)), photograph))
    scores: NDArray[np.float32] = np.einsum("nd,nd->n", *faces)
    return scores


def _tail(
    scores: NDArray[np.float32], counted: NDArray[np.bool_], thresholds: NDArray[np.float32]
) -> NDArray[np.float64]:
    """float64[thresholds]: share of the counted scores at or above each."""
    kept = scores[counted]
    return np.array([(kept >= threshold).mean() for threshold in thresholds])
