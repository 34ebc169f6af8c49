"""`sosie retention`: what would leave is shown, what is due leaves, and a certificate says so."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from engine.errors import StorageFailed
from engine.sweeps.folder_retention import SweepRetention
from serving.cli.inputs import open_deployment
from tests.row_codes import alter, vouch

ERASE = ("erase", "--document-type", "cn-ric", "--document-number", "110105198503071257", "--yes")


def alter_all(home: Path, *statements: str) -> None:
    alter(home, *statements)
    with open_deployment(home) as deployment:
        vouch(deployment.store.engine, deployment.vault)


@pytest.fixture
def aged_home(caught_home, sosie) -> Path:
    """A duplicate that was caught, a closed line, and for each a time that is over since days."""

    def days_ago(days: int) -> str:
        return f"'{datetime.now(UTC) - timedelta(days=days):%Y-%m-%dT%H:%M:%S.%fZ}'"

    close = ("line", "close", "--msisdn", "+8613800138000")
    assert sosie(*close, "--home", caught_home).code == 0
    alter_all(
        caught_home,
        f"UPDATE enrollments SET created_at = {days_ago(190)}",
        f"UPDATE idempotency SET created_at = {days_ago(190)}",
        f"UPDATE lines SET closed_at = {days_ago(740)}",
    )
    return caught_home


def close_cases(home: Path, sosie: Any, become: Any) -> None:
    (case,) = sosie("cases", "--home", home, "--json").json["cases"]
    at = ("--home", home)
    for account, step in (("ada", "propose"), ("bo", "close")):
        become(account)
        seen = sosie("case", "show", case["case_id"], *at, "--json").json["updated_at"]
        given = ("--outcome", "mistake", "--seen-at", seen)
        assert sosie("case", step, case["case_id"], *given, *at).code == 0


def test_what_would_leave_is_shown_and_stays(aged_home, sosie, contents) -> None:
    before = contents(aged_home)
    at, kept = ("--home", aged_home), {"SOSIE_RETENTION__FACES_DAYS": "720"}
    assert "faces" not in sosie("retention", "show", *at, "--json").json["due"]
    shown = sosie("retention", "show", *at, "--json", env=kept).json
    assert len(shown["due"]) == 12
    assert {kind: count for kind, count in shown["due"].items() if count} == {"answers": 2}
    # The duplicate opened a case on both documents.
    assert [shown["held"][kind] for kind in ("attempts", "lines", "faces")] == [1, 1, 1]
    assert shown["crops"] == {"keep": "none", "days": 30, "hold_days": 0}
    assert shown["daily_at"] == "02:30"
    again = sosie("retention", "run", "--dry-run", *at, "--json", env=kept).json
    assert (again["due"], again["held"]) == (shown["due"], shown["held"])
    told = sosie("retention", "show", *at).out
    assert "180 days" in told
    assert "for good" in told
    assert contents(aged_home) == before


def test_what_is_due_leaves_and_its_certificate_holds(
    aged_home, sosie, become, tmp_path, assert_refused
) -> None:
    at, file = ("--home", aged_home), tmp_path / "left.json"
    close_cases(aged_home, sosie, become)
    show = ("audit", "show", "--action", "enrollment.decided", *at, "--json")
    decided = sosie(*show).json["entries"]
    (rejected,) = [one["subject"] for one in decided if one["detail"]["decision"] == "rejected"]
    outcome = sosie("retention", "run", "--certificate", file, *at, "--json")
    assert outcome.code == 0
    left = {kind: count for kind, count in outcome.json["left"].items() if count}
    assert left == dict.fromkeys(("attempts", "documents", "lines", "answers"), 1)
    assert json.loads(file.read_text()) == outcome.json
    checked = sosie("audit", "certificate", file, *at, "--json")
    assert (checked.code, checked.json["holds"]) == (0, True)
    assert_refused(sosie("show", rejected, "--replay", *at), "left by retention")
    assert sosie("audit", "verify", *at).code == 0
    again = sosie("retention", "run", *at)
    assert "nothing" in again.out
    assert sosie("doctor", *at).code == 0


def test_a_certificate_that_cannot_be_written_is_refused_before_anything_leaves(
    aged_home, sosie, tmp_path, assert_refused, contents
) -> None:
    before = contents(aged_home)
    run = ("retention", "run", "--certificate", tmp_path / "none" / "c.json")
    assert_refused(sosie(*run, "--home", aged_home), "cannot be written")
    assert contents(aged_home) == before
    whole = sosie("retention", "run", "--home", aged_home)
    assert "Held by open cases: 1 rejected attempts" in whole.out


def test_a_run_does_the_steps_of_lines_that_are_due_until_none_is_left(
    full_home, sosie, tmp_path
) -> None:
    rules = tmp_path / "quick.toml"
    rules.write_text(
        'title = "Quick"\n[[reverify]]\non = "device_change"\n'
        'then = ["1m suspended", "1m closed"]\n'
    )
    at, env = ("--home", full_home), {"SOSIE_LINES__RULES": str(rules)}
    now, line = datetime.now(UTC), "+8613800138000"
    report = ("line", "report", "device_change", line, "--at", now.isoformat())
    line_id = sosie(*report, *at, "--json", env=env).json["line_id"]
    due = now - timedelta(minutes=30)
    alter_all(full_home, f"UPDATE reverifications SET next_step_at = '{due:%Y-%m-%dT%H:%M:%S.%fZ}'")
    assert "due since" in sosie("retention", "run", "--dry-run", *at, env=env).out
    assert "2 steps of lines" in sosie("retention", "run", *at, env=env).out
    shown = sosie("line", "show", line_id, *at, "--json").json
    assert shown["status"] == "closed"
    assert {"suspended", "closed"} <= {one["kind"] for one in shown["events"]}
    assert "steps of lines" not in sosie("retention", "run", *at, env=env).out


def test_an_erasure_waits_for_the_case_and_is_done_by_the_command_that_closes_it(
    caught_home, sosie, become
) -> None:
    at = ("--home", caught_home)
    asked = sosie(*ERASE, *at, "--json")
    assert (asked.code, asked.json["state"]) == (1, "pending")
    assert asked.json["due_at"] > asked.json["asked_at"]
    assert "Waits" in sosie(*ERASE, *at).out
    (pending,) = sosie("erasures", *at, "--json").json["erasures"]
    assert pending == asked.json
    (case,) = sosie("cases", *at, "--json").json["cases"]
    shown = sosie("case", "show", case["case_id"], *at)
    assert "erased by" in shown.out
    # A run of retention does what is due, and nothing else.
    assert sosie("retention", "run", *at).code == 0
    assert len(sosie("erasures", *at, "--json").json["erasures"]) == 1
    close_cases(caught_home, sosie, become)
    assert sosie("erasures", *at).out.strip() == "No erasure waits."
    entries = sosie("audit", "show", "--action", "document.erased", *at, "--json").json["entries"]
    assert [one["subject"] for one in entries] == [pending["document_id"]]
    assert sosie("doctor", *at).code == 0


def test_an_outlet_is_suspended_and_barred_and_lifted_by_accounts_of_people(
    caught_home, sosie, become, request_of, assert_refused
) -> None:
    at = ("--home", caught_home)
    (case,) = sosie("cases", *at, "--json").json["cases"]
    why = ("--case", case["case_id"], "--reason", "One face, two documents")

    def take(account: str, *step: str) -> Any:
        become(account)
        return sosie("outlet", *step, *at)

    assert "Suspended" in take("ada", "suspend", "b1", *why).out
    assert_refused(take("ada", "bar", "b1", *why), "another person must bar it")
    again = request_of(caught_home, msisdn="+8613800138002")
    assert_refused(sosie(*again), "the outlet is suspended and enrolls nobody")
    assert "Barred" in take("bo", "bar", "b1", *why).out
    listed = sosie("outlet", "list", *at).out
    assert "barred" in listed
    (found, _) = sosie("outlet", "list", *at, "--json").json["outlets"]
    assert (found["restriction"], found["refused_attempts"]) == ("barred", 1)
    past = sosie("outlet", "enrollments", "b1", "--state", "alive", *at, "--json").json
    assert [one["decision"] for one in past["enrollments"]] == ["rejected"]
    assert past["enrollments"][0]["case"]["case_id"] == case["case_id"]
    assert "duplicate_identity" not in sosie("outlet", "enrollments", "b1", *at).err
    lift = ("lift", "b1", "--reason", "Another staff", "--restriction")
    assert_refused(take("ada", *lift, "suspended"), "barred now")
    assert "Open" in take("ada", *lift, "barred").out
    assert "Another staff" in sosie("case", "show", case["case_id"], *at).out


def test_an_erasure_that_fails_when_its_case_is_closed_stays_and_is_done_by_the_next_run(
    caught_home, sosie, become, monkeypatch
) -> None:
    at = ("--home", caught_home)
    assert sosie(*ERASE, *at).code == 1

    def fail(*_: object) -> None:
        raise StorageFailed("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(SweepRetention, "erase", fail)
        close_cases(caught_home, sosie, become)
    (pending,) = sosie("erasures", *at, "--json").json["erasures"]
    assert (pending["state"], pending["cases"]) == ("pending", [])
    assert "1 are due" in sosie("doctor", *at).out
    assert "1 documents that waited" in sosie("retention", "run", *at).out
    assert sosie("erasures", *at, "--json").json["erasures"] == []
