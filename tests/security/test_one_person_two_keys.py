"""One fraud key, or two of one person: nobody watches a face, or hides one, alone."""

from typing import Any

import pytest

from engine.errors import RequestError
from engine.formatting import mixes_scripts
from schema.actors import Actor, Caller
from tests.keys import add_key
from tests.serving.api.conftest import open_case  # noqa: F401 - a fixture

JUDGED = ("fraud", "twins", "mistake", "unfounded")


KIM = ("kim", "Kim", " KIM ", "\uff2b\uff29\uff2d", "\u212aim", "\uff4bim")
"""Full width, and the sign of kelvin."""
LOOK_ALIKES = (
    "k\u0456m",  # Cyrillic
    "\u03bam",  # Greek
    "K\u13a5m",  # Cherokee
    "k\uff49\u043c",
    "kim\u0967",  # a digit of Devanagari
    "ki\ufe0fm",  # a variation selector
    "\u738b Kim",
    "\uac15 \u30ab",
)
WRITTEN = (
    "kim",
    "Nguy\u1ec5n V\u0103n \u0110\u1ea1t-2",
    "o\u02bbkim (HR)",
    "\u738b\u5c0f\u660e",
    "\u4f50\u3005\u6728\u30a2\u30fc\u3086\u304d",
    "\u91d1\uae38\ub3d9",
    "\u0645\u062d\u0645\u062f \u0661",
    "\u0e2a\u0e21\u0e0a\u0e32\u0e22",
    "\u0438\u0432\u0430\u043d",
    "kim@example.com",
)
"""Names of one script, or of those that one language is written with."""


@pytest.mark.parametrize("name", KIM)
def test_a_name_is_one_person_however_it_is_written(name: str) -> None:
    assert Actor("cli:kim", "kim").is_person(name)
    assert not mixes_scripts(name)


@pytest.mark.parametrize("name", LOOK_ALIKES)
def test_nobody_is_named_so_that_they_could_pass_as_another(own_service, name: str) -> None:
    store, vault = own_service.parts.store, own_service.parts.vault
    known = len(store.api_keys())
    with pytest.raises(RequestError, match="write it in the letters of one script"):
        add_key(store, vault, "fraud", person=name)
    assert len(store.api_keys()) == known


@pytest.mark.parametrize("actor", ["cli:kim (key:0123456789ab)", "kim", "outlet:b1", "sosie"])
def test_nobody_is_named_so_that_no_bound_holds_for_them(actor: str) -> None:
    assert Caller("cli:kim").is_command
    assert not Caller(actor).is_command


@pytest.mark.parametrize("name", WRITTEN)
def test_what_people_are_called_is_taken(name: str) -> None:
    assert not mixes_scripts(name)


@pytest.fixture(scope="module")
def keys(own_service) -> dict[str, str]:
    """Keys of two people: Kim has two, and spells the name in another way."""
    store, vault = own_service.parts.store, own_service.parts.vault
    return {
        name: add_key(store, vault, "fraud", actor="cli:ops", label=name, person=person)
        for name, person in (("one", "Kim Lee"), ("other", " kim  LEE"), ("second", "Ada"))
    }


@pytest.fixture
def case(own_service, open_case) -> str:  # noqa: F811 - the fixture
    return open_case(own_service)


def step(service: Any, case: str, name: str, key: str, outcome: str) -> Any:
    seen = service.read(service.ask("GET", f"/v1/cases/{case}", key="fraud"))["updated_at"]
    body = {"outcome": outcome, "seen_at": seen, "keep_lines": outcome == "fraud"}
    return service.ask("POST", f"/v1/cases/{case}/{name}", key=key, body=body)


def test_what_judges_people_takes_two_of_them_however_many_keys_one_has(
    own_service, keys, case
) -> None:
    store = own_service.parts.store

    def refuse(answer: Any) -> None:
        own_service.assert_refused(answer, 403, "CASE.FOUR_EYES")

    for outcome in JUDGED:
        refuse(step(own_service, case, "close", keys["one"], outcome))
        proposed = own_service.read(step(own_service, case, "propose", keys["one"], outcome))
        assert proposed["proposal"]["person"] == "Kim Lee"
        for name in ("one", "other"):
            refuse(step(own_service, case, "close", keys[name], outcome))
        path = f"/v1/cases/{case}/withdraw"
        assert own_service.ask("POST", path, key=keys["other"]).status_code == 200
    assert (store.watchlist(), store.judged_pairs()) == ([], [])
    assert step(own_service, case, "propose", keys["other"], "fraud").status_code == 200
    refuse(step(own_service, case, "close", keys["one"], "fraud"))
    closed = own_service.read(step(own_service, case, "close", keys["second"], "fraud"))
    assert (closed["state"], closed["proposal"]["person"]) == ("closed", " kim  LEE")
    assert len(store.watchlist()) > 0


def test_a_key_of_fraud_or_operators_is_a_persons_and_its_making_is_audited(
    own_service, keys
) -> None:
    store = own_service.parts.store
    for role in ("fraud", "operator"):
        with pytest.raises(RequestError, match="say whose"):
            add_key(store, own_service.parts.vault, role)
    told = {
        one.entry.subject: (one.entry.actor, one.entry.detail["person"])
        for one in store.audit_entries()
        if one.entry.action == "apikey.added"
    }
    for name, person in (("one", "Kim Lee"), ("second", "Ada")):
        assert told[keys[name].split("_")[-2]] == ("cli:ops", person)
    shown = own_service.read(own_service.ask("GET", "/v1/me", key=keys["one"]))
    assert shown["person"] == "Kim Lee"
