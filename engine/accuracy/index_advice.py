"""What each kind of index takes and misses, measured on a population."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.errors import RequestError
from indexes.approximate.faiss_kinds import FastScanConfig, HnswConfig, IvfConfig
from indexes.approximate.index import ApproximateConfig
from indexes.approximate.misses import BAND
from indexes.gallery import Gallery
from indexes.intervals import wilson_interval
from indexes.kinds import APPROXIMATE_KINDS, open_index
from indexes.segmented.merging import SegmentsConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.accuracy.population import Population


BATCH = 256
LEAST_MEASURED = ApproximateConfig().least_rows
"""With fewer references the approximate kinds compare all, and there is nothing to measure."""

_MOST_MATES = 2000
_LONE_QUERIES = 40
_ROUNDS = 3
_CLEAR = 1e-3
# A scan is timed with so many times fewer references too, which tells what a call costs by itself.
_FEWER = 8

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a kind takes with so many references, and how many near mates it did not find.

    `one_query_ms` is a search by itself, `batch_query_ms` a search's share of a batch of 256.
    The `fixed` part of either does not grow with the references. `measured_at` is the size that it
    was measured at: the mates belong to that size alone.
    """

    name: str
    kind: str
    references: int
    measured_at: int
    bytes_per_reference: float
    one_query_ms: float
    batch_query_ms: float
    build_s: float
    mates: int
    missed: int
    one_query_fixed_ms: float = 0.0
    batch_query_fixed_ms: float = 0.0

    @property
    def is_exact(self) -> bool:
        return self.kind not in APPROXIMATE_KINDS

    @property
    def is_projected(self) -> bool:
        return self.references != self.measured_at

    @property
    def knows_misses(self) -> bool:
        """Whether its misses at this size are known: none, or measured here."""
        return self.is_exact or not self.is_projected

    @property
    def memory_bytes(self) -> float:
        return self.bytes_per_reference * self.references

    @property
    def miss_rate(self) -> float:
        """The share of near mates missed where it was measured."""
        return self.missed / self.mates

    @property
    def miss_interval(self) -> tuple[float, float]:
        """Of 95 % (Wilson); for an exact kind nothing is left open."""
        return (0.0, 0.0) if self.is_exact else wilson_interval(self.missed, self.mates)

    def to_dict(self) -> dict[str, Any]:
        low, high = self.miss_interval
        derived = {
            "memory_bytes": round(self.memory_bytes),
            "exact": self.is_exact,
            "projected": self.is_projected,
            "miss_rate": self.miss_rate,
            "miss_low": low,
            "miss_high": high,
            "miss_rate_known": self.knows_misses,
        }
        return asdict(self) | derived


@dataclass(frozen=True, slots=True, eq=False)
class _Trial:
    """What every kind is tried with: vectors float32, each mate's reference int64."""

    rows: NDArray[np.float32]
    mates: NDArray[np.float32]
    targets: NDArray[np.int64]
    strangers: NDArray[np.float32]
    threshold: float


def measure_kinds(
    population: Population,
    references: int,
    threshold: float,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[Figures, ...]:
    """Every kind with the same references, strangers and mates.

    The people are without the population's groups of look-alikes: no real gallery has such, and
    `ivf`, once it has more lists than there are groups, finds mates by them and seems several
    times better than it is. Raises `RequestError` where no mates are near the threshold.
    """
    kinds = _kinds(threshold)
    steps = len(kinds) + 1

    def report(done: int) -> None:
        if progress is not None:
            progress(done, steps)

    report(0)
    population = replace(population, group_share=0.0)
    rows = population.references(references, seed)
    mates, targets = _near_mates(population, rows, threshold, seed)
    strangers = population.references(BATCH, seed + 1)
    trial = _Trial(rows, mates, targets, strangers, threshold)
    measured: list[Figures] = []
    for name, (kind, config) in kinds.items():
        report(len(measured) + 1)
        measured.append(_measure(name, kind, config, trial))
    report(steps)
    return tuple(measured)


def project(figures: Figures, references: int) -> Figures:
    """The same kind with another number of references; what it misses there is not known.

    A scan takes time in proportion. With `ivf`, which sorts n references into about 4 √n lists
    and looks into as many of them as before, a search grows as √n and building as n √n; with
    `hnsw` as log n and n log n.
    """
    ratio = references / figures.references
    if figures.kind == "ivf":
        growth, building = math.sqrt(ratio), ratio * math.sqrt(ratio)
    elif figures.kind == "hnsw":
        growth = math.log(max(2, references)) / math.log(max(2, figures.references))
        building = ratio * growth
    else:
        growth = building = ratio

    def grown(time_ms: float, fixed_ms: float) -> float:
        return fixed_ms + (time_ms - fixed_ms) * growth

    return replace(
        figures,
        references=references,
        one_query_ms=grown(figures.one_query_ms, figures.one_query_fixed_ms),
        batch_query_ms=grown(figures.batch_query_ms, figures.batch_query_fixed_ms),
        build_s=figures.build_s * building,
    )


def _kinds(threshold: float) -> dict[str, tuple[str, SegmentsConfig | ApproximateConfig | None]]:
    """By name: the kind and its configuration."""
    return {
        "exact8": ("exact8", SegmentsConfig()),
        "exact8 float16": ("exact8", SegmentsConfig(rows="float16")),
        "flat": ("flat", None),
        "fastscan": ("fastscan", FastScanConfig(threshold=threshold)),
        "ivf": ("ivf", IvfConfig(threshold=threshold)),
        "hnsw": ("hnsw", HnswConfig(threshold=threshold)),
    }


def _measure(
    name: str, kind: str, config: SegmentsConfig | ApproximateConfig | None, trial: _Trial
) -> Figures:
    gallery, build_s = _build(kind, config, trial.rows)
    hits = gallery.range_search(trial.mates, trial.threshold).hits
    found = sum(int(target in hits.of(mate)[0]) for mate, target in enumerate(trial.targets))
    one, batch = _time_searches(gallery, trial)
    one_fixed = batch_fixed = 0.0
    fewer = len(trial.rows) // _FEWER
    if kind not in ("ivf", "hnsw") and fewer >= LEAST_MEASURED:
        small = _build(kind, config, trial.rows[:fewer])[0]
        one_small, batch_small = _time_searches(small, trial)
        one_fixed, batch_fixed = _fixed(one_small, one), _fixed(batch_small, batch)
    return Figures(
        name=name,
        kind=kind,
        references=len(trial.rows),
        measured_at=len(trial.rows),
        bytes_per_reference=gallery.account().bytes_per_reference,
        one_query_ms=one,
        batch_query_ms=batch,
        build_s=build_s,
        mates=len(trial.targets),
        missed=len(trial.targets) - found,
        one_query_fixed_ms=one_fixed,
        batch_query_fixed_ms=batch_fixed,
    )


def _build(
    kind: str, config: SegmentsConfig | ApproximateConfig | None, rows: NDArray[np.float32]
) -> tuple[Gallery, float]:
    """A gallery of these rows under their places, and the seconds that it took."""
    start = time.perf_counter()
    gallery = Gallery(open_index(kind, rows.shape[1], config))
    gallery.add(np.arange(len(rows)), rows, 1)
    gallery.settle()
    return gallery, time.perf_counter() - start


def _near_mates(
    population: Population, rows: NDArray[np.float32], threshold: float, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Probes of one photograph that score just above the threshold, and whose they are."""
    mates = population.mates(np.arange(len(rows)), seed, photographs=1)
    scores = np.einsum("ij,ij->i", mates.astype(np.float64), rows)
    # Each must be a hit for certain, with vectors rounded to float16 too.
    near = np.flatnonzero((scores > threshold + _CLEAR) & (scores < threshold + BAND))
    if not len(near):
        raise RequestError(
            f"the population has no mates that score {threshold:.2f} to {threshold + BAND:.2f}: "
            "choose another threshold or more references"
        )
    near = near[:: -(-len(near) // _MOST_MATES)]
    return mates[near], near


def _time_searches(gallery: Gallery, trial: _Trial) -> tuple[float, float]:
    """Milliseconds of a search by itself, and of a query in a batch: medians."""

    def seconds(queries: NDArray[np.float32]) -> float:
        start = time.perf_counter()
        gallery.range_search(queries, trial.threshold)
        return time.perf_counter() - start

    strangers = trial.strangers
    seconds(strangers)
    seconds(strangers[:1])
    lone = [seconds(strangers[row : row + 1]) for row in range(_LONE_QUERIES)]
    batches = [seconds(strangers) for _ in range(_ROUNDS)]
    return 1e3 * float(np.median(lone)), 1e3 * float(np.median(batches)) / len(strangers)


def _fixed(small: float, large: float) -> float:
    """What of a scan's time does not grow, of the times with few and many references."""
    return min(max((_FEWER * small - large) / (_FEWER - 1), 0.0), small, large)


# Which kind of index for so many references: measured on a population, picked by limits.
#
# What is measured with fewer references than asked for is projected: time and memory by the way
# each kind works. The misses of an approximate kind change with the size of the gallery in a way
# that only a measurement shows: at another size they are not known.

MOST_MEASURED = 200_000
"""References with which measuring all kinds takes about half a minute on two cores."""

# Vectors held at once: the population, its mates, an index, and what building takes meanwhile.
_COPIES_WHILE_MEASURING = 8


@dataclass(frozen=True, slots=True)
class Limits:
    """What must not be exceeded; `None` is no limit. `miss_rate` binds approximate kinds."""

    memory_bytes: float | None = None
    latency_ms: float | None = None
    miss_rate: float | None = None


@dataclass(frozen=True, slots=True)
class Advice:
    """All kinds at one size, and the name of the one to take, `None` where none will do."""

    references: int
    threshold: float
    figures: tuple[Figures, ...]
    pick: str | None
    reason: str

    def to_dict(self) -> dict[str, Any]:
        kinds = [one.to_dict() for one in self.figures]
        return asdict(self) | {"figures": kinds}


def advise(
    population: Population,
    references: int,
    limits: Limits,
    *,
    threshold: float,
    measured_at: int,
    seed: int = 0,
    progress: Progress | None = None,
) -> Advice:
    """Measures every kind at `measured_at` references, projects, and picks.

    `threshold` is the score from which on a search looks. Raises `RequestError` where the
    population has no mates near it.
    """
    assert 0 < measured_at <= references
    measured = measure_kinds(population, measured_at, threshold, seed, progress)
    figures = tuple(project(one, references) for one in measured)
    pick, reason = pick_kind(figures, limits)
    return Advice(references, threshold, figures, pick, reason)


def measurable(references: int, dim: int, free_bytes: int) -> int:
    """With how many references kinds are measured: what a minute and the free memory allow."""
    affordable = free_bytes // (_COPIES_WHILE_MEASURING * 4 * dim)
    return max(1, min(references, MOST_MEASURED, affordable))


def pick_kind(figures: tuple[Figures, ...], limits: Limits) -> tuple[str | None, str]:
    """The first exact kind within the limits, else the approximate one that misses least; and why.

    An approximate kind is within an allowed miss rate if its interval is, measured at this size.
    """
    refusals = {one.name: _refusals(one, limits) for one in figures}
    fitting = [one for one in figures if not refusals[one.name]]
    exact = [one for one in figures if one.is_exact]
    for one in fitting:
        if one.is_exact:
            before = [f"{x.name}: {refusals[x.name]}" for x in exact[: exact.index(one)]]
            reason = "it misses nothing, and is within the limits"
            return one.name, "; ".join([reason, *before])
    told = "; ".join(f"{name}: {why}" for name, why in refusals.items() if why)
    if not fitting:
        return None, f"no kind is within the limits; {told}"
    least = min(fitting, key=lambda one: one.miss_rate)
    misses = f"no exact kind is within the limits, and it misses least: {least.miss_rate:.2%}"
    if not least.knows_misses:
        misses += f" at {least.measured_at:,}, not known at {least.references:,}"
    return least.name, f"{misses}; {told}"


def _refusals(one: Figures, limits: Limits) -> str:
    """Why a kind is out, empty where it is not."""
    why = []
    if limits.memory_bytes is not None and one.memory_bytes > limits.memory_bytes:
        why.append(f"takes {one.memory_bytes / 2**30:.3g} GiB")
    if limits.latency_ms is not None and one.one_query_ms > limits.latency_ms:
        why.append(f"takes {one.one_query_ms:.3g} ms a query")
    if limits.miss_rate is not None and not one.is_exact:
        if not one.knows_misses:
            why.append("its misses at this size are not known")
        elif one.miss_interval[1] > limits.miss_rate:
            why.append(f"may miss {one.miss_interval[1]:.2%}")
    return ", ".join(why)
