"""The whole way from bytes to a vector."""

import dataclasses
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest
from msgspec import structs
from numpy.typing import NDArray
from PIL import Image as PillowImage

from engine.errors import ImageDamaged, ImageError, ImageUnsupported
from engine.faces.detector import FaceDetector
from engine.faces.embedder import Embedder
from engine.faces.extractor import (
    Extracted,
    Extraction,
    Extractor,
    ExtractorConfig,
    digest_embedding,
    open_extractor,
)
from engine.models.catalog import builtin_card
from engine.models.onnx_sessions import SessionOptions
from schema.options import QUALITY_LIMITS
from schema.reasons import SECOND_FACE, PhotographKind, Pointed, Reason
from tests.engine.faces.conftest import WatchedSession

CPU = SessionOptions(provider="cpu")


def found(extracted: Extracted) -> Extraction:
    assert isinstance(extracted, Extraction)
    assert extracted.vector is not None
    return extracted


def vector(extracted: Extracted) -> NDArray[np.float32]:
    return found(extracted).vector


@pytest.fixture(scope="module")
def portrait(extractor, photo) -> Extraction:
    return found(extractor.extract([photo])[0])


def test_a_portrait_gives_a_unit_vector_and_where_the_face_is(portrait) -> None:
    assert portrait.vector.shape == (128,)
    assert portrait.vector.dtype == np.float32
    assert np.linalg.norm(portrait.vector) == pytest.approx(1, abs=1e-6)
    assert portrait.problems == ()
    assert portrait.size_px == (512, 512)
    assert portrait.crop.shape == (112, 112, 3)
    assert portrait.crop.dtype == np.uint8
    assert portrait.box_px is not None
    x, y, width, height = portrait.box_px
    assert (portrait.landmarks_px > [x, y]).all()
    assert (portrait.landmarks_px < [x + width, y + height]).all()
    assert portrait.quality.inter_eye_px == pytest.approx(42, abs=2)


def test_large_jpeg_reports_the_face_in_its_full_size(
    extractor, portrait, astronaut, encode
) -> None:
    big = found(extractor.extract([encode(np.kron(astronaut, np.ones((6, 6, 1), np.uint8)))])[0])
    assert big.size_px == (3072, 3072)
    assert big.landmarks_px is not None
    assert portrait.landmarks_px is not None
    eye_px = 6 * portrait.quality.inter_eye_px
    assert big.quality.inter_eye_px == pytest.approx(eye_px, rel=0.06)
    assert np.abs(big.landmarks_px - 6 * portrait.landmarks_px).max() < 0.1 * eye_px
    assert vector(big) @ vector(portrait) > 0.9


@pytest.mark.parametrize("share", [1, 4])
def test_a_small_face_in_a_large_photograph_is_cut_from_all_its_pixels(
    extractor, portrait, astronaut, encode, share: int
) -> None:
    """Where the detector looks first, its eyes are 6 pixels apart: eyes and crop need them all."""
    card = np.full((1800, 2400, 3), 200, dtype=np.uint8)
    card[500:1012, 900:1412] = astronaut
    card = card[: 1800 // share + 512, : 2400 // share + 900]
    (extracted,) = extractor.extract([encode(card)])
    assert found(extracted).size_px == card.shape[1::-1]
    assert found(extracted).problems == ()
    assert vector(extracted) @ vector(portrait) > 0.95


def test_picture_without_a_face_is_an_extraction_with_its_reason(extractor, encode) -> None:
    (faceless,) = extractor.extract([encode(np.full((300, 200, 3), 120, dtype=np.uint8))])
    assert faceless.problems == (Reason.NO_FACE,)
    assert faceless.size_px == (200, 300)
    for name in ("vector", "quality", "box_px", "landmarks_px", "crop"):
        assert getattr(faceless, name) is None


@pytest.mark.parametrize("angle_deg", [-30, -20, 10, 15, 20, 30])
def test_a_small_face_on_a_card_that_lies_askew_is_turned_upright(
    extractor, portrait, astronaut, encode, angle_deg: int
) -> None:
    table = PillowImage.new("RGB", (1600, 1200), (120, 96, 70))
    card = PillowImage.new("RGBA", (540, 360), (222, 228, 230, 255))
    card.paste(PillowImage.fromarray(astronaut[:330, 60:360]).resize((180, 198)), (40, 80))
    card = card.rotate(-angle_deg, PillowImage.Resampling.BICUBIC, expand=True)
    table.paste(card, (400, 300), card)
    (extracted,) = extractor.extract([encode(np.asarray(table))])
    assert found(extracted).problems == ()
    assert vector(extracted) @ vector(portrait) > 0.8


def test_of_a_picture_too_dark_or_bright_for_any_face_this_is_told_first(extractor, encode) -> None:
    files = [encode(np.full((200, 200, 3), level, dtype=np.uint8)) for level in (5, 128, 252)]
    told = [getattr(one, "problems", ()) for one in extractor.extract(files)]
    dark, bright = (Reason.TOO_DARK, Reason.NO_FACE), (Reason.TOO_BRIGHT, Reason.NO_FACE)
    assert told == [dark, (Reason.NO_FACE,), bright]


def test_small_face_beside_the_subject_does_not_count(
    extractor, portrait, astronaut, encode
) -> None:
    card = np.full((512, 700, 3), 230, dtype=np.uint8)
    card[:, :512] = astronaut
    card[100:270, 522:692] = PillowImage.fromarray(astronaut).resize((170, 170))
    (extracted,) = extractor.extract([encode(card)])
    assert found(extracted).problems == ()
    assert vector(extracted) @ vector(portrait) > 0.9


def test_a_bystander_who_is_clearly_smaller_is_let_pass_unless_the_outlet_is_strict(
    astronaut, portrait, encode
) -> None:
    card = np.full((512, 850, 3), 230, dtype=np.uint8)
    card[:, :512] = astronaut
    card[90:423, 515:848] = PillowImage.fromarray(astronaut[:, ::-1]).resize((333, 333))
    for share, problems in ((0.85, ()), (0.0, (Reason.SEVERAL_FACES,))):
        config = ExtractorConfig(threads=1, competing_share=share)
        options = SessionOptions(provider="cpu")
        with open_extractor(config=config, session=options) as own:
            (extracted,) = own.extract([encode(card)])
        assert found(extracted).problems == problems
        assert vector(extracted) @ vector(portrait) > 0.9


def test_the_kind_of_a_photograph_decides_which_limits_it_is_held_to(astronaut, encode) -> None:
    small = PillowImage.fromarray(astronaut).resize((126, 126), PillowImage.Resampling.LANCZOS)
    kinds = [None, *PhotographKind]
    strict = dataclasses.replace(QUALITY_LIMITS[PhotographKind.LIVE], min_inter_eye_px=12)
    limits = dict.fromkeys(PhotographKind, strict)
    loose = dataclasses.replace(QUALITY_LIMITS[PhotographKind.CHIP], min_clarity=0)
    limits[PhotographKind.CHIP] = loose
    config = ExtractorConfig(threads=1, quality=limits)
    with open_extractor(config=config, session=SessionOptions(provider="cpu")) as own:
        outcomes = own.extract([encode(small)] * 4, kinds)
    refused = [Reason.FACE_TOO_SMALL in found(one).problems for one in outcomes]
    assert dict(zip(kinds, refused, strict=True)) == {
        None: True,
        PhotographKind.LIVE: True,
        PhotographKind.PRINTED: True,
        PhotographKind.CHIP: False,
    }


def test_a_face_that_compression_has_taken_is_told(extractor, astronaut, encode) -> None:
    small = PillowImage.fromarray(astronaut[:336, 100:372]).resize((102, 126))
    options = {"irreversible": True, "quality_mode": "rates"}
    files = [encode(small, "JPEG2000", quality_layers=[ratio], **options) for ratio in (8, 40)]
    outcomes = extractor.extract(files, [PhotographKind.CHIP] * 2)
    told = [Reason.COMPRESSED in found(one).problems for one in outcomes]
    assert told == [False, True]


@pytest.mark.parametrize("turn_deg", [-44, -30, 15, 60, 90, 135, 180, -90])
def test_a_turned_photograph_is_its_person_and_shows_its_roll(
    extractor, portrait, photo, encode, turn_deg: int
) -> None:
    picture = PillowImage.open(BytesIO(photo)).rotate(
        -turn_deg, PillowImage.Resampling.BICUBIC, expand=True
    )
    turned = found(extractor.extract([encode(picture)])[0])
    assert turned.problems == ()
    assert vector(turned) @ vector(portrait) > 0.8
    error_deg = turned.quality.roll_deg - portrait.quality.roll_deg - turn_deg
    assert (error_deg + 180) % 360 - 180 == pytest.approx(0, abs=16)


def test_a_covered_face_is_less_clear(extractor, portrait, astronaut, encode) -> None:
    covered = astronaut.copy()
    x, y = portrait.landmarks_px[2].astype(int)
    covered[y - 5 : y + 45, x - 60 : x + 60] = (90, 120, 160)
    (extracted,) = extractor.extract([encode(covered)])
    quality = found(extracted).quality
    assert quality.clarity < 0.9 * portrait.quality.clarity


def test_bad_photograph_in_a_batch_is_a_value_in_its_place(extractor, photo) -> None:
    batch = [photo, b"not an image", photo[: len(photo) // 2], photo, b""]
    good, text, cut, again, empty = extractor.extract(batch)
    assert isinstance(text, ImageUnsupported)
    assert isinstance(cut, ImageDamaged)
    assert isinstance(empty, ImageError)
    np.testing.assert_allclose(vector(good), vector(again), atol=1e-6)


@pytest.mark.parametrize(("threads", "chunk_size"), [(1, 1), (3, 2), (2, 100)])
def test_threads_and_chunks_do_not_change_a_vector(
    photo, portrait, threads: int, chunk_size: int
) -> None:
    config = ExtractorConfig(threads=threads, chunk_size=chunk_size)
    with open_extractor(config=config, session=CPU) as other:
        for extracted in other.extract([photo] * 7):
            np.testing.assert_allclose(vector(extracted), vector(portrait), atol=1e-5)


def test_it_says_whether_a_thread_is_free_and_when_one_is_again(photo) -> None:
    told = threading.Semaphore(0)
    config = ExtractorConfig(threads=1)
    with open_extractor(config=config, session=CPU) as extractor, ThreadPoolExecutor(1) as pool:
        extractor.tell_free = told.release
        assert extractor.has_free_thread()
        extracting = pool.submit(extractor.extract, [photo] * 4)
        while extractor.has_free_thread():
            assert not extracting.done()
        assert told.acquire(timeout=120)
        assert extractor.has_free_thread()


def test_callers_in_many_threads_get_their_own_answers(extractor, astronaut, encode) -> None:
    photos = [encode(np.roll(astronaut, 15 * i, axis=1)) for i in range(6)]
    alone = [vector(one) for one in extractor.extract(photos)]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda one: vector(extractor.extract([one])[0]), photos * 3))
    np.testing.assert_allclose(together, alone * 3, atol=1e-5)


def test_digest_follows_whatever_shapes_a_vector_and_nothing_else() -> None:
    card = builtin_card("sface")
    with open_extractor(session=CPU) as plain:
        digest = plain.model_digest
    options = SessionOptions(provider="cpu", threads=2, spinning=True)
    with open_extractor(session=options) as other:
        assert other.model_digest == digest
    changed = [
        digest_embedding(card, flip=True),
        digest_embedding(structs.replace(card, sha256="0" * 64), flip=False),
        digest_embedding(
            structs.replace(card, input=structs.replace(card.input, channels="bgr")), flip=False
        ),
    ]
    assert len({digest, *changed}) == 4
    assert digest == digest_embedding(structs.replace(card, name="other"), flip=False)


@pytest.mark.lfw
def test_lfw_photographs_have_faces_and_few_problems(extractor, lfw_photos) -> None:
    extractions = [found(one) for one in extractor.extract([p.read_bytes() for p in lfw_photos])]
    excused = {Reason.SEVERAL_FACES, Reason.POSE}
    rejected = [one for one in extractions if set(one.problems) - excused]
    assert len(rejected) <= math.ceil(0.06 * len(extractions))


@pytest.mark.lfw
@pytest.mark.parametrize("share", [0.4, 0.6, 1.3])
def test_where_somebody_else_is_compared_a_second_face_is_told_of(
    extractor, lfw_photos, encode, share: float
) -> None:
    """A child before a guardian, and a person before a poster, on either side."""
    pictures = [PillowImage.open(path).convert("RGB") for path in lfw_photos[:9]]
    alone = extractor.extract([encode(np.asarray(one)) for one in pictures])
    for place, (meant, own) in enumerate(zip(pictures[1:], alone[1:], strict=True)):
        front = meant.crop((55, 30, 195, 250)).resize((round(140 * share), round(220 * share)))
        scene = PillowImage.new("RGB", (600, 400), (150, 150, 145))
        scene.paste(pictures[place].crop((60, 20, 190, 250)), (330 if place % 2 else 100, 0))
        scene.paste(front, (180 if place % 2 else 280, 400 - front.height))
        one = found(extractor.extract([encode(np.asarray(scene))])[0])
        if vector(one) @ vector(own) < 0.349 and not one.problems:
            assert one.quality.second_face >= SECOND_FACE


@pytest.mark.lfw
@pytest.mark.parametrize("scale", [1, 6])
def test_the_face_at_the_point_is_compared_and_none_where_no_face_is(
    extractor, lfw_photos, encode, scale: int
) -> None:
    pictures = [PillowImage.open(path).convert("RGB") for path in lfw_photos[:6]]
    alone = extractor.extract([encode(np.asarray(one)) for one in pictures])
    for place in range(5):
        scene = PillowImage.new("RGB", (540, 250), (150, 150, 145))
        scene.paste(pictures[place], (0, 0))
        scene.paste(pictures[place + 1].resize((125, 125)), (340, 60))
        scene = scene.resize((540 * scale, 250 * scale))
        data = encode(np.asarray(scene))
        points = ((125 / 540, 0.5), (402 / 540, 122 / 250), (0.5, 0.95))
        told = [Pointed(None, point) for point in points]
        large, small, nobody = extractor.extract([data] * 3, told)
        assert Reason.SEVERAL_FACES not in {*large.problems, *small.problems}
        assert vector(large) @ vector(alone[place]) > 0.9
        own, other = (float(vector(small) @ vector(alone[at])) for at in (place + 1, place))
        assert own > max(0.45, 2 * other)
        assert (small.measures["point_x"], small.measures["point_y"]) == points[1]
        # Who chose the wrong one is told of the other.
        assert small.quality.second_face >= SECOND_FACE
        assert (nobody.problems, nobody.vector) == ((Reason.NO_FACE,), None)


def test_accelerator_gets_the_whole_batch_in_one_call(
    detector_session, embedder_session, photo, portrait
) -> None:
    session = WatchedSession(embedder_session, prefers_large_batches=True)
    embedder = Embedder(session, builtin_card("sface"))
    config = ExtractorConfig(threads=2, chunk_size=2)
    with Extractor(FaceDetector(detector_session), embedder, config) as accelerated:
        *faces, bad = accelerated.extract([photo] * 7 + [b"not an image"])
    assert [shape[0] for shape in session.shapes] == [7]
    assert isinstance(bad, ImageUnsupported)
    for one in faces:
        np.testing.assert_allclose(vector(one), vector(portrait), atol=1e-5)
