"""Texts that people read: numbers, the same in a terminal, on a page and in a picture; what others
than its holder see of a number or a name; and what callers store, whose readers see all of it, in
the order in which it stands."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence

from engine.errors import TextRefused

MINUS = "\u2212"
DASH = "\u2013"
NONE = "-"
VISIBLE_DIGITS = 4
_WORD = re.compile(r"(\S)(\S*)")
_SIZES = ((2**50, "PiB"), (2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def number(value: float | None) -> str:
    """Four significant digits, large numbers whole with commas; a hyphen where there is none."""
    if value is None:
        return NONE
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def fixed(value: float, digits: int = 0) -> str:
    """So many digits after the point, with commas and a true minus sign."""
    return f"{value:,.{digits}f}".replace("-", MINUS)


def count(value: float) -> str:
    """A count in full, an expected number with two digits: `1,234`; `1,200`, `1.2 million`."""
    if isinstance(value, int) or not value:
        return f"{int(value):,}"
    rounded = float(f"{value:.2g}")
    if not 1e-3 <= abs(rounded) < 1e9:
        return power(rounded)
    return f"{rounded / 1e6:,g} million" if abs(rounded) >= 1e6 else f"{rounded:,g}"


def plural(value: float, one: str, many: str = "") -> str:
    """`1 line`, `2 lines`."""
    return f"{value:,g} {one}" if value == 1 else f"{value:,g} {many or one + 's'}"


def power(value: float) -> str:
    """`4.2e-7`; `1e-4` for a mantissa of 1."""
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def percent(share: float, digits: int | None = None) -> str:
    """`12.5 %` for 0.125; without `digits` two significant ones, and never all or none for less."""
    return f"{_hundredths(share) if digits is None else fixed(share * 100, digits)} %"


def span(low: float, high: float) -> str:
    """Both ends of an interval of shares, with one unit for both."""
    return f"{_hundredths(low)} {DASH} {_hundredths(high)} %"


def _hundredths(share: float) -> str:
    value = share * 100
    if value in (0, 100):
        return f"{value:.0f}"
    if value >= 99:
        return f"{min(value, 99.9):.3g}"
    return f"{value:#.2g}".rstrip(".") if value >= 1e-4 else power(value)


def with_interval(
    value: float,
    low: float,
    high: float,
    is_bound: bool = False,
    *,
    write: Callable[[float], str] = "{:.2g}".format,
    level: str = "",
) -> str:
    """A rate or an expected count with its 95 % interval: `5 (2 to 9)`, or `at most 5`."""
    if is_bound:
        return f"at most {write(value)}"
    return f"{write(value)} ({level}{write(low)} to {write(high)})"


def size(size_bytes: float) -> str:
    """`1.91 GiB`, in the largest unit that fits."""
    for unit, name in _SIZES:
        if size_bytes >= unit:
            value = size_bytes / unit
            return f"{value:,.0f} {name}" if value >= 1000 else f"{value:.3g} {name}"
    return f"{size_bytes:,.0f} bytes"


def duration(seconds: float) -> str:
    """`0.678 ms`, `14.2 s`; from two minutes on in two units: `2 min 30 s`, `3 h 20 min`."""
    if seconds < 120:
        scales = ((1, "s"), (1e3, "ms"), (1e6, "us"), (1e9, "ns"))
        scale, unit = next((one for one in scales if seconds * one[0] >= 0.1), scales[0])
        return f"{seconds * scale:.3g} {unit}"
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {left} s"


def mask_number(digits: str) -> str:
    """All but the last four digits hidden."""
    return "•" * max(len(digits) - VISIBLE_DIGITS, 0) + digits[-VISIBLE_DIGITS:]


def mask_name(name: str) -> str:
    """All but the first letter of each word hidden, in any script."""
    return _WORD.sub(lambda word: word[1] + "•" * len(word[2]), name)


def write_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, without a final line break."""
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    lines += [f"| {' | '.join(escape_cell(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines)


def escape_cell(cell: str) -> str:
    """Text of one cell of a Markdown table."""
    return cell.replace("|", "\\|").replace("\n", " ")


LINES = "\n\r\t"
"""What may stand between the lines of a note or of a machine readable zone."""
MARKS = "\u061c\u200e\u200f"
"""Direction marks: where names are exported from a database they often stand around Arabic ones."""

# Controls, formats (bidirectional ones, zero width), halves of pairs, separators of lines.
_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# What shows nothing among letters, marks and symbols, and what Unicode keeps free for more of it.
_BLANK = frozenset(
    map(chr, (*range(0xFFF0, 0xFFF9), *range(0xE0000, 0xE0100), *range(0xE01F0, 0xE1000)))
) | {*"\u034f\u115f\u1160\u17b4\u17b5\u2065\u2800\u3164\uffa0\ufffc\U00016fe4\U0001d159"}
# Persian and the scripts of India are written with joiners, between two of their letters.
_JOINED = re.compile("(?<=[^\0-\x7f\u200c\u200d])[\u200c\u200d](?=[^\0-\x7f\u200c\u200d])")

_TOGETHER = ({"CJK", "HIRAGANA", "KATAKANA", "IDEOGRAPHIC"}, {"CJK", "HANGUL"}, {"CJK", "BOPOMOFO"})
"""What Japanese, Korean and Chinese are written with."""
_IN_ALL = {"DIGIT", "COMBINING", "MODIFIER"}
"""ASCII's digits, accents, and letters that stand for an apostrophe or a tone."""


def mixes_scripts(text: str) -> bool:
    """True where letters, marks or numbers of more than one script are in it (after Unicode TS 39,
    5.1): a Cyrillic one among Latin ones looks like one of theirs."""
    scripts = {
        # A character's name begins with its script; of `ARABIC-INDIC DIGIT ONE`, too.
        unicodedata.name(character, "unnamed").replace("-", " ").partition(" ")[0]
        for character in unicodedata.normalize("NFKC", text)
        if unicodedata.category(character)[0] in "LMN"
    } - _IN_ALL
    return len(scripts) > 1 and not any(scripts <= one for one in _TOGETHER)


def is_visible(text: str, allowed: str = "", *, is_prose: bool = False) -> bool:
    """True where a text holds no hidden character but those allowed, and no blank one.

    In prose, joiners of letters are allowed where they stand between two that are not ASCII.
    """
    if text.isascii() and text.isprintable():
        return True
    shown = _JOINED.sub("", text) if is_prose else text
    return all(
        character in allowed
        or (unicodedata.category(character) not in _HIDDEN_CATEGORIES and character not in _BLANK)
        for character in shown
    )


def require_visible(what: str, text: str, allowed: str = "", *, is_prose: bool = False) -> None:
    """`TextRefused` for a text that is not; the message names `what`, and never the text."""
    if not is_visible(text, allowed, is_prose=is_prose):
        raise TextRefused(
            f"the {what} holds control, bidirectional or other hidden characters: type it again"
        )
