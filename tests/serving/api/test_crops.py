"""`/v1/enrollments/{id}/crops`: sealed crops where they are kept, to a fraud team, audited."""

from __future__ import annotations

import base64
from datetime import timedelta
from typing import Any

import pytest

from engine.registry.records import AuditEntry, Changes, NewCrop, new_id, utc_now
from serving.api.body import JSON, MSGPACK
from serving.wire.enrollments import Crops
from serving.wire.fields import read

LIVE, PORTRAIT = b"\x89PNG live", b"\x89PNG portrait"


def keep(service: Any, enrollment_id: str, **images: bytes) -> None:
    kept_until = utc_now() + timedelta(days=1)
    crops = [
        NewCrop(
            id=new_id(),
            enrollment_id=enrollment_id,
            photograph=photograph,
            image=image,
            kept_until=kept_until,
        )
        for photograph, image in images.items()
    ]

    def perform(writer: Any, _: Any) -> None:
        entry = AuditEntry("test", "crops.kept", enrollment_id)
        writer.commit(Changes(sequence=writer.sequence, audit=(entry,), crops=crops))

    service.match._lifecycle.require().registrar.run(perform)


@pytest.mark.parametrize("accept", [JSON, MSGPACK])
def test_both_crops_are_shown_and_audited(
    fresh: Any, enrolled: dict[str, Any], accept: str
) -> None:
    enrollment_id = enrolled["enrollment_id"]
    keep(fresh, enrollment_id, portrait=PORTRAIT, live=LIVE)
    path = f"/v1/enrollments/{enrollment_id}/crops"
    before = fresh.parts.store.audit_head()[0]
    response = fresh.ask("GET", path, key="fraud", headers={"accept": accept})
    shown = fresh.read(response)
    images = [one["image"] for one in shown["crops"]]
    if accept == JSON:
        read(shown, Crops)
        images = [base64.b64decode(image) for image in images]
    assert [one["photograph"] for one in shown["crops"]] == ["live", "portrait"]
    assert images == [LIVE, PORTRAIT]
    [entry] = [record.entry for record in fresh.parts.store.audit_entries(before)]
    assert (entry.action, entry.subject) == ("crops.read", enrollment_id)
    assert entry.detail == {"crops": 2}


def test_where_none_are_kept_the_list_is_empty(service: Any, enrolled: dict[str, Any]) -> None:
    path = f"/v1/enrollments/{enrolled['enrollment_id']}/crops"
    shown = service.read(service.ask("GET", path, key="fraud"))
    assert shown == {"enrollment_id": enrolled["enrollment_id"], "crops": []}


@pytest.mark.parametrize("target", ["nothing", "%00", "0198c2a4-7c1e-7b52-9d0c-3f4b6f6f6f10"])
def test_what_is_no_enrollment_is_not_found(service: Any, target: str) -> None:
    response = service.ask("GET", f"/v1/enrollments/{target}/crops", key="fraud")
    service.assert_refused(response, 404, "REQUEST.NOT_FOUND")
