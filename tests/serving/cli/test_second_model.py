"""Two embedders side by side over one registry: filled, compared, switched, switched back."""

import json
import re
import shutil
from pathlib import Path

import pytest

from engine.faces.extractor import digest_embedding
from engine.models.catalog import builtin_card, load_card
from serving.deployment.deployment import Deployment
from serving.settings.settings import load_settings
from tests.second_embedder import write_embedder
from tests.serving.cli.test_imports import row, write
from tests.serving.conftest import MSISDN, OTHER_NUMBER

NEXT = ("+8613800138010", "+8613800138011", "+8613800138012")


@pytest.fixture(scope="module")
def card(sosie, tmp_path_factory) -> Path:
    """The second embedder's card, with the calibration of the model that it is made of."""
    folder = tmp_path_factory.mktemp("second")
    file = write_embedder(folder / "second.onnx")
    assert sosie("model", "add", file, "--contract", "sface").code == 0
    path, sface = folder / "second.toml", builtin_card("sface")
    fitted = json.loads(sface.calibration_path.read_text())
    fitted["model_digest"] = digest_embedding(load_card(path), False)
    (folder / "second.calibration.json").write_text(json.dumps(fitted))
    path.write_text('calibration = "second.calibration.json"\n' + path.read_text())
    return path


def choose(home: Path, **models: object) -> None:
    """Writes `[models]` of a home anew."""
    file = home / "sosie.toml"
    lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in models.items())
    text = re.sub(r"^\[models\]\n(?:(?!\[).*\n)*", "", file.read_text(), flags=re.MULTILINE)
    file.write_text(f"{text}\n[models]\n{lines}")


@pytest.fixture
def doubled(full_home, card) -> Path:
    """The deployment with one person, and a second model named."""
    choose(full_home, embedder="sface", second=str(card))
    return full_home


@pytest.fixture
def stranger(photographs) -> dict[str, object]:
    """Another person, to be enrolled."""
    shown = {"live": photographs.stranger, "portrait": photographs.stranger_again}
    return {**shown, "document_number": OTHER_NUMBER, "msisdn": NEXT[0]}


def test_a_switch_to_a_model_whose_calibration_supports_less_is_asked_about(
    doubled, card, tmp_path, sosie, assert_refused
) -> None:
    fewer = Path(shutil.copytree(card.parent, tmp_path / "fewer"))
    path = fewer / "second.calibration.json"
    fitted = json.loads(path.read_text())
    fitted["curves"]["fused"] |= {"people": 50, "points": fitted["curves"]["fused"]["points"][:-1]}
    path.write_text(json.dumps(fitted))
    choose(doubled, embedder="sface", second=str(fewer / card.name))
    switch = ("model", "switch", "--home", doubled)
    assert_refused(sosie(*switch), "supports less (fused: no false match rate below")
    assert_refused(sosie(*switch, "--yes"), "have no template of the second model")


def test_people_who_return_fill_the_second_model_until_it_can_decide_and_back(
    doubled, card, sosie, photographs, stranger, request_of, assert_refused
) -> None:
    told = sosie("doctor", "--home", doubled, "--json").check("second model")
    assert (told["state"], "0 of 1 references" in told["detail"]) == ("ok", True)
    switch = ("model", "switch", "--home", doubled)
    assert_refused(sosie(*switch), "1 of 1 references have no template of the second model")

    newcomer = sosie(*request_of(doubled, **stranger), "--json")
    assert newcomer.code in (0, 1), newcomer.err
    returned = sosie(*request_of(doubled, live=photographs.later, msisdn=NEXT[1]), "--json")
    assert returned.json["decision"] == "approved", returned.json
    shown = sosie("show", returned.json["enrollment_id"], "--home", doubled, "--json").json
    recorded = shown["evidence"]["second"]
    assert recorded["live_portrait"] > 0.4
    assert recorded["holder"] is None, "it had not seen the holder before"
    assert "decision" not in recorded, "so it would have had nothing to decide by"
    assert "second" not in returned.json
    again = sosie(*request_of(doubled, msisdn=NEXT[2]), "--json").json
    shown = sosie("show", again["enrollment_id"], "--home", doubled, "--json").json
    assert shown["evidence"]["second"]["holder"] > 0.4

    compared = sosie("model", "compare", "--home", doubled, "--json").json
    assert compared["comparisons"]["same_document"]["compared"] == 1
    assert compared["comparisons"]["verify"]["compared"] >= 2
    assert compared["coverage"]["missing_references"] == 0
    assert compared["decisions"]["by_both"]["approved, approved"] >= 1
    assert compared["decisions"]["compared"] >= 2
    assert "recorded decisions" in sosie("model", "compare", "--home", doubled).out

    switched = sosie(*switch, "--json")
    assert switched.code == 0, switched.err
    assert switched.json["settings"]["models"] == {"embedder": str(card), "second": "sface"}
    choose(doubled, **switched.json["settings"]["models"])
    with Deployment(doubled, load_settings(doubled)) as deployment:
        assert deployment.restored.gallery.dim == load_card(card).dimension
    home_again = sosie(*request_of(doubled, msisdn=MSISDN[:-1] + "9"), "--json").json
    assert home_again["decision"] == "approved"
    assert home_again["scores"]["holder"] == pytest.approx(
        shown["evidence"]["second"]["holder"], abs=0.02
    )
    assert sosie("show", again["enrollment_id"], "--replay", "--home", doubled).code == 0
    assert sosie("doctor", "--home", doubled).code == 0
    back = sosie(*switch, "--json").json["settings"]["models"]
    assert (back["embedder"], back["second"]) == ("sface", str(card))
    assert back["calibration"] >= 2, "or its first would be taken"
    choose(doubled, **back)
    assert sosie("doctor", "--home", doubled).code == 0


def test_photographs_and_kept_crops_fill_it_and_another_s_face_does_not(
    doubled, sosie, photographs, stranger, request_of, enrolled, tmp_path
) -> None:
    folder = tmp_path / "photographs"
    folder.mkdir()
    shutil.copy(photographs.stranger, folder / f"{enrolled['document_id']}.png")
    shutil.copy(photographs.live, folder / "no-id.jpg")
    fill = ("model", "fill", folder, "--home", doubled, "--json")
    wrong = sosie(*fill).json
    assert (wrong["filled"], wrong["of_another"]) == (0, 1)
    (folder / f"{enrolled['document_id']}.png").unlink()
    (folder / enrolled["document_id"]).mkdir()
    for name in ("live", "later"):
        shutil.copy(getattr(photographs, name), folder / enrolled["document_id"])
    right = sosie(*fill).json
    assert right["filled"] == 1
    assert right["coverage"]["missing_references"] == 0
    assert sosie(*fill).json["unknown"] == 1, "it has one already"

    settings = doubled / "sosie.toml"
    second = re.sub(r"^# keep = .*", 'keep = "all"', settings.read_text(), flags=re.MULTILINE)
    settings.write_text(re.sub(r"^second = .*\n", "", second, flags=re.MULTILINE))
    added = sosie(*request_of(doubled, **stranger), "--json")
    settings.write_text(second)
    from_crops = sosie("model", "fill", "--home", doubled, "--json").json
    assert from_crops["filled"] == (added.json["decision"] == "approved")
    assert from_crops["without_photograph"] == 0


def test_an_import_of_photographs_brings_both_templates(home, card, sosie, photographs) -> None:
    choose(home, embedder="sface", second=str(card))
    rows = [row(1, "live.jpg", "portrait.png"), row(2, "stranger.png"), row(3, "none.jpg")]
    base = write(photographs.live.parent / "base.csv", rows)
    report = home / "report.csv"
    imported = sosie("import", base, "--home", home, "--report", report, "--json")
    assert imported.code == 1, "one has no face"
    assert (
        "2 of 2 references"
        in sosie("doctor", "--home", home, "--json").check("second model")["detail"]
    )


def test_a_second_model_that_cannot_be_one_is_refused(
    full_home, card, sosie, assert_refused, tmp_path
) -> None:
    switch = ("model", "switch", "--home", full_home)
    assert_refused(sosie(*switch), "no second model is named")
    choose(full_home, embedder="sface", second="sface")
    assert_refused(sosie(*switch), "the second embedder is the first")
    plain = tmp_path / "plain.toml"
    text = card.read_text().replace('path = "', f'path = "{card.parent}/')
    plain.write_text(text.replace('calibration = "second.calibration.json"\n', ""))
    choose(full_home, embedder="sface", second=str(plain))
    assert_refused(sosie(*switch), "is not calibrated, so it could decide nothing")
    told = sosie("doctor", "--home", full_home, "--json").check("second model")
    assert (told["state"], "is not calibrated" in told["detail"]) == ("warning", True)
