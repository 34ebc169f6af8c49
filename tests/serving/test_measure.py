"""What is measured on the spot is measured by the real parts, of what there is to measure with."""

import errno
import json
import os
import sys
from pathlib import Path

import pytest
from PIL import Image

from engine.capacity.figures import (
    FigureOrigin,
    PlanFigure,
    PlanFigures,
    Quantity,
    SuiteReport,
    read_reports,
)
from engine.errors import RequestError
from engine.models.catalog import CARDS_FOLDER
from serving.measure import (
    LEAST_REFERENCES,
    join_figures,
    measure_decisions,
    measure_photographs,
    measure_scans,
    stamp_machine,
)
from serving.settings.sections import GallerySettings, ModelSettings
from serving.settings.settings import Settings


def test_without_a_portrait_pictures_are_drawn_and_faces_are_embedded_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    found, source = measure_photographs(Settings(), None, rounds=1)
    assert "drawn pictures" in source
    assert "16 of 16 without a face" in source
    assert found[Quantity.PAIR] > 1e-3


def test_photographs_of_ones_own_are_read_from_a_folder(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.png"):
        Image.new("RGB", (120, 120), (90, 90, 90)).save(tmp_path / name)
    _, source = measure_photographs(Settings(), tmp_path, rounds=1)
    assert source.startswith(f"photographs of {tmp_path.name}")
    (tmp_path / "b.png").unlink()
    with pytest.raises(RequestError, match="fewer than two"):
        measure_photographs(Settings(), tmp_path, rounds=1)
    (tmp_path / "c.jpg").write_bytes(b"no image")
    with pytest.raises(RequestError, match="cannot be read"):
        measure_photographs(Settings(), tmp_path, rounds=1)
    with pytest.raises(RequestError, match="not a folder"):
        measure_photographs(Settings(), tmp_path / "none", rounds=1)


def test_each_round_takes_other_photographs(tmp_path: Path) -> None:
    for number in range(16):
        Image.new("RGB", (64, 64), (90, 90, 90)).save(tmp_path / f"{number:02d}.jpg")
    (tmp_path / "16.jpg").write_bytes(b"no image")
    _, source = measure_photographs(Settings(), tmp_path, rounds=1)
    assert "16 of 16 without a face" in source
    with pytest.raises(RequestError, match="cannot be read"):
        measure_photographs(Settings(), tmp_path, rounds=2)


def test_vectors_kept_in_half_the_bytes_take_so_much_less() -> None:
    whole, _ = measure_scans(Settings(), LEAST_REFERENCES)
    half, _ = measure_scans(Settings(gallery=GallerySettings(rows="float16")), LEAST_REFERENCES)
    saved = whole[Quantity.REFERENCE_BYTES] - half[Quantity.REFERENCE_BYTES]
    assert saved == pytest.approx(256, rel=0.02)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="cannot be written"):
        measure_decisions(Settings(), tmp_path / "none")


def test_what_fails_in_between_is_not_blamed_on_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_home: Path, _settings: Settings) -> None:
        raise OSError(errno.EIO, "a disk fails")

    monkeypatch.setattr("serving.measure.create_home", fail)
    with pytest.raises(OSError, match="a disk fails"):
        measure_decisions(Settings(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_machine_is_named() -> None:
    machine = stamp_machine()
    assert machine.cpu
    assert machine.cores == len(os.sched_getaffinity(0))
    assert machine.memory_bytes > 1 << 30


MEASURED = {Quantity.SCAN: PlanFigure(1e-9, FigureOrigin.MEASURED, "here")}


@pytest.fixture
def reports(tmp_path: Path) -> tuple[SuiteReport, ...]:
    """Of 128 floats kept as float32: a snapshot, a start; and photographs."""
    results = [
        ("Snapshot", {"references": 1_000_000, "dim": 128}, [("save", "MB", 660.0)]),
        ("Gallery", {"references": 100_000, "dim": 128}, [("open from the store", "s", 0.5)]),
        ("Pairs of photographs", {"threads": 2}, [("Sosie, cpu", "pairs/s", 80.0)]),
    ]
    document = {
        "machine_info": {"cpu": "Test", "cores": 2, "memory_bytes": 1 << 34},
        "benchmarks": [
            {
                "group": name,
                "name": figure,
                "extra_info": {"unit": unit, "scale": 1.0, "setup": setup},
                "stats": {"median": value},
            }
            for name, setup, said in results
            for figure, unit, value in said
        ],
    }
    folder = tmp_path / "reports"
    folder.mkdir()
    (folder / "made.json").write_text(json.dumps(document))
    return read_reports(folder)


def list_reported(figures: PlanFigures) -> set[Quantity]:
    return {one for one in Quantity if figures[one].origin is FigureOrigin.REPORTED}


def test_reports_of_the_same_vectors_fill_what_was_not_measured(
    reports: tuple[SuiteReport, ...],
) -> None:
    figures = join_figures(Settings(), reports, MEASURED)
    gallery = {Quantity.SNAPSHOT_BYTES, Quantity.RESTORE}
    assert list_reported(figures) == gallery | {Quantity.PAIR}
    assert figures.value(Quantity.SNAPSHOT_BYTES) == pytest.approx(660)


def test_vectors_of_half_the_bytes_are_not_planned_by_reports_of_whole_ones(
    reports: tuple[SuiteReport, ...],
) -> None:
    settings = Settings(gallery=GallerySettings(rows="float16"))
    figures = join_figures(settings, reports, MEASURED)
    assert list_reported(figures) == {Quantity.PAIR}
    assert figures.value(Quantity.SNAPSHOT_BYTES) == 652 - 256
    with pytest.raises(RequestError, match="--measure"):
        join_figures(settings, reports, {})


def test_longer_vectors_take_what_their_length_takes(
    reports: tuple[SuiteReport, ...], tmp_path: Path
) -> None:
    card = tmp_path / "long.toml"
    text = (CARDS_FOLDER / "sface.toml").read_text("utf-8")
    card.write_text(text.replace("dimension = 128", "dimension = 512"))
    settings = Settings(models=ModelSettings(embedder=str(card)))
    figures = join_figures(settings, reports, MEASURED)
    assert figures.kind.dim == 512
    assert list_reported(figures) == {Quantity.PAIR}
    assert figures.value(Quantity.SNAPSHOT_BYTES) > 3.9 * 652
    assert figures.value(Quantity.RESTORE) == pytest.approx(4 * 7.3e-6)
