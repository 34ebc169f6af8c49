from __future__ import annotations

from typing import Any

import pytest

from serving.demo.printout import print_report


@pytest.mark.parametrize("columns", [100, 140])
def test_no_cell_is_cut_or_wrapped(
    played: Any,
    columns: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    print_report(played.report)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns
    assert "…" not in "".join(lines)
    for scene in played.report["scenes"]:
        (row,) = [line for line in lines if f" {scene['what']} " in line]
        assert row.split()[0] == str(scene["number"])
        assert scene["decision"] in row
    assert sum("DOCUMENT_HELD_BY_ANOTHER_FACE" in line for line in lines) == 2


def test_it_is_wide_enough_where_the_output_is_no_terminal(
    played: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    print_report(played.report)
    assert "swaps the portrait in it" in capsys.readouterr().out


def test_labels_of_a_users_own_files_are_no_markup(
    played: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    report = played.report
    report["faces"]["people"]["A"] = "[bold]ann[/nonsense]"
    print_report(report)
    assert "[bold]ann[/nonsense]" in capsys.readouterr().out


def test_what_did_not_end_as_told_is_marked(
    played: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    report = played.report
    report["scenes"][4]["as_told"] = False
    print_report(report)
    output = capsys.readouterr().out
    assert "not as told" in output
    assert "8 of 9 scenes ended as told" in output
