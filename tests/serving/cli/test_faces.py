"""`sosie verify` and `sosie extract`, which need no deployment."""

import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.engine.faces.test_images import png_header


def test_two_photographs_of_one_person_match(sosie, photographs) -> None:
    outcome = sosie("verify", photographs.live, photographs.portrait, "--json")
    answer = outcome.json
    assert (outcome.code, outcome.err) == (0, "")
    assert answer["match"] is True
    assert answer["score"] >= answer["threshold"]
    assert answer["fmr"] == 1e-4
    # Beyond the data the rate at the score is only a bound.
    assert answer["fmr_at_score"]["is_bound"] is True
    assert 0 < answer["fmr_at_score"]["value"] < 1e-4
    assert answer["problems"] == {"a": [], "b": []}
    assert answer["quality"]["a"]["inter_eye_px"] == pytest.approx(43.8, abs=1)


def test_a_folder_holds_frames_of_one_face(sosie, photographs, tmp_path) -> None:
    for path in (photographs.live, photographs.later):
        shutil.copy(path, tmp_path)
    single = sosie("verify", photographs.live, photographs.portrait, "--json").json
    answer = sosie("verify", tmp_path, photographs.portrait, "--json").json
    assert (answer["match"], single["frames"]) == (True, [])
    assert [one["is_fused"] for one in answer["frames"]] == [True, True]
    assert answer["threshold"] > single["threshold"]
    shutil.copy(photographs.stranger, tmp_path)
    mixed = sosie("verify", tmp_path, photographs.portrait)
    assert mixed.code == 1
    assert "LIVE_FRAMES_DIFFER" in mixed.out
    assert "not judged" in mixed.out


def test_a_photograph_without_a_face_is_an_answer(sosie, photographs) -> None:
    outcome = sosie("verify", photographs.live, photographs.faceless, "--json")
    assert outcome.code == 1
    assert (outcome.json["score"], outcome.json["match"]) == (None, None)
    assert outcome.json["problems"]["b"] == ["NO_FACE"]
    assert outcome.json["quality"]["b"] is None


def test_a_point_says_which_face_is_meant(sosie, photographs, home, request_of) -> None:
    [seen] = sosie("extract", photographs.live, "--json").json["images"]
    (x, y, width, height), size = seen["box_px"], seen["size_px"]
    middle = ((x + width / 2) / size[0], (y + height / 2) / size[1])
    pair = ("verify", photographs.live, photographs.portrait, "--json")
    assert sosie(*pair, "--first-point", *middle).json["match"] is True
    missed = sosie(*pair, "--second-point", 0.99, 0.99).json
    assert missed["problems"] == {"a": [], "b": ["NO_FACE"]}
    enrolled = sosie(*request_of(home), "--live-point", *middle, "--json").json
    assert enrolled["decision"] == "approved"
    assert enrolled["quality"]["live"]["point_x"] == pytest.approx(middle[0])
    shown = sosie("show", enrolled["enrollment_id"], "--replay", "--home", home, "--json").json
    assert shown["replay"]["agrees"] is True


def test_a_photograph_that_is_not_fit_never_matches(
    sosie, photographs, astronaut, tmp_path
) -> None:
    small = tmp_path / "small.png"
    astronaut.resize((126, 126)).save(small)
    env = {"SOSIE_QUALITY__LIVE__MIN_INTER_EYE_PX": "12", "SOSIE_QUALITY__LIVE__MIN_CLARITY": "0"}
    outcome = sosie("verify", photographs.live, small, "--json", env=env)
    assert outcome.code == 1
    assert outcome.json["score"] > outcome.json["threshold"]
    assert outcome.json["match"] is None
    assert outcome.json["problems"]["b"] == ["FACE_TOO_SMALL"]


def test_extract_measures_every_photograph_shows_no_vector_and_says_1_for_one_that_is_not_fit(
    sosie, photographs
) -> None:
    outcome = sosie("extract", photographs.live, photographs.portrait, "--json")
    assert outcome.code == 0
    first, second = outcome.json["images"]
    assert first["image"] == str(photographs.live)
    assert first["size_px"] == [512, 512]
    assert second["quality"]["exposure"] < first["quality"]["exposure"]
    assert set(first) == {"image", "problems", "quality", "box_px", "size_px"}
    outcome = sosie("extract", photographs.live, photographs.faceless)
    assert outcome.code == 1
    assert "NO_FACE" in outcome.out


def test_extract_looks_at_the_others_when_one_is_no_image(sosie, photographs, tmp_path) -> None:
    wrong = tmp_path / "notes.txt"
    wrong.write_text("no picture")
    outcome = sosie("extract", wrong, tmp_path / "missing.jpg", photographs.live, "--json")
    assert outcome.code == 2
    assert outcome.json["error"]["code"] == "IMAGE.UNSUPPORTED"
    assert outcome.json["images"][1]["error"]["code"] == "REQUEST.INVALID"
    assert outcome.json["images"][2]["problems"] == []


def test_vectors_are_written_only_when_asked_and_only_for_their_owner(
    sosie, photographs, tmp_path, assert_refused
) -> None:
    target = tmp_path / "vectors.npz"
    arguments = ("extract", photographs.live, photographs.later, "--vectors", target)
    assert sosie(*arguments).code == 0
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    with np.load(target) as stored:
        vectors = stored["vectors"]
        assert list(stored["images"]) == [str(photographs.live), str(photographs.later)]
    assert vectors.shape == (2, 128)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert "File exists" in sosie(*arguments).err


KINDS: dict[str, tuple[Callable[[Path, bytes], object], list[str]]] = {
    "truncated": (lambda path, whole: path.write_bytes(whole[: len(whole) // 2]), ["truncated"]),
    "huge": (lambda path, _: path.write_bytes(png_header(60_000, 60_000)), ["12.2 megapixels"]),
    "many": (
        lambda path, whole: path.write_bytes(whole + bytes(9 * 2**20)),
        ["too large", "8 MiB"],
    ),
    "text": (lambda path, _: path.write_text("Aileen Probe 110105199003071239"), ["PNG or WebP"]),
    "folder": (lambda path, _: path.mkdir(), ["cannot be read"]),
    "missing": (lambda _path, _: None, ["cannot be read"]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_verify_refuses_it_and_names_the_file(
    kind: str, tmp_path, sosie, photographs, assert_refused
) -> None:
    make, words = KINDS[kind]
    bad_image = tmp_path / "bad.jpg"
    make(bad_image, photographs.live.read_bytes())
    outcome = sosie("verify", photographs.live, bad_image)
    assert_refused(outcome, "bad.jpg", *words)
    assert "Aileen" not in outcome.err
    told = sosie("verify", photographs.live, bad_image, "--json")
    assert (told.code, told.err) == (2, "")
    assert f"sosie: {told.json['error']['message']}\n" == outcome.err


@pytest.mark.parametrize("command", ["search", "watch", "lines"])
def test_a_face_that_cannot_be_matched_is_not_silently_nobody(
    command: str, full_home, sosie, photographs, assert_refused, contents
) -> None:
    before = contents(full_home)
    arguments = {
        "search": ["search", photographs.faceless],
        "watch": ["watch", "add", photographs.faceless, "--reason", "seen twice"],
        "lines": ["lines", "--live", photographs.faceless, "--document-type", "cn-ric",
                  "--document-number", "110105199003071239"],
    }[command]  # fmt: skip
    assert_refused(sosie(*arguments, "--home", full_home), "NO_FACE", "whole face")
    assert contents(full_home) == before
