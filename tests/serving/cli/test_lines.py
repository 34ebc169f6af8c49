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
    assert [line["msisdn"] for line in masked.json["lines"]] == ["••••••••••8000"]
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
