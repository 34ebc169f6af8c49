"""Numbers of a page that claim something measured: with a unit, or in a table that has one."""

from __future__ import annotations

import re
from collections.abc import Iterator

Span = tuple[int, int]
"""Where it begins and ends."""

_TIMES, _MICRO = "\u00d7", "\u00b5"
_UNITS = (
    rf"(?:[GM]?/s|ms|s|{_MICRO}s|us|%|GOPS|G?[GMk]?B/s|[GMKk]i?B|bytes|times"
    rf"|seconds|milliseconds|microseconds|minutes|a second)(?![\w%])|{_TIMES}(?! ?\d)"
)
_WITH_UNIT = re.compile(rf"(?<![\w.,/-])\d+(?:,\d{{3}})*(?:\.\d+)?\s?(?:{_UNITS})")
_CELL = re.compile(r"[*~≤≥<> ]*\d[\d,]*(?:\.\d+)?(?: \([^)]*\))?[* ]*")
_MEASURED_HEADER = re.compile(r"\b(ms|bytes|recall|FNMR|score)\b|, s\b")
_SEPARATOR = re.compile(r"\|[-:| ]+\|?\s*")
# Code and links tell how, not how much; but what a command printed may tell how long it took.
_CODE, _BLOCK = r"`[^`\n]*`|\]\([^)]*\)", "```.*?```"
_HIDDEN = re.compile(f"{_BLOCK}|{_CODE}", re.DOTALL)
_HIDDEN_OUTSIDE = re.compile(_CODE)


def find_numbers(page: str, *, with_blocks: bool = False) -> Iterator[Span]:
    """Their places in a page of Markdown, in order of kind; those of code blocks if asked for."""
    hidden = _HIDDEN_OUTSIDE if with_blocks else _HIDDEN
    shown = hidden.sub(lambda match: re.sub(r"[^\n]", "\0", match[0]), page)
    for match in _WITH_UNIT.finditer(shown):
        yield match.span()
    yield from _find_cells(shown)


def _find_cells(shown: str) -> Iterator[Span]:
    """Bare numbers in the rows of tables whose header names a unit."""
    place, header, is_measured = 0, "", False
    for line in shown.splitlines(keepends=True):
        if _SEPARATOR.fullmatch(line):
            is_measured = _MEASURED_HEADER.search(header) is not None
        elif not line.startswith("|"):
            is_measured = False
        elif is_measured:
            at = place
            for cell in line.split("|"):
                if _CELL.fullmatch(cell):
                    yield at, at + len(cell)
                at += len(cell) + 1
        header, place = line, place + len(line)
