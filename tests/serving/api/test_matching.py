"""The two raw routes, through the edge, over a real store, gallery, gate and extractor."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import httpx
import msgpack
import numpy as np
import pytest
import structlog

from engine.errors import StorageFull
from engine.matching.comparison import score_best
from engine.matching.identification import Identification, identify
from engine.registry.apikeys import ApiKey
from engine.registry.records import utc_now
from indexes.errors import ShardLost
from serving.access.gate import KeyGate
from serving.access.keys import make_key
from serving.api.codec import JSON, MSGPACK
from serving.api.edge import Edge
from serving.api.matching import match_routes
from serving.api.schemas.matching import (
    MatchAnswer,
    MatchRequest,
    TemplatesAnswer,
    TemplatesRequest,
)
from serving.compose import Deployment
from serving.ingress.faces import FacesQueue
from serving.ingress.templates import SealedTemplates
from serving.parts import Parts
from serving.refusals import NotReady
from serving.sections import ServeSettings
from serving.service.desk import CallContext, Probes
from serving.settings import load_settings
from serving.telemetry.meter import SilentMeter

DIM = 128
KEYS = {
    "blue": ("carrier", "blue", None),
    "b1": ("outlet", "blue", "b1"),
    "red": ("carrier", "red", None),
    "fraud": ("fraud", None, None),
    "operator": ("operator", None, None),
}


class GalleryDesk:
    """The part of a desk that these routes use, over a real gallery."""

    def __init__(self, deployment: Deployment) -> None:
        self.fault: Exception | None = None
        self.calls: list[tuple[int, float, CallContext]] = []
        self._deployment = deployment

    async def identify(
        self, probes: Probes, threshold: float, context: CallContext
    ) -> list[Identification]:
        self.calls.append((len(probes), threshold, context))
        if self.fault is not None:
            raise self.fault
        gallery, store = self._deployment.restored.gallery, self._deployment.store
        return identify(probes, gallery, store, threshold=threshold)


@dataclass
class Service:
    """An application over real parts, and a key for each of KEYS."""

    parts: Parts
    desk: GalleryDesk
    keys: dict[str, str]

    def post(self, path: str, body: object, key: str | None = "fraud", **options: Any) -> Any:
        """The answer to one call; MessagePack if `packed`, `content` as it is where given."""
        routes = {route.path: route.app for route in match_routes(self.parts)}
        parts = self.parts
        app = Edge(
            _nothing, settings=parts.settings, meter=parts.meter, log=parts.log, direct=routes
        )
        is_packed = options.pop("packed", False)
        headers = {"content-type": MSGPACK if is_packed else JSON, **options.pop("headers", {})}
        if key is not None:
            headers["authorization"] = f"Bearer {self.keys.get(key, key)}"
        content = options.pop("content", None)
        if content is None:
            content = msgpack.packb(body) if is_packed else json.dumps(body).encode()

        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.post(path, content=content, headers=headers)

        return asyncio.run(ask())

    def match(self, *items: object, **options: Any) -> list[Any]:
        """The results of a call that must be answered."""
        answer = self.post("/v1/match", {"items": list(items)}, **options)
        assert answer.status_code == 200, answer.text
        value = read(answer)
        MatchAnswer.model_validate(value)
        results: list[Any] = value["items"]
        assert len(results) == len(items)
        return results

    def tokens(self, vectors: Any, tenant: str = "role:fraud") -> list[bytes]:
        return self.parts.templates.issue(vectors, tenant)


async def _nothing(*_: object) -> None:
    raise AssertionError("the router was not meant to be asked")


def read(answer: httpx.Response) -> Any:
    """What an answer says, in either type."""
    if answer.headers["content-type"] == MSGPACK:
        return msgpack.unpackb(answer.content)
    return answer.json()


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, read(answer)["code"]


@pytest.fixture(scope="module")
def deployment(
    enrolled_home: tuple[Path, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("matching")
    home = Path(shutil.copytree(enrolled_home[0], folder / "home"))
    with Deployment(home, load_settings(home), folder / "cache") as opened:
        yield opened


@pytest.fixture(scope="module")
def keys(deployment: Deployment) -> dict[str, str]:
    made = {name: make_key(deployment.vault) for name in KEYS}
    for name, (role, carrier, outlet) in KEYS.items():
        key, now = made[name], utc_now()
        deployment.store.add_api_key(
            ApiKey(key.id, key.digest, name, role, carrier, outlet, None, now), actor="test"
        )
    return {name: key.text for name, key in made.items()}


@pytest.fixture(scope="module")
def queue(deployment: Deployment) -> Iterator[FacesQueue]:
    log = structlog.get_logger()
    made = FacesQueue(
        deployment.extractor, deployment.vault, capacity=64, meter=SilentMeter(), log=log
    )
    yield made
    made.close()


@pytest.fixture
def service(deployment: Deployment, keys: dict[str, str], queue: FacesQueue) -> Service:
    digest = deployment.store.model_digest
    desk = GalleryDesk(deployment)
    parts = Parts(
        settings=ServeSettings(),
        desk=cast(Any, desk),
        store=deployment.store,
        vault=deployment.vault,
        thresholds=deployment.thresholds,
        faces=queue,
        templates=SealedTemplates(deployment.vault, digest, 24),
        gate=KeyGate(deployment.store, cache_s=5),
        meter=SilentMeter(),
        log=structlog.get_logger(),
        model_digest=digest,
        version="0",
        calibration=deployment.calibration,
    )
    return Service(parts, desk, keys)


@pytest.fixture
def pictures(photographs: Any) -> dict[str, bytes]:
    names = ("live", "portrait", "later", "stranger", "faceless")
    return {name: getattr(photographs, name).read_bytes() for name in names}


def unit_rows(count: int, seed: int = 0) -> Any:
    rows = np.random.default_rng(seed).standard_normal((count, DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def text_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def image(data: bytes) -> dict[str, object]:
    return {"image": data}


def template(token: bytes) -> dict[str, object]:
    return {"template": token}


def test_two_images_of_a_person_match_and_those_of_two_people_do_not(
    service: Service, pictures: dict[str, bytes]
) -> None:
    live, portrait, stranger = (
        {"image": text_of(pictures[name])} for name in ("live", "portrait", "stranger")
    )
    same, other = service.match(
        {"id": "same", "probe": live, "reference": portrait},
        {"id": "other", "probe": live, "reference": stranger},
    )
    threshold = service.parts.thresholds.verify
    assert same["id"] == "same"
    assert same["verification"]["is_match"] is True
    assert same["verification"]["threshold"] == threshold
    assert same["verification"]["score"] >= threshold > other["verification"]["score"]
    assert other["verification"]["is_match"] is False
    assert set(same) == {"id", "verification"}
    assert service.desk.calls == []


def test_a_template_stands_for_its_photograph(service: Service, pictures: dict[str, bytes]) -> None:
    for packed in (True, False):
        items = [{"image": pictures[name] if packed else text_of(pictures[name])} for name in
                 ("live", "portrait")]  # fmt: skip
        made = service.post("/v1/templates", {"items": items}, packed=packed)
        assert made.status_code == 200, made.text
        live, portrait = ({"template": one["template"]} for one in read(made)["items"])
        assert isinstance(live["template"], bytes if packed else str)
        (by_template,) = service.match({"probe": live, "reference": portrait}, packed=packed)
        (by_image,) = service.match({"probe": items[0], "reference": items[1]}, packed=packed)
        assert by_template["verification"]["score"] == pytest.approx(
            by_image["verification"]["score"], abs=1e-5
        )


def test_every_score_is_the_one_that_the_pair_has_alone(service: Service) -> None:
    probes, references = unit_rows(256, 1), unit_rows(256, 2)
    references[::2] = probes[::2] + references[::2] / 2
    references /= np.linalg.norm(references, axis=1, keepdims=True)
    items = [
        {"probe": template(one), "reference": template(other)}
        for one, other in zip(service.tokens(probes), service.tokens(references), strict=True)
    ]
    results = service.match(*items, packed=True)
    assert [service.match(item, packed=True)[0] for item in items[:20]] == results[:20]
    for result, probe, reference in zip(results, probes, references, strict=True):
        score = score_best(probe, reference[None])
        assert score is not None
        assert result["verification"]["score"] == score
        assert result["verification"]["is_match"] is (score >= service.parts.thresholds.verify)


def test_a_search_finds_who_is_enrolled_and_says_what_it_searched(
    service: Service, pictures: dict[str, bytes], enrolled: dict[str, Any]
) -> None:
    found, nobody = service.match(
        {"probe": image(pictures["later"]), "search": True},
        {"probe": image(pictures["stranger"]), "search": True},
        packed=True,
    )
    thresholds, calibration = service.parts.thresholds, service.parts.calibration
    assert calibration is not None
    identification = found["identification"]
    (candidate,) = identification.pop("candidates")
    assert (candidate["holder"], candidate["document_id"]) == (None, enrolled["document_id"])
    assert set(candidate) == {"holder", "document_id", "reference_id", "score"}
    assert candidate["score"] >= thresholds.review
    expected = calibration.expected_false_candidates(
        1, thresholds.review, cast(Any, "fused_to_one")
    )
    assert identification == {
        "found": 1,
        "searched": 1,
        "gallery_sequence": identification["gallery_sequence"],
        "threshold": thresholds.review,
        "expected_false_candidates": {
            "value": expected.value,
            "low": expected.low,
            "high": expected.high,
            "is_bound": expected.is_bound,
        },
    }
    assert nobody["identification"]["candidates"] == []
    assert nobody["identification"]["searched"] == 1
    assert enrolled["decision"] == "approved"


def test_a_tenants_search_names_holders_as_nobody_else_knows_them(
    service: Service, pictures: dict[str, bytes], enrolled: dict[str, Any]
) -> None:
    item = {"probe": image(pictures["later"]), "search": True}
    names = {}
    for key in ("blue", "red"):
        (first,), (again,) = (service.match(item, packed=True, key=key) for _ in range(2))
        (candidate,) = first["identification"]["candidates"]
        assert set(candidate) == {"holder", "score"}
        assert again["identification"]["candidates"] == [candidate]
        assert enrolled["document_id"] not in repr(first)
        names[key] = candidate["holder"]
    assert names["blue"] != names["red"]


def test_all_probes_of_a_call_are_searched_at_once_with_its_correlator_and_time(
    service: Service,
) -> None:
    tokens = service.tokens(unit_rows(5))
    service.match(
        {"probe": template(tokens[0]), "search": True},
        {"probe": template(tokens[1]), "reference": template(tokens[2])},
        {"probe": template(tokens[3]), "reference": template(tokens[2]), "search": True},
        {"probe": template(b"none"), "search": True},
        packed=True,
        headers={"x-correlator": "c-1", "x-timeout-ms": "2000"},
    )
    ((count, threshold, context),) = service.desk.calls
    assert (count, threshold) == (2, service.parts.thresholds.review)
    assert context.correlator == "c-1"
    assert context.timeout_s is not None
    assert 0 < context.timeout_s <= 2


def test_an_item_may_ask_for_both_and_gets_both(
    service: Service, pictures: dict[str, bytes]
) -> None:
    (both,) = service.match(
        {
            "probe": image(pictures["later"]),
            "reference": image(pictures["stranger"]),
            "search": True,
        },
        packed=True,
    )
    assert both["verification"]["is_match"] is False
    assert both["identification"]["found"] == 1


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (ShardLost("a shard is lost"), 503),
        (NotReady("the service starts"), 503),
        (StorageFull("the audit is full"), 507),
    ],
)
def test_a_search_that_could_not_run_is_an_error_and_never_nobody(
    service: Service, fault: Exception, status: int
) -> None:
    probe, reference = (template(token) for token in service.tokens(unit_rows(2)))
    service.desk.fault = fault
    items = [{"probe": probe, "reference": reference}, {"probe": probe, "search": True}]
    answer = service.post("/v1/match", {"items": items}, packed=True)
    assert answer.status_code == status
    assert all(status in route.statuses for route in match_routes(service.parts))
    assert "retry-after" in answer.headers
    assert b"candidates" not in answer.content
    (alone,) = service.match(items[0], packed=True)
    assert "verification" in alone


def test_what_is_wrong_with_one_item_is_its_own(
    service: Service, pictures: dict[str, bytes]
) -> None:
    good, other = (template(token) for token in service.tokens(unit_rows(2)))
    fine, faceless, damaged, foreign, half = service.match(
        {"id": "fine", "probe": good, "reference": other},
        {"id": "faceless", "probe": good, "reference": image(pictures["faceless"])},
        {"id": "damaged", "probe": image(b"no image"), "reference": good, "search": True},
        {"id": "foreign", "probe": template(b"no token"), "reference": good},
        {"id": "half", "probe": good, "reference": template(b""), "search": True},
        packed=True,
    )
    assert "error" not in fine
    assert faceless["error"]["code"] == "MATCH.NO_FACE"
    assert faceless["error"]["part"] == "reference"
    assert faceless["error"]["problems"] == ["NO_FACE"]
    assert damaged["error"]["code"].startswith("IMAGE.")
    assert damaged["error"]["part"] == "probe"
    assert "identification" not in damaged
    assert foreign["error"]["code"] == "MATCH.TEMPLATE_INVALID"
    assert half["error"]["part"] == "reference"
    assert half["identification"]["candidates"] == []
    assert all("verification" not in one for one in (faceless, damaged, foreign, half))


def test_images_and_templates_mix_in_one_call(service: Service, pictures: dict[str, bytes]) -> None:
    made = service.post("/v1/templates", {"items": [image(pictures["live"])]}, packed=True)
    live = template(read(made)["items"][0]["template"])
    forward, backward = service.match(
        {"probe": live, "reference": image(pictures["portrait"])},
        {"probe": image(pictures["portrait"]), "reference": live},
        packed=True,
    )
    assert forward["verification"]["score"] == backward["verification"]["score"] > 0.5


def test_a_form_brings_images_as_files(service: Service, pictures: dict[str, bytes]) -> None:
    request = {"items": [{"id": "f", "probe": {}, "reference": {}}]}
    form = httpx.Request(
        "POST",
        "http://test",
        files={
            "request": (None, json.dumps(request).encode(), "application/json"),
            "items.0.probe.image": ("a.jpg", pictures["live"], "image/jpeg"),
            "items.0.reference.image": ("b.png", pictures["portrait"], "image/png"),
        },
    )
    answer = service.post(
        "/v1/match",
        None,
        content=form.read(),
        headers={"content-type": form.headers["content-type"]},
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["items"][0]["verification"]["is_match"] is True


def test_the_answer_is_in_the_type_asked_for(service: Service) -> None:
    one, other = service.tokens(unit_rows(2))
    item = {"probe": template(one), "reference": template(other)}
    answer = service.post("/v1/match", {"items": [item]}, packed=True, headers={"accept": JSON})
    assert answer.headers["content-type"] == JSON
    assert answer.headers["content-length"] == str(len(answer.content))
    assert answer.json()["items"][0]["verification"]["is_match"] is False


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


def test_a_call_of_257_items_is_refused_by_name(service: Service) -> None:
    item = {"probe": template(b"t"), "reference": template(b"t")}
    for path, one in (("/v1/match", item), ("/v1/templates", image(b"i"))):
        answer = service.post(path, {"items": [one] * 257}, packed=True)
        assert code_of(answer) == (422, "MATCH.TOO_MANY_ITEMS")


@pytest.mark.parametrize(
    "content",
    [b"", b"\xc1", b"\x81", b"null", msgpack.packb({"items": [{"probe": 1}]}), b"\xdf\xff\xff\xff"],
)
def test_a_body_that_is_none_is_refused_as_malformed(service: Service, content: bytes) -> None:
    for path in ("/v1/match", "/v1/templates"):
        answer = service.post(path, None, content=content, packed=True)
        assert code_of(answer) == (400, "REQUEST.MALFORMED")


def test_a_batch_is_charged_by_its_items(service: Service, deployment: Deployment) -> None:
    gate = KeyGate(deployment.store, cache_s=5, rate_limit=1)
    service.parts = replace(service.parts, gate=gate)
    item = {"probe": template(b"t"), "reference": template(b"t")}
    statuses = [
        service.post("/v1/match", {"items": [item] * 200}, packed=True).status_code
        for _ in range(3)
    ]
    assert statuses == [200, 200, 429]


def test_templates_come_with_quality_and_an_end_and_what_is_wrong(
    service: Service, pictures: dict[str, bytes]
) -> None:
    items = [
        {"id": "good", **image(pictures["live"])},
        {"id": "faceless", **image(pictures["faceless"])},
        {"id": "damaged", **image(b"none")},
    ]
    answer = service.post("/v1/templates", {"items": items}, packed=True, headers={"accept": JSON})
    value = answer.json()
    TemplatesAnswer.model_validate(value)
    good, faceless, damaged = value["items"]
    assert good["quality"]["sharpness"] > 0
    assert (good["id"], set(good)) == ("good", {"id", "template", "quality"})
    assert faceless["error"]["code"] == "MATCH.NO_FACE"
    assert damaged["error"]["code"].startswith("IMAGE.")
    assert "template" not in faceless
    assert "template" not in damaged
    assert value["model_digest"] == service.parts.model_digest
    assert value["expires_at"] > utc_now().isoformat()


def test_what_the_document_shows_as_examples_is_accepted(service: Service) -> None:
    match, templates = match_routes(service.parts)
    MatchRequest.model_validate(match.request_example)
    MatchAnswer.model_validate(match.response_example)
    TemplatesRequest.model_validate(templates.request_example)
    TemplatesAnswer.model_validate(templates.response_example)
