"""Index kinds by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from indexes.errors import KindInvalid

if TYPE_CHECKING:
    from indexes.base import VectorIndex
    from indexes.exact.scanner import Scanner
    from indexes.segmented.merging import SegmentsConfig

KINDS = ("exact8", "flat")
"""The default first."""


def open_index(
    kind: str, dim: int, config: SegmentsConfig | None = None, scanner: Scanner | None = None
) -> VectorIndex:
    """An empty index of this kind, `KindInvalid` if unknown; flat uses no `config` or `scanner`."""
    # Imported here so that importing the names alone loads neither FAISS nor numba.
    if kind == "exact8":
        from indexes.segmented.segments import SegmentedIndex  # noqa: PLC0415

        return SegmentedIndex(dim, config, scanner=scanner)
    if kind == "flat":
        from indexes.flat import FlatIndex  # noqa: PLC0415

        return FlatIndex(dim)
    raise KindInvalid(f"there is no index kind {kind!r}; give one of {', '.join(KINDS)}")
