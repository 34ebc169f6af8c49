"""Lines of a holder; watch-list and blocked documents: put in force, listed, lifted."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

NUMBER, OTHER_NUMBER = "110105199003071239", "110105198503071257"
MSISDN, OTHER_MSISDN = "+8613800138000", "+8613800138001"
DOCUMENT = ("--document-type", "cn-ric", "--document-number", NUMBER)


def test_the_holders_face_reads_the_lines_with_their_numbers_masked(
    full_home, sosie, photographs
) -> None:
    command = ("lines", "--live", photographs.later, "--home", full_home, "--document", "-")
    document = json.dumps({"type": "cn-ric", "number": NUMBER})
    masked = sosie(*command, "--json", given=document)
    assert masked.code == 0
    assert [line["number"] for line in masked.json["lines"]] == ["••••••••••8000"]
    assert MSISDN not in sosie(*command, given=document).out
    assert MSISDN in sosie(*command, "--reveal", given=document).out


def test_another_face_reads_no_line(full_home, sosie, photographs) -> None:
    command = ("lines", "--live", photographs.stranger, *DOCUMENT, "--reveal", "--home", full_home)
    outcome = sosie(*command, "--json")
    assert (outcome.code, outcome.json["is_holder"], outcome.json["lines"]) == (1, False, [])
    assert "8000" not in outcome.out + sosie(*command).out


def test_a_closed_line_frees_its_number(
    full_home, sosie, photographs, request_of, assert_refused
) -> None:
    again = request_of(full_home, live=photographs.later, msisdn=MSISDN)
    taken = sosie(*again, "--json").json["reasons"]
    assert [one["reason"] for one in taken] == ["LINE_IN_USE"]
    close = ("line", "close", "--home", full_home, "--json")
    closed = sosie(*close, "--msisdn", MSISDN)
    assert closed.code == 0
    assert closed.json["status"] == "closed"
    assert MSISDN not in closed.out
    assert_refused(sosie(*close[:-1], "--msisdn", MSISDN), "no line in use")
    assert_refused(sosie(*close[:-1], "--msisdn", "12345"), "+<country><number>")
    assert sosie(*again, "--json").json["decision"] == "approved"
    by_file = sosie(*close, "--document", "-", given=json.dumps({"msisdn": MSISDN}))
    assert by_file.json["line_id"] != closed.json["line_id"]


def reasons(outcome: Any) -> list[str]:
    return [one["reason"] for one in outcome.json["reasons"]]


def test_a_blocked_document_is_refused_until_it_is_unblocked(
    full_home, enrolled, sosie, photographs, request_of, assert_refused
) -> None:
    request = request_of(full_home, live=photographs.later, msisdn=OTHER_MSISDN)
    home = ("--home", full_home)
    assert "No document" in sosie("blocked", *home).out
    assert_refused(sosie("unblock", *DOCUMENT, *home), "not blocked")
    blocked = sosie("block", *DOCUMENT, *home, "--json")
    assert blocked.json == {"document_id": enrolled["document_id"], "is_blocked": True}
    assert reasons(sosie(*request, "--json")) == ["DOCUMENT_BLOCKED"]
    (listed,) = sosie("blocked", *home, "--json").json["documents"]
    assert (listed["document_id"], listed["type"]) == (enrolled["document_id"], "cn-ric")
    assert (listed["is_erased"], listed["blocked_at"] > "2020") == (False, True)
    assert enrolled["document_id"] in sosie("blocked", *home).out
    unblocked = sosie("unblock", *DOCUMENT, *home, "--json")
    assert unblocked.json == {"document_id": enrolled["document_id"], "is_blocked": False}
    assert sosie(*request, "--json").json["decision"] == "approved"
    assert sosie("blocked", *home, "--json").json == {"documents": []}
    assert sosie("audit", "verify", *home).code == 0


def test_a_watched_face_goes_to_review_until_it_is_removed(
    full_home, sosie, photographs, request_of, assert_refused
) -> None:
    home = ("--home", full_home)
    assert "empty" in sosie("watch", "list", *home).out
    watch = ("watch", "add", photographs.stranger, "--reason", "a [b]case[/b]", *home)
    assert sosie(*watch, "--json").json == {"watch_id": 1}
    stranger = {"live": photographs.stranger, "portrait": photographs.stranger_again}
    request = request_of(full_home, **stranger, document_number=OTHER_NUMBER, msisdn=OTHER_MSISDN)
    met = sosie(*request, "--json")
    assert (met.code, met.json["decision"], reasons(met)) == (1, "review", ["WATCHLISTED"])
    (listed,) = sosie("watch", "list", *home, "--json").json["entries"]
    assert (listed["watch_id"], listed["reason"]) == (1, "a [b]case[/b]")
    assert (listed["has_face"], listed["has_document"]) == (True, False)
    assert "a [b]case[/b]" in sosie("watch", "list", *home).out
    assert sosie("watch", "remove", "1", *home, "--json").json["is_watched"] is False
    assert_refused(sosie("watch", "remove", "1", *home), "no such entry")
    assert sosie("watch", "list", *home, "--json").json == {"entries": []}
    assert sosie(*request, "--json").json["decision"] == "approved"


@pytest.mark.parametrize("reason", ["", " ", "r" * 201, "two\nlines"])
def test_a_reason_that_no_reviewer_could_read_is_refused(
    reason: str, home, sosie, photographs, assert_refused, contents
) -> None:
    before = contents(home)
    watch = ("watch", "add", photographs.stranger, "--reason", reason, "--home", home)
    assert_refused(sosie(*watch), "1 to 200")
    assert contents(home) == before


def test_what_happens_to_a_line_is_reported_shown_and_asked_for(
    full_home, sosie, assert_refused, tmp_path
) -> None:
    home = ("--home", full_home)
    now = datetime.now(UTC).isoformat()
    rules = {"SOSIE_LINES__RULES": "vietnam"}
    report = ("line", "report", "device_change", MSISDN, "--at", now, *home, "--json")
    made = sosie(*report, env=rules)
    assert made.code == 0
    assert sosie(*report, env=rules).json == made.json
    shown = sosie("line", "show", MSISDN, *home, "--json").json
    assert [one["kind"] for one in shown["events"]] == ["device_change", "reverify_asked"]
    assert "vn-device-change" in sosie("line", "show", MSISDN, *home).out
    assert_refused(sosie("line", "report", "closed", MSISDN, "--at", now, *home), "is not one of")
    file, deadline = tmp_path / "numbers.txt", (datetime.now(UTC) + timedelta(days=9)).isoformat()
    file.write_text(f"{MSISDN}\n+8613800138999\n")
    campaign = ("campaign", "start", "all", "--carrier", "blue", "--deadline", deadline, *home)
    started = sosie(*campaign, "--file", file, "--json").json
    assert (started["asked"], started["unknown"]) == (1, 1)
    [listed] = sosie("campaign", "list", *home, "--json").json["campaigns"]
    assert listed["campaign_id"] == started["campaign_id"]
    overdue = sosie("campaign", "overdue", started["campaign_id"], *home, "--json")
    assert overdue.json == {"lines": []}
    ended = sosie("campaign", "end", started["campaign_id"], *home, "--json").json
    assert (ended["state"], ended["asked"]) == ("ended", 1)


def test_rules_are_shown_with_their_source_and_how_far_they_follow_it(sosie) -> None:
    shown = sosie("line", "rules", "vietnam").out
    assert "Source: Circular 08/2026/TT-BKHCN" in shown
    assert "No legal advice" in shown
    assert "at once: pending, then 30 d" in sosie("line", "rules", "thailand").out
    answer = sosie("line", "rules", "philippines", "--json").json
    assert answer["source"].startswith("Republic Act 11934")
    assert "180 days" in answer["note"]


def test_rules_that_loop_are_refused_by_name(full_home, sosie, assert_refused, tmp_path) -> None:
    file = tmp_path / "loop.toml"
    rule = '[[reverify]]\non = "suspended"\nname = "again"\nthen = ["1d suspended"]\n'
    file.write_text(f'title = "Loop"\n{rule}')
    assert_refused(sosie("line", "rules", file), "the rule again loops")
    env = {"SOSIE_LINES__RULES": str(file)}
    given = ("line", "close", "--msisdn", MSISDN, "--home", full_home)
    assert_refused(sosie(*given, env=env), "the rule again loops")


def test_rules_of_a_carrier_that_is_not_there_are_told(full_home, sosie) -> None:
    env = {"SOSIE_LINES__CARRIERS": json.dumps({"blue": "china", "rde": "vietnam"})}
    told = sosie("doctor", "--home", full_home, "--json", env=env).check("lines")
    assert told["state"] == "warning"
    assert "; faces stored: 1; from 100,000 persons on it is to be filed" in told["detail"]
    assert told["detail"].endswith("there is no carrier rde")
    env = {
        "SOSIE_LINES__RULES": "vietnam",
        "SOSIE_LINES__CHANNELS": json.dumps({"web": "agent"}),
        "SOSIE_LIVENESS__AT_LEAST": json.dumps({"outlet": ["iso30107-3:2"]}),
    }
    told = sosie("doctor", "--home", full_home, "--json", env=env).check("lines")
    said = "a person, 3 online; no limit or level of a channel holds for online, outlet, web"
    assert said in told["detail"]
