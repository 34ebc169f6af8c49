"""Whom a photograph is of."""

from __future__ import annotations

import numpy as np
import pytest

from engine.faces.detector import DetectedFace
from engine.faces.selection import choose_main_face, has_rival

SIZE_PX = (400, 300)


def face(x: float, y: float, side: float) -> DetectedFace:
    box = (x - side / 2, y - side / 2, side, side)
    return DetectedFace(box, np.zeros((5, 2), dtype=np.float32), 0.9)


def test_the_largest_face_is_the_main_one() -> None:
    assert choose_main_face([face(150, 150, 50), face(250, 150, 100)], SIZE_PX) == 1


def test_of_two_alike_the_one_nearer_the_centre_is_the_main_one() -> None:
    assert choose_main_face([face(60, 60, 80), face(210, 150, 78)], SIZE_PX) == 1


def test_a_much_larger_face_is_the_main_one_even_in_a_corner() -> None:
    assert choose_main_face([face(200, 150, 40), face(50, 50, 100)], SIZE_PX) == 1


@pytest.mark.parametrize(("side", "rival"), [(59, False), (61, True), (150, True)])
def test_another_face_rivals_from_a_share_of_the_height(side: float, rival: bool) -> None:
    faces = [face(350, 40, side), face(200, 150, 100)]
    assert has_rival(faces, 1, 0.6) is rival


def test_a_single_face_has_no_rival() -> None:
    assert not has_rival([face(200, 150, 100)], 0, 0.6)
