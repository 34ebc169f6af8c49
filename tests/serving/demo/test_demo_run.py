""""""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.errors import CalibrationError, RequestError
from serving.demo.demo_run import print_report
from serving.errors import ExitCode, describe


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


LFW = Path(__file__).parents[4] / "shared" / "lfw" / "images"

PEOPLE = {"ann": "face 0, face 90, face 36, face 73", "bob.png": "face 50", "c.jpg": "astronaut"}
STORY = [
    ("A", "approved", set()),
    ("A", "rejected", {"DUPLICATE_IDENTITY"}),
    ("B", "rejected", {"FACE_MISMATCH", "DOCUMENT_HELD_BY_ANOTHER_FACE"}),
    ("B", "rejected", {"DOCUMENT_HELD_BY_ANOTHER_FACE"}),
    ("A", "approved", set()),
    ("C", "rejected", {"BLURRED"}),
    ("C", "approved", set()),
    ("B", "rejected", {"DOCUMENT_INVALID"}),
    ("A", "approved", set()),
]


def read_story(report: dict[str, Any]) -> list[tuple[str, str, set[str]]]:
    return [
        (scene["who"], scene["decision"], {item["reason"] for item in scene["reasons"]})
        for scene in report["scenes"]
    ]


def test_every_scene_on_the_wheels_faces_ends_as_told(played: Any) -> None:
    assert read_story(played.report) == STORY
    assert all(scene["as_told"] for scene in played.report["scenes"])
    assert played.report["as_told"]
    assert played.code == ExitCode.FINE


def test_only_newcomers_leave_a_reference_and_a_retry_gets_the_stored_answer(played: Any) -> None:
    scenes = played.report["scenes"]
    assert [scene["references_added"] for scene in scenes] == [1, 0, 0, 0, 0, 0, 1, 0, 0]
    assert [scene["is_repeated"] for scene in scenes] == [False] * 8 + [True]
    assert scenes[8]["scores"] == scenes[0]["scores"]
    assert played.report["gallery"] == {"synthetic": 500, "references": 502, "index": "exact8"}


def test_subscriber_and_thief_are_shown_in_true_second_photographs(played: Any) -> None:
    assert played.report["faces"]["made"] == ["astronaut*1 blurred", "astronaut*1"]
    scores = [scene["scores"]["live_portrait"] for scene in played.report["scenes"][:2]]
    assert all(score < 0.7 for score in scores)


def test_the_json_document_holds_thresholds_rates_stages_and_seconds(played: Any) -> None:
    report = played.report
    thresholds = report["thresholds"]
    assert thresholds["verify"]["fmr"] == 1e-4
    assert thresholds["review"]["fmr"] == 1e-6
    assert thresholds["certain"]["score"] > thresholds["review"]["score"]
    assert 0 < thresholds["certain"]["fmr_at_most"] < 1e-4
    expected = report["expected_false_candidates"]["review"]
    assert expected["value"] == pytest.approx(500 * 1e-6, rel=0.2)
    assert expected["low"] <= expected["value"] <= expected["high"]
    stages = ("decode", "detect", "align", "quality", "embed", "judge", "commit")
    assert tuple(report["stages_ms"]) == stages
    assert all(value > 0 for value in report["stages_ms"].values())
    for scene in report["scenes"]:
        parts = sum(scene["parts_ms"].values())
        assert scene["milliseconds"] == pytest.approx(parts, abs=0.05)
    seconds = report["seconds"]
    assert seconds["all"] == pytest.approx(
        sum(value for name, value in seconds.items() if name != "all"), abs=0.01
    )
    faces = report["faces"]
    assert faces["photographs"] == 101
    assert faces["fit"] > 90


def test_it_keeps_out_of_the_registry_that_the_environment_names(
    play: Callable[..., Any], make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_folder(PEOPLE)
    url = f"sqlite:///{tmp_path}/real.sqlite"
    played = play(folder, gallery_size=0, SOSIE_REGISTRY__URL=url)
    assert played.code == ExitCode.FINE
    assert list(tmp_path.iterdir()) == []
    assert played.left_behind == []


def test_a_scene_that_ends_otherwise_is_shown_and_gives_exit_code_1(
    play: Callable[..., Any],
) -> None:
    played = play(gallery_size=0, as_json=False, SOSIE_THRESHOLDS__VERIFY_FMR="1e-6")
    assert played.code == ExitCode.NEGATIVE
    assert "not as told" in played.output


def test_a_folder_of_people_and_single_photographs_plays_the_same_story(
    play: Callable[..., Any], make_folder: Callable[..., Path]
) -> None:
    folder = make_folder(PEOPLE)
    (folder / "notes.txt").write_text("no photograph")
    (folder / "broken.png").write_bytes(b"no image")
    played = play(folder)
    assert read_story(played.report) == STORY
    assert played.code == ExitCode.FINE
    faces = played.report["faces"]
    assert faces["people"] == {"A": "ann", "B": "bob", "C": "c"}
    assert faces["problems"] == {"IMAGE.UNSUPPORTED": 1}
    assert "bob*1" in faces["made"]
    assert not any(label.startswith("ann") for label in faces["made"])


def test_too_few_faces_are_one_line_that_counts_them_and_exit_code_2(
    play: Callable[..., Any], make_folder: Callable[..., Path]
) -> None:
    folder = make_folder({"ann": "face 0, face 90", "again.png": "face 36", "c.png": "face 30"})
    with pytest.raises(RequestError) as caught:
        play(folder)
    fault = describe(caught.value)
    assert fault.exit_code == ExitCode.BAD_INPUT
    assert fault.message == (
        "too few usable faces: 3 of 4 photographs are fit, people found: 1, people needed: 3"
    )


@pytest.mark.parametrize("size", [-1, 1_000_001])
def test_a_gallery_out_of_range_is_refused(play: Callable[..., Any], size: int) -> None:
    with pytest.raises(RequestError, match="0 to 1,000,000"):
        play(gallery_size=size)


def test_a_population_of_another_model_is_refused(play: Callable[..., Any]) -> None:
    with pytest.raises(CalibrationError, match="another model"):
        play(SOSIE_MODELS__FLIP="true")


@pytest.mark.lfw
@pytest.mark.skipif(not LFW.is_dir(), reason=f"no photographs at {LFW}")
def test_people_of_lfw_play_the_story_in_photographs_of_their_own(
    play: Callable[..., Any], tmp_path: Path
) -> None:
    people = [folder for folder in sorted(LFW.iterdir()) if len(list(folder.iterdir())) >= 4]
    for folder in people[:5]:
        shutil.copytree(folder, tmp_path / folder.name)
    played = play(tmp_path)
    assert read_story(played.report) == STORY
    assert len(played.report["faces"]["made"]) == 1
    assert played.report["faces"]["made"][0].endswith("blurred")
