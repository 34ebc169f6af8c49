"""`sosie audit`: the chain is shown by filter, verified, and certificates held against it."""

import json

import pytest

from serving.cli.inputs import name_actor
from tests.row_codes import alter

DOCUMENT = ("--document-type", "cn-ric", "--document-number", "110105199003071239")


def test_entries_are_shown_by_filter_and_page_by_page(full_home, sosie) -> None:
    show = ("audit", "show", "--home", full_home, "--json")
    whole = sosie(*show, "--after", 0, "--limit", 1000).json
    assert [one["number"] for one in whole["entries"]] == list(range(1, whole["head"] + 1))
    assert whole["next"] is None
    page = sosie(*show, "--after", 2, "--limit", 2).json
    assert (page["entries"], page["next"]) == (whole["entries"][2:4], 4)
    newest = sosie(*show, "--limit", 2).json
    assert (newest["entries"], newest["next"]) == (whole["entries"][-2:], None)
    (decided,) = sosie(*show, "--action", "enrollment.decided").json["entries"]
    # Who has typed it, and not the outlet.
    assert (decided["actor"], decided["detail"]["decision"]) == (name_actor(), "approved")
    by_subject = sosie(*show, "--subject", decided["subject"], "--actor", name_actor()).json
    assert by_subject["entries"] == [decided]
    assert sosie(*show, "--actor", "nobody").json["entries"] == []


def test_entries_are_shown_as_a_table(full_home, sosie) -> None:
    show = ("audit", "show", "--home", full_home)
    shown = sosie(*show, "--after", 0, "--limit", 2).out
    assert "registry.created" in shown
    assert "Next: --after 2" in shown
    assert "enrollment.decided" in sosie(*show).out
    assert "No entry" in sosie(*show, "--actor", "nobody").out
    assert "above" in sosie(*show, "--after", 99).out


def test_an_untouched_audit_chain_is_intact_and_an_altered_entry_is_found(full_home, sosie) -> None:
    outcome = sosie("audit", "verify", "--home", full_home, "--json")
    assert outcome.code == 0
    assert (outcome.json["intact"], outcome.json["first_bad"]) == (True, None)
    assert outcome.json["head"]["number"] == outcome.json["entries"]
    (newest,) = sosie("audit", "show", "--limit", 1, "--home", full_home, "--json").json["entries"]
    assert newest["hash"] == outcome.json["head"]["hash"]
    alter(full_home, "UPDATE audit SET actor = 'somebody' WHERE number = 3")
    outcome = sosie("audit", "verify", "--home", full_home)
    assert outcome.code == 1
    assert "Broken at entry 3" in outcome.out


def test_a_certificate_of_an_erasure_holds_and_an_altered_one_does_not(
    full_home, sosie, tmp_path
) -> None:
    at, file = ("--home", full_home), tmp_path / "erased.json"
    erased = sosie("erase", *DOCUMENT, "--yes", "--certificate", file, *at, "--json").json
    assert json.loads(file.read_text()) == erased
    check = ("audit", "certificate", file, *at)
    outcome = sosie(*check, "--json")
    assert (outcome.code, outcome.json["holds"], outcome.json["fault"]) == (0, True, None)
    assert "It holds" in sosie(*check).out
    file.write_text(json.dumps(erased | {"references": 7}))
    outcome = sosie(*check, "--json")
    assert (outcome.code, outcome.json["holds"]) == (1, False)
    assert "altered" in outcome.json["fault"]
    told = sosie(*check)
    assert (told.code, "does not hold" in told.out) == (1, True)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"\xff\xfe", b'{"document_id": 1}', b"x" * 100_000]
)
def test_what_is_no_certificate_is_refused(
    content: bytes, home, sosie, assert_refused, tmp_path
) -> None:
    file = tmp_path / "no.json"
    file.write_bytes(content)
    assert_refused(sosie("audit", "certificate", file, "--home", home), "no certificate")
    assert_refused(
        sosie("audit", "certificate", tmp_path / "none", "--home", home), "cannot be read"
    )


@pytest.fixture
def keys(full_home, sosie) -> dict[str, str]:
    """Of three operators, two of one name, and of a fraud team's, before the chain was broken."""
    people = {"anna": "Anna", "too": "ANNA", "bob": "Bob"}
    made = {
        name: sosie(
            *("apikey", "add", "--role", "operator", "--person", person, "--home", full_home),
            "--json",
        ).json["key"]
        for name, person in people.items()
    }
    fraud = ("apikey", "add", "--role", "fraud", "--person", "Eve", "--home", full_home, "--json")
    return made | {"eve": sosie(*fraud).json["key"], "none": "sosie_x"}


def test_two_operators_let_a_broken_chain_go_on_and_every_verification_says_so(
    full_home, sosie, keys, assert_refused
) -> None:
    alter(full_home, "UPDATE deployment SET audit_mac = key_check")
    carrier = ("carrier", "add", "green", "--name", "Green", "--home", full_home)
    assert_refused(sosie(*carrier), "run sosie audit verify")
    verify = ("audit", "verify", "--home", full_home)
    assert "sosie audit mend" in sosie(*verify).out
    mend = ("audit", "mend", "--reason", "an old process wrote", "--home", full_home)
    for first, second, advice in (
        ("anna", "too", "two people"),
        ("anna", "eve", "operator"),
        ("none", "bob", "no key"),
    ):
        refused = sosie(*mend, given=f"{keys[first]}\n{keys[second]}\n")
        assert refused.code != 0
        assert advice in refused.err
        assert keys[first] not in refused.out + refused.err
    mended = sosie(*mend, "--json", given=f"{keys['anna']}\n{keys['bob']}\n")
    assert (mended.code, mended.json["action"]) == (0, "audit.mended")
    found = sosie(*verify, "--json")
    assert (found.code, found.json["intact"]) == (0, True)
    assert [one["number"] for one in found.json["mends"]] == [mended.json["number"]]
    shown = sosie(*verify).out
    for word in ("Mended", "Anna", "Bob", "an old process wrote"):
        assert word in shown
    assert "has mended" in sosie("doctor", "--home", full_home).out
    assert sosie(*carrier).code == 0
    again = sosie(*mend, given=f"{keys['anna']}\n{keys['bob']}\n")
    assert "nothing to mend" in again.err
