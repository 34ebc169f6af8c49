"""Templates of the lists that a law or a regulator asks for: a limit, and the columns in order.

Built-in ones lie beside this module; an operator's own is a TOML file of the same form.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

from engine.errors import RequestError

BUILT_IN = {"people": ("india", "indonesia", "philippines"), "outlets": ("outlets",)}
"""Names of layouts by what they list."""


class Scope(StrEnum):
    """Over which lines a person's are counted."""

    ALL_CARRIERS = "all_carriers"
    EACH_CARRIER = "each_carrier"


class Layout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a list holds: `columns` are headings with the field that stands under each.

    Of people: those with more than `most_lines` lines in use. Of outlets: those with at least
    `least_cases` cases of confirmed fraud.
    """

    lists: str
    title: str
    columns: Mapping[str, str]
    most_lines: int = 0
    scope: Scope = Scope.ALL_CARRIERS
    least_cases: int = 1


def read_layout(name: str, lists: str, fields: Collection[str]) -> Layout:
    """A built-in layout by its name, or one of a file; `RequestError` for what is none, or has a
    column that is none of `fields`."""
    if name in BUILT_IN[lists]:
        text = files("engine.statutory").joinpath(f"{name}.toml").read_text("utf-8")
    else:
        text = _read_file(Path(name), lists)
    try:
        values: dict[str, Any] = tomllib.loads(text)
        layout = msgspec.convert(values, Layout)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise RequestError(f"{name} is no layout of a list: {error}") from None
    if layout.lists != lists:
        raise RequestError(f"{name} lists {layout.lists}: give a layout that lists {lists}")
    unknown = sorted(set(layout.columns.values()) - set(fields))
    if unknown or not layout.columns:
        raise RequestError(
            f"{name} has columns that are not known ({', '.join(unknown) or 'none at all'}): "
            f"take {', '.join(sorted(fields))}"
        )
    return layout


def _read_file(path: Path, lists: str) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, ValueError):
        names = ", ".join(BUILT_IN[lists])
        raise RequestError(
            f"{path} is no layout: name one of {names}, or a TOML file as docs/sweeps.md shows"
        ) from None
