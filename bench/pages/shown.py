"""Commands that a page shows with what they print: run anew, so that the page stays true."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from engine.errors import RequestError
from serving.settings import node_environment

ROOT = Path(__file__).parents[2]
WIDTH = 100
_SHOWN = re.compile(r"^```\n\$ sosie (?P<words>[^\n]*)\n(?P<output>.*?)^```$", re.M | re.S)
_HEAD = re.compile(r" \| head -(\d+)$")

Run = Callable[[list[str]], str]
"""What `sosie` prints, given these words."""


def find_shown(page: str) -> list[tuple[str, str]]:
    """Each command after `$ sosie`, and the output that the page shows; `| head -N` cuts it."""
    return [(found["words"], found["output"]) for found in _SHOWN.finditer(page)]


def refresh(page: str, run: Run) -> str:
    """The page with what these commands print now."""

    def show(found: re.Match[str]) -> str:
        return f"```\n$ sosie {found['words']}\n{print_words(found['words'], run)}```"

    return _SHOWN.sub(show, page)


def print_words(words: str, run: Run) -> str:
    """The output as a page shows it: no spaces at the ends of lines, cut where it says so."""
    cut = _HEAD.search(words)
    lines = run(shlex.split(_HEAD.sub("", words))).splitlines()
    kept = lines if cut is None else lines[: int(cut[1])]
    return "".join(f"{line.rstrip()}\n" for line in kept)


def run_sosie(words: list[str]) -> str:
    """In a process of its own, in the checkout, no home about."""
    command = [sys.executable, "-P", "-m", "serving.cli.main", *words]
    environment = node_environment({}, {"COLUMNS": str(WIDTH)})
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise RequestError(f"sosie {' '.join(words)} ended with {done.returncode}: {last}")
    return done.stdout
