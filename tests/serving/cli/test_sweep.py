"""`sosie sweep`: said before, followed, shown; refused in one line."""

import shutil
import signal
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.matching.bulk_enrollment import admit_references
from schema.documents import Document
from serving.cli.inputs import sample_photographs
from serving.deployment.deployment import Deployment
from serving.settings.settings import SETTINGS_FILE, load_settings
from tests.serving.conftest import OTHER_NUMBER, enrollment
from tests.serving.sweeps.conftest import people_home, people_template
from tests.serving.sweeps.synthetic_people import PEOPLE, TWICE

__all__ = ["people_home", "people_template"]

AT = ("--threshold", "0.47")


def test_a_plan_says_what_to_expect_and_changes_nothing(sosie, people_home, contents) -> None:
    before = contents(people_home)
    told = sosie("sweep", "--plan", "--home", people_home, "--json")
    assert told.code == 0, told.err
    expectation = told.json["expectation"]
    total = PEOPLE + TWICE
    assert expectation["comparisons"] == total * (total - 1) // 2
    assert expectation["threshold"] == expectation["proposal"]["threshold"]
    assert expectation["false_pairs"]["high"] >= expectation["false_pairs"]["value"]
    words = sosie("sweep", "--plan", "--home", people_home)
    assert words.code == 0
    for word in ("comparisons", "time", "memory", "false pairs", "proposed"):
        assert word in words.out
    assert contents(people_home) == before


def test_a_sweep_shows_its_groups_and_files(sosie, people_home, tmp_path) -> None:
    done = sosie(
        "sweep", *AT, "--top", 3, "--report", tmp_path / "r.html", "--home", people_home, "--json"
    )
    assert done.code == 0, done.err
    answer = done.json
    assert (answer["sweep"]["state"], answer["total"], len(answer["groups"])) == ("done", TWICE, 3)
    assert answer["sweep"]["summary"]["pairs"] == TWICE
    assert answer["sweep"]["summary"]["bounds"] == ["bytes"]
    for name in ("pairs.parquet", "groups.parquet", "groups.csv", "report.html"):
        assert any(path.endswith(name) for path in answer["files"])
    assert (tmp_path / "r.html").read_text().lower().startswith("<!doctype html>")
    sweep_id = answer["sweep"]["sweep_id"]
    (listed,) = sosie("sweep", "list", "--home", people_home, "--json").json["sweeps"]
    assert listed["sweep_id"] == sweep_id
    shown = sosie("sweep", "show", sweep_id, "--home", people_home, "--json").json
    assert shown["files"] == answer["files"]
    page = sosie("sweep", "groups", sweep_id, "--top", 5, "--home", people_home, "--json").json
    assert (len(page["groups"]), page["total"], page["next"]) == (5, TWICE, 5)
    rest = sosie("sweep", "groups", sweep_id, "--after", 5, "--home", people_home, "--json").json
    assert rest["next"] is None
    assert len({one["key"] for one in (*page["groups"], *rest["groups"])}) == TWICE


def test_a_budget_ranks_the_cases_and_each_says_why(sosie, people_home) -> None:
    plan = sosie("sweep", "--budget", 3, "--plan", "--home", people_home)
    assert "likelihood ratio" in plan.out
    done = sosie("sweep", "--budget", 3, "--home", people_home, "--json")
    assert done.code == 0, done.err
    sweep, groups = done.json["sweep"], done.json["groups"]
    assert (sweep["budget"], len(groups), sweep["summary"]["cases"]) == (3, 3, 3)
    ranking = sweep["summary"]["ranking"]
    assert ranking["considered"] == ranking["pairs_found"] == TWICE
    assert {one["name"] for one in groups[0]["terms"]} >= {"prior", "score_ratio"}
    shown = sosie("sweep", "show", sweep["sweep_id"], "--home", people_home)
    assert "not known: 0 groups" in shown.out
    page = next(path for path in done.json["files"] if path.endswith("report.html"))
    assert "How these groups were chosen" in Path(page).read_text()
    case = sosie("cases", "--home", people_home, "--json").json["cases"][0]
    words = sosie("case", "show", case["case_id"], "--home", people_home)
    assert "times as likely of one person" in words.out
    for path in done.json["files"]:
        assert b"Holder" not in Path(path).read_bytes()
    again = sosie("sweep", "--new", *AT, "--home", people_home)
    assert "kept only what its budget had room for" in " ".join(again.err.split())


def test_people_read_a_table_and_where_the_files_are(sosie, people_home) -> None:
    done = sosie("sweep", *AT, "--home", people_home)
    assert done.code == 0, done.err
    assert "one face many documents" in done.out
    assert "report.html" in done.out
    assert f"{TWICE} with {2 * TWICE} identities" in done.out
    (listed,) = sosie("sweep", "list", "--home", people_home, "--json").json["sweeps"]
    for command in (("list",), ("groups", listed["sweep_id"])):
        assert sosie("sweep", *command, "--home", people_home).code == 0


def test_what_the_calibration_cannot_support_is_refused_until_it_is_allowed(
    sosie, people_home, assert_refused
) -> None:
    beyond = ("sweep", "--threshold", "0.8", "--home", people_home)
    refused = sosie(*beyond, "--json")
    assert refused.code == 2
    assert refused.json["error"]["code"] == "CALIBRATION.RATE_UNSUPPORTED"
    assert_refused(sosie("sweep", "--fmr", "1e-12", "--plan", "--home", people_home), "1e-12")
    loud = sosie(*beyond, "--unsupported")
    assert loud.code == 0, loud.err
    assert "NOT SUPPORTED" in loud.out
    assert "at most" in loud.out


def test_wrong_terms_are_refused_in_a_line(sosie, people_home, assert_refused, tmp_path) -> None:
    at = ("--home", people_home)
    assert_refused(sosie("sweep", *AT, "--fmr", "1e-5", *at), "two thresholds")
    assert_refused(sosie("sweep", "--threshold", "2", *at))
    assert_refused(sosie("sweep", "--threshold", "nan", *at), "--threshold")
    assert_refused(sosie("sweep", "--resume", "x", "--new", *at), "--resume ID alone")
    assert_refused(sosie("sweep", "--resume", "x", *at), "no sweep has this id")
    assert_refused(sosie("sweep", "show", "../../etc/passwd", *at), "no sweep has this id")
    assert_refused(sosie("sweep", "--report", tmp_path / "no" / "r.html", *at), "cannot be written")


def test_a_home_that_a_service_has_open_is_swept_over_http(
    sosie, people_home, assert_refused
) -> None:
    with Deployment(people_home, load_settings(people_home)) as holder:
        assert holder.writer
        assert_refused(
            sosie("sweep", *AT, "--home", people_home), "POST http://127.0.0.1:8700/v1/sweeps"
        )
        assert sosie("sweep", "--plan", "--home", people_home).code == 0
        assert sosie("sweep", "list", "--home", people_home).code == 0


SLOW = """
import sys, time
from functools import partial
from indexes.joining import join
from serving.cli import main
from serving.deployment import snapshots

def slow(gallery, threshold, *, progress, **options):
    def tell(now):
        progress(now)
        print("tile", now.tiles_done, file=sys.stderr, flush=True)
        time.sleep(0.1)
    return join.join_gallery(gallery, threshold, progress=tell, tile_rows=64, **options)

snapshots.join_gallery = slow
sys.argv = ["sosie", *sys.argv[1:]]
main.main()
"""


@pytest.fixture
def begin(start) -> Callable[..., subprocess.Popen[str]]:
    """`begin(*arguments)`: the command in another process, with small tiles that take their time;
    returns when the second tile is made."""

    def run(*arguments: object) -> subprocess.Popen[str]:
        process: subprocess.Popen[str] = start(*arguments, code=SLOW)
        for line in process.stderr:
            if line.startswith("tile 2"):
                break
        return process

    return run


def test_killed_it_goes_on_where_it_was_and_no_other_begins_before(
    sosie, people_home, begin, assert_refused
) -> None:
    process = begin("sweep", *AT, "--home", people_home)
    process.kill()
    process.wait()
    (left,) = sosie("sweep", "list", "--home", people_home, "--json").json["sweeps"]
    assert left["state"] == "running"
    assert 0 < left["progress"]["share"] < 1
    assert_refused(sosie("sweep", *AT, "--home", people_home), f"--resume {left['sweep_id']}")
    resumed = begin("sweep", "--resume", left["sweep_id"], "--home", people_home, "--json")
    out, _ = resumed.communicate(timeout=120)
    assert resumed.returncode == 0
    assert f'"total": {TWICE}' in out


def test_an_interrupt_pauses_it_and_says_how_to_go_on(sosie, people_home, begin) -> None:
    process = begin("sweep", *AT, "--home", people_home)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    (left,) = sosie("sweep", "list", "--home", people_home, "--json").json["sweeps"]
    assert left["state"] == "paused"
    assert f"sosie sweep --resume {left['sweep_id']}" in err
    cancelled = sosie("sweep", "cancel", left["sweep_id"], "--home", people_home, "--json")
    assert cancelled.json["sweep"]["state"] == "cancelled"
    assert not (people_home / "sweeps" / left["sweep_id"]).exists()
    assert sosie("sweep", *AT, "--home", people_home).code == 0


FACE = "data:image/jpeg;base64,"


@pytest.fixture(scope="module")
def pictured_home(empty_home, sosie, photographs, environment) -> Path:
    """The astronaut is enrolled, with aligned faces kept, and was imported under another document
    without any."""
    home = empty_home.with_name("pictured")
    shutil.copytree(empty_home, home)
    settings = home / SETTINGS_FILE
    settings.write_text(settings.read_text().replace('# keep = "none"', 'keep = "all"'))
    assert sosie(*enrollment(home, photographs)).code == 0
    with Deployment(home, load_settings(home)) as deployment:
        (sample,) = sample_photographs(deployment, [photographs.later])
        other, registrar = Document("cn-ric", OTHER_NUMBER, "Somebody Else"), deployment.registrar
        admit_references(registrar, [other], sample.vector[None], "test")
    return home


def test_a_report_has_the_faces_that_are_kept_where_they_are_asked_for(
    sosie, pictured_home, tmp_path
) -> None:
    target, at = tmp_path / "faces.html", ("--home", pictured_home)
    done = sosie("sweep", *AT, "--report", target, "--faces", *at, "--json")
    assert done.code == 0, done.err
    assert (done.json["total"], done.json["faces"]) == (1, 1)
    page = target.read_text("utf-8")
    assert page.count(FACE) == 1
    assert "Shown: 1 face of the first 1 group. 1 identity of these has none" in page
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    # What stays in the home has none, for nothing would ever take it out.
    sweep = done.json["sweep"]["sweep_id"]
    assert FACE not in (pictured_home / "sweeps" / sweep / "report.html").read_text()
    shown = sosie("audit", "show", "--action", "crops.read", *at, "--json").json["entries"]
    assert [one["subject"] for one in shown] == [sweep]
    assert len(shown[0]["detail"]["documents"]) == 1


def test_a_report_is_written_anew_later_with_faces_or_without(
    sosie, pictured_home, tmp_path
) -> None:
    at = ("--home", pictured_home)
    assert sosie("sweep", *AT, *at).code == 0
    sweep = sosie("sweep", "list", *at, "--json").json["sweeps"][0]["sweep_id"]
    plain, pictured = tmp_path / "plain.html", tmp_path / "pictured.html"
    without = sosie("sweep", "report", sweep, plain, *at, "--json")
    assert without.json == {"report": str(plain), "faces": None}
    assert FACE not in plain.read_text("utf-8")
    assert "/console#/case/" not in plain.read_text("utf-8")
    here = {"SOSIE_SERVE__PUBLIC_URL": "https://sosie.test/"}
    told = sosie("sweep", "report", sweep, pictured, "--faces", *at, env=here)
    assert told.code == 0, told.err
    assert 'href="https://sosie.test/console#/case/' in pictured.read_text("utf-8")
    assert str(pictured) in told.out
    assert FACE in pictured.read_text("utf-8")


def test_where_no_face_is_kept_a_line_says_so(sosie, people_home, tmp_path, assert_refused) -> None:
    at = ("--home", people_home)
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
    with Deployment(people_home, load_settings(people_home)) as holder:
        assert holder.writer
        assert sosie("sweep", "report", sweep, target, *at).code == 0
        assert_refused(sosie("sweep", "report", sweep, target, "--faces", *at))
