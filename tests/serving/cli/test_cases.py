"""`sosie cases` and `sosie case`: a case is listed, shown, worked on and decided."""

from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from serving.cli import output

OTHER_NUMBER = "110105198503071257"
MISSING = "01a2124d-0000-7000-8000-000000000000"


@pytest.fixture
def case_id(caught_home, sosie) -> str:
    (case,) = sosie("cases", "--home", caught_home, "--json").json["cases"]
    return str(case["case_id"])


@pytest.fixture
def take(caught_home, sosie, case_id) -> Callable[..., Any]:
    """`take(step, *arguments)` takes a step of the case."""

    def step(name: str, *arguments: object, **more: Any) -> Any:
        at = ("--home", caught_home)
        if name in {"propose", "close", "reopen"} and "--seen-at" not in arguments:
            seen = sosie("case", "show", case_id, *at, "--json").json["updated_at"]
            arguments = (*arguments, "--seen-at", seen)
        return sosie("case", name, case_id, *arguments, *at, **more)

    return step


def test_who_comes_again_adds_to_the_case_that_is_open(
    full_home, sosie, request_of, monkeypatch
) -> None:
    at = ("--home", full_home)
    none = {"cases": [], "next": None, "fraud_in_use": 0}
    nothing = {"kinds": {}, "overdue": 0, "mine": 0, "to_approve": 0}
    assert sosie("cases", *at, "--json").json == none | {"waiting": nothing}
    assert "No case" in sosie("cases", *at).out
    of_another = {"document_number": OTHER_NUMBER, "msisdn": "+8613800138100"}
    request = (*request_of(full_home, **of_another), "--json")
    opened = [sosie(*request).json["enrollment_id"] for _ in range(2)]
    (case,) = sosie("cases", *at, "--json").json["cases"]
    assert (case["kind"], case["enrollment_id"]) == ("duplicate_identity", opened[0])
    newest, oldest = sosie("cases", "--state", "all", *at, "--json").json["cases"]
    assert [oldest["enrollment_id"], newest["enrollment_id"]] == opened
    assert (newest["state"], newest["merged_into"]) == ("merged", case["case_id"])
    page = sosie("cases", "--state", "all", "--limit", 1, *at, "--json").json
    assert page["waiting"] == nothing | {"kinds": {"duplicate_identity": 1}}
    assert (page["cases"], page["next"]) == ([newest], newest["case_id"])
    for width in (40, 80, 200):
        monkeypatch.setattr(output, "_wide_console", lambda width=width: Console(width=width))
        assert case["case_id"] in sosie("cases", *at).out


def test_a_case_is_shown_with_its_documents_and_masked_numbers(
    take, enrolled, caught_home, sosie
) -> None:
    shown = take("show", "--json").json
    assert (shown["kind"], shown["state"]) == ("duplicate_identity", "open")
    lines = {one["document_id"]: one["lines"] for one in shown["documents"]}
    assert len(lines) == 2
    (line,) = lines[enrolled["document_id"]]
    assert line["number"].endswith("8000")
    assert "13800138000" not in str(shown)
    assert [note["kind"] for note in shown["notes"]] == ["opened"]
    told = take("show")
    assert (told.code, enrolled["document_id"] in told.out) == (0, True)
    assert "13800138000" not in told.out
    read = sosie("audit", "show", "--action", "case.read", "--home", caught_home, "--json").json
    assert len(read["entries"]) == 2
    assert enrolled["document_id"] in read["entries"][0]["detail"]["documents"]


def test_steps_are_taken_one_after_another_and_kept_in_the_history(
    take, become, caught_home, sosie
) -> None:
    become("ada")
    assigned = take("assign", "--json").json
    assert (assigned["state"], assigned["assignee"]) == ("assigned", "ada")
    assert take("note", "the [b]same[/b] scar", "--json").code == 0
    assert take("note", "-", given="from\nelsewhere\n").code == 0
    assert "say that they stay" in take("propose", "--outcome", "fraud").err
    proposed = take("propose", "--outcome", "fraud", "--keep-lines", "--json").json
    assert (proposed["state"], proposed["proposal"]["outcome"]) == ("proposed", "fraud")
    assert "fraud by cli:ada: 0 of 1 numbers will be closed, the others stay" in take("show").out
    assert take("withdraw", "--json").json["proposal"] is None
    assert take("assign", "--back", "--json").json["assignee"] is None
    assert take("propose", "--outcome", "twins").code == 0
    become("bo")
    closed = take("close", "--outcome", "twins", "--json").json
    assert (closed["state"], closed["outcome"]) == ("closed", "twins")
    shown = take("show", "--json").json
    steps = "opened assigned note note proposed withdrawn assigned proposed closed"
    assert " ".join(note["kind"] for note in shown["notes"]) == steps
    assert [note["text"] for note in shown["notes"] if note["kind"] == "note"] == [
        "the [b]same[/b] scar",
        "from\nelsewhere",
    ]
    assert "the [b]same[/b] scar" in take("show").out
    assert sosie("cases", "--home", caught_home, "--json").json["cases"] == []
    again = ("--outcome", "twins", "--seen-at", closed["updated_at"])
    several = ("case", "close", "0" * 36, closed["case_id"], *again, "--home", caught_home)
    assert "once for each case" in sosie(*several).err
    several += again[2:]
    refused, told = sosie(*several), sosie(*several, "--json").json["cases"]
    assert (refused.code, refused.out.count("Refused: case"), len(told)) == (1, 2, 2)
    assert "bo asks to open it again" in take("reopen", "--reason", "a scar").out
    become("ada")
    assert take("reopen", "--reason", "a scar", "--json").json["state"] == "open"
    assert sosie("audit", "verify", "--home", caught_home).code == 0


def test_a_case_that_has_changed_since_it_was_shown_is_not_decided(take, assert_refused) -> None:
    seen = take("show", "--json").json["updated_at"]
    noted = take("note", "look again", "--json").json["updated_at"]
    for name in ("propose", "close"):
        assert_refused(take(name, "--outcome", "twins", "--seen-at", seen), "changed since")
    assert take("propose", "--outcome", "twins", "--seen-at", noted).code == 0
    for moment in ("yesterday", noted.removesuffix("+00:00")):
        wrong = take("close", "--outcome", "twins", "--seen-at", moment)
        assert_refused(wrong, "--seen-at is none")


def test_cases_are_listed_by_state_kind_and_person(
    take, become, caught_home, case_id, sosie
) -> None:
    def listed(*filters: object) -> list[str]:
        found = sosie("cases", *filters, "--home", caught_home, "--json").json["cases"]
        return [one["case_id"] for one in found]

    assert take("assign", "--to", "cli:ada").code == 0
    become("ada")
    mine = ("--state", "assigned", "--kind", "duplicate_identity", "--assignee", "me")
    assert listed(*mine) == [case_id]
    assert listed(*mine, "--carrier", "red", "--carrier", "blue") == [case_id]
    for other in (
        ("--state", "open"),
        ("--carrier", "red", "--carrier", "green"),
        ("--kind", "dispute"),
        ("--assignee", "cli:bo"),
    ):
        assert listed(*mine, *other) == []
    end = ("--outcome", "fraud", "--keep-lines")
    assert take("propose", *end).code == 0
    become("bo")
    assert "Decided as fraud" not in sosie("cases", "--home", caught_home).out
    assert take("close", *end).code == 0
    # Whatever is listed, fraud that is in use is told.
    told = sosie("cases", "--home", caught_home).out
    assert "Decided as fraud, with numbers in use: 1 case" in told
    assert "No case is open" in told
    assert listed() == []
    shown = sosie("cases", "--state", "fraud_in_use", "--home", caught_home).out
    assert "1 of fraud, said to stay" in shown
    taught = sosie("precision", "--home", caught_home, "--json").json
    [kind] = taught["kinds"]
    assert (kind["name"], kind["cases"], kind["fraud"]) == ("duplicate_identity", 1, 1)
    assert taught["proposal"]["threshold"] is None
    told = sosie("precision", "--home", caught_home)
    assert (told.code, "Too few decisions" in told.out) == (0, True)
    failures = ("statutory", "enrollments", "--home", caught_home)
    found = sosie(*failures, "--json").json
    # Of each hour is a group, and one may have begun meanwhile.
    assert (found["groups"], found["withheld"] in (4, 5)) == ([], True)
    withheld = sosie(*failures, "--until", "2999-01-01T00:00Z").out
    assert f"fewer than 10 people or telling of such: {found['withheld']} groups" in withheld
    assert "Nobody tried" not in withheld
    assert "Nobody tried in this time" in sosie(*failures, "--until", "2000-01-01T00:00Z").out
    assert case_id in sosie("cases", "--state", "closed", "--home", caught_home).out


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("case", "show", MISSING), "no case"),
        (("case", "note", MISSING, "text"), "no case"),
        (("case", "close", MISSING, "--outcome", "guilty"), "outcome"),
        (("case", "close", MISSING), "outcome"),
        (("case", "close", MISSING, "--outcome", "twins"), "--seen-at"),
        (("case", "assign", MISSING, "--to", "me", "--back"), "not both"),
        (("cases", "--state", "lost"), "alive"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(
    arguments: tuple[str, ...], word: str, caught_home, sosie, assert_refused
) -> None:
    assert_refused(sosie(*arguments, "--home", caught_home), word)
