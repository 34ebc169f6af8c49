"""`sosie watch`, `block`, `unblock`, `blocked`: put in force, listed, lifted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

NUMBER, OTHER_NUMBER = "110105199003071239", "110105198503071257"
MSISDN = "+8613800138001"
DOCUMENT = ("--document-type", "cn-ric", "--document-number", NUMBER)


def reasons(outcome: Any) -> list[str]:
    return [one["reason"] for one in outcome.json["reasons"]]


def test_a_blocked_document_is_refused_until_it_is_unblocked(
    full_home: Path,
    enrolled: dict[str, Any],
    sosie: Any,
    photographs: Any,
    request_of: Any,
    assert_refused: Any,
) -> None:
    request = request_of(full_home, photographs, live=photographs.later, msisdn=MSISDN)
    home = ("--home", full_home)
    assert "No document" in sosie("blocked", *home).out
    assert_refused(sosie("unblock", *DOCUMENT, *home), "not blocked")
    blocked = sosie("block", *DOCUMENT, *home, "--json")
    assert blocked.json == {"document_id": enrolled["document_id"], "is_blocked": True}
    assert reasons(sosie(*request, "--json")) == ["DOCUMENT_BLOCKED"]
    (listed,) = sosie("blocked", *home, "--json").json["documents"]
    assert (listed["document_id"], listed["type"]) == (enrolled["document_id"], "cn-ric")
    assert (listed["is_erased"], listed["blocked_at"] > "2020") == (False, True)
    assert enrolled["document_id"] in sosie("blocked", *home).out
    unblocked = sosie("unblock", *DOCUMENT, *home, "--json")
    assert unblocked.json == {"document_id": enrolled["document_id"], "is_blocked": False}
    assert sosie(*request, "--json").json["decision"] == "approved"
    assert sosie("blocked", *home, "--json").json == {"documents": []}
    assert sosie("audit", "verify", *home).code == 0


def test_a_watched_face_goes_to_review_until_it_is_removed(
    full_home: Path, sosie: Any, photographs: Any, request_of: Any, assert_refused: Any
) -> None:
    home = ("--home", full_home)
    assert "empty" in sosie("watch", "list", *home).out
    watch = ("watch", "add", photographs.stranger, "--reason", "a [b]case[/b]", *home)
    assert sosie(*watch, "--json").json == {"watch_id": 1}
    stranger = {"live": photographs.stranger, "portrait": photographs.stranger_again}
    request = request_of(
        full_home, photographs, **stranger, document_number=OTHER_NUMBER, msisdn=MSISDN
    )
    met = sosie(*request, "--json")
    assert (met.code, met.json["decision"], reasons(met)) == (1, "review", ["WATCHLISTED"])
    (listed,) = sosie("watch", "list", *home, "--json").json["entries"]
    assert (listed["watch_id"], listed["reason"]) == (1, "a [b]case[/b]")
    assert (listed["has_face"], listed["has_document"]) == (True, False)
    assert "a [b]case[/b]" in sosie("watch", "list", *home).out
    assert sosie("watch", "remove", "1", *home, "--json").json["is_watched"] is False
    assert_refused(sosie("watch", "remove", "1", *home), "no such entry")
    assert sosie("watch", "list", *home, "--json").json == {"entries": []}
    assert sosie(*request, "--json").json["decision"] == "approved"


@pytest.mark.parametrize("reason", ["", " ", "r" * 201, "two\nlines"])
def test_a_reason_that_no_reviewer_could_read_is_refused(
    reason: str, home: Path, sosie: Any, photographs: Any, assert_refused: Any, contents: Any
) -> None:
    before = contents(home)
    watch = ("watch", "add", photographs.stranger, "--reason", reason, "--home", home)
    assert_refused(sosie(*watch), "1 to 200")
    assert contents(home) == before
