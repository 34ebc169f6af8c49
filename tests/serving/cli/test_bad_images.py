"""Files that are no photograph: one line, exit code 2, and nothing is changed."""

from pathlib import Path

import pytest

from tests.serving.api.test_refusals import png_header


@pytest.fixture
def bad_image(request, photographs, tmp_path) -> Path:
    path = tmp_path / "bad.jpg"
    whole = photographs.live.read_bytes()
    match request.param:
        case "truncated":
            path.write_bytes(whole[: len(whole) // 2])
        case "huge":
            path.write_bytes(png_header(60_000, 60_000))
        case "too-many-bytes":
            path.write_bytes(whole + bytes(9 * 2**20))
        case "text":
            path.write_text("Aileen Probe 110105199003071239")
        case "folder":
            path.mkdir()
        case "missing":
            pass
    return path


WORDS = {
    "truncated": ("truncated",),
    "huge": ("60000 x 60000", "12.2 megapixels"),
    "too-many-bytes": ("too large", "8 MiB"),
    "text": ("JPEG, JPEG 2000, PNG or WebP",),
    "folder": ("cannot be read",),
    "missing": ("cannot be read",),
}


@pytest.mark.parametrize(
    ("bad_image", "kind"), [(one, one) for one in WORDS], indirect=["bad_image"]
)
def test_verify_refuses_it_and_names_the_file(
    bad_image: Path, kind: str, sosie, photographs, assert_refused
) -> None:
    outcome = sosie("verify", photographs.live, bad_image)
    assert_refused(outcome, "bad.jpg", *WORDS[kind])
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
    assert_refused(sosie(*arguments, "--home", full_home), "NO_FACE")
    assert contents(full_home) == before
