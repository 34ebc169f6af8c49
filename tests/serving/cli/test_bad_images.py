"""Files that are no photograph: one line, exit code 2, and nothing is changed."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.serving.api.test_refusals import png_header

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


@pytest.fixture
def bad_image(request, photographs, tmp_path) -> Path:
    path: Path = tmp_path / "bad.jpg"
    KINDS[request.param][0](path, photographs.live.read_bytes())
    return path


@pytest.mark.parametrize("bad_image", KINDS, indirect=True)
def test_verify_refuses_it_and_names_the_file(
    bad_image: Path, request, sosie, photographs, assert_refused
) -> None:
    words = KINDS[request.node.callspec.params["bad_image"]][1]
    outcome = sosie("verify", photographs.live, bad_image)
    assert_refused(outcome, "bad.jpg", *words)
    assert "Aileen" not in outcome.err


@pytest.mark.parametrize("bad_image", ["truncated"], indirect=True)
def test_with_json_the_error_is_the_document(bad_image: Path, sosie, photographs) -> None:
    outcome = sosie("verify", bad_image, photographs.live, "--json")
    assert (outcome.code, outcome.err) == (2, "")
    assert outcome.json["error"]["code"] == "IMAGE.DAMAGED"
    assert "bad.jpg" in outcome.json["error"]["message"]


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
