"""Measures everything that a plan can learn without a service."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from engine.capacity.figures import Figure, Origin, Quantity
from serving.measuring.decisions import measure_decisions
from serving.measuring.photographs import measure_photographs
from serving.measuring.scans import measure_scans

if TYPE_CHECKING:
    from serving.settings import Settings

Progress = Callable[[int, int], None]
Measured = tuple[dict[Quantity, float], str]
"""Values, and of what."""
BUSY_SHARE = 1.5
"""Of the cores: what measures keeps them busy itself for a while."""


def measure_machine(
    settings: Settings,
    cache: Path,
    folder: Path,
    *,
    photographs: Path | None = None,
    references: int | None = None,
    progress: Progress | None = None,
) -> dict[Quantity, Figure]:
    """Photographs, scans and decisions, one after another; about 20 s on two cores.

    `folder` lies on the disk whose commits are timed, and is left as it was. `photographs` is a
    folder of such; without it a wheel's portrait, or a drawn picture. `references` to scan, by
    default a million or what a quarter of the free memory holds.
    """
    parts: tuple[Callable[[], Measured], ...] = (
        lambda: measure_photographs(settings, cache, photographs),
        lambda: measure_scans(settings, references),
        lambda: measure_decisions(settings, cache, folder),
    )
    figures: dict[Quantity, Figure] = {}
    for done, measure in enumerate(parts):
        if progress is not None:
            progress(done, len(parts))
        figures |= _tell(*measure())
    return figures


def _tell(found: dict[Quantity, float], source: str) -> dict[Quantity, Figure]:
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    if load > BUSY_SHARE * cores:
        source += f"; with a load of {load:.1f} on {cores} cores other work slowed it"
    return {one: Figure(value, Origin.MEASURED, source) for one, value in found.items()}
