"""Suite `serve`: the service as a real process, loaded, starved, killed, and compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.checks import Measured, Skipped
from bench.machine import filesystem_of
from bench.registrar import DISK, MEMORY
from bench.report import Result
from bench.serving.parts.kills import measure_kills
from bench.serving.parts.overload import measure_overload
from bench.serving.parts.soak import measure_soak
from bench.serving.parts.start import PROMISED, measure_start
from bench.serving.parts.throughput import measure_throughput
from bench.serving.people import draw_people
from bench.serving.sizes import Part, Sizes
from bench.serving.stage import Found, Stage, open_stage
from engine.errors import RequestError
from serving.settings import find_cache

MEASURE: Mapping[Part, Callable[[Stage], Found]] = {
    Part.THROUGHPUT: measure_throughput,
    Part.OVERLOAD: measure_overload,
    Part.START: measure_start,
    Part.KILLS: measure_kills,
    Part.SOAK: measure_soak,
}
STORM = ("calm_p99_over_p50", "storm_p99_over_calm", "refusal_ms", "recovery_s", "unexpected")
FIGURES: Mapping[Part, tuple[str, ...]] = {
    Part.THROUGHPUT: (
        "enrollment_share",
        "proxy_speedup",
        "matches_per_second",
        "batched_comparisons_per_second",
        "searches_per_second",
        "wrong_searches",
    ),
    Part.OVERLOAD: tuple(f"{what}_{name}" for what in ("match", "enroll") for name in STORM),
    Part.START: PROMISED,
    Part.KILLS: (
        "kills",
        "lost_enrollments",
        "doubled_enrollments",
        "final_failures",
        "race_difference",
    ),
    Part.SOAK: ("memory_growth",),
}
RIGHT_AT_ANY_SIZE = frozenset(
    {
        "wrong_searches",
        "lost_enrollments",
        "doubled_enrollments",
        "final_failures",
        "race_difference",
    }
)
"""Figures that are promised whatever the sizes; the others are for the suite's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """`parts` in their order; homes are made in `folder`, which must be on a disk."""

    sizes: Sizes = field(default_factory=Sizes)
    parts: Sequence[Part] = tuple(MEASURE)
    faces: Path | None = None
    folder: Path = DISK
    seed: int = 0


def run(config: ServeConfig) -> tuple[tuple[Result, ...], dict[str, Measured]]:
    """All results of the suite, and the figures that its goals name."""
    if not config.folder.is_dir():
        raise RequestError(f"no folder {config.folder}: give one on a disk as --folder")
    crowd = draw_people(config.faces, config.sizes.people, config.seed)
    results: list[Result] = []
    measured: dict[str, Measured] = {}
    with open_stage(config.sizes, crowd, config.seed, config.folder, find_cache()) as stage:
        for part, measure in MEASURE.items():
            if part not in config.parts:
                measured |= dict.fromkeys(FIGURES[part], Skipped(f"--only without {part}"))
                continue
            try:
                found, figures = measure(stage)
            except RequestError as error:
                # The other parts took half an hour: theirs are told all the same.
                failed = Result(f"Part {part} failed: {error}", stage.describe(), ())
                found, figures = [failed], dict.fromkeys(FIGURES[part], float("nan"))
            assert set(figures) == set(FIGURES[part]), "a part measures what it says"
            results += found
            measured |= {name: _judge(name, value, config) for name, value in figures.items()}
    return tuple(results), measured


def read_parts(text: str) -> tuple[Part, ...]:
    """Parts by name, with commas between them; all for an empty text."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in set(Part)]
    if unknown:
        raise RequestError(f"no part {unknown[0]}: choose of {', '.join(Part)}")
    return tuple(Part(name) for name in names) or tuple(MEASURE)


def _judge(name: str, value: Measured, config: ServeConfig) -> Measured:
    """A figure counts where it was measured as promised."""
    sizes, promised = config.sizes, Sizes()
    filesystem = filesystem_of(config.folder)
    if isinstance(value, Skipped) or name in RIGHT_AT_ANY_SIZE:
        return value
    if filesystem in MEMORY:
        return Skipped(f"{config.folder} is {filesystem}: not durable")
    if name == "ready_seconds_million":
        is_small = sizes.million < promised.million
    elif name == "kills":
        is_small = sizes.kills < promised.kills
    elif name == "memory_growth":
        is_small = sizes.soak_s < promised.soak_s
    else:
        is_small = sizes.references < promised.references or sizes.pace != promised.pace
    return Skipped("promised for the default sizes, not for these") if is_small else value
