"""What an exact answer says of itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from indexes.base import Hits


@dataclass(frozen=True, slots=True, eq=False)
class Certificate:
    """Why an answer by byte codes misses nothing.

    `epsilon` float64[q]: how far a score may be, at most, from the score of the codes, over all
    rows that were compared with the query. `rescored` int64[q]: how many rows were within that of
    the threshold, or of the k-th place, and had their score computed from the stored vectors.
    """

    epsilon: NDArray[np.float64]
    rescored: NDArray[np.int64]
    compared: int
    kernel: str
    exact: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class CertifiedHits(Hits):
    """Hits, and their certificate."""

    certificate: Certificate
