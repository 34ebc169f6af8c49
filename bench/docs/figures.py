"""Figures in documents, held to the reports that they come from.

`docs/figures.toml` has two lists. A `line` is a piece of a document in which `{EXPRESSION|FORMAT}`
stands for each figure (`expressions.py`); however the document breaks its lines. A `stated` piece
holds numbers that are not figures of ours, and says what they are. A number with a unit that is in
neither is a problem: it can't be known where it comes from.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from bench.core.reports import Report, find_figure, find_result, load_goals
from engine.errors import RequestError
from engine.matching.calibration import Comparison
from engine.sweeps.estimate import FALSE_PAIRS_PER_REFERENCE
from serving.compose import load_calibration
from serving.settings import Settings, node_environment

# What the shipped calibration says of a sweep: figures of documents that no run measures.

_MILLION = 1_000_000


@cache
def list_calibrated() -> Mapping[str, float]:
    """By the names that `docs/figures.toml` has for them."""
    last = load_calibration(Settings()).curve(Comparison.FUSED).points[-1]
    # Pairs grow with the square of the gallery, the budget of false ones with its size.
    largest = 1 + 2 * FALSE_PAIRS_PER_REFERENCE / last.fmr
    return {
        "highest threshold": last.threshold,
        "strangers of a million at it": last.fmr * (_MILLION * (_MILLION - 1) // 2),
        "largest sweep, about": float(f"{largest:.1g}"),
    }


# Figures of reports by a path, and how they are written: what `docs/figures.toml` names.
#
# search > One query > exact8, the gallery its value search > One query > exact8, the gallery >
# ratio or low, high, noise gallery > Snapshot > save [MB] of two figures of that name the one in
# MB search > promise > one_query_speedup the value of a promise search > setup > One query >
# references what a result was measured with goal > search > one_query_speedup the goal itself
# model > highest threshold what the shipped calibration says knee > rate what a load test found,
# knee.json A / B one over the other
#
# A format is Python's for a float (`.1f`, `,.0f`), after it `p` for percent, `k` for thousands,
# `M` for millions.

_FIELDS = ("ratio", "low", "high", "noise")
_MINUS = "\u2212"
_SCALES = {"p": 100.0, "k": 1e-3, "M": 1e-6}
_UNIT = re.compile(r"(?P<name>.*?)(?: \[(?P<unit>[^\]]+)\])?")


@dataclass(frozen=True, slots=True)
class Figures:
    """Reports by the name of their file, the goals, and the knee that a load test found."""

    reports: Mapping[str, Report]
    knee: Mapping[str, Any] = field(default_factory=dict)

    def write(self, expression: str, spec: str) -> str:
        """The figure as it stands in a document; `RequestError` names one that is not there."""
        value, scale = self.find(expression), _SCALES.get(spec[-1:])
        if scale is not None:
            value, spec = value * scale, spec[:-1]
        try:
            return format(value, spec).replace("-", _MINUS)
        except ValueError as error:
            raise RequestError(f"{spec!r} is no format of a number") from error

    def find(self, expression: str) -> float:
        """Its number, unrounded."""
        over, slash, under = expression.partition(" / ")
        value = self._find_one(over.strip())
        return value / self._find_one(under.strip()) if slash else value

    def _find_one(self, path: str) -> float:
        first, *rest = [part.strip() for part in path.split(" > ")]
        value: Any = None
        if first == "goal" and len(rest) == 2:
            goals = (one.goal for one in load_goals() if [one.suite, one.name] == rest)
            value = next(goals, None)
        elif first == "model" and len(rest) == 1:
            value = list_calibrated().get(rest[0])
        elif first == "knee" and len(rest) == 1:
            value = self.knee.get(rest[0])
        elif first in self.reports and len(rest) >= 2:
            value = self._find_in(first, rest)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise RequestError(f"no figure {path!r} in the reports")
        return float(value)

    def _find_in(self, suite: str, rest: list[str]) -> Any:
        if rest[0] == "promise":
            checks = self.reports[suite].checks
            return next((check.value for check in checks if check.name == rest[1]), None)
        if rest[0] == "setup" and len(rest) == 3:
            result = find_result(self.reports, suite, rest[1])
            return result.setup.get(rest[2]) if result else None
        named = _UNIT.fullmatch(rest[1])
        assert named is not None
        figure = find_figure(self.reports, suite, rest[0], named["name"], named["unit"])
        wanted = rest[2] if len(rest) == 3 else "value"
        if figure is None or wanted not in {"value", *_FIELDS}:
            return None
        return getattr(figure, wanted)


# Numbers of a page that claim something measured: with a unit, or in a table that has one.

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


REASONS = ("setting", "limit", "goal", "data", "definition", "example")
"""What a number may be that comes from no report. None of them is a figure of ours: an `example` is
what a command printed once, and is shown to say what that looks like."""

README = "README.md"
"""Whose code blocks are read too: people take what it shows for what they will see."""

_REST = "…"
_PLACE = re.compile(r"\{([^{}|]+)\|([^{}|]+)\}")
_NUMBER = "([-\u2212]?[\\d.,]*\\d)"


@dataclass(frozen=True, slots=True)
class Line:
    """A piece of a document with places for figures."""

    document: str
    text: str

    @property
    def expressions(self) -> list[tuple[str, str]]:
        """Expression and format of each place."""
        return [(one[1].strip(), one[2].strip()) for one in _PLACE.finditer(self.text)]

    @property
    def pattern(self) -> re.Pattern[str]:
        """What finds it, with a group a place; any white space stands for any other."""
        literals = _PLACE.split(self.text)[::3]
        return re.compile(_NUMBER.join(_loosen(literal) for literal in literals))


@dataclass(frozen=True, slots=True)
class Stated:
    """A piece of a document whose numbers come from no report, and what they are.

    Where it ends with `…` it goes on to the end of its line.
    """

    document: str
    text: str
    why: str

    @property
    def pattern(self) -> re.Pattern[str]:
        """What finds it."""
        start = self.text.removesuffix(_REST)
        rest = r"[^\n]*" if start != self.text else ""
        return re.compile(_loosen(start) + rest)


@dataclass(frozen=True, slots=True)
class Bindings:
    """All of `figures.toml`; `generated` documents are made of reports as a whole."""

    lines: tuple[Line, ...]
    stated: tuple[Stated, ...]
    generated: tuple[str, ...]

    def of(self, document: str) -> Bindings:
        """Those of one document."""
        return Bindings(
            tuple(one for one in self.lines if one.document == document),
            tuple(one for one in self.stated if one.document == document),
            self.generated,
        )


def load_bindings(path: Path) -> Bindings:
    """Read `figures.toml`; `RequestError` names what is wrong with it."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        lines = tuple(Line(one["in"], one["text"].strip()) for one in tables["line"])
        stated = tuple(
            Stated(one["in"], text.strip(), one["why"])
            for one in tables["stated"]
            for text in one["texts"]
        )
        generated = tuple(tables["generated"])
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError) as error:
        raise RequestError(f"{path} is no list of figures: {error}") from error
    for one in stated:
        if one.why not in REASONS:
            raise RequestError(f"{path}: {one.why!r} is none of {', '.join(REASONS)}")
    return Bindings(lines, stated, generated)


def find_problems(
    text: str, bindings: Bindings, figures: Figures, *, with_blocks: bool = False
) -> Iterator[str]:
    """What is wrong with a document's figures, in its code blocks too if asked for; `bindings` are
    its own."""
    known: list[Span] = []
    for line in bindings.lines:
        found = list(line.pattern.finditer(text))
        if len(found) != 1:
            yield f"is there {len(found)} times, not once: {line.text}"
        for match in found:
            known.append(match.span())
            yield from _find_differences(line, match, figures)
    for one in bindings.stated:
        spans = [match.span() for match in one.pattern.finditer(text)]
        if not spans:
            yield f"is stated, and not there any more: {one.text}"
        known += spans
    for span in find_numbers(text, with_blocks=with_blocks):
        if not _is_within(span, known):
            yield f"comes from no report: {_quote(text, span)}"


def _find_differences(line: Line, match: re.Match[str], figures: Figures) -> Iterator[str]:
    for written, (expression, spec) in zip(match.groups(), line.expressions, strict=True):
        measured = figures.write(expression, spec)
        if written != measured:
            yield f"says {written} where {expression} is {measured}: {line.text}"


def update(text: str, bindings: Bindings, figures: Figures) -> str:
    """The document with its figures as the reports have them; all else stays as it is."""
    changes: list[tuple[Span, str]] = []
    for line in bindings.lines:
        for match in line.pattern.finditer(text):
            for group, (expression, spec) in enumerate(line.expressions, 1):
                changes.append((match.span(group), figures.write(expression, spec)))
    for (start, end), new in sorted(changes, reverse=True):
        text = text[:start] + new + text[end:]
    return text


def list_documents(root: Path, bindings: Bindings) -> Mapping[str, Path]:
    """README and pages of `docs` but for generated ones; records of decisions tell of their day."""
    paths = [root / README, *sorted((root / "docs").glob("*.md"))]
    names = {str(path.relative_to(root)): path for path in paths}
    return {name: path for name, path in names.items() if name not in bindings.generated}


def _loosen(literal: str) -> str:
    """A pattern of a literal piece in which any white space stands for any other."""
    parts: Sequence[str] = re.split(r"(\s+)", literal)
    return "".join(r"\s+" if part.isspace() else re.escape(part) for part in parts)


def _is_within(span: Span, known: Sequence[Span]) -> bool:
    return any(start <= span[0] and span[1] <= end for start, end in known)


def _quote(text: str, span: Span) -> str:
    """The line of a number."""
    start = text.rfind("\n", 0, span[0]) + 1
    end = text.find("\n", span[1])
    return text[start : end if end >= 0 else len(text)].strip()


# Commands that a page shows with what they print: run anew, so that the page stays true.

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


# Which reports a picture was drawn from, written into the picture itself.

_NAME = "reports"


def digest_reports(reports: Iterable[Path]) -> str:
    """SHA-256 of their bytes, in this order."""
    digest = hashlib.sha256()
    for path in reports:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def stamp(picture: Path, reports: Iterable[Path]) -> None:
    """Adds their digest to a PNG, whose pixels stay as they are."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text(_NAME, digest_reports(reports))
    with Image.open(picture) as image:
        image.load()
        image.save(picture, pnginfo=info)


def read_stamp(picture: Path) -> str | None:
    """The digest; None where a picture has none."""
    from PIL import Image

    with Image.open(picture) as image:
        return image.info.get(_NAME)
