"""Texts that callers store: whoever reads one sees all of it, in the order in which it stands."""

from __future__ import annotations

import re
import unicodedata

from engine.errors import TextRefused

LINES = "\n\r\t"
"""What may stand between the lines of a note or of a machine readable zone."""
MARKS = "\u061c\u200e\u200f"
"""Direction marks: where names are exported from a database they often stand around Arabic ones."""

# Controls, formats (bidirectional ones, zero width), halves of pairs, separators of lines.
_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# The letters and marks among them that show nothing.
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0")
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
