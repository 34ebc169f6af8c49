"""Fields that operators set: a dataclass says their bounds and descriptions where it says their
defaults, and a deployment's settings are made of it as it is."""

from __future__ import annotations

from dataclasses import field
from typing import TypeVar

T = TypeVar("T")


def option(default: T, description: str, **bounds: float) -> T:
    """A field of a dataclass with its description in the settings file.

    `bounds` are `ge`, `gt`, `le`, `lt`, which the loader of the settings asks for.
    """
    made: T = field(default=default, metadata={"description": description, **bounds})
    return made
