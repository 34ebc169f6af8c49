"""Which kind of index for so many references: measured on a population, picked by limits.

What is measured with fewer references than asked for is projected: time and memory by the way
each kind works. The misses of an approximate kind change with the size of the gallery in a way
that only a measurement shows: at another size they are not known.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from engine.accuracy.kind_figures import Figures, Progress, measure_kinds, project

if TYPE_CHECKING:
    from engine.accuracy.population import Population

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
