"""`sosie apikey`: who may call the service."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from engine.registry.accounts import Session, bind_secret
from serving.access.authentication import Credential, digest_key, make_key, parse_key
from serving.cli.inputs import open_deployment


def test_a_key_is_shown_once_and_is_the_one_that_was_kept(home, sosie, contents) -> None:
    day = (datetime.now(UTC) + timedelta(days=30)).date()
    command = ["apikey", "add", "--role", "outlet", "--carrier", "blue", "--outlet", "b1"]
    command += ["--label", "Till [3]", "--rate-limit", 12.5, "--expires-on", day, "--home", home]
    made = sosie(*command, "--json")
    assert (made.code, made.err) == (0, "")
    key = parse_key(made.json["key"])
    with open_deployment(home) as deployment:
        stored = deployment.store.api_key(key.id)
        digest = digest_key(deployment.vault, key.id, key.secret)
        assert stored.digest == bind_secret(deployment.vault, stored, digest)
    assert (stored.role, stored.carrier, stored.outlet) == ("outlet", "blue", "b1")
    assert (stored.label, stored.rate_limit) == ("Till [3]", 12.5)
    assert stored.expires_at == datetime.combine(
        day + timedelta(days=1), datetime.min.time(), UTC
    )  # fmt: skip
    listed = sosie("apikey", "list", "--home", home)
    as_json = sosie("apikey", "list", "--home", home, "--json")
    assert key.id in listed.out
    assert "Till [3]" in listed.out
    assert day.isoformat() in listed.out
    assert as_json.json["keys"][0] == {k: v for k, v in made.json.items() if k != "key"}
    left = b"".join(contents(home).values()) + (listed.out + as_json.out).encode()
    assert key.secret.encode() not in left
    assert stored.digest.hex() not in as_json.out


def test_keys_are_listed_with_their_state_and_revoked_once_beside_a_process_that_decides(
    home, sosie, assert_refused
) -> None:
    at = ("--home", home, "--json")
    assert "sosie apikey add" in sosie("apikey", "list", "--home", home).out
    assert sosie("apikey", "list", *at).json == {"keys": []}
    person = ("apikey", "add", "--role", "fraud", "--person", "kim", "--home", home)
    # For people it stands alone in its line.
    made = parse_key(sosie(*person, env={"COLUMNS": "20"}).out.splitlines()[-1])
    assert made is not None
    outlet = ("apikey", "add", "--role", "outlet", "--carrier", "blue", "--outlet", "b1")
    with open_deployment(home) as deployment:
        assert deployment.registrar.gallery is not None
        bound = sosie(*outlet, *at).json
        assert bound["state"] == "in force"
        revoked = sosie("apikey", "revoke", made.id, *at).json
        assert revoked == {"key_id": made.id, "state": "revoked"}
    for unknown in (made.id, "unknown", "a\x1bb"):
        assert_refused(sosie("apikey", "revoke", unknown, "--home", home))
    assert sosie("outlet", "close", "b1", *at).code == 0
    first, second = sosie("apikey", "list", *at).json["keys"]
    assert (first["key_id"], first["state"]) == (made.id, "revoked")
    assert first["revoked_at"] is not None
    assert (second["key_id"], second["state"]) == (bound["key_id"], "outlet closed")
    told = sosie("apikey", "list", "--home", home).out
    assert all(one["state"] in told for one in (first, second))


BAD = [
    (["--role", "outlet", "--carrier", "blue"], "--outlet"),
    (["--role", "outlet", "--outlet", "b1"], "--carrier"),
    (["--role", "carrier"], "--carrier"),
    (["--role", "carrier", "--carrier", "blue", "--outlet", "b1"], "leave it out"),
    (["--role", "fraud", "--person", "kim", "--carrier", "blue"], "leave it out"),
    (["--role", "operator", "--person", "kim", "--outlet", "b1"], "leave it out"),
    (["--role", "admin"], "--role"),
    ([], "--role"),
    (["--role", "carrier", "--carrier", "none"], "no carrier has the code none"),
    (["--role", "outlet", "--carrier", "blue", "--outlet", "r1"], "no open outlet"),
    (["--role", "fraud", "--person", "kim", "--rate-limit", "0"], "--rate-limit"),
    (["--role", "fraud", "--person", "kim", "--rate-limit", "nan"], "--rate-limit"),
    (["--role", "fraud", "--person", "kim", "--rate-limit", "1e7"], "--rate-limit"),
    (["--role", "fraud"], "--person"),
    (["--role", "fraud", "--person", "two\nlines"], "printable"),
    (["--role", "fraud", "--person", "kim", "--expires-on", "soon"], "2031-01-31"),
    (["--role", "fraud", "--person", "kim", "--expires-on", "2020-01-01"], "over"),
    (["--role", "fraud", "--person", "kim", "--expires-on", "9999-12-31"], "too late"),
    (["--role", "fraud", "--person", "kim", "--label", "two\nlines"], "printable"),
    (["--role", "fraud", "--person", "kim", "--label", "l" * 201], "200"),
    (["--role", "carrier", "--carrier", "c" * 65], "64"),
]


@pytest.mark.parametrize(("arguments", "words"), BAD)
def test_a_key_that_cannot_be_is_refused_in_one_line(
    arguments: list[str], words: str, home, sosie, assert_refused, contents
) -> None:
    before = contents(home)
    assert_refused(sosie("apikey", "add", *arguments, "--home", home), words)
    assert contents(home) == before


def test_a_name_that_could_be_anothers_is_refused_and_one_of_an_earlier_version_told_of(
    home, sosie, assert_refused, monkeypatch
) -> None:
    command = ["apikey", "add", "--role", "fraud", "--person", "k\u0456m", "--home", home]
    assert_refused(sosie(*command), "letters of one script")
    monkeypatch.setattr("engine.registry.store.mixes_scripts", lambda _: False)
    assert sosie(*command).code == 0
    told = sosie("doctor", "--home", home, "--json").check("people")
    assert (told["state"], "1 names" in told["detail"]) == ("warning", True)


def test_carriers_and_outlets_are_listed_with_what_holds_for_them(home, sosie) -> None:
    at = ("--home", home)
    assert sosie("carrier", "add", "green", "--name", "[Green]", "--line-limit", 2, *at).code == 0
    assert sosie("outlet", "close", "r1", *at).code == 0
    carriers = sosie("carrier", "list", *at, "--json").json["carriers"]
    assert [one["carrier"] for one in carriers] == ["blue", "green", "red"]
    named = {"carrier": "green", "name": "[Green]"}
    assert carriers[1] == named | {"line_limit": 2, "time_zone": None}
    assert "[Green]" in sosie("carrier", "list", *at).out
    outlets = sosie("outlet", "list", *at, "--json").json["outlets"]
    free = dict.fromkeys(("time_zone", "restriction", "restriction_case", "restriction_reason"))
    free["refused_attempts"] = 0
    free["liveness"] = {"days": 90, "results": 0, "failed": 0, "absent": 0, "proofs": 0}
    assert outlets == [
        {"outlet": "b1", "carrier": "blue", "is_open": True, **free},
        {"outlet": "r1", "carrier": "red", "is_open": False, **free},
    ]
    of_red = sosie("outlet", "list", "--carrier", "red", *at, "--json").json["outlets"]
    assert [one["outlet"] for one in of_red] == ["r1"]
    assert "closed" in sosie("outlet", "list", *at).out
    none = sosie("outlet", "list", "--carrier", "green", *at).out
    assert none == "There is no outlet of green: sosie outlet add makes one.\n"


def test_time_zones_are_set_unset_and_listed(home, sosie, assert_refused) -> None:
    at = ("--home", home)

    def zone() -> Any:
        outlets = sosie("outlet", "list", *at, "--json").json["outlets"]
        return {one["outlet"]: one["time_zone"] for one in outlets}["b2"]

    assert sosie("carrier", "time-zone", "blue", "Asia/Shanghai", *at).code == 0
    made = sosie("outlet", "add", "b2", "--carrier", "blue", *at, "--json").json
    assert made["time_zone"] == zone() == "Asia/Shanghai"
    assert sosie("outlet", "time-zone", "b2", "America/Mexico_City", *at).code == 0
    assert zone() == "America/Mexico_City"
    assert "America/Mexico_City" in sosie("outlet", "list", *at).out
    assert sosie("outlet", "time-zone", "b2", "none", *at).code == 0
    assert sosie("carrier", "time-zone", "blue", "none", *at).code == 0
    assert zone() is None
    for wrong in ("Mars/Olympus", "../etc/passwd", "America"):
        assert_refused(sosie("outlet", "time-zone", "b2", wrong, *at), "no such time zone")
    assert_refused(sosie("outlet", "time-zone", "b9", "UTC", *at), "no outlet")


@pytest.mark.parametrize("name", ["", " ", "n" * 201, "two\nlines"])
def test_a_carriers_name_that_no_database_takes_is_refused(
    name: str, home, sosie, assert_refused, contents
) -> None:
    before = contents(home)
    assert_refused(sosie("carrier", "add", "x", "--name", name, "--home", home), "1 to 200")
    too_many = ("carrier", "add", "x", "--name", "X", "--line-limit", 2**31, "--home", home)
    assert_refused(sosie(*too_many), "--line-limit")
    long = ("outlet", "add", "x", "--carrier", "c" * 65, "--home", home)
    assert_refused(sosie(*long), "64 printable")
    assert contents(home) == before


def test_accounts_are_listed_signed_out_and_forgotten(home, sosie) -> None:
    now, at = datetime.now(UTC), ("--home", home, "--json")
    with open_deployment(home) as deployment:
        made = make_key(deployment.vault, Credential.SESSION)
        fields = (made.id, made.digest, "fraud", None, None, now)
        lasts = {"expires_at": now + timedelta(hours=1), "seen_at": now}
        session = Session(*fields, person="anna", **lasts)
        assert deployment.store.accounts.sign_in(session, "subject", "c-1")
    [listed] = sosie("account", "list", *at).json["accounts"]
    assert (listed["person"], listed["sessions"]) == ("anna", 1)
    assert "anna" in sosie("account", "list", "--home", home).out
    assert sosie("account", "sign-out", "Anna", *at).json == {"person": "Anna", "sessions": 1}
    assert sosie("account", "list", *at).json["accounts"][0]["sessions"] == 0
    assert sosie("account", "forget", "anna", *at).code == 0
    assert sosie("account", "list", *at).json["accounts"] == []
    assert sosie("account", "forget", "anna", *at).code == 2
    entries = sosie("audit", "show", "--action", "account.forgotten", *at).json["entries"]
    assert [one["detail"] for one in entries] == [{"person": "anna"}]
