"""The OpenAPI document: whole, with examples that are valid, and true of the answers."""

import re
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest

from serving.access.authorization import Action
from serving.api.body import FORM, JSON, MSGPACK, PROBLEM
from serving.api.endpoints import ENDPOINTS, TAGS
from serving.api.openapi import EXAMPLES
from serving.wire.fields import read


@pytest.fixture(scope="module")
def document(service) -> dict[str, Any]:
    response = service.ask("GET", "/openapi.json", key=None)
    assert response.headers["content-type"] == JSON
    return dict(response.json())


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def refs(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for one in value.values():
            yield from refs(one)
    elif isinstance(value, list):
        for one in value:
            yield from refs(one)


def test_it_is_openapi_3_1_and_every_reference_leads_somewhere(document) -> None:
    assert document["openapi"].startswith("3.1")
    for ref in set(refs(document)):
        place = document
        for step in ref.removeprefix("#/").split("/"):
            place = place[step]
    assert not any("x-sosie" in key for _, _, one in operations(document) for key in one)
    assert "HTTPValidationError" not in document["components"]["schemas"]
    names = [one["operationId"] for _, _, one in operations(document)]
    assert len(set(names)) == len(names)


def test_every_schema_is_a_schema(document) -> None:
    for name in document["components"]["schemas"]:
        jsonschema_rs.meta.validate(
            {
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                **document["components"]["schemas"][name],
            }
        )


def test_every_route_documents_its_errors_headers_and_types(document) -> None:
    for path, _, operation in operations(document):
        responses = operation["responses"]
        for status, response in responses.items():
            assert "x-correlator" in response["headers"], (path, status)
            assert ("Retry-After" in response["headers"]) == (
                status in {"409", "429", "503", "507"}
            )
            if path != "/metrics" or status != "200":
                is_error = response["content"][JSON]["schema"]["$ref"].endswith("/Error")
                problem = {PROBLEM} if is_error else set()
                assert response["content"].keys() == {JSON, MSGPACK} | problem
        names = {one["name"] for one in operation["parameters"]}
        assert {"x-correlator", "x-timeout-ms"} <= names
        if path.startswith("/v1/"):
            assert operation["security"] == [{"bearer": []}, {"apiKey": []}]
            assert {"400", "401", "406", "429", "503"} <= responses.keys()
        if "requestBody" in operation:
            assert operation["requestBody"]["content"].keys() == {JSON, MSGPACK, FORM}
            assert {"408", "413", "415"} <= responses.keys()
        assert "422" not in responses or "requestBody" in operation
    enroll = document["paths"]["/v1/enrollments"]["post"]
    [key] = [one for one in enroll["parameters"] if one["name"] == "Idempotency-Key"]
    assert key["required"] is True
    assert {"201", "200", "409", "422", "507"} <= enroll["responses"].keys()


@pytest.mark.parametrize("kind", EXAMPLES, ids=lambda kind: kind.__name__)
def test_every_example_is_valid(document, kind: Any) -> None:
    schema = document["components"]["schemas"][kind.__name__]
    assert schema["examples"] == EXAMPLES[kind]
    checker = jsonschema_rs.validator_for(
        {"$ref": f"#/components/schemas/{kind.__name__}", "components": document["components"]}
    )
    for example in schema["examples"]:
        checker.validate(example)
        read(example, kind)


def test_every_request_has_an_example() -> None:
    assert {one.body for one in ENDPOINTS} - {None} <= EXAMPLES.keys()


def test_operations_have_short_names_and_tags_that_are_explained(document) -> None:
    for _, _, operation in operations(document):
        assert re.fullmatch("[a-z]+(?:[A-Z][a-z]+)*", operation["operationId"])
        assert set(operation["tags"]) <= TAGS.keys()
    assert [one["name"] for one in document["tags"]] == list(TAGS)
    assert document["servers"]
    for name in document["components"]["schemas"]:
        assert re.fullmatch("[A-Z][A-Za-z]+", name)
        assert not name.endswith(("Answer", "Shown", "Body"))


def test_a_form_names_its_images_as_the_fields_are_named(document) -> None:
    def parts(path: str) -> set[str]:
        body = document["paths"][path]["post"]["requestBody"]
        return set(body["content"][FORM]["schema"]["properties"]) - {"request"}

    assert parts("/v1/enrollments") == {"live", "portrait"}
    assert parts("/v1/verifications") == {"probe", "reference"}
    assert parts("/v1/lines/query") == parts("/v1/identifications") == {"probe"}


def test_every_action_has_roles_and_an_endpoint_or_stands_behind_one() -> None:
    behind = {"search", "verify_holder", "reveal_names_and_numbers"}
    assert {one.action for one in ENDPOINTS} - {None} | behind == set(Action)
    assert all(one.roles for one in Action)
