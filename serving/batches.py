"""Batches whose bad items are values: all of one, or its first error raised."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from engine.errors import ImageError

T = TypeVar("T")


def require_sound(items: Sequence[T | ImageError], paths: Sequence[Path] = ()) -> list[T]:
    """All items; raises the first that is an error, with the file that it speaks of if given."""
    assert len(paths) in (0, len(items)), "a path for each item, or none"
    sound = []
    for place, item in enumerate(items):
        if isinstance(item, ImageError):
            raise name_error(item, paths[place]) if paths else item
        sound.append(item)
    return sound


def name_error(error: ImageError, path: Path) -> ImageError:
    """The same error, with the file that it speaks of."""
    return type(error)(f"{path}: {error}")
