"""`sosie death`, `sosie exceptions`, and `sosie enroll` for people whom rules treat apart."""

import json
from typing import Any

CHILD, GUARDIAN = "110105201503071251", "110105199003071239"


def reasons(outcome: Any) -> list[str]:
    return [one["reason"] for one in outcome.json["reasons"]]


def test_a_death_that_one_person_reports_another_confirms(
    full_home, enrolled, sosie, photographs, request_of, assert_refused, become
) -> None:
    document, at = enrolled["document_id"], ("--home", full_home)

    def take(account: str, *step: str) -> Any:
        become(account)
        return sosie("death", *step, *at)

    assert "registry" in take("ada", "report", document, "--source", "hearsay").err
    assert "Reported" in take("ada", "report", document, "--source", "registry").out
    again = request_of(full_home, live=photographs.later, msisdn="+8613800138002")
    assert "HOLDER_DECEASED" in reasons(sosie(*again, "--json"))
    assert_refused(take("ada", "confirm", document), "another person must confirm")
    assert "Confirmed" in take("bo", "confirm", document).out
    assert "Confirmed since" in take("ada", "show", document).out
    shown = sosie("line", "show", enrolled["line_id"], *at, "--json").json
    assert shown["status"] == "closed"


def test_a_minor_is_enrolled_with_a_guardian_alone(
    home, sosie, photographs, request_of, tmp_path
) -> None:
    env = {"SOSIE_PEOPLE__AGE_OF_MAJORITY": "18"}
    faces = {"live": photographs.stranger, "portrait": photographs.stranger_again}
    minor = request_of(home, **faces, document_number=CHILD)
    assert reasons(sosie(*minor, "--json", env=env)) == ["GUARDIAN_MISSING"]
    file = tmp_path / "guardian.json"
    given = {"type": "cn-ric", "number": GUARDIAN, "name": "A Guardian", "born_on": "1990-03-07"}
    file.write_text(json.dumps(given))
    guardian = ("--guardian", file, "--guardian-live", photographs.live)
    portrait = ("--guardian-portrait", photographs.portrait)
    made = sosie(*minor, *guardian, *portrait, "--json", env=env)
    assert (made.code, made.json["decision"]) == (0, "approved"), made.out + made.err


def test_an_exception_goes_to_review_and_its_outlet_is_listed(
    home, sosie, request_of, assert_refused
) -> None:
    env, at = {"SOSIE_PEOPLE__EXCEPTIONS": "true"}, ("--home", home)
    # The authority is asked without a photograph, too.
    listed = home / "listed.csv"
    listed.write_text("type,number,standing\ncn-ric,110105199003071239,valid\n")
    env |= {"SOSIE_AUTHORITY__KIND": "listed", "SOSIE_AUTHORITY__LIST_FILE": str(listed)}
    assert_refused(sosie(*request_of(home, exception="haste")), "injury")
    asked = request_of(home, live=None, exception="injury")
    outcome = sosie(*asked, "--json", env=env)
    assert (outcome.code, outcome.json["decision"]) == (1, "review"), outcome.err
    assert reasons(outcome) == ["EXCEPTION_ASKED"]
    (listed,) = sosie("exceptions", *at, "--json").json["outlets"]
    assert listed["outlet"] == "b1"
