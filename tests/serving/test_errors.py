"""Errors of items in a batch."""

from pathlib import Path

import pytest

from engine.errors import ImageDamaged
from serving.errors import require_sound


def test_a_sound_batch_is_given_back_whole() -> None:
    assert require_sound([1, 2]) == [1, 2]


def test_the_first_error_is_raised_with_its_file() -> None:
    items: list[int | ImageDamaged] = [1, ImageDamaged("cut short"), ImageDamaged("empty")]
    with pytest.raises(ImageDamaged, match=r"\Acut short\Z"):
        require_sound(items)
    with pytest.raises(ImageDamaged, match=r"\Ab\.jpg: cut short\Z"):
        require_sound(items, [Path("a.jpg"), Path("b.jpg"), Path("c.jpg")])
