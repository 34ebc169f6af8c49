"""`sosie carrier`, `outlet` and `cases`: what is kept, listed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

OTHER_NUMBER, MSISDN = "110105198503071257", "+8613800138001"


def test_carriers_and_outlets_are_listed_with_what_holds_for_them(home: Path, sosie: Any) -> None:
    at = ("--home", home)
    assert sosie("carrier", "add", "green", "--name", "[Green]", "--line-limit", 2, *at).code == 0
    assert sosie("outlet", "close", "r1", *at).code == 0
    carriers = sosie("carrier", "list", *at, "--json").json["carriers"]
    assert [one["carrier"] for one in carriers] == ["blue", "green", "red"]
    assert carriers[1] == {"carrier": "green", "name": "[Green]", "line_limit": 2}
    assert "[Green]" in sosie("carrier", "list", *at).out
    outlets = sosie("outlet", "list", *at, "--json").json["outlets"]
    assert outlets == [
        {"outlet": "b1", "carrier": "blue", "is_open": True},
        {"outlet": "r1", "carrier": "red", "is_open": False},
    ]
    of_red = sosie("outlet", "list", "--carrier", "red", *at, "--json").json["outlets"]
    assert [one["outlet"] for one in of_red] == ["r1"]
    assert "closed" in sosie("outlet", "list", *at).out


@pytest.mark.parametrize("name", ["", " ", "n" * 201, "two\nlines"])
def test_a_carriers_name_that_no_database_takes_is_refused(
    name: str, home: Path, sosie: Any, assert_refused: Any, contents: Any
) -> None:
    before = contents(home)
    assert_refused(sosie("carrier", "add", "x", "--name", name, "--home", home), "1 to 200")
    too_many = ("carrier", "add", "x", "--name", "X", "--line-limit", 2**31, "--home", home)
    assert_refused(sosie(*too_many), "--line-limit")
    long = ("outlet", "add", "x", "--carrier", "c" * 65, "--home", home)
    assert_refused(sosie(*long), "64 printable")
    assert contents(home) == before


def test_open_cases_are_listed_the_newest_first(
    full_home: Path, enrolled: dict[str, Any], sosie: Any, photographs: Any, request_of: Any
) -> None:
    at = ("--home", full_home)
    assert sosie("cases", *at, "--json").json == {"cases": []}
    assert "No case" in sosie("cases", *at).out
    opened = []
    for place in range(2):
        request = request_of(
            full_home, photographs, document_number=OTHER_NUMBER, msisdn=f"+861380013810{place}"
        )
        opened.append(sosie(*request, "--json").json)
    cases = sosie("cases", *at, "--json").json["cases"]
    assert [one["enrollment_id"] for one in cases] == [
        one["enrollment_id"] for one in reversed(opened)
    ]
    assert cases[0]["kind"] == "duplicate_identity"
    assert enrolled["document_id"] in cases[0]["document_ids"]
    assert len(sosie("cases", "--top", 1, *at, "--json").json["cases"]) == 1
    assert cases[0]["case_id"] in sosie("cases", *at).out


def test_a_disputed_line_is_a_case_that_names_it(
    full_home: Path, enrolled: dict[str, Any], sosie: Any
) -> None:
    from engine.matching.disputes import dispute_line
    from engine.matching.documents import Document
    from serving.cli.inputs import open_deployment

    with open_deployment(full_home) as deployment:
        gallery = deployment.registrar.gallery
        made = dispute_line(
            deployment.registrar,
            deployment.store,
            line_text="+8613800138000",
            document=Document("cn-ric", "110105199003071239", "any holder"),
            probe=gallery.vectors(gallery.ids)[0],
            threshold=0.5,
            actor="test",
        )
    at = ("--home", full_home)
    (case,) = sosie("cases", *at, "--json").json["cases"]
    assert (case["case_id"], case["kind"]) == (made.case_id, "dispute")
    assert (case["line_id"], case["document_ids"]) == (made.line_id, [enrolled["document_id"]])
    shown = sosie("cases", *at).out
    assert made.case_id in shown
    assert made.line_id in shown
