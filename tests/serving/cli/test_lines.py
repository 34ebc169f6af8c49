"""`sosie lines`: the numbers under a document, for its holder's face."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

NUMBER, MSISDN = "110105199003071239", "+8613800138000"


def test_the_holders_face_reads_the_lines_with_their_numbers_masked(
    full_home: Path, sosie: Any, photographs: Any
) -> None:
    command = ("lines", "--live", photographs.later, "--home", full_home, "--document", "-")
    document = json.dumps({"type": "cn-ric", "number": NUMBER})
    masked = sosie(*command, "--json", given=document)
    assert masked.code == 0
    assert [line["number"] for line in masked.json["lines"]] == ["••••••••••8000"]
    assert MSISDN not in sosie(*command, given=document).out
    assert MSISDN in sosie(*command, "--reveal", given=document).out


def test_another_face_reads_no_line(full_home: Path, sosie: Any, photographs: Any) -> None:
    command = ["lines", "--live", photographs.stranger, "--home", full_home]
    command += ["--document-type", "cn-ric", "--document-number", NUMBER, "--reveal"]
    outcome = sosie(*command, "--json")
    assert outcome.code == 1
    assert outcome.json["is_holder"] is False
    assert outcome.json["lines"] == []
    assert "8000" not in outcome.out + sosie(*command).out


def test_a_closed_line_frees_its_number(
    full_home: Path, sosie: Any, photographs: Any, request_of: Any, assert_refused: Any
) -> None:
    again = request_of(full_home, photographs, live=photographs.later, msisdn=MSISDN)
    taken = sosie(*again, "--json").json["reasons"]
    assert [one["reason"] for one in taken] == ["LINE_IN_USE"]
    close = ("line", "close", "--home", full_home, "--json")
    closed = sosie(*close, "--msisdn", MSISDN)
    assert closed.code == 0
    assert closed.json["status"] == "closed"
    assert MSISDN not in closed.out
    assert_refused(sosie(*close[:-1], "--msisdn", MSISDN), "no line in use")
    assert_refused(sosie(*close[:-1], "--msisdn", "12345"), "+<country><number>")
    assert sosie(*again, "--json").json["decision"] == "approved"
    by_file = sosie(*close, "--document", "-", given=json.dumps({"msisdn": MSISDN}))
    assert by_file.json["line_id"] != closed.json["line_id"]
