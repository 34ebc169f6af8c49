"""What commands write for machines."""

from __future__ import annotations

import json

import pytest

from serving.cli.output import print_json


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_what_is_no_json_is_not_begun(value: float, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="JSON"):
        print_json({"known": 1.0, "unknown": [value]})
    assert capsys.readouterr().out == ""


def test_a_document_is_one_and_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"name": "Zoë", "values": [1, None]})
    assert json.loads(capsys.readouterr().out) == {"name": "Zoë", "values": [1, None]}
