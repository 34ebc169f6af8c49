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
