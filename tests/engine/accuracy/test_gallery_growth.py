"""FNIR against the size of the gallery: as drawn galleries have it, and refused beyond the data."""

from collections.abc import Callable

import numpy as np
import pytest

from engine.accuracy.gallery_growth import GalleryGrowth, GrowthCurve, fmr_for, grow_gallery
from engine.accuracy.pair_scores import single_templates

Faces = Callable[..., tuple[np.ndarray, np.ndarray]]
NOBODY = np.empty(0, np.int64)


@pytest.fixture(scope="module")
def grown(draw_faces: Faces) -> GalleryGrowth:
    found = grow_gallery(single_templates(*draw_faces(401, 3)), NOBODY)
    assert found is not None
    return found


def curve_of(growth: GalleryGrowth, reference: str, fpir: float) -> GrowthCurve:
    (found,) = (c for c in growth.curves if (c.reference, c.fpir) == (reference, fpir))
    return found


def measure_galleries(vectors: np.ndarray, size: int, threshold: float) -> tuple[float, float]:
    """FPIR and FNIR of galleries drawn anew; `vectors` float32[people, photographs, d]."""
    rng = np.random.default_rng(3)
    fpir, fnir = [], []
    for _ in range(40):
        order = rng.permutation(len(vectors))
        enrolled, strangers = order[:size], order[size:]
        references = vectors[enrolled, 0]
        fnir.append(np.einsum("nd,nd->n", references, vectors[enrolled, 2]) < threshold)
        probes = vectors[strangers].reshape(-1, vectors.shape[2])
        fpir.append((probes @ references.T).max(axis=1) >= threshold)
    return float(np.concatenate(fpir).mean()), float(np.concatenate(fnir).mean())


def test_measured_points_are_those_of_galleries_drawn(
    grown: GalleryGrowth, draw_faces: Faces
) -> None:
    vectors = draw_faces(401, 3)[0].reshape(401, 3, -1)
    for point in curve_of(grown, "single", 0.1).measured[:-1]:
        fpir, fnir = measure_galleries(vectors, point.gallery_size, point.threshold)
        assert fpir == pytest.approx(0.1, abs=0.02)
        assert point.low - 0.02 <= fnir <= point.high + 0.02


def test_a_larger_gallery_misses_more_and_a_fused_reference_less(grown: GalleryGrowth) -> None:
    assert [point.gallery_size for point in grown.curves[0].measured] == [50, 100, 200, 400]
    single, fused = (curve_of(grown, name, 0.1) for name in ("single", "fused"))
    thresholds = [one.threshold for one in (*single.measured, *single.extrapolated)]
    assert thresholds == sorted(thresholds)
    for one, two in zip(single.measured, fused.measured, strict=True):
        assert two.fnir < one.fnir
        assert one.low <= one.fnir <= one.high


def test_the_extrapolation_is_that_of_a_gallery_drawn_from_the_same_population(
    grown: GalleryGrowth, draw_faces: Faces
) -> None:
    """Ten times as many people as were measured; of Gaussian faces comparisons are independent."""
    point = next(p for p in curve_of(grown, "single", 0.1).extrapolated if p.gallery_size == 2000)
    vectors = draw_faces(3000, 3, seed=77)[0].reshape(3000, 3, -1)
    fpir, fnir = measure_galleries(vectors[:, :, :], 2000, point.threshold)
    assert 0.05 < fpir < 0.2
    assert point.low <= fnir <= point.high
    assert point.fmr == pytest.approx(fmr_for(0.1, 2000))


def test_it_ends_where_the_comparisons_do_not_reach_and_says_why(grown: GalleryGrowth) -> None:
    assert grown.comparisons == 401 * 3 * 400
    lowest = 10 / grown.comparisons
    for curve in grown.curves:
        assert curve.supported_to == [*curve.measured, *curve.extrapolated][-1].gallery_size
        assert all(point.fmr >= lowest for point in curve.extrapolated)
        assert "comparisons support" in curve.refused
    assert curve_of(grown, "single", 0.1).supported_to == 5000
    assert fmr_for(0.1, 10_000) < lowest <= fmr_for(0.1, 5000)


def test_it_ends_where_errors_of_labels_would_set_the_threshold(draw_faces: Faces) -> None:
    """Twelve of the people stand there twice."""
    vectors, people = draw_faces(401, 3)
    vectors[people >= 389] = vectors[people < 12]
    doubtful = np.array([[p * 401 + p + 389, (p + 389) * 401 + p] for p in range(12)]).ravel()
    growth = grow_gallery(single_templates(vectors, people), np.sort(doubtful))
    assert growth is not None
    refused = [curve.refused for curve in growth.curves if curve.fpir == 0.1]
    assert all("flagged as errors of the labels" in one for one in refused)


def test_rates_that_few_people_support_and_few_people_themselves_give_no_curve(
    draw_faces: Faces, grown: GalleryGrowth
) -> None:
    assert {curve.fpir for curve in grown.curves} == {0.1}, "401 people don't support 1 %"
    assert grow_gallery(single_templates(*draw_faces(80, 3)), NOBODY) is None
    assert grow_gallery(single_templates(*draw_faces(400, 2)), NOBODY) is None


def test_people_absent_from_the_templates_are_neither_enrolled_nor_probed(
    draw_faces: Faces,
) -> None:
    vectors, people = draw_faces(200, 3)
    kept = people % 5 != 0
    found = grow_gallery(single_templates(vectors[kept], people[kept]), NOBODY)
    assert found is not None
    assert (found.references, found.mated_probes) == (159, 160)
