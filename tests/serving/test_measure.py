"""What is measured on the spot is measured by the real parts, of what there is to measure with."""

import errno
import shutil
import sys
from pathlib import Path

import pytest

from engine.capacity.figures import FigureOrigin, PlanFigure, Quantity
from engine.errors import RequestError
from engine.models.catalog import CARDS_FOLDER
from serving.measure import (
    LEAST_REFERENCES,
    join_figures,
    measure_decisions,
    measure_photographs,
    measure_scans,
)
from serving.settings.sections import GallerySettings, ModelSettings
from serving.settings.settings import Settings


def test_without_scikit_image_the_error_says_what_to_give(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(RequestError, match="--photographs"):
        measure_photographs(Settings(), None, rounds=1)


def test_photographs_of_ones_own_are_read_from_a_folder(tmp_path, photographs) -> None:
    for name in ("a.jpg", "b.png"):
        shutil.copy(photographs.live, tmp_path / name)
    found, source = measure_photographs(Settings(), tmp_path, rounds=1)
    assert source == f"photographs of {tmp_path.name}"
    assert found[Quantity.PAIR] > 1e-3
    (tmp_path / "b.png").unlink()
    with pytest.raises(RequestError, match="fewer than two"):
        measure_photographs(Settings(), tmp_path, rounds=1)
    with pytest.raises(RequestError, match="not a folder"):
        measure_photographs(Settings(), tmp_path / "none", rounds=1)


def test_each_round_takes_other_photographs_and_needs_a_face_in_each(
    tmp_path, photographs, monkeypatch
) -> None:
    monkeypatch.setattr("serving.measure._SET", 2)
    for number in range(2):
        shutil.copy(photographs.live, tmp_path / f"{number}.jpg")
    for wrong in (b"no image", photographs.faceless.read_bytes()):
        (tmp_path / "2.jpg").write_bytes(wrong)
        with pytest.raises(RequestError, match="cannot be read or shows no face"):
            measure_photographs(Settings(), tmp_path, rounds=2)
    measure_photographs(Settings(), tmp_path, rounds=1)


def test_vectors_kept_in_half_the_bytes_take_so_much_less() -> None:
    whole, _ = measure_scans(Settings(), LEAST_REFERENCES)
    half, _ = measure_scans(Settings(gallery=GallerySettings(rows="float16")), LEAST_REFERENCES)
    saved = whole[Quantity.REFERENCE_BYTES] - half[Quantity.REFERENCE_BYTES]
    assert saved == pytest.approx(256, rel=0.02)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path) -> None:
    with pytest.raises(RequestError, match="cannot be written"):
        measure_decisions(Settings(), tmp_path / "none")


def test_what_fails_in_between_is_not_blamed_on_the_folder(tmp_path, monkeypatch) -> None:
    def fail(_home: Path, _settings: Settings) -> None:
        raise OSError(errno.EIO, "a disk fails")

    monkeypatch.setattr("serving.measure.create_home", fail)
    with pytest.raises(OSError, match="a disk fails"):
        measure_decisions(Settings(), tmp_path)
    assert list(tmp_path.iterdir()) == []


MEASURED = {Quantity.SCAN: PlanFigure(1e-9, FigureOrigin.MEASURED, "here")}


def test_vectors_of_half_the_bytes_are_not_planned_without_a_measurement() -> None:
    settings = Settings(gallery=GallerySettings(rows="float16"))
    assert join_figures(settings, MEASURED).value(Quantity.SNAPSHOT_BYTES) == 652 - 256
    with pytest.raises(RequestError, match="--measure"):
        join_figures(settings, {})


def test_longer_vectors_take_what_their_length_takes(tmp_path) -> None:
    card = tmp_path / "long.toml"
    text = (CARDS_FOLDER / "sface.toml").read_text("utf-8")
    card.write_text(text.replace("dimension = 128", "dimension = 512"))
    figures = join_figures(Settings(models=ModelSettings(embedder=str(card))), MEASURED)
    assert figures.kind.dim == 512
    assert figures.value(Quantity.SNAPSHOT_BYTES) > 3.9 * 652
    assert figures.value(Quantity.RESTORE) == pytest.approx(4 * 7.7e-6)
