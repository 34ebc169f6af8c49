"""Where a plan's figures are from: this machine, then reports, then what is assumed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from engine.capacity.figures import (
    USUAL,
    Figure,
    Figures,
    Quantity,
    VectorKind,
    overlay,
)
from engine.capacity.findings import gather_figures
from engine.capacity.reports import Report, likeliest_machine, read_reports
from engine.errors import RequestError
from serving.measuring.stamp import stamp_machine
from serving.models import embedder_card

if TYPE_CHECKING:
    from serving.settings import Settings

_FLOAT_BYTES = {"float32": 4, "float16": 2}


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

    Reports of a gallery of other vectors say nothing of this deployment's. `RequestError` where
    its vectors are not the usual, and nothing was measured.
    """
    kind = VectorKind(embedder_card(settings).dimension, _FLOAT_BYTES[settings.gallery.rows])
    if not measured and kind != USUAL:
        raise RequestError(
            f"reports are of vectors of {USUAL.dim} floats kept as float32, and this deployment "
            "has others: give --measure"
        )
    machine = stamp_machine() if measured or not reports else likeliest_machine(reports)
    return Figures(machine, kind, overlay(gather_figures(reports, kind), measured))
