"""Where a plan's figures are from: this machine, then reports, then what is assumed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from engine.capacity.figures import Figure, Figures, Quantity, overlay
from engine.capacity.findings import gather_figures
from engine.capacity.reports import Report, likeliest_machine, read_reports
from engine.errors import RequestError
from serving.measuring.stamp import stamp_machine
from serving.models import embedder_card

if TYPE_CHECKING:
    from serving.settings import Settings

REPORTED_DIM = 128
"""Of the vectors that the reports are of."""


def find_reports(given: Path | None) -> tuple[Report, ...]:
    """Those of a folder, else those that come with Sosie; none where there are none."""
    if given is not None:
        return read_reports(given)
    # Found, not imported: nothing of the product depends on the benchmarks.
    spec = find_spec("bench")
    folder = None if spec is None or spec.origin is None else Path(spec.origin).parent / "reports"
    return read_reports(folder) if folder is not None and folder.is_dir() else ()


def join_figures(
    settings: Settings, reports: Sequence[Report], measured: Mapping[Quantity, Figure]
) -> Figures:
    """What was measured here stands over what reports say, and that over what is assumed.

    `RequestError` where the deployment's vectors are others than the reports', and nothing was
    measured.
    """
    dim = embedder_card(settings).dimension
    if not measured and (dim != REPORTED_DIM or settings.gallery.rows != "float32"):
        raise RequestError(
            f"reports are of vectors of {REPORTED_DIM} floats kept as float32, and this deployment "
            "has others: give --measure"
        )
    machine = stamp_machine() if measured or not reports else likeliest_machine(reports)
    return Figures(machine, dim, overlay(gather_figures(reports), measured))
