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

from dataclasses import asdict, fields
from pathlib import Path
from typing import Self

import numpy as np

from engine.accuracy.pair_scores import fuse
from engine.errors import CalibrationError
from indexes.base import Floats, Ints
from schema import frozen

BLOCK = 1024
"""Rows drawn from one random stream: any slice gives the same rows."""
PEOPLE, PHOTOGRAPHS = 0, 1
"""Kinds of random streams; the n-th photograph of everyone has the stream `PHOTOGRAPHS + n`."""
GROUP_SEED = 20_190_712


@frozen(eq=False)
class Population:
    """A fitted population: `mean` float32[d], lower Cholesky factors `between` and `within`
    float32[d, d], and the parameters of noise and groups."""

    mean: Floats
    between: Floats
    within: Floats
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

    def people(self, n: int, seed: int) -> Floats:
        """Latent people float32[n, d] for `samples`; the first rows do not depend on `n`."""
        groups = self._group_means()
        blocks = [self._people_block(block, seed, groups) for block in range(-(-n // BLOCK))]
        return np.concatenate([np.empty((0, self.dim), np.float32), *blocks])[:n]

    def samples(self, latent: Floats, seed: int, photograph: int = 0) -> Floats:
        """One photograph of each person, unit rows float32[n, d]; others by `photograph`."""
        faces = np.empty_like(latent)
        for start in range(0, len(latent), BLOCK):
            rows = slice(start, start + BLOCK)
            faces[rows] = self._photograph(latent[rows], start // BLOCK, seed, photograph)
        return faces

    def references(self, n: int, seed: int) -> Floats:
        """References float32[n, d], unit rows, of people `0..n-1`, each fused of two photographs.

        Another seed gives strangers to them.
        """
        groups = self._group_means()
        references = np.empty((n, self.dim), np.float32)
        for block in range(-(-n // BLOCK)):
            rows = references[block * BLOCK : (block + 1) * BLOCK]
            rows[:] = self._template_block(block, seed, (0, 1), groups)[: len(rows)]
        return references

    def mates(self, rows: Ints, seed: int, *, photographs: int = 2) -> Floats:
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
        return cls.read(Path(__file__).parent / "data" / f"{name}.population.npz")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file of `save`; raises `CalibrationError` where it is not one."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                # Those fitted by earlier versions know nobody who is hard to recognise.
                given = {x.name: stored[x.name] for x in fields(cls) if x.name in stored}
            return cls(**{name: x if x.ndim else x.item() for name, x in given.items()})
        except FileNotFoundError as error:
            raise CalibrationError(f"no population {path.name}: fit one first") from error
        except (OSError, ValueError, TypeError) as error:
            raise CalibrationError(f"{path.name} is not a population: fit it again") from error

    def _template_block(
        self, block: int, seed: int, photographs: tuple[int, ...], groups: Floats
    ) -> Floats:
        latent = self._people_block(block, seed, groups)
        faces = [self._photograph(latent, block, seed, one) for one in photographs]
        return fuse(faces[0], faces[1]) if len(faces) == 2 else faces[0]

    def _people_block(self, block: int, seed: int, groups: Floats) -> Floats:
        """float32[BLOCK, d]: latent people, not normalised."""
        rng = np.random.default_rng([seed, PEOPLE, block])
        own = rng.standard_normal((BLOCK, self.dim), dtype=np.float32)
        group = groups[rng.integers(0, self.groups, BLOCK)]
        share = np.float32(self.group_share)
        traits = np.sqrt(1 - share) * own + np.sqrt(share) * group
        latent: Floats = self.mean + traits @ self.between.T
        return latent

    def _group_means(self) -> Floats:
        """float32[groups, d], white."""
        rng = np.random.default_rng(GROUP_SEED)
        return rng.standard_normal((self.groups, self.dim), dtype=np.float32)

    def _photograph(self, latent: Floats, block: int, seed: int, photograph: int) -> Floats:
        """float32[len(latent), d], unit rows; `latent` begins at the block's first row."""
        rng = np.random.default_rng([seed, PHOTOGRAPHS + photograph, block])
        noise = rng.standard_normal((BLOCK, self.dim), dtype=np.float32)[: len(latent)]
        logs = rng.standard_normal(BLOCK, dtype=np.float32)[: len(latent)]
        scale = np.exp(self.noise_log_mean + self.noise_log_std * logs).astype(np.float32)
        is_hard = np.random.default_rng([seed, PEOPLE, block, 1]).random(BLOCK) < self.hard_share
        scale[is_hard[: len(latent)]] *= self.hard_noise
        faces: Floats = latent + scale[:, None] * (noise @ self.within.T)
        faces /= np.linalg.norm(faces, axis=1, keepdims=True)
        return faces
