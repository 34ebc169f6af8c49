"""Batches whose failed items are error values: raises the first, or names its file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from engine.errors import ImageError

T = TypeVar("T")


def require_sound(items: Sequence[T | ImageError], paths: Sequence[Path] = ()) -> list[T]:
    """All items; raises the first that is an error, with its file if `paths` are given."""
    assert len(paths) in (0, len(items)), "a path for each item, or none"
    sound = []
    for place, item in enumerate(items):
        if isinstance(item, ImageError):
            raise name_error(item, paths[place]) if paths else item
        sound.append(item)
    return sound


def name_error(error: ImageError, path: Path) -> ImageError:
    """The same error, prefixed with its file."""
    return type(error)(f"{path}: {error}")
