"""`sosie evaluate` and `sosie calibrate` on a folder of a few people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageEnhance, ImageFilter
from skimage import data

from engine.models.catalog import CARDS_FOLDER

PEOPLE, PHOTOGRAPHS = 16, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder a person: small faces enlarged, each in four versions; and a picture of none."""
    root = tmp_path_factory.mktemp("people")
    for person, pixels in enumerate(data.lfw_subset()[:PEOPLE]):
        face = Image.fromarray((pixels * 255).astype("uint8")).resize((200, 200))
        versions = (
            face,
            ImageEnhance.Brightness(face).enhance(0.8),
            face.rotate(4, fillcolor=128),
            face.filter(ImageFilter.GaussianBlur(2)),
        )
        home = root / f"person_{person:02d}"
        home.mkdir()
        for number, version in enumerate(versions, start=1):
            version.save(home / f"person_{person:02d}_{number:04d}.png")
    Image.new("RGB", (100, 100)).save(root / "person_00" / "person_00_0005.png")
    return root


def test_evaluate_gives_rates_with_their_intervals(
    folder: Path, sosie: Any, tmp_path: Path
) -> None:
    pairs = tmp_path / "pairs.txt"
    rows = [f"person_{n:02d} 1 {k}" for n in (1, 2) for k in (2, 3)]
    rows[2:2] = ["person_03 1 person_04 1", "person_05 1 person_06 1"]
    rows += ["person_07 1 person_08 1", "person_09 1 person_10 1"]
    pairs.write_text("\n".join(["2 2", *rows]) + "\n")
    plot = tmp_path / "det.png"
    outcome = sosie("evaluate", folder, "--pairs", pairs, "--plot", plot, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    answer = outcome.json
    assert answer["photographs"] == PEOPLE * PHOTOGRAPHS + 1
    assert answer["fta"] > 0
    assert 0 <= answer["accuracy"] <= 1
    assert set(answer["fnmr_at_fmr"]) == {"1e-3", "1e-4", "1e-5", "1e-6"}
    assert answer["fnmr_at_fmr"]["1e-6"] is None, "so few pairs support no such rate"
    with Image.open(plot) as picture:
        assert picture.format == "PNG"


def test_what_people_read_says_what_is_not_supported(folder: Path, sosie: Any) -> None:
    outcome = sosie("evaluate", folder, "--failed")
    assert outcome.code == 0
    assert "not supported" in outcome.out
    assert "person_00/person_00_0005.png" in outcome.out


def test_a_calibration_serves_the_model_that_it_was_fitted_for(
    folder: Path, sosie: Any, photographs: Any, tmp_path: Path, assert_refused: Any
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    outcome = sosie(
        "calibrate",
        folder,
        "--output",
        own / "sface.calibration.json",
        "--source",
        "toys",
        "--json",
    )
    assert outcome.code == 0
    assert outcome.json["source"] == "toys"
    assert set(outcome.json["curves"]) == {"one_to_one", "fused_to_one", "fused"}
    card = (CARDS_FOLDER / "sface.toml").read_text()
    (own / "own.toml").write_text(card)
    env = {"SOSIE_MODELS__EMBEDDER": str(own / "own.toml")}
    pair = ("verify", photographs.live, photographs.portrait)
    assert sosie(*pair, "--fmr", "0.05", "--json", env=env).json["match"] is True
    assert_refused(sosie(*pair, "--fmr", "1e-4", env=env), "not supported")


@pytest.mark.parametrize("command", ["evaluate", "calibrate"])
def test_a_folder_without_people_is_refused(
    command: str, sosie: Any, tmp_path: Path, assert_refused: Any
) -> None:
    output = ("--output", tmp_path / "out.json") if command == "calibrate" else ()
    assert_refused(sosie(command, tmp_path / "none", *output), "not a folder")
    assert_refused(sosie(command, tmp_path, *output), "people found")
    assert not (tmp_path / "out.json").exists()


def test_minutes_of_work_do_not_end_in_a_file_that_cannot_be_written(
    folder: Path, sosie: Any, tmp_path: Path, assert_refused: Any
) -> None:
    nowhere = tmp_path / "none" / "file"
    assert_refused(sosie("calibrate", folder, "--output", nowhere), "cannot be written")
    assert_refused(sosie("evaluate", folder, "--plot", nowhere), "cannot be written")
