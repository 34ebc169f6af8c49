"""Detection equals OpenCV's own decoding of the same model, and looks twice only if it must."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from engine.errors import ModelCardInvalid
from engine.faces.detector import (
    DetectedFace,
    DetectorConfig,
    FaceDetector,
    choose_main_face,
    has_competing_face,
)
from engine.faces.embedder import Pixels
from engine.models.catalog import builtin_card, locate
from tests.engine.faces.conftest import WatchedSession

AS_FOUND = DetectorConfig(max_tilt_deg=180, weak_score=0, sure_score=0)
"""Turns nothing."""


def sizes(session: WatchedSession) -> list[tuple[int, ...]]:
    return [shape[2:] for shape in session.shapes]


def shrink(pixels: Pixels, side: int) -> Pixels:
    factor = side / max(pixels.shape)
    return np.asarray(cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA))


@pytest.fixture(scope="module")
def single_size(detector_session) -> FaceDetector:
    return FaceDetector(
        detector_session, replace(AS_FOUND, input_sides_px=(10_000,), shared_overlap=1)
    )


def check_against_opencv(detector: FaceDetector, pictures: list[Pixels]) -> int:
    config = DetectorConfig()
    path = str(locate(builtin_card("yunet")))
    peer = cv2.FaceDetectorYN.create(path, "", (320, 320), config.min_score, config.max_overlap)
    faces = 0
    for pixels in pictures:
        peer.setInputSize((pixels.shape[1], pixels.shape[0]))
        rows = peer.detect(np.ascontiguousarray(pixels[:, :, ::-1]))[1]
        found = detector.detect(pixels)
        assert len(found) == (0 if rows is None else len(rows))
        for face, row in zip(found, [] if rows is None else rows, strict=True):
            np.testing.assert_allclose(face.box_px, row[:4], atol=0.05)
            np.testing.assert_allclose(face.landmarks_px, row[4:14].reshape(5, 2), atol=0.05)
            assert face.score == pytest.approx(row[14], abs=1e-3)
            faces += 1
    return faces


def test_faces_equal_opencvs_at_every_size(single_size, astronaut) -> None:
    sizes = (512, 431, 300, 250, 161, 96)
    wide = np.concatenate([astronaut, astronaut[:, ::-1]], axis=1)
    pictures = [shrink(picture, side) for side in sizes for picture in (astronaut, wide)]
    assert check_against_opencv(single_size, pictures) >= 12


@pytest.mark.lfw
def test_faces_equal_opencvs_on_lfw(single_size, lfw_photos, decode) -> None:
    pictures = [decode(path.read_bytes()).pixels for path in lfw_photos[:60]]
    assert check_against_opencv(single_size, pictures) >= 60


def test_coordinates_are_those_of_the_full_picture(detector_session, astronaut) -> None:
    detector = FaceDetector(detector_session)
    (small,) = detector.detect(shrink(astronaut, 300))
    big = np.kron(astronaut, np.ones((4, 4, 1), dtype=np.uint8))
    (large,) = detector.detect(big)
    inter_eye_px = np.linalg.norm(large.landmarks_px[1] - large.landmarks_px[0])
    error_px = np.abs(small.landmarks_px * (2048 / 300) - large.landmarks_px).max()
    assert error_px < 0.1 * inter_eye_px


@pytest.mark.lfw
def test_shared_landmarks_move_less_when_a_photograph_is_encoded_again(
    detector_session, single_size, lfw_photos, encode, decode
) -> None:
    sharing = FaceDetector(detector_session)
    moves: dict[FaceDetector, list[float]] = {sharing: [], single_size: []}
    for path in lfw_photos[:50]:
        before = decode(path.read_bytes()).pixels
        after = decode(encode(before, quality=80)).pixels
        for detector, found in moves.items():
            first, second = (detector.detect(p)[0].landmarks_px for p in (before, after))
            found.append(float(np.abs(first - second).max()))
    assert np.mean(np.sort(moves[sharing])[-10:]) < 0.8 * np.mean(np.sort(moves[single_size])[-10:])


def test_one_size_suffices_where_a_face_is_found(detector_session, astronaut) -> None:
    session = WatchedSession(detector_session)
    assert FaceDetector(session).detect(astronaut)
    assert sizes(session) == [(320, 320)]


def test_second_size_finds_the_face_that_is_small_in_a_large_picture(
    detector_session, astronaut
) -> None:
    picture = np.full((1400, 1000, 3), 90, dtype=np.uint8)
    picture[900:1060, 400:560] = shrink(astronaut, 160)
    once = FaceDetector(detector_session, DetectorConfig(input_sides_px=(320,)))
    session = WatchedSession(detector_session)
    assert once.detect(picture) == ()
    (face,) = FaceDetector(session).detect(picture)
    turned = [(256, 320), (320, 256), (256, 320)]
    assert sizes(session)[:5] == [(320, 256), *turned, (640, 480)]
    assert all(max(size) <= 160 for size in sizes(session)[5:])
    x, y, width, height = face.box_px
    assert 900 < y < y + height < 1060
    assert 400 < x < x + width < 560


def test_small_picture_is_not_enlarged_nor_tried_twice(detector_session) -> None:
    session = WatchedSession(detector_session)
    assert FaceDetector(session).detect(np.zeros((100, 60, 3), dtype=np.uint8)) == ()
    assert sizes(session) == [(128, 64), (64, 128), (128, 64), (64, 128)]


def test_no_picture_is_looked_at_more_than_sixteen_times(detector_session, astronaut) -> None:
    """Half hidden and turned, the face is found in no turn as an upright one is."""
    hidden = astronaut.copy()
    hidden[130:] = 0
    for turns in range(4):
        session = WatchedSession(detector_session)
        FaceDetector(session).detect(np.rot90(hidden, turns))
        assert len(session.shapes) <= 16
        assert max(side for size in sizes(session)[:-1] for side in size) <= 352


@pytest.mark.lfw
def test_upright_faces_are_looked_at_once_and_keep_their_landmarks(
    detector_session, lfw_photos, decode
) -> None:
    pictures = [decode(path.read_bytes()).pixels for path in lfw_photos[:80]]
    session = WatchedSession(detector_session)
    detector, plain = FaceDetector(session), FaceDetector(detector_session, AS_FOUND)
    once = 0
    for pixels in pictures:
        session.shapes.clear()
        found = detector.detect(pixels)
        if len(session.shapes) > 1:
            continue
        once += 1
        for face, other in zip(found, plain.detect(pixels), strict=True):
            assert face.box_px == other.box_px
            assert face.score == other.score
            np.testing.assert_array_equal(face.landmarks_px, other.landmarks_px)
    assert once >= 0.85 * len(pictures)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 3000, 3), (3000, 2, 3)])
def test_picture_of_an_odd_shape_has_no_face(detector_session, shape: tuple[int, int, int]) -> None:
    assert FaceDetector(detector_session).detect(np.zeros(shape, dtype=np.uint8)) == ()


def test_model_of_another_kind_is_refused(embedder_session) -> None:
    with pytest.raises(ModelCardInvalid, match="not YuNet's outputs"):
        FaceDetector(embedder_session)


SIZE_PX = (400, 300)


def face(x: float, y: float, side: float) -> DetectedFace:
    box = (x - side / 2, y - side / 2, side, side)
    return DetectedFace(box, np.zeros((5, 2), dtype=np.float32), 0.9)


@pytest.mark.parametrize(
    ("other", "main"),
    [
        (face(150, 150, 50), face(250, 150, 100)),
        # Of two alike, the one nearer the centre.
        (face(60, 60, 80), face(210, 150, 78)),
        # A much larger one, even in a corner.
        (face(200, 150, 40), face(50, 50, 100)),
    ],
)
def test_the_largest_face_is_the_main_one(other: DetectedFace, main: DetectedFace) -> None:
    assert choose_main_face([other, main], SIZE_PX) == 1


@pytest.mark.parametrize(
    ("point", "chosen"), [((0.25, 0.25), 0), ((0.5, 0.5), 1), ((0.52, 0.3), 1)]
)
def test_the_face_at_a_point_is_the_main_one_however_prominent_another_is(
    point: tuple[float, float], chosen: int
) -> None:
    faces = [face(100, 75, 40), face(200, 150, 150)]
    assert choose_main_face(faces, SIZE_PX, point) == chosen


@pytest.mark.parametrize(("side", "competes"), [(105, False), (115, True), (150, True)])
def test_another_face_competes_from_a_share_of_the_prominence(side: float, competes: bool) -> None:
    """Off the centre by half of the way to the corner it counts three quarters."""
    faces = [face(100, 75, side), face(200, 150, 100)]
    assert has_competing_face(faces, 1, SIZE_PX, 0.82) is competes


def test_with_a_share_of_nothing_any_other_face_competes_and_a_single_one_has_none() -> None:
    assert has_competing_face([face(20, 20, 10), face(200, 150, 100)], 1, SIZE_PX, 0)
    assert not has_competing_face([face(200, 150, 100)], 0, SIZE_PX, 0.6)
