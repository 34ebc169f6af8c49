from typing import Any

import pytest

from engine.errors import CalibrationError, RequestError
from serving.demo.demo_run import print_report
from serving.errors import ExitCode, describe


@pytest.mark.parametrize("columns", [40, 100, 140])
def test_no_cell_is_cut_or_wrapped(finished, columns: int, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    print_report(finished.report)
    lines = capsys.readouterr().out.splitlines()
    # Where the output is no terminal it is wide enough.
    assert max(map(len, lines)) <= max(columns, 100)
    assert "…" not in "".join(lines)
    for step in finished.report["scenes"]:
        (row,) = [line for line in lines if f" {step['what']} " in line]
        assert row.split()[0] == str(step["number"])
        assert step["decision"] in row
    assert sum("DOCUMENT_HELD_BY_ANOTHER_FACE" in line for line in lines) == 2


def test_labels_of_files_are_not_read_as_markup(finished, capsys) -> None:
    report = finished.report
    report["faces"]["people"]["A"] = "[bold]ann[/nonsense]"
    print_report(report)
    assert "[bold]ann[/nonsense]" in capsys.readouterr().out


PEOPLE = {"ann": "face 0, face 90, face 36, face 73", "bob.png": "face 50", "c.jpg": "astronaut"}
SCENARIO = [
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


def read_decisions(report: dict[str, Any]) -> list[tuple[str, str, set[str]]]:
    return [
        (step["who"], step["decision"], {item["reason"] for item in step["reasons"]})
        for step in report["scenes"]
    ]


def test_every_step_on_the_wheels_faces_ends_as_expected(finished) -> None:
    assert read_decisions(finished.report) == SCENARIO
    assert all(step["as_told"] for step in finished.report["scenes"])
    assert finished.report["as_told"]
    assert finished.code == ExitCode.FINE


def test_only_newcomers_leave_a_reference_and_a_retry_gets_the_stored_answer(finished) -> None:
    steps = finished.report["scenes"]
    assert [step["references_added"] for step in steps] == [1, 0, 0, 0, 0, 0, 1, 0, 0]
    assert [step["is_repeated"] for step in steps] == [False] * 8 + [True]
    assert steps[8]["scores"] == steps[0]["scores"]
    assert finished.report["gallery"] == {"synthetic": 500, "references": 502, "index": "exact8"}


def test_subscriber_and_impostor_have_true_second_photographs(finished) -> None:
    assert finished.report["faces"]["made"] == ["astronaut*1 blurred", "astronaut*1"]
    scores = [step["scores"]["live_portrait"] for step in finished.report["scenes"][:2]]
    assert all(score < 0.7 for score in scores)


def test_a_step_with_another_answer_is_shown_and_gives_exit_code_1(demo, make_folder) -> None:
    strict = {"SOSIE_THRESHOLDS__VERIFY_FMR": "1e-6"}
    finished = demo(make_folder(PEOPLE), gallery_size=0, as_json=False, **strict)
    assert finished.code == ExitCode.NEGATIVE
    assert "not as expected" in finished.output


def test_a_folder_of_people_and_photographs_runs_the_same_scenario_and_touches_no_registry(
    demo, make_folder, tmp_path
) -> None:
    folder = make_folder(PEOPLE)
    (folder / "notes.txt").write_text("no photograph")
    (folder / "broken.png").write_bytes(b"no image")
    finished = demo(folder, SOSIE_REGISTRY__URL=f"sqlite:///{tmp_path}/real.sqlite")
    assert list(tmp_path.iterdir()) == []
    assert finished.left_behind == []
    assert read_decisions(finished.report) == SCENARIO
    assert finished.code == ExitCode.FINE
    faces = finished.report["faces"]
    assert faces["people"] == {"A": "ann", "B": "bob", "C": "c"}
    assert faces["problems"] == {"IMAGE.UNSUPPORTED": 1}
    assert "bob*1" in faces["made"]
    assert not any(label.startswith("ann") for label in faces["made"])


@pytest.mark.parametrize("size", ["-1", "1000001"])
def test_a_gallery_below_0_or_beyond_a_million_is_refused(sosie, assert_refused, size: str) -> None:
    assert_refused(sosie("demo", "--gallery", size), "--gallery")


def test_too_few_faces_are_counted_and_give_exit_code_2(demo, make_folder) -> None:
    folder = make_folder({"ann": "face 0, face 90", "again.png": "face 36", "c.png": "face 30"})
    with pytest.raises(RequestError) as caught:
        demo(folder)
    fault = describe(caught.value)
    assert fault.exit_code == ExitCode.BAD_INPUT
    assert fault.message == (
        "too few usable faces: 3 of 4 photographs are fit, people found: 1, people needed: 3"
    )


def test_a_population_of_another_model_is_refused(demo) -> None:
    with pytest.raises(CalibrationError, match="another model"):
        demo(SOSIE_MODELS__FLIP="true")
