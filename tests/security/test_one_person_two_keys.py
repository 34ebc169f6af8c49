"""One fraud key, or two of one person: nobody watches a face, or hides one, alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from engine.errors import RequestError
from engine.registry.records import ApiKey, utc_now
from serving.access.authentication import make_key
from tests.serving.api.conftest import open_case  # noqa: F401 - a fixture

Open = Callable[..., str]
JUDGED = ("fraud", "twins", "mistake", "unfounded")


@pytest.fixture(scope="module")
def keys(own_service: Any) -> dict[str, str]:
    """Keys of two people: Kim has two, and spells the name in another way."""
    store, made = own_service.parts.store, {}
    for name, person in (("one", "Kim Lee"), ("other", " kim  LEE"), ("second", "Ada")):
        key = make_key(own_service.parts.vault)
        fields = (key.id, key.digest, name, "fraud", None, None, None, utc_now())
        store.add_api_key(ApiKey(*fields, person=person), actor="cli:ops")
        made[name] = key.text
    return made


@pytest.fixture
def case(own_service: Any, open_case: Open) -> str:  # noqa: F811 - the fixture
    return open_case(own_service)


def step(service: Any, case: str, name: str, key: str, outcome: str) -> Any:
    seen = service.read(service.ask("GET", f"/v1/cases/{case}", key="fraud"))["updated_at"]
    body = {"outcome": outcome, "seen_at": seen}
    return service.ask("POST", f"/v1/cases/{case}/{name}", key=key, body=body)


def test_what_judges_people_takes_two_of_them_however_many_keys_one_has(
    own_service: Any, keys: dict[str, str], case: str
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
    assert (store.watchlist(), store.cases.judged_pairs()) == ([], [])
    assert step(own_service, case, "propose", keys["other"], "fraud").status_code == 200
    refuse(step(own_service, case, "close", keys["one"], "fraud"))
    closed = own_service.read(step(own_service, case, "close", keys["second"], "fraud"))
    assert (closed["state"], closed["proposal"]["person"]) == ("closed", " kim  LEE")
    assert len(store.watchlist()) > 0


def test_a_key_of_fraud_or_operators_is_a_persons_and_its_making_is_audited(
    own_service: Any, keys: dict[str, str]
) -> None:
    store = own_service.parts.store
    made = make_key(own_service.parts.vault)
    for role in ("fraud", "operator"):
        nobody = ApiKey(made.id, made.digest, "", role, None, None, None, utc_now())
        with pytest.raises(RequestError, match="say whose"):
            store.add_api_key(nobody, actor="cli:ops")
    told = {
        one.entry.subject: (one.entry.actor, one.entry.detail["person"])
        for one in store.audit_entries()
        if one.entry.action == "apikey.added"
    }
    for name, person in (("one", "Kim Lee"), ("second", "Ada")):
        assert told[keys[name].split("_")[1]] == ("cli:ops", person)
    shown = own_service.read(own_service.ask("GET", "/v1/me", key=keys["one"]))
    assert shown["person"] == "Kim Lee"
