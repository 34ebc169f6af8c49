"""Measures of an operator's models by their cards: a real one, in a real session."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from engine.errors import ModelCardInvalid, VectorUnusable
from engine.faces.embedder import align
from engine.faces.extractor import Extractor, ExtractorConfig, open_extractor
from engine.faces.quality import QualityMeasure
from engine.models.catalog import load_card
from schema.reasons import PhotographKind, Reason
from tests.quality_models import SIDE_PX, USUAL, compute_dynamic_range, write_measure

Measuring = Callable[..., AbstractContextManager[Extractor]]


@pytest.fixture
def measuring(tmp_path) -> Measuring:
    """Opens an extractor with the measure of a contract."""

    def start(contract: str = USUAL, **options: float) -> Extractor:
        measure = QualityMeasure(load_card(write_measure(tmp_path, contract, **options)))
        return open_extractor(config=ExtractorConfig(threads=1, measures=[measure]))

    return start


def flatten(photo: bytes) -> bytes:
    """The photograph with little of its range, as fog leaves it."""
    pixels = np.asarray(Image.open(BytesIO(photo)).convert("RGB"))
    file = BytesIO()
    Image.fromarray((pixels // 8 + 100).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def test_the_quality_of_a_face_is_what_the_standard_computes(measuring, extractor, photo) -> None:
    pixels = np.asarray(Image.open(BytesIO(photo)).convert("RGB"))
    plain = extractor.extract([photo])[0]
    wanted = 12.5 * compute_dynamic_range(align(pixels, plain.landmarks_px, SIDE_PX))
    with measuring() as measured:
        [found] = measured.extract([photo])
    assert found.measures == {"DynamicRange": pytest.approx(wanted, abs=0.6)}
    assert 75 < found.measures["DynamicRange"] < 100
    assert found.measured["sharpness"] == plain.quality.sharpness
    assert (found.problems, np.array_equal(found.vector, plain.vector)) == ((), True)


def test_a_photograph_below_the_limit_is_sent_back_for_the_reason_of_the_card(
    measuring, extractor, photo
) -> None:
    fog = flatten(photo)
    before = extractor.extract([fog])[0].problems
    assert Reason.LOW_CONTRAST not in before
    with measuring(f'{USUAL}\nleast = 75\nreason = "LOW_CONTRAST"') as measured:
        clear, sent_back, chip = measured.extract([photo, fog, fog], [None, None, "chip"])
    assert clear.problems == ()
    assert "DynamicRange_warned" not in sent_back.measures
    # A cause that is told says more than UNCLEAR.
    assert set(sent_back.problems) == {Reason.LOW_CONTRAST, *before} - {Reason.UNCLEAR}
    # Of a kind that the card does not name it is on record alone.
    assert Reason.LOW_CONTRAST not in chip.problems
    assert chip.measures == sent_back.measures
    assert chip.measures["DynamicRange"] < 75


def test_kinds_of_photographs_are_those_of_the_card(measuring, photo) -> None:
    contract = f'{USUAL}\nleast = 100\nwarn = 99\nof = ["chip", "printed"]'
    with measuring(contract) as measured:
        live, chip = measured.extract([photo] * 2, [PhotographKind.LIVE, PhotographKind.CHIP])
    assert (live.problems, chip.problems) == ((), (Reason.UNCLEAR,))
    # A warning stands beside the value, whatever the kind, and is no reason.
    assert live.measured["DynamicRange_warned"] == chip.measured["DynamicRange_warned"] == 99


def test_a_quality_is_mapped_as_the_standard_maps_it_and_stays_in_its_bounds(
    tmp_path, extractor, photo
) -> None:
    pixels = np.asarray(Image.open(BytesIO(photo)).convert("RGB"))
    landmarks = extractor.extract([photo])[0].landmarks_px
    bits = compute_dynamic_range(align(pixels, landmarks, SIDE_PX))

    def measure(contract: str) -> float:
        card = write_measure(tmp_path, f'measure = "DynamicRange"\n{contract}')
        return QualityMeasure(load_card(card)).measure(pixels, landmarks)

    for h, a, s, x0, w in ((100, 0, 1, 6.5, 0.7), (120, 0.8, -1, 7, 0.5), (1, -14, 115, 5, 2)):
        mapped = h * (a + s / (1 + np.exp((x0 - bits) / w)))
        wanted = pytest.approx(min(max(mapped, 0), 100), abs=0.6)
        assert measure(f"h = {h}\na = {a}\ns = {s}\nx0 = {x0}\nw = {w}") == wanted
    assert (measure("h = 1000"), measure("h = -1"), measure("x0 = 1e9\nw = 1e-3")) == (100, 0, 0)


def test_a_crop_has_the_eyes_where_the_card_says(tmp_path, photo, extractor) -> None:
    pixels = np.asarray(Image.open(BytesIO(photo)).convert("RGB"))
    landmarks = extractor.extract([photo])[0].landmarks_px
    usual = QualityMeasure(load_card(write_measure(tmp_path / "usual")))
    wide = QualityMeasure(
        load_card(write_measure(tmp_path / "wide", f"{USUAL}\neyes_px = [26, 28, 38, 28]"))
    )
    assert wide.measure_scale(landmarks) == pytest.approx(
        usual.measure_scale(landmarks) * 12 / (35.24 / 112 * SIDE_PX), rel=1e-3
    )
    # What is beside the face is seen only in the wide crop.
    eyes = landmarks[:2].mean(axis=0)
    away = int(eyes[0] + 1.9 * np.hypot(*(landmarks[1] - landmarks[0])))
    changed = pixels.copy()
    changed[:, away:] = 128
    assert usual.measure(changed, landmarks) == usual.measure(pixels, landmarks)
    assert wide.measure(changed, landmarks) < wide.measure(pixels, landmarks)


def test_a_measure_that_gives_no_number_is_told_and_not_passed_over(measuring, photo) -> None:
    with np.errstate(all="ignore"), measuring(divisor=0.0) as measured:
        [found] = measured.extract([photo])
    assert isinstance(found, VectorUnusable)
    assert "DynamicRange is no number" in str(found)


@pytest.mark.parametrize(
    ("contract", "what"),
    [
        ('measure = "dynamic range"', r"quality\.measure"),
        (f"{USUAL}\nleast = 101", r"quality\.least"),
        (f'{USUAL}\nreason = "LINE_IN_USE"', "`reason` must be one of a photograph"),
        (f'{USUAL}\nof = ["painted"]', r"quality\.of"),
        (f'{USUAL}\noutput = "other"', "use bits"),
        (f"{USUAL}\nindex = 1", "correct `index`"),
        (f"{USUAL}\n[liveness]\nlive = 0.5", "`liveness` must be a table of a card of role"),
    ],
)
def test_a_card_that_does_not_fit_is_refused_by_name(tmp_path, contract: str, what: str) -> None:
    with pytest.raises(ModelCardInvalid, match=what):
        QualityMeasure(load_card(write_measure(tmp_path, contract)))
