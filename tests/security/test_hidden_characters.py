"""No stored text shows another reader something else than it holds."""

import pytest

from engine.errors import RequestError
from engine.formatting import MARKS, is_visible
from serving.cli.inputs import require_words

HIDDEN = {
    "escape": "\x1b[2J",
    "C1 control": "\x9b",
    "right-to-left override": "\u202e",
    "isolate": "\u2067",
    "zero width space": "\u200b",
    "byte order mark": "\ufeff",
    "word joiner": "\u2060",
    "soft hyphen": "\u00ad",
    "tag": "\U000e0041",
    "line separator": "\u2028",
    "Hangul filler": "\u3164",
    "blank pattern of Braille": "\u2800",
    "null notehead": "\U0001d159",
    "free for what shows nothing": "\u2065",
    "the last one so": "\U000e0fff",
    "joiner between Latin letters": "\u200d",
}
SHOWN = (
    "Both show the same scar; =HYPERLINK(1) <b>",
    "محمد עברית 王小明 Zoë O'Neil",
    "می\u200cخواهم",  # noqa: RUF001
    "ශ්\u200dරී ලංකා",
    "👩\u200d🚀 ❤\ufe0f",
    "葛\U000e0100城",
)
"""Persian and Sinhala with joiners, an astronaut, and variants of a heart and of a character."""


@pytest.mark.parametrize("hidden", HIDDEN.values(), ids=HIDDEN)
def test_what_hides_is_seen_wherever_it_stands(hidden: str) -> None:
    for text in (hidden, f"{hidden}ab", f"a{hidden}b", f"ab{hidden}", f"é{hidden}b"):
        assert not is_visible(text, "\n\t", is_prose=True), ascii(text)
        with pytest.raises(RequestError):
            require_words("a label", text, 200)


@pytest.mark.parametrize("text", SHOWN)
def test_what_people_write_is_not_refused(text: str) -> None:
    assert is_visible(text, is_prose=True)
    assert is_visible(f"\u200f{text}\u200e", MARKS, is_prose=True)
    assert not is_visible(f"\u200f{text}\u200e", is_prose=True)
