"""Three languages: the same texts in each, none left in another, none missing, none unused."""

import json
import re
from typing import Any

import pytest

from engine.sweeps.risk import SCALES
from schema.actors import Restriction, Role
from schema.cases import CaseKind, CaseOrigin, CaseState, NoteKind, Outcome
from schema.documents import DOCUMENT_TYPES, DocumentStatus
from schema.lines import LineEventKind, LineState
from schema.people import ExceptionCause
from schema.phases import Retained
from schema.reasons import ADVICE, Decision, Reason
from schema.sweeps import GroupKind, SweepScope, SweepState
from serving.console.routes import read_files

FILES = read_files()
CATALOGS: dict[str, dict[str, str]] = {
    code: json.loads(FILES[f"i18n/{code}.json"].body) for code in ("en", "zh", "ko")
}
SCRIPT = "\n".join(file.body.decode() for path, file in FILES.items() if path.endswith(".js"))
WRITING = {"zh": re.compile("[\u4e00-\u9fff]"), "ko": re.compile("[\uac00-\ud7af]")}
LATIN = {"API", "JPEG", "PNG", "WebP", "MB", "kB", "Aadhaar", "SIM", "eSIM"}
"""Words that are written so in every language; names between braces are no words."""
NO_WORDS = {"expected.value", "precision.interval", "picture.size"}
"""Of figures alone, in some language."""


def advice(code: str) -> dict[str, str]:
    return {reason: texts[code] for reason, texts in ADVICE.items()}


def placeholders(text: str) -> list[str]:
    return sorted(re.findall(r"\{\w+\}", text))


def test_each_language_has_the_same_texts_with_the_same_places() -> None:
    for code in ("zh", "ko"):
        assert CATALOGS[code].keys() == CATALOGS["en"].keys()
        for key, text in CATALOGS[code].items():
            assert placeholders(text) == placeholders(CATALOGS["en"][key]), (code, key)


@pytest.mark.parametrize("code", ["zh", "ko"])
def test_no_text_is_left_in_english(code: str) -> None:
    for key, text in (CATALOGS[code] | advice(code)).items():
        words = re.findall(r"[A-Za-z]{2,}", re.sub(r"\{\w+\}", "", text))
        assert set(words) <= LATIN, (key, text)
        assert WRITING[code].search(text) or key in NO_WORDS, (key, text)


def test_no_text_is_empty_or_padded() -> None:
    for code, catalog in CATALOGS.items():
        texts = (catalog | advice(code)).values()
        assert all(text and text == text.strip() for text in texts)


def test_every_reason_says_what_to_do_next() -> None:
    assert ADVICE.keys() == set(Reason)


def test_every_text_that_a_view_says_is_there() -> None:
    said = set(re.findall(r"\bsay\(\s*\"([\w.-]+)\"", SCRIPT))
    listed = set(re.findall(r"\"([a-z]+\.[\w.-]+)\"", SCRIPT)) & CATALOGS["en"].keys()
    assert said
    assert said <= CATALOGS["en"].keys()
    families = set(re.findall(r"`([a-z]+(?:\.[a-z]+)*)\.\$\{", SCRIPT))
    families |= set(re.findall(r"\b(?:word|badge)\(\s*\"([a-z]+)\"", SCRIPT))
    unused = {
        key
        for key in CATALOGS["en"].keys() - said - listed - {f"{one}.hint" for one in listed}
        if not any(key.startswith(f"{family}.") for family in families)
    }
    assert unused == set()


CLOSED: dict[str, Any] = {
    "decision": Decision,
    "reason": Reason,
    "state": CaseState,
    "kind": [*CaseKind, *GroupKind],
    "origin": CaseOrigin,
    "outcome": Outcome,
    "history": NoteKind,
    "line": LineState,
    "event": LineEventKind,
    "exception": ExceptionCause,
    "docstate": DocumentStatus,
    "document": DOCUMENT_TYPES,
    "sweep": SweepState,
    "scope": SweepScope,
    "risk": SCALES,
    "role": Role,
    "restriction": Restriction,
    "expired": [one for one in Retained if one is not Retained.ANSWERS],
}


@pytest.mark.parametrize("family", CLOSED)
def test_every_word_of_the_service_has_a_text(family: str) -> None:
    names = [f"{family}.{one}" for one in CLOSED[family]]
    assert names
    assert set(names) <= CATALOGS["en"].keys()
