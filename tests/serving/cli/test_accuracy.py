"""`sosie evaluate` and `sosie calibrate` on a folder of a few people."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageEnhance, ImageFilter
from skimage import data

from engine.models.catalog import CARDS_FOLDER

PEOPLE, PHOTOGRAPHS = 12, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder a person: small faces enlarged, each in four versions; and a picture of none."""
    root = tmp_path_factory.mktemp("people")
    for person, pixels in enumerate(data.lfw_subset()[:PEOPLE]):
        face = Image.fromarray((pixels * 255).astype("uint8")).resize((200, 200))
        versions = (
            face,
            ImageEnhance.Brightness(face).enhance(0.8),
            face.rotate(4, fillcolor=128),
            face.filter(ImageFilter.GaussianBlur(2)),
        )
        home = root / f"person_{person:02d}"
        home.mkdir()
        for number, version in enumerate(versions, start=1):
            version.save(home / f"person_{person:02d}_{number:04d}.png")
    Image.new("RGB", (100, 100)).save(root / "person_00" / "person_00_0005.png")
    return root


@pytest.fixture
def labels(folder, tmp_path) -> Path:
    """Two sides."""
    keys = [path.relative_to(folder).as_posix() for path in sorted(folder.glob("*/*_000[1-4].png"))]
    rows = [f"{key},{'left' if key < 'person_06' else 'right'}" for key in keys]
    path = tmp_path / "labels.csv"
    path.write_text("\n".join(["photograph,side", *rows]) + "\n")
    return path


def test_evaluate_gives_rates_with_their_intervals(folder, sosie, tmp_path) -> None:
    plot = tmp_path / "curve.png"
    outcome = sosie("evaluate", folder, "--plot", plot, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    answer = outcome.json
    assert answer["photographs"] == PEOPLE * PHOTOGRAPHS + 1
    assert answer["fta"] > 0
    assert set(answer["fnmr_at_fmr"]) == {"1e-3", "1e-4", "1e-5", "1e-6"}
    assert answer["fnmr_at_fmr"]["1e-6"] is None, "so few pairs support no such rate"
    assert "person_" not in outcome.out, "no path is told that was not asked for"
    with Image.open(plot) as picture:
        assert picture.format == "PNG"


def test_what_people_read_says_what_is_not_supported_and_what_looks_wrong(
    folder, sosie, tmp_path, labels
) -> None:
    report, spoilt = tmp_path / "report", tmp_path / "people"
    shutil.copytree(folder, spoilt)
    wrong = spoilt / "person_06" / "person_06_0001.png"
    shutil.copy(spoilt / "person_05" / "person_05_0001.png", wrong)
    given = ("--attributes", labels, "--fmr", "0.05", "--report", report, "--source", "toys")
    outcome = sosie("evaluate", spoilt, *given, "--failed", "--flagged")
    assert outcome.code == 0
    assert "not supported" in outcome.out
    assert "not acquired: person_00/person_00_0005.png" in outcome.out
    assert "flagged: person_05/person_05_0001.png · person_06/person_06_0001.png" in outcome.out
    assert "generalised: not acquired is missed" in outcome.out
    assert "By side" in outcome.out
    page = (report / "report.md").read_text()
    assert page.startswith("# Error rates: toys\n")
    assert "person_" not in page + (report / "evaluation.json").read_text()
    assert "not given: 6 people with two photographs, 30 are needed" in page
    assert "| 1,000,000 |" in page
    assert "person_" in (report / "flagged.csv").read_text()
    told = json.loads((report / "evaluation.json").read_text())
    (side,) = told["attributes"]
    assert [group["label"] for group in side["groups"]] == ["left", "right"]
    assert side["groups"][0]["fnmr_refused"] == "6 people with two photographs, 30 are needed"
    assert told["common_fmr"] == 0.05
    assert "(det.png)" in page
    with Image.open(report / "det.png") as picture:
        assert picture.format == "PNG"


def test_a_calibration_serves_the_model_that_it_was_fitted_for(
    folder, sosie, photographs, tmp_path, assert_refused
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    outcome = sosie(
        "calibrate",
        folder,
        "--output",
        own / "sface.calibration.json",
        "--source",
        "toys",
        "--json",
    )
    assert outcome.code == 0
    assert outcome.json["source"] == "toys"
    assert outcome.json["photographs_without_a_face"] == 1
    assert set(outcome.json["curves"]) == {"one_to_one", "fused_to_one", "fused"}
    for name, kept in (("sface.toml", "own.toml"), ("sface.transform.npz",) * 2):
        (own / kept).write_bytes((CARDS_FOLDER / name).read_bytes())
    env = {"SOSIE_MODELS__EMBEDDER": str(own / "own.toml")}
    pair = ("verify", photographs.live, photographs.portrait)
    found = sosie(*pair, "--fmr", "0.05", "--json", env=env)
    assert found.json.get("match") is True, found.json
    assert_refused(sosie(*pair, "--fmr", "1e-4", env=env), "not supported")


@pytest.mark.parametrize("command", ["evaluate", "calibrate"])
def test_a_folder_without_people_is_refused(command: str, sosie, tmp_path, assert_refused) -> None:
    output = ("--output", tmp_path / "out.json") if command == "calibrate" else ()
    assert_refused(sosie(command, tmp_path / "none", *output), "not a folder")
    assert_refused(sosie(command, tmp_path, *output), "people found")
    assert not (tmp_path / "out.json").exists()


def test_minutes_of_work_do_not_end_in_a_wrong_file_or_an_unsupported_rate(
    folder, sosie, tmp_path, assert_refused
) -> None:
    nowhere = tmp_path / "none" / "file"
    assert_refused(sosie("calibrate", folder, "--output", nowhere), "cannot be written")
    assert_refused(sosie("evaluate", folder, "--plot", nowhere), "cannot be written")
    assert_refused(sosie("evaluate", folder, "--report", nowhere / "below"), "cannot be written")
    labels = tmp_path / "labels.csv"
    labels.write_text("person,group\nnobody,1\n")
    assert_refused(sosie("evaluate", folder, "--attributes", labels), "line 2: the folder has no")
    assert_refused(sosie("evaluate", folder, "--fmr", "1e-9"), "is not supported")
    assert_refused(sosie("calibrate", folder), "nothing would be kept")


def test_without_matplotlib_a_picture_is_refused_before_the_work(
    folder, sosie, tmp_path, monkeypatch, assert_refused
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    refused = sosie("evaluate", folder, "--plot", tmp_path / "curve.png")
    assert_refused(refused, "needs matplotlib: run pip install -e '.[desk]'")


def test_a_card_is_made_and_made_anew_with_what_the_photographs_support(
    folder, sosie, photographs, tmp_path
) -> None:
    card = tmp_path / "own.toml"
    made = sosie("calibrate", folder, "--card", card, "--source", "toys", "--json")
    assert made.code == 0, made.err
    answer = made.json
    assert answer["calibration"] == str(tmp_path / "own.calibration.json")
    lowest = {name: curve["lowest_fmr"] for name, curve in answer["curves"].items()}
    rates = answer["rates"]
    assert lowest["one_to_one"] * (1 - 1e-9) <= rates["verify"] < 3 * lowest["one_to_one"]
    assert any("review keeps an FMR of" in warning for warning in answer["warnings"])
    first = card.read_text()
    told = f"from toys: {PEOPLE * PHOTOGRAPHS} photographs of {PEOPLE} people."
    assert f"# Fitted by `sosie calibrate` {told}" in first
    again = sosie("calibrate", folder, "--card", card, "--source", "toys")
    assert "into the card" in again.out
    assert "no face was found: 1 of the photographs" in again.out
    assert card.read_text() == first
    env = {"SOSIE_MODELS__EMBEDDER": str(card)}
    pair = ("verify", photographs.live, photographs.portrait, "--json")
    assert sosie(*pair, env=env).json["fmr"] == rates["verify"], "the card's, which data support"
    env["SOSIE_THRESHOLDS__VERIFY_FMR"] = "0.05"
    assert sosie(*pair, env=env).json["fmr"] == 0.05, "a deployment's own stands before it"
