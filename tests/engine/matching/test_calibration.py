"""Calibrations and thresholds: what the data support, and what is refused by name."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from engine.errors import CalibrationError, RateUnsupported
from engine.faces.extractor import digest_embedding
from engine.matching.calibration import Calibration, Rate, ThresholdRates, Thresholds
from engine.models.catalog import builtin_card
from schema.decisions import Comparison
from tests.engine.curves import make_curve

DIGEST = "a" * 64


CURVE = make_curve(
    [(10.0**-k, 0.1 + 0.08 * k) for k in range(1, 7)],
    below=2.0,
    margin=0.02,
    fnmr=0.01,
    stranger_pairs=2_000_000,
)
CALIBRATION = Calibration(
    model_digest=DIGEST,
    source="made for tests",
    people=1000,
    photographs=4000,
    curves=dict.fromkeys(Comparison, CURVE),
)


@pytest.fixture(scope="module")
def shipped() -> Calibration:
    """SFace's own."""
    card = builtin_card("sface")
    assert card.calibration_path is not None
    return Calibration.load(card.calibration_path, digest_embedding(card, flip=False))


def test_with_few_single_photographs_no_threshold_is_reached_by_less_than_its_own() -> None:
    few = structs.replace(CURVE, points=CURVE.points[:3])
    curves = {**dict.fromkeys(Comparison, CURVE), Comparison.FUSED_TO_ONE: few}
    rates = ThresholdRates(same_document=1e-5, review=1e-6)
    found = Thresholds.from_calibration(structs.replace(CALIBRATION, curves=curves), rates)
    single = found.of(Comparison.FUSED_TO_ONE)
    below = single.same_document - 0.01
    assert found.on_fused_scale(below, Comparison.FUSED_TO_ONE) < found.same_document
    assert found.on_fused_scale(single.same_document, Comparison.FUSED_TO_ONE) >= (
        found.same_document
    )


def test_thresholds_are_interpolated_in_log_fmr() -> None:
    assert CURVE.threshold_at(1e-3) == pytest.approx(0.34)
    assert CURVE.threshold_at(10**-3.5) == pytest.approx(0.38)
    assert CURVE.threshold_at(1e-1) == pytest.approx(0.18)


@pytest.mark.parametrize("fmr", [1e-7, 0.5, 0.0, -1.0, float("nan")])
def test_a_rate_beyond_the_data_is_refused_by_name(fmr: float) -> None:
    with pytest.raises(RateUnsupported, match=f"{fmr:g} is not supported .* 1e-06 to 0.1"):
        CALIBRATION.threshold_at(fmr, Comparison.FUSED)


@given(st.floats(-6, -1).map(lambda power: 10**power))
def test_the_fmr_of_a_threshold_is_the_rate_it_was_asked_for(fmr: float) -> None:
    rate = CURVE.fmr_at(CURVE.threshold_at(fmr))
    assert rate.value == pytest.approx(fmr, rel=1e-6)
    assert not rate.is_bound
    assert rate.low <= rate.value <= rate.high


@given(st.floats(-1, 1), st.floats(-1, 1))
def test_fmr_never_rises_with_the_score(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert CURVE.fmr_at(low).high >= CURVE.fmr_at(high).high


def test_beyond_the_lowest_rate_there_is_only_an_upper_bound() -> None:
    beyond_support = CURVE.fmr_at(0.59)
    assert beyond_support == Rate(3e-6, 0.0, 3e-6, is_bound=True)
    beyond_every_pair = CURVE.fmr_at(0.61)
    assert beyond_every_pair == Rate(1.5e-6, 0.0, 1.5e-6, is_bound=True)
    assert str(beyond_every_pair) == "at most 1.5e-06"


def test_expected_false_candidates_grow_with_the_gallery() -> None:
    measured = CALIBRATION.expected_false_candidates(
        100_000, CURVE.threshold_at(1e-6), Comparison.FUSED
    )
    assert measured.value == pytest.approx(0.1)
    assert not measured.is_bound
    assert (
        str(CALIBRATION.expected_false_candidates(1_000_000, 0.7, Comparison.FUSED))
        == "at most 1.5"
    )


def test_a_calibration_of_another_model_is_refused(tmp_path) -> None:
    CALIBRATION.save(tmp_path / "calibration.json")
    with pytest.raises(CalibrationError, match="another model: aaaaaaaaaaaa, not bbbbbbbbbbbb"):
        Calibration.load(tmp_path / "calibration.json", "b" * 64)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda fields: fields.update(format=99), "format 99"),
        (lambda fields: fields.pop("people"), "not a calibration"),
        (lambda fields: fields["curves"]["fused"]["points"].reverse(), "not in order"),
    ],
)
def test_a_spoilt_file_is_refused(spoil: Callable[[dict], Any], message: str, tmp_path) -> None:
    path = tmp_path / "calibration.json"
    CALIBRATION.save(path)
    fields = json.loads(path.read_text())
    spoil(fields)
    path.write_text(json.dumps(fields))
    with pytest.raises(CalibrationError, match=message):
        Calibration.load(path, DIGEST)


@pytest.mark.parametrize("content", ["", "[1]", "\0\xff", '{"format": 1, "curves": 3}'])
def test_a_file_that_is_no_calibration_is_refused(content: str, tmp_path) -> None:
    (tmp_path / "some.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(CalibrationError, match=r"some\.json is not a calibration"):
        Calibration.load(tmp_path / "some.json", DIGEST)
    with pytest.raises(CalibrationError, match=r"no calibration can be read at none\.json"):
        Calibration.load(tmp_path / "none.json", DIGEST)


def test_a_kind_that_was_not_calibrated_is_refused() -> None:
    only_single = structs.replace(CALIBRATION, curves={Comparison.ONE_TO_ONE: CURVE})
    with pytest.raises(CalibrationError, match="lacks fused"):
        Thresholds.from_calibration(only_single)


def test_certain_must_exceed_review() -> None:
    with pytest.raises(CalibrationError, match="must exceed review"):
        Thresholds(verify=0.4, same_document=0.4, review=0.6, certain=0.6)
    with pytest.raises(CalibrationError, match="cosines"):
        Thresholds(verify=4, same_document=0.4, review=0.5, certain=0.6)


def test_an_operator_chooses_rates_not_scores() -> None:
    rates = ThresholdRates(verify=1e-3, same_document=1e-2, review=1e-5, certain_margin=0.1)
    chosen = Thresholds.from_calibration(CALIBRATION, rates)
    found = (chosen.verify, chosen.same_document, chosen.review, chosen.certain)
    assert found == pytest.approx((0.34, 0.26, 0.50, 0.70))
    assert chosen.verify_fused == pytest.approx(0.34)
    assert chosen.one_person == pytest.approx(0.26)
    with pytest.raises(RateUnsupported, match="1e-08"):
        Thresholds.from_calibration(CALIBRATION, replace(rates, review=1e-8))


def test_review_follows_the_gallery_as_far_as_the_data_support_it() -> None:
    rates = ThresholdRates(review_false_candidates=0.1, certain_margin=0.1)

    def rate_in(references: int) -> float:
        return rates.review_in(references, CURVE.lowest_fmr)

    for references in (1_500, 2_000, 9_999, 40_000):
        expected = rate_in(references) * references
        assert 0.04 <= expected <= 0.1 + 1e-12, "sizes are rounded up by at most 2.5"
    assert rate_in(1_001) == rate_in(2_000) > rate_in(2_001), "seldom another"
    assert rate_in(0) == rate_in(10) == rates.same_document, "never above it"
    assert rate_in(10**6) == CURVE.lowest_fmr, "never beyond the data"
    assert ThresholdRates().review_in(10**6, CURVE.lowest_fmr) == ThresholdRates().review
    small, large = (Thresholds.from_calibration(CALIBRATION, rates, n) for n in (1_000, 10**9))
    singly = {"review": small.review, "review_single": small.review_single}
    assert small == structs.replace(large, **singly)
    assert small.review_single == CALIBRATION.threshold_at(1e-4, Comparison.FUSED_TO_ONE)
    assert small.review == CALIBRATION.threshold_at(1e-4, Comparison.FUSED)
    assert large.review == CALIBRATION.threshold_at(1e-6, Comparison.FUSED)


def test_shipped_thresholds_make_sense_in_a_gallery_of_100_000(shipped) -> None:
    chosen = Thresholds.from_calibration(shipped)
    assert 0.3 < chosen.verify < chosen.review < chosen.certain < 0.75
    assert chosen.certain > shipped.curve(Comparison.FUSED).highest_nonmated
    at_review = shipped.expected_false_candidates(100_000, chosen.review, Comparison.FUSED)
    assert at_review.value == pytest.approx(0.1)
    assert shipped.expected_false_candidates(100_000, chosen.certain, Comparison.FUSED).is_bound


def test_the_shipped_calibration_supports_1e_6_and_refuses_1e_7(shipped) -> None:
    for kind in Comparison:
        assert shipped.curve(kind).lowest_fmr <= 1e-6
        with pytest.raises(RateUnsupported, match="1e-07"):
            shipped.threshold_at(1e-7, kind)
