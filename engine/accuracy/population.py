"""A synthetic population of any size with a model's own statistics.

A face is `mean + person + s * noise`, normalised. `person` and `noise` are Gaussian with the
model's between-person and within-person covariance (the two-covariance model of Brümmer and De
Villiers 2010). Two departures from it, because its tails are too thin:

- photographs differ in how poor they are: `s` is log-normal, once a photograph, and greater by
  `hard_noise` in all those of `hard_share` of the people, who are hard to recognise;
- strangers can look alike: people belong to one of `groups`, and `group_share` of the variance
  of `person` is common to a group. All draws share the same groups, whatever their seed.

A real face belongs to no such group, so it has fewer look-alikes here than among real people.

It consists of means, covariances and six numbers, without a vector of any photograph.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from engine.accuracy.pair_scores import (
    MOST_PHOTOGRAPHS,
    PairScores,
    TemplateSet,
    compare_all,
    compare_mated,
    fuse,
    fused_templates,
    limit_photographs,
    single_templates,
)
from engine.errors import CalibrationError, RequestError, advise_extra

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
    hard_share: float = 0.0
    hard_noise: float = 1.0

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
                # Those fitted by earlier versions know nobody who is hard to recognise.
                given = {name: stored[name] for name in cls.__slots__ if name in stored}
            return cls(**{name: x if x.ndim else x.item() for name, x in given.items()})
        except FileNotFoundError as error:
            raise CalibrationError(f"no population {path.name}: fit one first") from error
        except (OSError, ValueError, TypeError) as error:
            raise CalibrationError(f"{path.name} is not a population: fit it again") from error

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
        is_hard = np.random.default_rng([seed, PEOPLE, block, 1]).random(BLOCK) < self.hard_share
        scale[is_hard[: len(latent)]] *= self.hard_noise
        faces: NDArray[np.float32] = latent + scale[:, None] * (noise @ self.within.T)
        faces /= np.linalg.norm(faces, axis=1, keepdims=True)
        return faces


ITERATIONS = 30
LOW_LEVELS = {1: np.array([0.03, 0.05, 0.1]), 2: np.array([0.007, 0.01, 0.02, 0.05, 0.1])}
"""Of the mated scores of single and of fused templates; lower ones are a few people's."""
MIDDLE_LEVELS = np.array([0.25, 0.5, 0.75, 0.95])
TAIL_RATES = 10.0 ** np.array([-3, -3.5, -4, -4.5, -5])
MIN_NONMATED_PAIRS = 1_000_000
TRIALS = 4_000
RELATED_TRIALS = 30_000


def fit_population(
    vectors: NDArray[np.float32], people: NDArray[np.int64], *, model_digest: str, seed: int = 0
) -> Population:
    """Fit a population to a model's vectors (float32[n, d], unit rows).

    Covariances by expectation maximisation; the noise by the mated scores of single and of fused
    templates; the look-alike groups by the FMR of fused templates at thresholds of 1e-3 to 1e-5:
    of single ones, errors of the labels reach there. Raises `CalibrationError` where there are too
    few photographs for that tail.
    """
    singles = limit_photographs(single_templates(vectors, people), MOST_PHOTOGRAPHS)
    fused = compare_all(fused_templates(singles, MOST_PHOTOGRAPHS))
    if len(fused.nonmated) < MIN_NONMATED_PAIRS or not len(fused.mated):
        raise CalibrationError(
            f"{len(fused.nonmated):,} non-mated fused pairs are too few for the tail: "
            f"a population needs {MIN_NONMATED_PAIRS:,}, and people with four photographs"
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
    return _fit_groups(_fit_noise(gaussian, singles, rng), fused, rng)


def _fit_covariances(
    singles: TemplateSet,
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


def _fit_noise(
    population: Population, singles: TemplateSet, rng: np.random.Generator
) -> Population:
    """Fit the scale of the noise to the measured mated scores of single and of fused templates."""
    try:
        from scipy.optimize import minimize  # noqa: PLC0415 - of an extra
    except ImportError as error:
        raise RequestError(f"fitting a population needs scipy: {advise_extra('bench')}") from error
    shape = (TRIALS * 4, population.dim)
    face = population.mean + rng.standard_normal(shape, np.float32) @ population.between.T
    noise = [rng.standard_normal(shape, np.float32) @ population.within.T for _ in range(4)]
    # Scores depend on these products and the four scales only: vectors are drawn once.
    parts = np.stack([face, *noise], axis=1).astype(np.float64)
    products = np.einsum("nid,njd->nij", parts, parts)
    logs, chances = rng.standard_normal((len(face), 4)), rng.random(len(face))
    wanted = {kind: _mated_quantiles(singles, kind) for kind in LOW_LEVELS}

    def miss(values: NDArray[np.float64]) -> float:
        log_mean, log_std, hard_share, hard_log = values
        scales = np.exp(log_mean + log_std * logs + hard_log * (chances < hard_share)[:, None])
        total = 0.0
        for kind, scores in _simulate_mates(products, scales).items():
            low, middle = wanted[kind]
            shares = np.array([(scores < score).mean() for score in low])
            total += 0.2 * (np.log(np.maximum(shares, 1e-5) / LOW_LEVELS[kind]) ** 2).sum()
            total += 100 * ((np.quantile(scores, MIDDLE_LEVELS) - middle) ** 2).sum()
        return total

    best = minimize(
        miss,
        NOISE_SIMPLEX[0],
        method="Nelder-Mead",
        bounds=((-1, 1), (0, 1), (0, 0.5), (0, 2)),
        options={"initial_simplex": NOISE_SIMPLEX, "xatol": 1e-3, "fatol": 1e-5},
    )
    log_mean, log_std, hard_share, hard_log = map(float, best.x)
    return replace(
        population,
        noise_log_mean=log_mean,
        noise_log_std=log_std,
        hard_share=hard_share,
        hard_noise=float(np.exp(hard_log)),
    )


NOISE_SIMPLEX = np.array([-0.06, 0.32, 0.04, 0.3]) + np.array(
    [[0, 0, 0, 0], [0.1, 0, 0, 0], [0, -0.1, 0, 0], [0, 0, 0.03, 0], [0, 0, 0, 0.3]]
)
"""Where the search for the four numbers begins."""


def _mated_quantiles(
    singles: TemplateSet, photographs: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mated scores at LOW_LEVELS and MIDDLE_LEVELS, every person weighing one; of templates of
    one photograph or fused of two."""
    templates = singles if photographs == 1 else fused_templates(singles, MOST_PHOTOGRAPHS)
    mated = compare_mated(templates)
    people = templates.people[mated.left]
    weights = 1 / np.bincount(people)[people]
    low, middle = (
        np.quantile(mated.scores, levels, weights=weights, method="inverted_cdf")
        for levels in (LOW_LEVELS[photographs], MIDDLE_LEVELS)
    )
    return low, middle


def _simulate_mates(
    products: NDArray[np.float64], scales: NDArray[np.float64]
) -> dict[int, NDArray[np.float64]]:
    """Mated scores float64[n] of single and of fused templates.

    `products` float64[n, 5, 5] are those of a face and of four noises, `scales` float64[n, 4].
    """
    scaled = np.pad(scales, ((0, 0), (1, 0)), constant_values=1.0)
    scaled = products * scaled[:, :, None] * scaled[:, None, :]
    dots = scaled[:, :1, :1] + scaled[:, 1:, :1] + scaled[:, :1, 1:] + scaled[:, 1:, 1:]
    norms = np.sqrt(np.diagonal(dots, axis1=1, axis2=2))
    cosines = dots / (norms[:, :, None] * norms[:, None, :])
    # Fused are the first two and the last two.
    lengths = 2 * np.sqrt((1 + cosines[:, 0, 1]) * (1 + cosines[:, 2, 3]))
    return {1: cosines[:, 0, 1], 2: cosines[:, :2, 2:].sum((1, 2)) / lengths}


def _fit_groups(population: Population, scores: PairScores, rng: np.random.Generator) -> Population:
    """Fit the number of groups and their share of variance to the measured FMR tail.

    One pair of people in `groups` is of the same group.
    """
    thresholds = scores.thresholds_at(TAIL_RATES)
    seed = int(rng.integers(2**31))
    strangers = population.references(TRIALS, seed)
    apart = _tail(strangers @ strangers.T, np.triu(np.ones((TRIALS, TRIALS), bool), 1), thresholds)
    fits = []
    for share in np.arange(0.05, 0.601, 0.05):
        related = _draw_related(population, float(share), rng)
        together = _tail(related, np.ones(len(related), bool), thresholds)
        for groups in np.unique(np.geomspace(10, 20_000, 90).astype(int)):
            fmr = (1 - 1 / groups) * apart + together / groups
            miss = float((np.log(np.maximum(fmr, 1e-9) / TAIL_RATES) ** 2).sum())
            fits.append((miss, int(groups), float(share)))
    _, groups, share = min(fits)
    return replace(population, groups=groups, group_share=share)


def _draw_related(
    population: Population, share: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """float32[RELATED_TRIALS]: scores of two people of one group, each fused of two photographs."""
    shape = (RELATED_TRIALS, population.dim)
    common = np.sqrt(np.float32(share)) * rng.standard_normal(shape, np.float32)
    faces = []
    for _ in range(2):
        own = np.sqrt(np.float32(1 - share)) * rng.standard_normal(shape, np.float32)
        latent = population.mean + (common + own) @ population.between.T
        seed = int(rng.integers(2**31))
        faces.append(fuse(*(population.samples(latent, seed, number) for number in (0, 1))))
    scores: NDArray[np.float32] = np.einsum("nd,nd->n", *faces)
    return scores


def _tail(
    scores: NDArray[np.float32], counted: NDArray[np.bool_], thresholds: NDArray[np.float32]
) -> NDArray[np.float64]:
    """float64[thresholds]: share of the counted scores at or above each."""
    kept = scores[counted]
    return np.array([(kept >= threshold).mean() for threshold in thresholds])
