"""The keys that a load test calls with. The only module of the package that reads the environment.

A key on a command line would show in `ps` and stay in the shell's history: they come from a file,
from standard input, or from the environment.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadtest.errors import LoadTestRefused

VARIABLES = {
    "enroll": "SOSIE_LOADTEST_KEY",
    "fraud": "SOSIE_LOADTEST_FRAUD_KEY",
    "erase": "SOSIE_LOADTEST_ERASE_KEY",
}
OWN, RAY = "SOSIE_", "RAY_ADDRESS"
KEPT = ("SOSIE_CACHE", "SOSIE_MODELS__")
"""Of ours, what a service of one's own takes over: the models, and where their graphs are kept."""
FORCED = {
    "SOSIE_SERVE__HOST": "127.0.0.1",
    "SOSIE_SERVE__RAY_ADDRESS": "",
    "SOSIE_SERVE__TRACE_ENDPOINT": "",
}
MOST_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Keys:
    """`enroll` is of role outlet or carrier, `fraud` of role fraud; `erase`, of role carrier or
    operator, takes out of the registry what the test has put in."""

    enroll: str = field(repr=False)
    fraud: str = field(repr=False)
    erase: str | None = field(default=None, repr=False)


def read_keys(source: str | None) -> Keys:
    """From a JSON file (`-`: standard input), else from the environment."""
    given = _read_environment() if source is None else _read_file(source)
    missing = [name for name in ("enroll", "fraud") if not given.get(name)]
    if missing:
        raise LoadTestRefused(
            f"no {missing[0]} key: set {VARIABLES[missing[0]]}, or give --keys FILE with "
            '{"enroll": "…", "fraud": "…"}'
        )
    return Keys(given["enroll"], given["fraud"], given.get("erase"))


def service_environment(changes: Mapping[str, str]) -> dict[str, str]:
    """The environment of a service of one's own: this one's with changes, without our keys, and
    without what would lead it to another deployment's home, registry, cluster, log or traces."""
    inherited = {name: text for name, text in os.environ.items() if not _is_foreign(name)}
    return inherited | FORCED | dict(changes)


def _is_foreign(name: str) -> bool:
    # Settings are read whatever the case of their names.
    known = name.upper()
    return known == RAY or (known.startswith(OWN) and not known.startswith(KEPT))


def _read_environment() -> dict[str, str]:
    return {name: os.environ[place] for name, place in VARIABLES.items() if place in os.environ}


def _read_file(source: str) -> dict[str, str]:
    try:
        if source == "-":
            text = sys.stdin.read(MOST_BYTES)
        else:
            with Path(source).open(encoding="utf-8") as file:
                text = file.read(MOST_BYTES)
        value: Any = json.loads(text)
    except OSError as error:
        raise LoadTestRefused(f"{source} cannot be read: {error.strerror}") from None
    except ValueError:
        value = None
    if not isinstance(value, dict) or not set(value) <= set(VARIABLES):
        names = ", ".join(VARIABLES)
        raise LoadTestRefused(f"{source} must be a JSON object with the names {names}")
    if not all(isinstance(one, str) for one in value.values()):
        raise LoadTestRefused(f"{source} must hold texts")
    return value
