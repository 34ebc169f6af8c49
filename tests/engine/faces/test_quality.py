"""Quality measures: each falls with the fault that it names, and with no other."""

import dataclasses

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from engine.faces.detector import FaceDetector
from engine.faces.embedder import Pixels, align, arcface_template
from engine.faces.quality import (
    Quality,
    estimate_pose,
    find_problems,
    judge_clarity,
    measure_quality,
)
from schema.options import QUALITY_LIMITS, QualityLimits
from schema.reasons import PhotographKind, Reason
from serving.settings.settings import make_settings

Points = NDArray[np.float32]
GOOD = Quality(
    inter_eye_px=60,
    sharpness=0.6,
    exposure=0.5,
    contrast=0.5,
    yaw_deg=0,
    pitch_deg=0,
    roll_deg=0,
    detection_score=0.9,
    detail_bytes=400,
    cut_share=0,
)


def turn_head(yaw_deg: float, pitch_deg: float, roll_deg: float) -> Points:
    """Landmarks of an average head turned in space, from afar; x right, y down, z to the camera."""
    head = np.array(
        [[-0.5, 0, 0], [0.5, 0, 0], [0, 0.56 * 1.155, 0.5], [-0.4, 1.155, 0], [0.4, 1.155, 0]]
    )
    a, b, c = np.radians([yaw_deg, pitch_deg, roll_deg])
    yaw = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    pitch = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    roll = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return ((head @ (roll @ pitch @ yaw).T)[:, :2] * 80 + 300).astype(np.float32)


@pytest.fixture(scope="module")
def landmarks(detector_session, astronaut) -> Points:
    return FaceDetector(detector_session).detect(astronaut)[0].landmarks_px


@pytest.fixture(scope="module")
def crop(astronaut, landmarks) -> Pixels:
    return align(astronaut, landmarks, 112)


@pytest.fixture(scope="module")
def measured(crop, landmarks) -> Quality:
    return measure_quality(crop, landmarks, 0.9, 100_000, (512, 512))


def test_a_good_portrait_has_no_problem(measured) -> None:
    assert find_problems(measured, QualityLimits()) == ()


@pytest.mark.parametrize("pitch", [-25, -10, 10, 25])
def test_pitch_of_an_average_head_is_recovered_with_its_sign(pitch: float) -> None:
    yaw, found, roll = estimate_pose(turn_head(0, pitch, 0))
    assert found == pytest.approx(pitch, abs=1)
    assert (yaw, roll) == pytest.approx((0, 0), abs=1)


@given(st.floats(-80, 80), st.floats(-30, 30))
def test_roll_is_exact_and_leaves_yaw_alone(roll: float, yaw: float) -> None:
    assert estimate_pose(turn_head(yaw, 0, roll)) == pytest.approx((yaw, 0, roll), abs=1)


def test_landmarks_on_one_point_give_no_pose_instead_of_an_error() -> None:
    assert estimate_pose(np.zeros((5, 2), dtype=np.float32)) == (0, 0, 0)


@pytest.mark.parametrize("sigma", [3, 4])
def test_a_blurred_face_is_blurred(crop, landmarks, sigma: float) -> None:
    blurred = np.asarray(cv2.GaussianBlur(crop, (0, 0), sigma))
    quality = measure_quality(blurred, landmarks, 0.9, 100_000, (512, 512))
    assert find_problems(quality, QualityLimits()) == (Reason.BLURRED,)


ALONG, UP = np.eye(11, dtype=np.float32)[[5] * 11] / 11, np.eye(11, dtype=np.float32) / 11


@pytest.mark.parametrize("kernel", [ALONG, ALONG.T, UP, UP[::-1]])
def test_motion_in_any_direction_costs_sharpness(crop, landmarks, measured, kernel) -> None:
    moved = np.asarray(cv2.filter2D(crop, -1, kernel))
    found = measure_quality(moved, landmarks, 0.9, 100_000, (512, 512))
    assert found.sharpness < 0.7 * measured.sharpness


def test_light_does_not_pass_for_sharpness_nor_for_blur(crop, landmarks, measured) -> None:
    from_one_side = np.linspace(0.1, 1, crop.shape[1])[None, :, None]
    for gain, offset in ((0.5, 0), (0.5, 100), (0.8, 30), (from_one_side, 0)):
        changed = np.clip(crop * gain + offset, 0, 255).round().astype(np.uint8)
        found = measure_quality(changed, landmarks, 0.9, 100_000, (512, 512))
        assert found.sharpness == pytest.approx(measured.sharpness, rel=0.1)


@pytest.mark.parametrize(
    ("gain", "offset", "reason"),
    [(0.05, 0, Reason.TOO_DARK), (0.2, 210, Reason.TOO_BRIGHT), (0.05, 120, Reason.LOW_CONTRAST)],
)
def test_bad_light_is_named(crop, landmarks, gain: float, offset: float, reason: Reason) -> None:
    changed = np.clip(crop * gain + offset, 0, 255).round().astype(np.uint8)
    quality = measure_quality(changed, landmarks, 0.9, 100_000, (512, 512))
    assert reason in find_problems(quality, QualityLimits())


def test_crop_of_another_size_is_measured_alike(astronaut, landmarks, measured) -> None:
    large = measure_quality(align(astronaut, landmarks, 224), landmarks, 0.9, 100_000, (512, 512))
    assert large.exposure == pytest.approx(measured.exposure, abs=0.01)
    assert large.contrast == pytest.approx(measured.contrast, abs=0.03)


def test_flat_crop_is_measured_without_dividing_by_nothing() -> None:
    flat = np.full((112, 112, 3), 128, dtype=np.uint8)
    quality = measure_quality(flat, arcface_template(112), 0.9, 100_000, (512, 512))
    assert find_problems(quality, QualityLimits()) == (Reason.BLURRED, Reason.LOW_CONTRAST)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("inter_eye_px", 7.9, Reason.FACE_TOO_SMALL),
        ("sharpness", 0.04, Reason.BLURRED),
        ("exposure", 0.03, Reason.TOO_DARK),
        ("exposure", 0.94, Reason.TOO_BRIGHT),
        ("contrast", 0.02, Reason.LOW_CONTRAST),
        ("detail_bytes", 80.0, Reason.COMPRESSED),
        ("cut_share", 0.5, Reason.FACE_CUT),
        ("yaw_deg", 46.0, Reason.POSE),
        ("yaw_deg", -46.0, Reason.POSE),
        ("pitch_deg", -36.0, Reason.POSE),
        ("burnt_share", 0.11, Reason.GLARE),
        ("eye_light", 0.39, Reason.FACE_COVERED),
    ],
)
def test_each_limit_gives_its_reason(field: str, value: float, reason: Reason) -> None:
    assert find_problems(GOOD, QualityLimits()) == ()
    worse = dataclasses.replace(GOOD, **{field: value})
    assert find_problems(worse, QualityLimits()) == (reason,)


SIGNS = [
    ("inter_eye_px", 13.0, Reason.FACE_TOO_SMALL),
    ("cut_share", 0.11, Reason.FACE_CUT),
    ("exposure", 0.15, Reason.TOO_DARK),
    ("burnt_share", 0.05, Reason.GLARE),
    ("lower_texture", 0.2, Reason.FACE_COVERED),
    ("lower_tint", 0.2, Reason.FACE_COVERED),
    ("evenness", 0.4, Reason.SIDE_LIGHT),
]


@pytest.mark.parametrize(("field", "value", "cause"), SIGNS)
def test_an_unclear_face_is_sent_back_for_the_cause_that_it_shows(
    field: str, value: float, cause: Reason
) -> None:
    shown = dataclasses.replace(GOOD, **{field: value})
    assert find_problems(shown, QualityLimits()) == judge_clarity(shown, QualityLimits()) == ()
    unclear = dataclasses.replace(shown, clarity=0.77)
    assert judge_clarity(unclear, QualityLimits()) == (cause,)
    assert judge_clarity(unclear, QualityLimits(min_clarity=0)) == ()
    assert judge_clarity(dataclasses.replace(GOOD, clarity=0.77), QualityLimits()) == (
        Reason.UNCLEAR,
    )
    # What reads as blur is told as what it is.
    assert find_problems(dataclasses.replace(shown, sharpness=0.3), QualityLimits()) == (cause,)


def test_of_a_face_with_noise_more_clarity_is_asked() -> None:
    unclear = dataclasses.replace(GOOD, clarity=0.81)
    noisy = dataclasses.replace(unclear, sharpness=0.95)
    assert judge_clarity(unclear, QualityLimits()) == ()
    assert judge_clarity(noisy, QualityLimits()) == (Reason.UNCLEAR,)
    assert judge_clarity(noisy, QualityLimits(min_clarity=0)) == ()


def test_a_small_face_is_too_small_before_it_is_compressed() -> None:
    shown = dataclasses.replace(GOOD, inter_eye_px=13.0, detail_bytes=80.0)
    reasons = (Reason.FACE_TOO_SMALL, Reason.COMPRESSED)
    assert find_problems(shown, QualityLimits()) == reasons


def test_what_covers_burns_or_shades_a_face_is_measured(crop, landmarks) -> None:
    masked, lit, shaded = crop.copy(), crop.copy(), crop.astype(np.float32)
    masked[68:104] = (150, 180, 205)
    lit[50:80, 40:72] = 255
    shaded *= np.linspace(0.1, 1, 112)[None, :, None]
    for picture, reason in (
        (masked, Reason.FACE_COVERED),
        (lit, Reason.GLARE),
        (shaded.astype(np.uint8), Reason.SIDE_LIGHT),
    ):
        quality = measure_quality(picture, landmarks, 0.9, 100_000, (512, 512))
        told = judge_clarity(dataclasses.replace(quality, clarity=0.7), QualityLimits())
        assert told == (reason,)


@pytest.mark.parametrize(
    ("darkness", "has_hat", "covers"),
    [(0.9, False, True), (0.5, False, False), (0.5, True, True), (0, True, False)],
)
def test_dark_glasses_cover_a_clear_face_and_under_a_hat_lighter_ones_do(
    crop, landmarks, darkness: float, has_hat: bool, covers: bool
) -> None:
    worn = crop.copy()
    for x in (38, 74):
        cv2.ellipse(worn, (x, 52), (16, 11), 0, 0, 360, (20, 20, 24), -1)
    worn = cv2.addWeighted(worn, darkness, crop, 1 - darkness, 0)
    worn[: 38 * has_hat] = 35
    quality = measure_quality(worn, landmarks, 0.9, 100_000, (512, 512))
    assert find_problems(quality, QualityLimits()) == (Reason.FACE_COVERED,) * covers


def test_settings_change_a_limit_of_one_kind_and_keep_the_others() -> None:
    limits = make_settings({"quality": {"chip": {"min_sharpness": 0.01}}}).quality.limits()
    changed = dataclasses.replace(QUALITY_LIMITS[PhotographKind.CHIP], min_sharpness=0.01)
    assert limits == {**QUALITY_LIMITS, PhotographKind.CHIP: changed}


@pytest.mark.parametrize(("share", "side"), [(0.5, "left"), (0.3, "top"), (0.5, "bottom")])
def test_what_the_border_cuts_of_a_face_is_measured(share: float, side: str) -> None:
    face = arcface_template(112)
    size_px = {"left": (112, 112), "top": (112, 112), "bottom": (112, 112 - round(96 * share))}
    shift = {"left": (16 + 80 * share, 0), "top": (0, 16 + 96 * share), "bottom": (0, 0)}
    quality = measure_quality(
        np.full((112, 112, 3), 128, dtype=np.uint8),
        face - np.float32(shift[side]),
        0.9,
        100_000,
        size_px[side],
    )
    assert quality.cut_share == pytest.approx(share, abs=0.07)


@pytest.mark.parametrize(
    ("shown", "reason"),
    [
        ({"lower_tint": 0.12, "evenness": 0.55, "lower_texture": 1.3}, Reason.SIDE_LIGHT),
        ({"lower_tint": 0.12, "evenness": 0.55, "lower_texture": 0.7}, Reason.FACE_COVERED),
        ({"exposure": 0.17, "evenness": 0.45}, Reason.SIDE_LIGHT),
        ({"exposure": 0.17, "evenness": 0.9}, Reason.TOO_DARK),
        ({"evenness": 0.8}, Reason.SIDE_LIGHT),
        ({"evenness": 0.9}, Reason.UNCLEAR),
        ({"burnt_share": 0.4, "exposure": 0.7}, Reason.TOO_BRIGHT),
        ({"burnt_share": 0.3, "exposure": 0.82}, Reason.TOO_BRIGHT),
        ({"inter_eye_px": 19.0}, Reason.FACE_TOO_SMALL),
        ({"exposure": 0.15, "lower_texture": 0.15}, Reason.FACE_COVERED),
    ],
)
def test_where_signs_meet_the_cause_that_is_told_is_the_one_that_explains_them(
    shown, reason
) -> None:
    quality = dataclasses.replace(GOOD, clarity=0.75, **shown)
    assert judge_clarity(quality, QualityLimits()) == (reason,)
