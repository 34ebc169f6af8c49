"""How a load test ends, and how it says why it could not be run."""

from __future__ import annotations

import json
import sys
from enum import IntEnum

REFUSED, INTERNAL = "LOADTEST.REFUSED", "INTERNAL"


class Exit(IntEnum):
    """The exit codes of every command of Sosie."""

    HELD = 0
    FAILED = 1
    REFUSED = 2
    INTERNAL = 3


def refuse(message: str, *, as_json: bool, code: str = REFUSED) -> None:
    """One line on standard error, or a JSON document where that was asked for."""
    line = " ".join(message.split())
    if as_json:
        write_json({"error": {"code": code, "message": line}})
    else:
        sys.stderr.write(f"sosie: {line}\n")


def write_json(value: object) -> None:
    """One document on standard output; no NaN in it, which JSON lacks."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")
