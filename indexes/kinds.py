"""The kinds of index by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from indexes.errors import KindInvalid

if TYPE_CHECKING:
    from indexes.approximate.index import ApproximateConfig
    from indexes.base import VectorIndex
    from indexes.exact.scanner import Scanner
    from indexes.segmented.merging import SegmentsConfig

Config = TypeVar("Config")

KINDS = ("exact8", "flat", "fastscan", "ivf", "hnsw")
"""The default first."""

APPROXIMATE_KINDS = ("fastscan", "ivf", "hnsw")
"""Those that miss some of what they should find, and warn of it with the measured share."""


def open_index(
    kind: str,
    dim: int,
    config: SegmentsConfig | ApproximateConfig | None = None,
    scanner: Scanner | None = None,
) -> VectorIndex:
    """An empty index of this kind, by its defaults where no config is given.

    `scanner` is for exact8. Raises `KindInvalid` for an unknown kind, or another kind's config.
    """
    # Imported here: whoever asks for one kind loads FAISS and numba for no other, and whoever
    # only names them loads neither.
    match kind:
        case "exact8":
            from indexes.segmented.merging import SegmentsConfig  # noqa: PLC0415
            from indexes.segmented.segments import SegmentedIndex  # noqa: PLC0415

            return SegmentedIndex(dim, _own(config, SegmentsConfig, kind), scanner=scanner)
        case "flat":
            from indexes.flat import FlatIndex  # noqa: PLC0415

            _own(config, type(None), kind)
            return FlatIndex(dim)
        case "fastscan":
            from indexes.approximate.faiss_kinds import FastScanConfig, FastScanIndex  # noqa: PLC0415

            return FastScanIndex(dim, _own(config, FastScanConfig, kind))
        case "ivf":
            from indexes.approximate.faiss_kinds import IvfConfig, IvfIndex  # noqa: PLC0415

            return IvfIndex(dim, _own(config, IvfConfig, kind))
        case "hnsw":
            from indexes.approximate.faiss_kinds import HnswConfig, HnswIndex  # noqa: PLC0415

            return HnswIndex(dim, _own(config, HnswConfig, kind))
    raise KindInvalid(f"there is no index kind {kind!r}; give one of {', '.join(KINDS)}")


def measured_near(
    kind: str, threshold: float, erasure_deadline_s: float = 86_400
) -> ApproximateConfig | None:
    """The defaults of a kind that misses some, which it measures from this score up; else None."""
    match kind:
        case "fastscan":
            from indexes.approximate.faiss_kinds import FastScanConfig  # noqa: PLC0415

            return FastScanConfig(threshold=threshold, erasure_deadline_s=erasure_deadline_s)
        case "ivf":
            from indexes.approximate.faiss_kinds import IvfConfig  # noqa: PLC0415

            return IvfConfig(threshold=threshold, erasure_deadline_s=erasure_deadline_s)
        case "hnsw":
            from indexes.approximate.faiss_kinds import HnswConfig  # noqa: PLC0415

            return HnswConfig(threshold=threshold, erasure_deadline_s=erasure_deadline_s)
    return None


def _own(config: object, own: type[Config], kind: str) -> Config | None:
    """The config, if it is one of this kind."""
    if config is None or isinstance(config, own):
        return config
    raise KindInvalid(f"a {type(config).__name__} is not for the kind {kind}; give its own or none")
