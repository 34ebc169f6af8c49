"""What a log line never shows, whoever wrote it there."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import SecretStr

from engine.reasons import Decision
from serving.telemetry.redaction import WITHHELD, is_forbidden, show_error, withhold

KEY = "sosie_k1a2b3_c2VjcmV0c2VjcmV0"


def show(**fields: Any) -> dict[str, Any]:
    return dict(withhold(None, "info", fields))


@pytest.mark.parametrize(
    "field",
    [
        *("image", "images", "portrait", "vector", "embedding", "name", "holder_name", "number"),
        *("documentNumber", "msisdn", "key", "api_key", "API_KEY", "apikey", "authorization"),
        *("idempotency_key", "template", "token", "probe", "body", "headers", "path", "url"),
        *("password", "secret", "x-api-key", "Authorization", "birth_date"),
    ],
)
def test_a_field_of_a_personal_or_secret_name_is_withheld(field: str) -> None:
    assert show(**{field: "whatever"}) == {field: WITHHELD}
    assert show(outer={"inner": {field: 7}}) == {"outer": {"inner": {field: WITHHELD}}}


@pytest.mark.parametrize(
    "field",
    [
        *("key_id", "route", "method", "status", "duration_ms", "correlator", "code", "queue"),
        *("stage", "batch_size", "sequence", "phase", "detail", "document_id", "faces"),
    ],
)
def test_what_an_access_line_needs_is_shown(field: str) -> None:
    assert not is_forbidden(field)
    assert show(**{field: "0af7-01"}) == {field: "0af7-01"}


@pytest.mark.parametrize(
    "value",
    [b"\xff\xd8", bytearray(b"x"), memoryview(b"x"), np.zeros(3), object(), SecretStr("s")],
)
def test_bytes_arrays_and_unknown_objects_are_withheld(value: object) -> None:
    assert show(found=value, many=[value], nested={"x": value}) == {
        "found": WITHHELD,
        "many": [WITHHELD],
        "nested": {"x": WITHHELD},
    }


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("line +8613800138000 is in use", "13800138000"),
        ("+8613800138000", "13800138000"),
        (f"key {KEY} refused", "c2VjcmV0"),
        (KEY, "c2VjcmV0"),
        ("Bearer abc.def", "abc.def"),
        ("postgresql+psycopg://sosie:hunter2@db/registry", "hunter2"),
        ("no document 110105199003071239 here", "110105199003071239"),
        ("no document 11010519900307123X here", "11010519900307123"),
    ],
)
def test_a_number_or_a_key_inside_a_text_is_withheld(text: str, secret: str) -> None:
    shown = show(event=text, deep=[{"detail": text}])
    assert secret not in str(shown)
    assert WITHHELD in shown["event"]
    assert WITHHELD in shown["deep"][0]["detail"]


def test_ordinary_values_are_shown_as_json_has_them() -> None:
    when = datetime(2026, 1, 2, tzinfo=UTC)
    shown = show(a=1, b=True, c=None, d=0.5, e=math.nan, f=Decision.REVIEW, g=when, h=Path("/x"))
    assert shown == {
        "a": 1,
        "b": True,
        "c": None,
        "d": 0.5,
        "e": "nan",
        "f": "review",
        "g": "2026-01-02T00:00:00+00:00",
        "h": "/x",
    }
    assert type(shown["f"]) is str


def test_a_text_and_a_nest_have_a_bound() -> None:
    nest: list[Any] = []
    nest.append(nest)
    shown = show(text="x" * 10_000, spaced="x y" * 10_000, nest=nest)
    assert len(shown["text"]) == len(shown["spaced"]) == 2000
    assert len(str(shown["nest"])) < 100


def test_an_exception_shows_its_type_and_place_and_not_its_text() -> None:
    try:
        try:
            raise KeyError("+8613800138000")
        except KeyError as inner:
            raise ValueError("Aileen Probe") from inner
    except ValueError as error:
        shown = show_error(error)
    assert shown["type"] == "ValueError"
    assert shown["cause"] == "KeyError"
    assert shown["where"][-1].startswith("test_redaction.py:")
    assert "Aileen" not in str(shown)
    assert "8613800138000" not in str(shown)
