"""`sosie subject export`: all that is kept about one person, as that person may have it."""

import json
import re
import uuid
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from html import escape
from importlib.resources import files
from pathlib import Path

import pytest
from sqlalchemy import select

from engine.cases import steps
from engine.matching.checks.limits import Bound
from engine.registry import audit
from engine.registry.audit import AuditEntry
from engine.registry.database import utc_now
from engine.registry.documents import DOCUMENTS
from engine.registry.enrollments import ENROLLMENTS, Tally
from engine.registry.people import PeopleReader
from engine.registry.store import every_table
from engine.registry.subjects import find_rows
from schema.reasons import ADVICE
from serving.cli.inputs import open_deployment
from tests.row_codes import alter
from tests.serving.console.test_texts import CATALOGS, WRITING

DOCUMENT = ("--document-type", "cn-ric", "--document-number", "110105199003071239")
OTHER = ("--document-type", "cn-ric", "--document-number", "110105198503071257")
REASON = ("--reason", "asked for in person")
TEXTS = json.loads((files("serving") / "templates/subject.json").read_text("utf-8"))
FIGURES = {"thresholds", "verify", "quality", "length", "expected_false_candidates", "level"}
"""Fractions that are no scores."""

OF_NOBODY = {
    *("deployment", "carriers", "outlets", "api_keys", "accounts", "sessions"),
    *("sweeps", "campaigns", "webhooks", "undelivered", "cursors"),
}
"""Tables without a row about a holder."""


def test_every_table_is_exported_or_said_to_be_of_nobody_and_refers_to_nobody() -> None:
    # Entries of the audit chain are found by what they name.
    exported = {table.name for table in find_rows([])} | {"audit"}
    left = {table.name: table for table in every_table() if table.name not in exported}
    assert left.keys() == OF_NOBODY
    for table in left.values():
        referred = {one.column.table.name for one in table.foreign_keys}
        assert not referred & {"documents", "enrollments", "lines"}


def test_a_person_is_shown_what_is_kept_and_nothing_of_a_face_in_numbers(full_home, sosie) -> None:
    outcome = sosie("subject", "export", *DOCUMENT, *REASON, "--home", full_home, "--json")
    assert outcome.code == 0, outcome.err
    shown = outcome.json
    records = shown["records"]
    (document,), (attempt,) = records["documents"], records["enrollments"]
    assert document["identity"] == ["110105199003071239", "Aileen Probe"]
    assert [one["msisdn"] for one in records["lines"]] == ["+8613800138000"]
    (reference,) = records["references"]
    assert (reference["template"], reference["since"]) == ("kept", attempt["created_at"])
    assert attempt["evidence"]["inputs"]["live_portrait_score"].startswith("reaches verify")
    assert shown["damaged"] == {}
    last = shown["audit"][-1]
    assert (last["action"], last["detail"]) == ("subject.read", {"reason": REASON[1]})
    assert {"enrollment.decided", "subject.read"} <= {one["action"] for one in shown["audit"]}


def test_whoever_had_the_same_face_is_masked(caught_home, sosie) -> None:
    export = ("subject", "export", *REASON, "--home", caught_home, "--json")
    first, second = sosie(*export, *DOCUMENT).json, sosie(*export, *OTHER).json
    for one, other in ((first, second), (second, first)):
        (known,) = other["document_ids"]
        assert known not in json.dumps(one)
        assert one["records"]["cases"][0]["document_ids"].count("masked") == 1
    [candidate] = second["records"]["enrollments"][0]["evidence"]["inputs"]["candidates"]
    assert (candidate["document_id"], candidate["reference_id"]) == ("masked", "masked")
    assert candidate["score"].startswith("reaches ")
    assert set(map(type, candidate["each"].values())) == {str}


def test_no_score_is_shown_in_figures(caught_home, sosie) -> None:
    def list_fractions(value: object, name: str = "") -> set[str]:
        if isinstance(value, dict):
            found = (list_fractions(one, key) for key, one in value.items())
            return set().union(*found) if name not in FIGURES else set()
        if isinstance(value, list):
            return set().union(*(list_fractions(one, name) for one in value))
        return {name} if isinstance(value, float) else set()

    shown = sosie("subject", "export", *REASON, "--home", caught_home, "--json", *OTHER).json
    assert list_fractions(shown) <= FIGURES


def test_whoever_saw_a_persons_case_in_the_queue_is_named(caught_home, sosie, monkeypatch) -> None:
    # Also where the chain and the events are read in pieces.
    monkeypatch.setattr(audit, "WINDOW_ENTRIES", 2)
    assert sosie("cases", "--home", caught_home).code == 0
    shown = sosie("subject", "export", *REASON, "--home", caught_home, "--json", *OTHER).json
    [case] = shown["records"]["cases"]
    seen = [one["detail"] for one in shown["audit"] if one["action"] == "cases.read"]
    assert seen == [{"cases": [case["id"]]}]
    assert {one["type"] for one in shown["records"]["events"]} == {"enrollment.decided"}


def test_a_damaged_row_is_counted_and_the_others_are_shown(full_home, tmp_path, sosie) -> None:
    alter(full_home, "UPDATE lines SET outlet = 'r1'")
    page = tmp_path / "subject.html"
    export = ("subject", "export", *DOCUMENT, *REASON, "--home", full_home, "--page", page)
    outcome = sosie(*export, "--json")
    assert (outcome.code, outcome.json["damaged"]) == (1, {"lines": 1})
    records = outcome.json["records"]
    assert (records["lines"], len(records["enrollments"])) == ([], 1)
    assert "are left out: Your numbers: 1." in page.read_text("utf-8")


@pytest.mark.parametrize("language", TEXTS)
def test_a_page_shows_it_in_the_persons_language_and_masks_others(
    language: str, caught_home, tmp_path, sosie
) -> None:
    page = tmp_path / "subject.html"
    export = ("subject", "export", *OTHER, "--reason", "<b>asked</b>", "--home", caught_home)
    outcome = sosie(*export, "--page", page, "--language", language, "--json")
    assert outcome.code == 0, outcome.err
    text = page.read_text("utf-8")
    assert page.stat().st_mode & 0o077 == 0
    assert f'<html lang="{language}">' in text
    assert f"<h1>{TEXTS[language]['subject.title']}</h1>" in text
    assert "110105198503071257" in text
    assert "&lt;b&gt;asked&lt;/b&gt;" in text
    assert "<b>" not in text
    for name, rows in outcome.json["records"].items():
        assert (f'<h2 id="{name}">' in text) is bool(rows), name
    first = sosie(*("subject", "export", *DOCUMENT, *REASON, "--home", caught_home, "--json"))
    assert not [one for one in first.json["document_ids"] if one in text]
    assert "110105199003071239" not in text


def test_the_page_has_its_texts_in_each_language() -> None:
    english = TEXTS["en"]
    assert english.keys() == TEXTS["zh"].keys() == TEXTS["ko"].keys()
    assert {f"records.{table.name}" for table in find_rows([])} <= english.keys()
    for language in ("zh", "ko"):
        for key, text in TEXTS[language].items():
            assert WRITING[language].search(text), key
            assert text != english[key]


@pytest.mark.parametrize(
    "reason", [(), ("--reason", " "), ("--reason", "card 110105-1990-0307-1239")]
)
def test_without_a_reason_or_with_the_number_in_it_nothing_is_shown(
    reason: tuple[str, ...], full_home, sosie, assert_refused
) -> None:
    assert_refused(sosie("subject", "export", *DOCUMENT, *reason, "--home", full_home), "reason")


def test_a_document_that_nobody_holds_is_said_to_be_none(home, sosie, assert_refused) -> None:
    assert_refused(sosie("subject", "export", *DOCUMENT, *REASON, "--home", home), "nobody")


def test_commands_count_whom_they_show_in_full_and_stop_where_a_person_has_seen_enough(
    caught_home, tmp_path, sosie, assert_refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, own = ("--home", caught_home), tmp_path / "own.toml"
    own.write_text('lists = "people"\ntitle = "Own"\n[columns]\nName = "name"\n')
    [case] = sosie("cases", *home, "--json").json["cases"]
    report = ("case", "report", case["case_id"], tmp_path / "case.html", *home)
    export = ("subject", "export", *DOCUMENT, *REASON, *home)
    people = ("statutory", "people", tmp_path / "people.csv", "--layout", own, *home)
    named = sosie(*people, "--json").json["people"]
    monkeypatch.setattr(steps, "REVEALED", Bound(3 + named, timedelta(days=1)))
    commands = (*report, "--reveal"), export, (*people, "--reveal")
    for command in commands:
        assert sosie(*command).code == 0
    with open_deployment(caught_home) as deployment:
        head = deployment.store.audit_head()
    for command in commands:
        assert_refused(sosie(*command), "people in full a day")
    with open_deployment(caught_home) as deployment:
        assert deployment.store.audit_head() == head
    assert sosie(*report).code == 0


def test_a_count_says_what_is_counted_by_whom_and_until_when(full_home, tmp_path, sosie) -> None:
    with open_deployment(full_home) as deployment:
        [row] = deployment.store.rows(select(DOCUMENTS))
        names = f"holder:{row.id}:blue", f"shown:{row.id}", f"tries:{row.lookup.hex()}:blue"
        counts = [Tally(name, 2.0, timedelta(days=1), 5) for name in names]
        deployment.store.note(AuditEntry("test", "counted", "test"), *counts)
    page = tmp_path / "subject.html"
    export = ("subject", "export", *DOCUMENT, *REASON, "--home", full_home, "--page", page)
    shown = sosie(*export, "--json").json
    counted = {one["counted"]: one["carrier"] for one in shown["records"]["tallies"]}
    assert counted == {"holder": "blue", "shown": None, "tries": "blue"}
    assert {one["level"] for one in shown["records"]["tallies"]} == {2.0}
    assert all(one["deleted_after"] > one["at"] for one in shown["records"]["tallies"])
    text = page.read_text("utf-8")
    assert row.lookup.hex() not in json.dumps(shown) + text
    assert "Failed tries to show your face to this carrier" in text


# -- One decision -------------------------------------------------------------------------------


def explain(sosie, home, tmp_path, enrollment: str, language: str = "en") -> str:
    page = tmp_path / "decision.html"
    given = ("subject", "decision", enrollment, page, "--language", language, "--home", home)
    outcome = sosie(*given)
    assert outcome.code == 0, outcome.err
    assert page.stat().st_mode & 0o077 == 0
    return page.read_text("utf-8")


@pytest.mark.parametrize("language", TEXTS)
def test_a_refusal_is_a_page_with_what_it_means_and_where_to_turn(
    language: str, caught_home, tmp_path, sosie
) -> None:
    settings = caught_home / "sosie.toml"
    people = '\n[people.carriers.blue]\ncontact = "1 Main Street <b>"\n'
    settings.write_text(settings.read_text("utf-8") + people, "utf-8")
    with open_deployment(caught_home) as deployment:
        rows = deployment.store.rows(select(ENROLLMENTS))
        [refused] = [row for row in rows if row.decision == "rejected"]
        head = deployment.store.audit_head()[0]
    text = explain(sosie, caught_home, tmp_path, refused.id, language)
    assert f'<html lang="{language}">' in text
    for name in ("rejected", "machine", "turn"):
        assert TEXTS[language][f"explained.{name}"] in text
    assert TEXTS[language]["subject.rights.text"] in text
    for reason in refused.reasons:
        assert CATALOGS[language][f"reason.{reason}"] in text
        assert escape(ADVICE[reason][language]) in text
    assert "1 Main Street &lt;b&gt;" in text
    # It names nobody, and no score.
    assert not re.search(r"1101051|Aileen|\+86|0\.", text)
    with open_deployment(caught_home) as deployment:
        [entry] = deployment.store.audit_entries(head)
    assert (entry.entry.action, entry.entry.subject) == ("enrollment.read", refused.id)


def test_a_page_of_a_decision_tells_no_more_than_its_carrier_was_told(
    full_home, tmp_path, sosie, request_of, photographs
) -> None:
    with open_deployment(full_home) as deployment:
        [row] = deployment.store.rows(select(ENROLLMENTS))
    faces = {"live": photographs.stranger, "portrait": photographs.stranger_again}
    refused = sosie(
        *request_of(full_home, **faces, outlet="r1", msisdn="+8613800138005"), "--json"
    ).json
    told = {one["reason"] for one in refused["reasons"]}
    assert "DOCUMENT_HELD_BY_ANOTHER_FACE" in told
    text = explain(sosie, full_home, tmp_path, refused["enrollment_id"])
    assert "registered to another face" not in text
    assert "What speaks against it is for the fraud team alone." in text
    assert "Ask where you turn below" in text
    approved = explain(sosie, full_home, tmp_path, row.id)
    assert "Nothing was found against it." in approved
    assert "the number is opened" in approved


@pytest.mark.parametrize("state", ["asked", "granted", "refused"])
def test_a_page_says_whether_people_have_decided(
    state: str, home, tmp_path, sosie, request_of
) -> None:
    env = {"SOSIE_PEOPLE__EXCEPTIONS": "true"}
    asked = sosie(*request_of(home, live=None, exception="injury"), "--json", env=env).json
    line_id = {"line_id": str(uuid.uuid4())} if state == "granted" else {}
    with open_deployment(home) as deployment:
        found = deployment.store.people.exceptions([asked["enrollment_id"]])
        decided = replace(found[asked["enrollment_id"]], decided_at=utc_now(), **line_id)
    with pytest.MonkeyPatch.context() as patch:
        if state != "asked":
            patch.setattr(PeopleReader, "exceptions", lambda *_: {decided.id: decided})
        text = explain(sosie, home, tmp_path, decided.id)
    assert ("Two people decided it" in text) is (state != "asked")
    assert ("left it to people" in text) is (state == "asked")
    assert ("the number is opened" in text) is (state == "granted")


# -- Papers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", TEXTS)
def test_papers_say_what_the_settings_are_and_the_audit_chain_has_their_digests(
    language: str, caught_home, sosie
) -> None:
    chosen = {
        "SOSIE_PEOPLE__COUNTRIES": '["KR <b>"]',
        "SOSIE_LIVENESS__ISSUERS": '{"capture": {"keys": "/srv/keys.json"}}',
        "SOSIE_LINES__RULES": "china",
        "SOSIE_RETENTION__FACES_DAYS": "31",
    }
    given = ("statutory", "papers", "--language", language, "--home", caught_home, "--json")
    made = sosie(*given, env=chosen).json
    assert made["persons"] == {"stored": 1, "filing_persons": 100_000, "reached_at": None}
    folder = Path(made["folder"])
    pages = {one.name: one.read_bytes() for one in folder.iterdir()}
    digests = {name: sha256(content).hexdigest() for name, content in pages.items()}
    with open_deployment(caught_home) as deployment:
        [entry] = audit.read_audit(deployment.store, 0, 10, action="papers.made")
        score = f"{deployment.thresholds.verify:.3f}"
    assert entry.entry.detail["sha256"] == made["sha256"] == digests
    words = TEXTS[language]
    for name in ("record.html", "assessment.html"):
        text = pages[name].decode()
        assert f'<html lang="{language}">' in text
        assert "KR &lt;b&gt;" in text
        assert ("capture" in text) is (name == "assessment.html")
        for word in (words["papers.days"].replace("%", "31"), words["papers.yours"]):
            assert word in text
        assert f">{words['kept.faces'].capitalize()}<" in text
    assert score in pages["assessment.html"].decode()
    assert not re.search(rb"110105|Aileen|\+86|/srv|postgres", b"".join(pages.values()))
