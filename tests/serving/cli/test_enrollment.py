"""`sosie enroll` and `show`: decisions and their records."""

import json
import shutil
import sqlite3
from typing import Any

import pytest

from serving.cli.inputs import open_deployment
from tests.liveness_models import write_judge
from tests.quality_models import USUAL, write_measure
from tests.row_codes import alter, vouch
from tests.serving.authority_service import answer, serve_authority

NUMBER, OTHER_NUMBER = "110105199003071239", "110105198503071257"
NAME, MSISDN, OTHER_MSISDN = "Aileen Probe", "+8613800138000", "+8613800138001"


def test_what_is_wrong_with_a_photograph_is_an_answer_that_names_it(
    home, sosie, photographs, request_of
) -> None:
    outcome = sosie(*request_of(home, live=photographs.faceless))
    assert outcome.code == 1
    assert "NO_FACE (live)" in outcome.out
    assert "No duplicate search ran." in outcome.out


def test_frames_are_given_by_repeating_the_option_or_as_a_folder(
    home, sosie, photographs, request_of, tmp_path
) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for place, path in enumerate((photographs.live, photographs.faceless, photographs.later)):
        shutil.copy(path, folder / f"{place}{path.suffix}")
    (folder / "notes.txt").write_text("no photograph")
    outcome = sosie(*request_of(home, live=folder, idempotency_key="k"))
    assert outcome.code == 0
    assert "frame 1: fused\n  frame 2: NO_FACE\n  frame 3: fused" in outcome.out
    named = request_of(home, live=photographs.live, idempotency_key="k")
    named += ["--live", photographs.faceless, "--live", photographs.later]
    assert sosie(*named, "--json").json["is_repeated"] is True


def test_nine_frames_and_a_folder_without_any_are_refused(
    home, sosie, photographs, request_of, assert_refused, tmp_path
) -> None:
    nine = request_of(home) + ["--live", photographs.later] * 8
    assert_refused(sosie(*nine), "9 frames", "at most 8")
    empty = request_of(home, live=tmp_path)
    assert_refused(sosie(*empty), "holds no photograph")


def test_a_key_that_was_made_up_is_told_before_the_answer(
    home, sosie, request_of, monkeypatch
) -> None:
    outcome = sosie(*request_of(home), "--json")
    assert outcome.err == f"idempotency key {outcome.json['idempotency_key']}\n"
    given = request_of(home, idempotency_key="k-1", msisdn=OTHER_MSISDN)
    assert sosie(*given, "--json").err == ""

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("engine.matching.registrar.Registrar.enroll", fail)
    cut_off = sosie(*request_of(home))
    assert cut_off.code == 130
    assert cut_off.err.startswith("idempotency key ")


@pytest.mark.parametrize("from_standard_input", [True, False])
def test_a_document_can_be_kept_off_the_command_line(
    from_standard_input: bool, home, sosie, request_of, tmp_path
) -> None:
    written = json.dumps({"type": "cn-ric", "number": NUMBER, "name": NAME, "msisdn": MSISDN})
    source = tmp_path / "document.json"
    source.write_text(written)
    given: dict[str, Any] = dict.fromkeys(("document_type", "document_number", "name", "msisdn"))
    request = request_of(home, **given, document="-" if from_standard_input else source)
    outcome = sosie(*request, given=written)
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({"document_type": "xx-none"}, "use one of cn-ric"),
        ({"document_type": None}, "--document-type"),
        ({"document_number": None}, "--document-number"),
        ({"name": None}, "--name"),
        ({"name": "..."}, "as it stands on the document"),
        ({"msisdn": "12345"}, "+<country><number>"),
        ({"msisdn": None}, "--msisdn"),
        ({"expires_on": "31.01.2031"}, "2031-01-31"),
        ({"captured_at": "noon"}, "2026-01-31T12:00:00Z"),
        ({"captured_at": "2026-01-31T12:00:00"}, "time zone"),
        ({"outlet": "nowhere"}, "check the codes of both"),
        ({"carrier": "red"}, "check the codes of both"),
        ({"document": "missing.json"}, "missing.json"),
    ],
)
def test_a_request_that_cannot_be_judged_is_refused_and_stores_nothing(
    changes: dict[str, Any], advice: str, home, sosie, request_of, assert_refused
) -> None:
    outcome = sosie(*request_of(home, **changes))
    assert_refused(outcome, advice)
    assert NUMBER not in outcome.err
    assert NAME not in outcome.err
    with sqlite3.connect(home / "registry.sqlite") as database:
        counts = [
            database.execute(f'SELECT count(*) FROM "{table}"').fetchone()[0]
            for table in ("enrollments", "documents", "idempotency", "references")
        ]
    database.close()
    assert counts == [0, 0, 0, 0]


@pytest.mark.parametrize("text", ["[]", '{"number": 7}', '{"numbr": "7"}', "no json"])
def test_a_document_file_that_is_not_one_is_refused(
    text: str, home, sosie, request_of, assert_refused
) -> None:
    request = request_of(home, document="-", document_number=None)
    assert_refused(sosie(*request, given=text))


def test_show_has_the_evidence_and_no_name_or_number(full_home, enrolled, sosie) -> None:
    outcome = sosie("show", enrolled["enrollment_id"], "--home", full_home, "--json")
    assert outcome.code == 0
    assert outcome.json["decision"] == "approved"
    assert outcome.json["evidence"]["inputs"]["live_portrait_score"] > 0.9
    for secret in (NAME, NUMBER, MSISDN[1:]):
        assert secret not in outcome.out
    [last] = sosie("audit", "show", "--limit", 1, "--home", full_home, "--json").json["entries"]
    assert (last["action"], last["subject"]) == ("enrollment.read", enrolled["enrollment_id"])
    assert last["actor"].startswith("cli:")


def test_a_decision_replays_from_its_record_and_not_from_one_that_was_altered(
    full_home, enrolled, sosie, assert_refused
) -> None:
    command = ("show", enrolled["enrollment_id"], "--replay", "--home", full_home)
    told = sosie(*command)
    assert (told.code, "the same decision" in told.out) == (0, True)
    alter(full_home, "UPDATE enrollments SET decision = 'rejected'")
    assert_refused(sosie(*command), "was altered in the database")
    # By somebody who has the key ring, too.
    with open_deployment(full_home) as deployment:
        vouch(deployment.store.engine, deployment.vault)
    assert sosie(*command, "--json").json["replay"]["agrees"] is False
    outcome = sosie(*command)
    assert outcome.code == 1
    assert "decides approved" in outcome.out


def test_a_document_is_looked_up_and_the_doctor_opens_what_it_is_looked_up_at(
    home, sosie, request_of
) -> None:
    doctor = ("doctor", "--home", home, "--json")
    with serve_authority() as authority:
        env = {"SOSIE_AUTHORITY__KIND": "http", "SOSIE_AUTHORITY__URL": authority.url}
        authority.behave = answer({"standing": "valid", "differs": ["birth_date"]})
        outcome = sosie(*request_of(home), "--json", env=env)
        assert outcome.json["decision"] == "review"
        assert [one["reason"] for one in outcome.json["reasons"]] == ["AUTHORITY_CONTRADICTS"]
        assert len(authority.asked) == 1
        assert sosie(*doctor, env=env).check("authority")["state"] == "ok"
    warned = sosie(*doctor, env=env).check("authority")
    assert (warned["state"], "does not answer" in warned["detail"]) == ("warning", True)
    listed = home / "list.csv"
    listed.write_text(f"type,number,standing\ncn-ric,{OTHER_NUMBER},valid\n")
    env = {"SOSIE_AUTHORITY__KIND": "listed", "SOSIE_AUTHORITY__LIST_FILE": "list.csv"}
    rejected = sosie(*request_of(home), "--json", env=env).json
    assert [one["reason"] for one in rejected["reasons"]] == ["AUTHORITY_UNKNOWN_DOCUMENT"]
    found = sosie(*doctor, env=env).check("authority")
    assert "1 documents are listed" in found["detail"]
    listed.write_text("a,b\n")
    assert sosie(*doctor, env=env).check("authority")["state"] == "warning"


def test_a_judge_of_liveness_is_opened_by_the_doctor_and_asked_about_the_live_face(
    home, sosie, request_of
) -> None:
    write_judge(home, half=1.0)
    env = {
        "SOSIE_LIVENESS__JUDGE": str(home / "judge.toml"),
        "SOSIE_LIVENESS__JUDGE_MODE": "enforce",
    }
    outcome = sosie(*request_of(home), "--json", env=env)
    assert [one["reason"] for one in outcome.json["reasons"]] == ["LIVENESS_FAILED"]
    doctor = ("doctor", "--home", home, "--json")
    found = sosie(*doctor, env=env).check("liveness judge")
    assert (found["state"], "it decides" in found["detail"]) == ("ok", True)
    (home / "judge.onnx").write_bytes(b"another")
    assert sosie(*doctor, env=env).check("liveness judge")["state"] == "broken"


def test_a_measure_of_quality_is_on_record_decides_by_its_limit_and_replays(
    home, sosie, request_of, photographs
) -> None:
    card = write_measure(home, f'{USUAL}\nleast = 99.9\nreason = "LOW_CONTRAST"')
    env = {"SOSIE_QUALITY__MODELS": json.dumps([str(card)])}
    request = request_of(home, portrait_kind="printed")
    rejected = sosie(*request, "--json", env=env).json
    told = [(one["reason"], one["photograph"]) for one in rejected["reasons"]]
    assert told == [("LOW_CONTRAST", "live")]
    for name in ("live", "portrait"):
        assert 50 < rejected["quality"][name]["DynamicRange"] < 99.9
    shown = ("show", rejected["enrollment_id"], "--replay", "--home", home, "--json")
    record = sosie(*shown).json
    assert record["replay"]["agrees"] is True
    assert record["quality"] == rejected["quality"]
    again = sosie("extract", photographs.live, "--home", home, "--json", env=env).json["images"]
    assert again[0]["quality"]["DynamicRange"] == record["quality"]["live"]["DynamicRange"]
    frames = ("verify", home, photographs.live, "--json")
    (home / photographs.live.name).write_bytes(photographs.live.read_bytes())
    (home / photographs.later.name).write_bytes(photographs.later.read_bytes())
    fused = sosie(*frames, env={**env, "SOSIE_HOME": str(home)}).json
    assert {one["quality"]["DynamicRange"] > 0 for one in fused["frames"]} == {True}
    doctor = ("doctor", "--home", home, "--json")
    found = sosie(*doctor, env=env).check("quality")
    assert (found["state"], "DynamicRange" in found["detail"]) == ("ok", True)
    twice = {"SOSIE_QUALITY__MODELS": json.dumps([str(card), str(card)])}
    assert "one measure" in sosie(*doctor, env=twice).check("quality")["detail"]
    (home / "range.onnx").write_bytes(b"another")
    assert sosie(*doctor, env=env).check("quality")["state"] == "broken"
