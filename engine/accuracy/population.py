"""A synthetic population with a model's own statistics: as many people as a test wants.

A face is `mean + person + s * noise`, normalised. `person` and `noise` are Gaussian with the
model's between-person and within-person covariance (the two-covariance model of Brümmer and De
Villiers 2010). Two departures from it, because its tails are too thin:

- photographs differ in how poor they are: `s` is log-normal, once a photograph;
- strangers can look alike: people belong to one of `groups`, and `group_share` of the variance
  of `person` is common to a group. All draws share the same groups, whatever their seed.

A real face has no such group: it meets fewer look-alikes here than among real people.

It holds means, covariances and four numbers, and no vector of any photograph.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from engine.accuracy.templates import fuse
from engine.errors import CalibrationError

if TYPE_CHECKING:
    from numpy.typing import NDArray

DATA_FOLDER = Path(__file__).parent / "data"
BLOCK = 1024
"""Rows drawn from one random stream: any cut of the rows gives the same rows."""
PEOPLE, PHOTOGRAPHS = 0, 1
"""Kinds of random streams; the n-th photograph of everybody has the stream `PHOTOGRAPHS + n`."""
GROUP_SEED = 20_190_712


@dataclass(frozen=True, slots=True, eq=False)
class Population:
    """`mean` float32[d]; `between` and `within` float32[d, d], lower Cholesky factors."""

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
        """float32[n, d]: what `samples` takes; the first rows don't depend on `n`."""
        groups = self._group_means()
        blocks = [self._people_block(block, seed, groups) for block in range(-(-n // BLOCK))]
        return np.concatenate([np.empty((0, self.dim), np.float32), *blocks])[:n]

    def samples(
        self, latent: NDArray[np.float32], seed: int, photograph: int = 0
    ) -> NDArray[np.float32]:
        """float32[n, d], unit rows: one photograph of each person; others by `photograph`."""
        faces = np.empty_like(latent)
        for start in range(0, len(latent), BLOCK):
            rows = slice(start, start + BLOCK)
            faces[rows] = self._photograph(latent[rows], start // BLOCK, seed, photograph)
        return faces

    def references(self, n: int, seed: int) -> NDArray[np.float32]:
        """float32[n, d], unit rows: people `0..n-1` of `seed`, each fused of two photographs.

        Strangers to them are the references of another seed.
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
        """float32[k, d], unit rows: probes of the people in `rows` of `references(n, seed)`.

        Made of one fresh photograph, or fused of two: never of the reference's own.
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
        """What `save` wrote; raises `CalibrationError` where it isn't that."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                fields = {name: stored[name] for name in cls.__slots__}
        except FileNotFoundError as error:
            raise CalibrationError(f"no population {path.name}: fit one first") from error
        except (OSError, ValueError, KeyError) as error:
            raise CalibrationError(f"{path.name} is not a population: fit it again") from error
        return cls(**{name: x if x.ndim else x.item() for name, x in fields.items()})

    def _template_block(
        self,
        block: int,
        seed: int,
        photographs: tuple[int, ...],
        groups: NDArray[np.float32],
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
