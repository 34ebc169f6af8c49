"""Figures of a deployment are of its own vectors, whatever the reports are of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.capacity.figures import Figure, Figures, Origin, Quantity
from engine.capacity.reports import Report, read_reports
from engine.errors import RequestError
from engine.models.catalog import CARDS_FOLDER
from serving.measuring.sources import join_figures
from serving.sections import GallerySettings, ModelSettings
from serving.settings import Settings

MEASURED = {Quantity.SCAN: Figure(1e-9, Origin.MEASURED, "here")}


@pytest.fixture
def reports(tmp_path: Path) -> tuple[Report, ...]:
    """Of 128 floats kept as float32: a snapshot, a start, shards; and photographs."""
    results = [
        ("Snapshot", {"references": 1_000_000, "dim": 128}, [("save", "MB", 660.0)]),
        ("Gallery", {"references": 100_000, "dim": 128}, [("open from the store", "s", 0.5)]),
        (
            "Shards",
            {"dim": 128},
            [("one process: one query", "ms", 4.0), ("2 shards: one query", "ms", 5.0)],
        ),
        ("Pairs of photographs", {"threads": 2}, [("Sosie, cpu", "pairs/s", 80.0)]),
    ]
    document = {
        "machine": {"cpu": "Test", "cores": 2, "memory_bytes": 1 << 34},
        "results": [
            {
                "name": name,
                "setup": setup,
                "figures": [
                    {"name": figure, "unit": unit, "value": value} for figure, unit, value in said
                ],
            }
            for name, setup, said in results
        ],
    }
    folder = tmp_path / "reports"
    folder.mkdir()
    (folder / "made.json").write_text(json.dumps(document))
    return read_reports(folder)


def list_reported(figures: Figures) -> set[Quantity]:
    return {one for one in Quantity if figures[one].origin is Origin.REPORTED}


def test_reports_of_the_same_vectors_fill_what_was_not_measured(
    reports: tuple[Report, ...],
) -> None:
    figures = join_figures(Settings(), reports, MEASURED)
    gallery = {Quantity.SNAPSHOT_BYTES, Quantity.RESTORE, Quantity.FAN_OUT}
    assert list_reported(figures) == gallery | {Quantity.PAIR}
    assert figures.value(Quantity.SNAPSHOT_BYTES) == pytest.approx(660)


def test_vectors_of_half_the_bytes_are_not_planned_by_reports_of_whole_ones(
    reports: tuple[Report, ...],
) -> None:
    settings = Settings(gallery=GallerySettings(rows="float16"))
    figures = join_figures(settings, reports, MEASURED)
    assert list_reported(figures) == {Quantity.PAIR}
    assert figures.value(Quantity.SNAPSHOT_BYTES) == 652 - 256
    with pytest.raises(RequestError, match="--measure"):
        join_figures(settings, reports, {})


def test_longer_vectors_take_what_their_length_takes(
    reports: tuple[Report, ...], tmp_path: Path
) -> None:
    card = tmp_path / "long.toml"
    text = (CARDS_FOLDER / "sface.toml").read_text("utf-8")
    card.write_text(text.replace("dimension = 128", "dimension = 512"))
    settings = Settings(models=ModelSettings(embedder=str(card)))
    figures = join_figures(settings, reports, MEASURED)
    assert figures.kind.dim == 512
    assert list_reported(figures) == {Quantity.PAIR}
    assert figures.value(Quantity.SNAPSHOT_BYTES) > 3.9 * 652
    assert figures.value(Quantity.RESTORE) == pytest.approx(40e-6)
