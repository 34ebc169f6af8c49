"""Who may match and how much: keys, roles, tenants' tokens, bounds, rates."""

from __future__ import annotations

from dataclasses import replace

import pytest

from serving.access.authentication import Authenticator
from serving.compose import Deployment
from tests.serving.api.matching.conftest import Service, code_of, image, template, unit_rows


def test_a_token_is_another_tenants_in_vain(service: Service) -> None:
    (token,) = service.tokens(unit_rows(1), "carrier:blue")
    item = {"probe": template(token), "reference": template(token)}
    for key in ("blue", "b1"):
        assert service.match(item, packed=True, key=key)[0]["verification"]["is_match"] is True
    for key in ("red", "fraud"):
        refused = service.match(item, packed=True, key=key)[0]
        assert refused["error"]["code"] == "MATCH.TEMPLATE_INVALID"


def test_the_matrix_of_roles_holds_here(service: Service) -> None:
    def ask(key: str | None, path: str, item: object) -> int:
        status: int = service.post(path, {"items": [item]}, packed=True, key=key).status_code
        return status

    tokens = [template(b"t")] * 2
    pair = {"probe": tokens[0], "reference": tokens[1]}
    search = {"probe": tokens[0], "search": True}
    expected = {
        "b1": (200, 403, 200),
        "blue": (200, 200, 200),
        "red": (200, 200, 200),
        "fraud": (200, 200, 200),
        "operator": (403, 403, 403),
        "sosie_unknown": (401, 401, 401),
        None: (401, 401, 401),
    }
    for key, statuses in expected.items():
        got = (
            ask(key, "/v1/match", pair),
            ask(key, "/v1/match", search),
            ask(key, "/v1/templates", image(b"none")),
        )
        assert got == statuses, key


def test_who_may_not_call_is_told_so_before_the_body_is_looked_at(service: Service) -> None:
    assert code_of(service.post("/v1/match", None, content=b"\xc1", key=None))[0] == 401
    assert code_of(service.post("/v1/match", None, content=b"\xc1", key="operator"))[0] == 403


@pytest.mark.parametrize("count", [257, 513, 5000, 70_000])
def test_a_call_of_more_than_256_items_is_refused_by_name_in_both_types(
    service: Service, count: int
) -> None:
    item = {"probe": {"template": "t"}, "reference": {"template": "t"}}
    for path, one in (("/v1/match", item), ("/v1/templates", {"image": "aQ=="})):
        for packed in (True, False):
            answer = service.post(path, {"items": [one] * count}, packed=packed)
            assert code_of(answer) == (422, "MATCH.TOO_MANY_ITEMS")


def test_a_batch_is_charged_by_its_items(service: Service, deployment: Deployment) -> None:
    authenticator = Authenticator(deployment.store, cache_s=5, rate_limit=1)
    service.parts = replace(service.parts, authenticator=authenticator)
    item = {"probe": template(b"t"), "reference": template(b"t")}
    statuses = [
        service.post("/v1/match", {"items": [item] * 200}, packed=True).status_code
        for _ in range(3)
    ]
    assert statuses == [200, 200, 429]
