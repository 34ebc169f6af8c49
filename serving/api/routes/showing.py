"""How rows of the registry look in answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.registry.records import LineRecord
from serving.masking import mask_number


def show_line(line: LineRecord, numbers: Mapping[str, str]) -> dict[str, Any]:
    """A line with its number masked, None where `numbers` has none for its id."""
    number = numbers.get(line.id)
    return {
        "line_id": line.id,
        "number": None if number is None else mask_number(number),
        "carrier": line.carrier,
        "outlet": line.outlet,
        "status": line.status.value,
        "opened_at": line.opened_at,
        "closed_at": line.closed_at,
    }
