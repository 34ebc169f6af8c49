"""Figures in documents, held to the reports that they come from.

`docs/figures.toml` has two lists. A `line` is a piece of a document in which `{EXPRESSION|FORMAT}`
stands for each figure (`expressions.py`); however the document breaks its lines. A `stated` piece
holds numbers that are not figures of ours, and says what they are. A number with a unit that is in
neither is a problem: it can't be known where it comes from.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.pages.expressions import Figures
from bench.pages.numbers import Span, find_numbers
from engine.errors import RequestError

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
