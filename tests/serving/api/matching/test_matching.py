"""1:1 items and templates: scores, types, and what is wrong with one item."""

from __future__ import annotations

import json

import httpx
import msgpack
import numpy as np
import pytest

from engine.matching.comparison import score_best
from engine.registry.records import utc_now
from serving.api.body import JSON
from serving.wire.fields import read as read_wire
from serving.wire.matching import Templates
from tests.serving.api.matching.conftest import (
    Service,
    code_of,
    image,
    read,
    template,
    text_of,
    unit_rows,
)


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
    assert service.registrar.calls == []


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


@pytest.mark.parametrize(
    "content",
    [b"", b"\xc1", b"\x81", b"null", msgpack.packb({"items": [{"probe": 1}]}), b"\xdf\xff\xff\xff"],
)
def test_a_body_that_is_none_is_refused_as_malformed(service: Service, content: bytes) -> None:
    for path in ("/v1/match", "/v1/templates"):
        answer = service.post(path, None, content=content, packed=True)
        assert code_of(answer) == (400, "REQUEST.MALFORMED")


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
    read_wire(value, Templates)
    good, faceless, damaged = value["items"]
    assert good["quality"]["sharpness"] > 0
    assert (good["id"], set(good)) == ("good", {"id", "template", "quality"})
    assert faceless["error"]["code"] == "MATCH.NO_FACE"
    assert damaged["error"]["code"].startswith("IMAGE.")
    assert "template" not in faceless
    assert "template" not in damaged
    assert value["model_digest"] == service.parts.model_digest
    assert value["expires_at"] > utc_now().isoformat()
