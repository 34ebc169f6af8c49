"""Crops of an enrollment, and enrollments after retention: decision kept, personal data gone."""

import base64
import io
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from PIL import Image

from engine.retention.job import run_retention
from serving.api.body import JSON, MSGPACK
from serving.wire.enrollments import Crops, EnrollmentRecord
from serving.wire.fields import read
from tests.engine.retention.conftest import only

PATH = "/v1/enrollments"
DAY = timedelta(days=1)


class NextYear:
    """The writer of a service, a year from now."""

    def __init__(self, service: Any) -> None:
        self._registrar = service.match._lifecycle.require().registrar

    def run(self, perform: Callable[..., Any]) -> Any:
        return self._registrar.run(lambda writer, now: perform(writer, now + 365 * DAY))


def test_an_attempt_that_has_left_is_still_a_decision(fresh, activation, faces) -> None:
    body = activation(portrait=faces["live"])
    decided = fresh.read(fresh.enroll(body, "key-1"))
    assert decided["decision"] == "rejected"
    assert decided["scores"]["live_portrait"] is not None
    run_retention(NextYear(fresh), only(rejected_days=180), "test")
    response = fresh.ask("GET", f"{PATH}/{decided['enrollment_id']}", key="blue")
    shown = fresh.read(response)
    read(shown, EnrollmentRecord)
    assert shown.keys() == set(EnrollmentRecord.__struct_fields__)
    for name in ("decision", "reasons", "thresholds", "model_digest", "policy_version"):
        assert shown[name] == decided[name]
    assert set(shown["scores"].values()) == {None}
    assert (shown["quality"], shown["consent_ref"], shown["captured_at"]) == ({}, None, None)
    assert shown["duplicate_search"]["candidates"] is None
    assert shown["expired_at"] > decided["decided_at"]


def test_a_key_whose_answer_has_left_is_unused_and_judged_anew(fresh, activation, faces) -> None:
    body = activation(live=faces["faceless"])
    first = fresh.read(fresh.enroll(body, "key-1"))
    run_retention(NextYear(fresh), only(answers_days=30), "test")
    found = fresh.ask("GET", PATH, key="blue", params={"idempotency_key": "key-1"})
    assert found.status_code == 404
    again = fresh.enroll(body, "key-1")
    assert again.status_code == 201
    assert fresh.read(again)["enrollment_id"] != first["enrollment_id"]


@pytest.mark.parametrize("accept", [JSON, MSGPACK])
def test_crops_that_are_kept_are_shown_and_audited_until_their_time(
    start_service, activation, monkeypatch, accept: str
) -> None:
    monkeypatch.setenv("SOSIE_CROPS__KEEP", "all")
    service = start_service()
    decided = service.read(service.enroll(activation(), "key-1"))
    path = f"{PATH}/{decided['enrollment_id']}/crops"
    before = service.parts.store.audit_head()[0]
    answer = service.read(service.ask("GET", path, key="fraud", accept=accept))
    shown = answer["crops"]
    assert [one["photograph"] for one in shown] == ["live", "portrait"]
    if accept == JSON:
        read(answer, Crops)
    for one in shown:
        data = base64.b64decode(one["image"]) if accept == JSON else one["image"]
        with Image.open(io.BytesIO(data)) as image:
            assert image.size == (112, 112)
    [entry] = service.audited(before)
    assert (entry.action, entry.subject) == ("crops.read", decided["enrollment_id"])
    assert entry.detail == {"crops": 2}
    run_retention(NextYear(service), only(), "test")
    assert service.read(service.ask("GET", path, key="fraud"))["crops"] == []
