"""`sosie sweep report`: written anew, with faces only where they are asked for and kept."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.matching.bulk_enrollment import admit_references
from engine.matching.documents import Document
from engine.registry.records import utc_now
from serving.cli.inputs import sample_photographs
from serving.compose import Deployment
from serving.settings import SETTINGS_FILE, load_settings
from tests.serving.conftest import OTHER_NUMBER, enrollment
from tests.serving.sweeps.synthetic_people import make_people_home

AT = ("--threshold", "0.55")
FACE = "data:image/jpeg;base64,"


@pytest.fixture(scope="module")
def pictured_home(
    empty_home: Path, sosie: Any, photographs: Any, environment: dict[str, str | None]
) -> Path:
    """The astronaut is enrolled, with aligned faces kept, and was imported under another document
    without any."""
    home = empty_home.with_name("pictured")
    shutil.copytree(empty_home, home)
    settings = home / SETTINGS_FILE
    settings.write_text(settings.read_text().replace('# keep = "none"', 'keep = "all"'))
    assert sosie(*enrollment(home, photographs)).code == 0
    cache = Path(str(environment["SOSIE_CACHE"]))
    with Deployment(home, load_settings(home), cache) as deployment:
        (sample,) = sample_photographs(deployment, [photographs.later])
        assert sample.vector is not None
        vectors, registrar = sample.vector[None], deployment.registrar
        documents = [Document("cn-ric", OTHER_NUMBER, "Somebody Else")]
        registrar.run(
            lambda writer, _: admit_references(
                writer, registrar.gallery, documents, vectors, actor="test", on=utc_now().date()
            )
        )
    return home


def test_a_report_has_the_faces_that_are_kept_where_they_are_asked_for(
    sosie: Any, pictured_home: Path, tmp_path: Path
) -> None:
    target, at = tmp_path / "faces.html", ("--home", pictured_home)
    done = sosie("sweep", *AT, "--report", target, "--faces", *at, "--json")
    assert done.code == 0, done.err
    assert (done.json["total"], done.json["faces"]) == (1, 1)
    page = target.read_text("utf-8")
    assert page.count(FACE) == 1
    assert "Shown: 1 face of the first 1 group. 1 identity of these stands without one" in page
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    # What stays in the home has none, for nothing would ever take it out.
    assert (
        FACE
        not in (
            pictured_home / "sweeps" / done.json["sweep"]["sweep_id"] / "report.html"
        ).read_text()
    )
    shown = sosie("audit", "show", "--action", "crops.read", *at, "--json").json["entries"]
    assert [one["subject"] for one in shown] == [done.json["sweep"]["sweep_id"]]
    assert len(shown[0]["detail"]["documents"]) == 1


def test_a_report_is_written_anew_later_with_faces_or_without(
    sosie: Any, pictured_home: Path, tmp_path: Path
) -> None:
    at = ("--home", pictured_home)
    assert sosie("sweep", *AT, *at).code == 0
    sweep = sosie("sweep", "list", *at, "--json").json["sweeps"][0]["sweep_id"]
    plain, pictured = tmp_path / "plain.html", tmp_path / "pictured.html"
    without = sosie("sweep", "report", sweep, plain, *at, "--json")
    assert without.json == {"report": str(plain), "faces": None}
    assert FACE not in plain.read_text("utf-8")
    told = sosie("sweep", "report", sweep, pictured, "--faces", *at)
    assert told.code == 0, told.err
    assert str(pictured) in told.out
    assert FACE in pictured.read_text("utf-8")


def test_where_no_face_is_kept_a_line_says_so(
    sosie: Any, empty_home: Path, tmp_path: Path, assert_refused: Callable[..., None]
) -> None:
    home = make_people_home(empty_home, "crowd-without-faces")
    at = ("--home", home)
    assert sosie("sweep", *AT, *at).code == 0
    sweep = sosie("sweep", "list", *at, "--json").json["sweeps"][0]["sweep_id"]
    target = tmp_path / "none.html"
    told = sosie("sweep", "report", sweep, target, "--faces", *at)
    assert told.code == 0, told.err
    assert "No face is kept of these people ([crops] keep in sosie.toml)" in told.out
    assert FACE not in target.read_text("utf-8")
    assert_refused(sosie("sweep", *AT, "--faces", *at), "--report FILE")
    assert_refused(sosie("sweep", "report", "x", target, *at), "no sweep has this id")
    nowhere = tmp_path / "no" / "r.html"
    assert_refused(sosie("sweep", "report", sweep, nowhere, *at), "cannot be written")
    with Deployment(home, load_settings(home), home / "cache") as holder:
        assert holder.writer
        assert sosie("sweep", "report", sweep, target, *at).code == 0
        assert_refused(sosie("sweep", "report", sweep, target, "--faces", *at))
