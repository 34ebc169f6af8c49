"""A judge that looks at the picture itself: an operator's model by its card, in a real session."""

from typing import Any

import numpy as np
import pytest

from engine.errors import ModelCardInvalid, ModelDamaged
from engine.faces.extractor import Extraction
from engine.faces.liveness_judge import LivenessJudge, digest_judge
from engine.models.catalog import load_card
from tests.liveness_models import SIDE_PX, write_judge


def sigmoid(brightness: float, half: float = 0.5, steep: float = 12.0) -> float:
    return float(1 / (1 + np.exp(-steep * (brightness - half))))


@pytest.mark.parametrize("batch", ["n", 1])
def test_the_score_is_the_number_that_the_card_names(tmp_path, batch: Any) -> None:
    judge = LivenessJudge(load_card(write_judge(tmp_path, batch=batch)))
    levels = [0, 128, 255, *range(20)]
    crops = np.stack([np.full((SIDE_PX, SIDE_PX, 3), level, np.uint8) for level in levels])
    wanted = [sigmoid(level / 255) for level in levels]
    assert judge.judge(crops) == pytest.approx(wanted, abs=1e-5)


def test_a_sigmoid_of_one_number_and_another_output_are_contracts_too(tmp_path) -> None:
    contract = 'index = 1\nactivation = "sigmoid"\noutput = "both"'
    judge = LivenessJudge(load_card(write_judge(tmp_path, contract=contract)))
    white = np.full((1, SIDE_PX, SIDE_PX, 3), 255, np.uint8)
    assert judge.judge(white) == pytest.approx([sigmoid(1, steep=6)], abs=1e-5)


def test_what_is_no_probability_is_no_score(tmp_path) -> None:
    judge = LivenessJudge(load_card(write_judge(tmp_path, contract="index = 1")))
    white = np.full((1, SIDE_PX, SIDE_PX, 3), 255, np.uint8)
    assert np.isnan(judge.judge(white)).all(), "3 is none"
    with np.errstate(all="ignore"):
        path = write_judge(tmp_path / "infinite", infinite=True)
    assert np.isnan(LivenessJudge(load_card(path)).judge(white)).all()


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"contract": "index = 2"}, "index"),
        ({"contract": 'output = "other"'}, "output"),
        ({"contract": 'activation = "tanh"'}, "activation"),
        ({"contract": "crop_scale = 100.0"}, "crop_scale"),
        ({"limits": "live = 0.5\nspoof = 0.6"}, "spoof"),
        ({"limits": "spoof = 0.6"}, "live"),
        ({"batch": 4}, "batches of 4"),
        ({"rows": [0]}, "a row for each"),
    ],
)
def test_a_card_that_does_not_fit_is_refused_by_name(
    tmp_path, changes: dict[str, Any], what: str
) -> None:
    with pytest.raises(ModelCardInvalid, match=what):
        LivenessJudge(load_card(write_judge(tmp_path, **changes)))


def test_only_the_file_of_the_card_is_run_and_its_digest_tells_what_shapes_a_score(
    tmp_path,
) -> None:
    path = write_judge(tmp_path)
    card = load_card(path)
    other_limits = load_card(write_judge(tmp_path / "limits", limits="live = 0.9"))
    other_crop = load_card(write_judge(tmp_path / "crop", contract="index = 1\ncrop_scale = 2.7"))
    assert digest_judge(card) == digest_judge(other_limits)
    assert digest_judge(card) != digest_judge(other_crop)
    (tmp_path / "judge.onnx").write_bytes(b"another")
    with pytest.raises(ModelDamaged):
        LivenessJudge(card)


def test_the_crop_is_the_square_around_the_face_and_black_beyond_the_picture(tmp_path) -> None:
    contract = 'index = 1\nactivation = "softmax"\ncrop_scale = 2.0'
    judge = LivenessJudge(load_card(write_judge(tmp_path, contract=contract)))
    picture = np.zeros((200, 300, 3), np.uint8)
    picture[60:140, 100:180] = 200
    inside = judge.cut(picture, (120, 80, 40, 30))
    assert (inside == 200).mean() == pytest.approx(1, abs=0.1)
    # At half its size it is the same crop.
    half = judge.cut(picture[::2, ::2], (120, 80, 40, 30), 0.5)
    assert np.abs(half.astype(int) - inside).mean() < 10
    white = np.full((50, 50, 3), 255, np.uint8)
    corner = judge.cut(white, (-10, -10, 20, 20))
    assert corner[: SIDE_PX // 2 - 1].max() == 0
    assert corner[SIDE_PX // 2 + 1 :, SIDE_PX // 2 + 1 :].min() == 255
    for box in ((0, 0, 1e6, 1e6), (900, 900, 5, 5), (0, 0, 0, 0), (-1e7, 0, 1, 1)):
        assert judge.cut(white, box).shape == (SIDE_PX, SIDE_PX, 3)


def test_a_photograph_is_judged_where_that_is_asked_and_its_vector_is_the_same(
    extractor, photo, tmp_path
) -> None:
    data = photo
    plain = extractor.extract([data])[0]
    assert plain.judged is None
    extractor.liveness_judge = LivenessJudge(load_card(write_judge(tmp_path)))
    try:
        judged, other, bad = extractor.extract([data, data, b"x"], (), [True, False, True])
    finally:
        extractor.liveness_judge = None
    assert 0 < judged.judged.score < 1
    assert other.judged is None
    assert np.array_equal(judged.vector, plain.vector)
    assert not isinstance(bad, Extraction)


def test_a_judge_that_fails_while_it_runs_fails_no_photograph(extractor, photo, tmp_path) -> None:
    # It speaks of two faces, whatever it is given, and each of two threads has three.
    extractor.liveness_judge = LivenessJudge(load_card(write_judge(tmp_path, rows=[0, 1])))
    try:
        found = extractor.extract(6 * [photo], (), 6 * [True])
    finally:
        extractor.liveness_judge = None
    assert len(found) == 6
    for one in found:
        assert np.isnan(one.judged.score)
