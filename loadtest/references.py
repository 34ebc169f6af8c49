"""Synthetic references for a service of one's own: unit vectors in every direction.

They cost a search what faces cost it, and resemble nobody: in 128 dimensions a face scores above
0.55 with one in two billion of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from loadtest.errors import LoadTestRefused
from loadtest.papers import Papers

DIMENSION = 128
BATCH_ROWS = 8_192
TAG = "REFS"


def write_references(path: Path, count: int, seed: int) -> Path:
    """A Parquet file that `sosie import` takes."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise LoadTestRefused(
            "references are imported from Parquet: pip install 'sosie[desk]', or --references 0"
        ) from error
    schema = pa.schema(
        [
            ("document_number", pa.string()),
            ("name", pa.string()),
            ("template", pa.list_(pa.float32())),
        ]
    )
    papers = Papers(TAG, 0, datetime.now(UTC).year)
    with parquet.ParquetWriter(str(path), schema) as writer:
        for first, vectors in _draw(count, seed):
            made = [papers.paper(first + place) for place in range(len(vectors))]
            columns = [
                pa.array([one.zone for one in made]),
                pa.array([one.name for one in made]),
                pa.array(list(vectors), pa.list_(pa.float32())),
            ]
            writer.write_batch(pa.record_batch(columns, schema=schema))
    return path


def _draw(count: int, seed: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
    rng = np.random.default_rng(seed)
    for first in range(0, count, BATCH_ROWS):
        drawn = rng.standard_normal((min(BATCH_ROWS, count - first), DIMENSION), np.float32)
        yield first, drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
