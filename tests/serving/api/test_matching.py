"""`/v1/match` and `/v1/templates`: each item compared or searched, with an error of its own."""

from dataclasses import replace
from io import BytesIO
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from engine.errors import StorageFull
from engine.matching.comparison import score_best
from engine.registry.database import utc_now
from indexes.errors import ShardLost
from schema.decisions import Comparison
from serving.access.authentication import Authenticator
from serving.api.app import build_app
from serving.api.body import JSON, MSGPACK
from serving.api.endpoints import ENDPOINTS
from serving.errors import NotReady
from serving.registrar.protocol import CallContext
from serving.wire.fields import read
from serving.wire.matching import MatchResults, Templates
from tests.serving.api.driver import TYPES
from tests.serving.api.test_enrollments import show_two

MATCH = "/v1/match"
TEMPLATES = "/v1/templates"
DIM = 128


def match(service: Any, *items: object, key: str = "fraud", **options: Any) -> list[Any]:
    """The results of a call that must be answered."""
    asked = {"key": key, "kind": MSGPACK, **options}
    answer = service.ask("POST", MATCH, body={"items": list(items)}, **asked)
    assert answer.status_code == 200, answer.text
    value = service.read(answer)
    read(value, MatchResults)
    results: list[Any] = value["items"]
    assert len(results) == len(items)
    return results


def unit_rows(count: int, seed: int = 0) -> Any:
    rows = np.random.default_rng(seed).standard_normal((count, DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def templates_of(service: Any, rows: Any, tenant: str = "role:fraud") -> list[dict[str, bytes]]:
    """Faces that a call may bring, of the fraud teams unless said otherwise."""
    return [{"template": token} for token in service.parts.templates.issue(rows, tenant)]


@pytest.fixture
def images(faces) -> dict[str, dict[str, bytes]]:
    return {name: {"image": data} for name, data in faces.items()}


@pytest.mark.parametrize(("kind", "accept"), TYPES)
def test_two_images_of_a_person_match_and_those_of_two_people_do_not_in_every_type(
    service, images: dict[str, Any], kind: str, accept: str
) -> None:
    items = [
        {"id": "same", "probe": images["live"], "reference": images["portrait"]},
        {"id": "other", "probe": images["live"], "reference": images["stranger"]},
    ]
    response = service.ask("POST", MATCH, body={"items": items}, kind=kind, accept=accept)
    assert (response.status_code, response.headers["content-type"]) == (200, accept)
    assert response.headers["content-length"] == str(len(response.content))
    same, other = service.read(response)["items"]
    threshold = service.parts.thresholds.verify
    assert same["id"] == "same"
    assert same["verification"]["is_match"] is True
    assert same["verification"]["threshold"] == threshold
    assert same["verification"]["score"] >= threshold > other["verification"]["score"]
    assert other["verification"]["is_match"] is False
    assert set(same) == {"id", "verification"}


def test_where_a_picture_without_a_match_shows_another_face_the_answer_says_so(
    service, images: dict[str, Any], faces
) -> None:
    stranger, live = (Image.open(BytesIO(faces[name])) for name in ("stranger", "live"))
    both = Image.new("RGB", (600, 400), "grey")
    both.paste(stranger, (0, 0))
    both.paste(live.resize((400, 400)), (200, 0))
    file = BytesIO()
    both.save(file, "PNG")
    probes = {"image": file.getvalue()}, images["stranger"]
    beside, alone = match(service, *({"probe": one, "reference": images["live"]} for one in probes))
    assert beside["verification"]["problems"] == ["SEVERAL_FACES"]
    asked = {"probe": probes[0], "reference": images["live"]}
    verified = service.read(service.ask("POST", "/v1/verifications", body=asked, kind=MSGPACK))
    assert verified["problems"] == ["SEVERAL_FACES"]
    assert "problems" not in alone["verification"]


@pytest.mark.parametrize("kind", [JSON, MSGPACK])
def test_the_face_at_a_point_is_the_one_that_is_held_against_another(
    service, images: dict[str, Any], faces, kind: str
) -> None:
    both = {"image": show_two(service, faces["later"], faces["stranger"])}
    left, right, nobody = ([0.25, 0.5], [0.75, 0.5], [0.5, 0.98])
    probes = [{**both, "point": point} for point in (left, right, nobody)]
    asked = [{"probe": one, "reference": images["live"]} for one in probes]
    body = {"items": asked}
    answer = service.read(service.ask("POST", MATCH, body=body, kind=kind, key="fraud"))
    own, other, none = answer["items"]
    assert own["verification"]["is_match"] is True
    assert (other["verification"]["is_match"], other["verification"]["problems"]) == (
        False,
        ["SEVERAL_FACES"],
    )
    assert none["error"]["code"] == "MATCH.NO_FACE"
    verify = [service.ask("POST", "/v1/verifications", body=one, kind=kind) for one in asked]
    assert [service.read(one)["is_match"] for one in verify[:2]] == [True, False]
    service.assert_refused(verify[2], 422, "MATCH.NO_FACE")


def test_a_template_has_no_point(service, images: dict[str, Any]) -> None:
    [template] = templates_of(service, unit_rows(1))
    item = {"probe": template | {"point": [0.5, 0.5]}, "reference": images["live"]}
    answer = service.ask("POST", MATCH, body={"items": [item]}, kind=MSGPACK)
    service.assert_refused(answer, 400, "REQUEST.MALFORMED")


@pytest.mark.parametrize("kind", [JSON, MSGPACK])
def test_a_template_stands_for_its_photograph(service, images: dict[str, Any], kind: str) -> None:
    items = [images["live"], images["portrait"]]
    made = service.read(service.ask("POST", TEMPLATES, body={"items": items}, kind=kind))
    live, portrait = ({"template": one["template"]} for one in made["items"])
    assert isinstance(live["template"], bytes if kind == MSGPACK else str)
    results = match(
        service,
        {"probe": items[0], "reference": items[1]},
        {"probe": live, "reference": portrait},
        {"probe": live, "reference": items[1]},
        {"probe": items[1], "reference": live},
        key="blue",
        kind=kind,
    )
    by_image, *others = (one["verification"]["score"] for one in results)
    assert others == pytest.approx([by_image] * 3, abs=1e-5)


def test_every_score_is_the_one_that_the_pair_has_alone(service) -> None:
    probes, references = unit_rows(256, 1), unit_rows(256, 2)
    references[::2] = probes[::2] + references[::2] / 2
    references /= np.linalg.norm(references, axis=1, keepdims=True)
    items = [
        {"probe": one, "reference": other}
        for one, other in zip(
            templates_of(service, probes), templates_of(service, references), strict=True
        )
    ]
    results = match(service, *items)
    assert [match(service, item)[0] for item in items[:20]] == results[:20]
    for result, probe, reference in zip(results, probes, references, strict=True):
        score = score_best(probe, reference[None])
        assert score is not None
        assert result["verification"]["score"] == score
        assert result["verification"]["is_match"] is (score >= service.parts.thresholds.verify)


def test_what_is_wrong_with_one_item_is_its_own(service, images: dict[str, Any]) -> None:
    good, other = templates_of(service, unit_rows(2))
    (foreign,) = templates_of(service, unit_rows(1), "carrier:blue")
    damaged = {"image": b"no image"}
    items = {
        "fine": {"probe": good, "reference": other},
        "faceless": {"probe": good, "reference": images["faceless"]},
        "damaged": {"probe": damaged, "reference": good, "search": True},
        "foreign": {"probe": foreign, "reference": good},
        "half": {"probe": good, "reference": {"template": b""}, "search": True},
    }
    results = match(service, *({"id": name, **item} for name, item in items.items()))
    assert [one["id"] for one in results] == list(items)
    fine, *wrong = results
    assert "error" not in fine
    assert all("verification" not in one for one in wrong)
    errors = [one["error"] for one in wrong]
    assert [one["part"] for one in errors] == ["reference", "probe", "probe", "reference"]
    assert [one["code"] for one in errors] == [
        "MATCH.NO_FACE",
        "IMAGE.UNSUPPORTED",
        "MATCH.TEMPLATE_INVALID",
        "MATCH.TEMPLATE_INVALID",
    ]
    assert errors[0]["problems"] == ["NO_FACE"]
    assert ["identification" in one for one in wrong] == [False, False, False, True]


def test_templates_come_with_quality_and_an_end_and_what_is_wrong(
    service, images: dict[str, Any]
) -> None:
    items = [
        {"id": "good", **images["live"]},
        {"id": "faceless", **images["faceless"]},
        {"id": "damaged", "image": b"none"},
    ]
    value = service.read(service.ask("POST", TEMPLATES, body={"items": items}))
    read(value, Templates)
    good, faceless, damaged = value["items"]
    assert good["quality"]["sharpness"] > 0
    assert (good["id"], set(good)) == ("good", {"id", "template", "quality"})
    assert faceless["error"]["code"] == "MATCH.NO_FACE"
    assert damaged["error"]["code"].startswith("IMAGE.")
    assert "template" not in {**faceless, **damaged}
    assert value["model_digest"] == service.parts.store.model_digest
    assert value["expires_at"] > utc_now().isoformat()


def test_a_search_finds_who_is_enrolled_and_says_what_it_searched(
    service, images: dict[str, Any], enrolled
) -> None:
    found, nobody = match(
        service,
        {"probe": images["later"], "reference": images["stranger"], "search": True},
        {"probe": images["stranger"], "search": True},
    )
    assert found["verification"]["is_match"] is False
    thresholds, calibration = service.parts.thresholds, service.parts.calibration
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


def test_all_probes_of_a_call_are_searched_at_once_with_its_correlator_and_time(
    service, monkeypatch
) -> None:
    carry, calls = service.registrar.carry, []

    async def watch(method: str, arguments: Any, context: CallContext) -> Any:
        calls.append((method, *arguments, context))
        return await carry(method, arguments, context)

    monkeypatch.setattr(service.registrar, "carry", watch)
    one, two, three, four = templates_of(service, unit_rows(4))
    match(
        service,
        {"probe": one, "search": True},
        {"probe": two, "reference": three},
        {"probe": four, "reference": three, "search": True},
        {"probe": {"template": b"none"}, "search": True},
        headers={"x-correlator": "c-1", "x-timeout-ms": "20000"},
    )
    ((method, probes, threshold, context),) = calls
    assert (method, len(probes)) == ("identify", 2)
    assert threshold == service.parts.thresholds.review
    assert context.correlator == "c-1"
    assert context.timeout_s is not None
    assert 0 < context.timeout_s <= 20


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (ShardLost("a shard is lost"), 503),
        (NotReady("the service starts"), 503),
        (StorageFull("the audit is full"), 507),
    ],
)
def test_a_search_that_could_not_run_is_an_error_and_never_nobody(
    service, monkeypatch, fault: Exception, status: int
) -> None:
    async def fail(*_: Any) -> Any:
        raise fault

    monkeypatch.setattr(service.registrar, "carry", fail)
    probe, reference = templates_of(service, unit_rows(2))
    items = [{"probe": probe, "reference": reference}, {"probe": probe, "search": True}]
    answer = service.ask("POST", MATCH, key="fraud", body={"items": items}, kind=MSGPACK)
    assert answer.status_code == status
    [described] = [one for one in ENDPOINTS if one.path == MATCH]
    assert status in described.all_errors
    assert "retry-after" in answer.headers
    assert b"candidates" not in answer.content
    (alone,) = match(service, items[0])
    assert "verification" in alone


def test_frames_of_an_item_are_one_face(service, faces) -> None:
    both = {"image": [faces["live"], faces["later"]]}
    mixed = {"image": [faces["live"], faces["stranger"]]}
    portrait = {"image": faces["portrait"]}
    fused, single, refused = match(
        service,
        {"probe": both, "reference": portrait, "search": True},
        {"probe": {"image": [faces["live"]]}, "reference": portrait, "search": True},
        {"probe": mixed, "search": True},
    )
    thresholds, calibration = service.parts.thresholds, service.parts.calibration
    assert fused["verification"]["is_match"] is single["verification"]["is_match"] is True
    assert thresholds.verify < fused["verification"]["threshold"] <= thresholds.verify_fused
    assert single["verification"]["threshold"] == thresholds.verify
    for result, kind in ((fused, Comparison.FUSED), (single, Comparison.FUSED_TO_ONE)):
        found = result["identification"]
        expected = calibration.expected_false_candidates(found["searched"], thresholds.review, kind)
        assert found["expected_false_candidates"]["value"] == expected.value
    assert refused["error"]["code"] == "MATCH.LIVE_FRAMES_DIFFER"
    assert "identification" not in refused


def test_photographs_are_bounded_and_every_frame_is_charged(service) -> None:
    item = {"probe": {"image": [b"no image"] * 8}, "search": True}
    many = service.ask("POST", MATCH, body={"items": [item] * 65}, kind=MSGPACK)
    service.assert_refused(many, 422, "MATCH.TOO_MANY_ITEMS")
    authenticator = Authenticator(service.parts.store, cache_s=5, rate_limit=1)
    parts = replace(service.parts, authenticator=authenticator)
    limited = replace(service, parts=parts, app=build_app(parts))
    asked = {"body": {"items": [item] * 30}, "kind": MSGPACK}
    answers = [limited.ask("POST", MATCH, **asked) for _ in range(2)]
    assert [one.status_code for one in answers] == [200, 429]
