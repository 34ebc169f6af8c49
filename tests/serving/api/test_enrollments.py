"""`/v1/enrollments`: decided once, told again for its key, read by whom it concerns."""

import asyncio
from datetime import UTC, datetime, timedelta
from io import BytesIO
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from engine.errors import StorageFailed
from serving.api.body import JSON, MSGPACK, encode
from serving.api.routes import enrollments
from serving.wire.enrollments import Enrollment, EnrollmentRecord
from serving.wire.fields import read
from tests.serving.api.driver import TYPES

PATH = "/v1/enrollments"
KEY = {"idempotency-key": "key-1"}


@pytest.mark.parametrize(("kind", "accept"), TYPES)
def test_an_activation_is_decided_in_every_type(fresh, activation, kind: str, accept: str) -> None:
    response = fresh.ask(
        "POST", PATH, key="b1", body=activation(), kind=kind, headers=KEY, accept=accept
    )
    assert (response.status_code, response.headers["content-type"]) == (201, accept)
    answer = fresh.read(response)
    shown = read(answer, Enrollment)
    assert (shown.decision, shown.reasons, shown.is_repeated) == ("approved", (), False)
    assert answer.keys() == set(Enrollment.__struct_fields__)
    assert "idempotency-replayed" not in response.headers


KNOWN = {"type": "cn-ric", "number": "110105199003071239", "name": "Aileen Probe"}


def test_frames_are_fused_and_what_was_left_out_is_told(fresh, activation, faces) -> None:
    frames = [faces["live"], faces["faceless"], faces["later"]]
    body = activation(document=KNOWN, live=frames, portrait=faces["portrait"])
    response = fresh.enroll(body, "key-1", key="b1", kind="form")
    shown = read(fresh.read(response), Enrollment)
    assert (response.status_code, shown.decision, shown.reasons) == (201, "approved", ())
    assert [one.is_fused for one in shown.frames] == [True, False, True]
    assert shown.frames[1].problems == ("NO_FACE",)
    assert shown.scores.live_portrait is not None
    thresholds = fresh.parts.thresholds
    assert thresholds.verify < shown.thresholds.verify <= thresholds.verify_fused
    record = fresh.read(fresh.ask("GET", f"{PATH}/{shown.enrollment_id}", key="b1"))
    assert read(record, EnrollmentRecord).frames == shown.frames
    again = fresh.enroll(body, "key-1", key="b1")
    assert again.status_code == 200
    other = fresh.enroll(body | {"live": frames[:1]}, "key-1", key="b1")
    fresh.assert_refused(other, 422, "REQUEST.IDEMPOTENCY_MISMATCH")


def show_two(service: Any, *photographs: bytes) -> bytes:
    """One picture of two people, 800 by 400, each in the middle of a half and as high."""
    scene, file = Image.new("RGB", (800, 400)), BytesIO()
    for place, one in enumerate(service.parts.deployment.extractor.extract(photographs)):
        x, y, width, height = one.box_px
        middle, reach = (x + width / 2, y + height / 2), 1.1 * height
        around = [round(at + step * reach) for step in (-1, 1) for at in middle]
        cut = Image.open(BytesIO(photographs[place])).convert("RGB").crop(tuple(around))
        scene.paste(cut.resize((400, 400)), (400 * place, 0))
    scene.save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("kind", [JSON, MSGPACK, "form"])
def test_of_several_faces_the_one_at_the_point_is_enrolled(
    fresh, activation, faces, kind: str
) -> None:
    both = show_two(fresh, faces["later"], faces["stranger"])
    left, right = [0.25, 0.5], [0.75, 0.5]
    body = activation(live=both)

    def enroll(key: str, **changes: Any) -> dict[str, Any]:
        answer: dict[str, Any] = fresh.read(fresh.enroll(body | changes, key, kind=kind))
        return answer

    def tell(answer: dict[str, Any]) -> list[tuple[str, str | None]]:
        return [(one["reason"], one.get("photograph")) for one in answer["reasons"]]

    assert tell(enroll("none")) == [("SEVERAL_FACES", "live")]
    # Another's face is compared as it was chosen, and fails as ever; the second face is told of.
    other = enroll("other", live_point=left)
    assert tell(other) == [("SEVERAL_FACES", "live"), ("FACE_MISMATCH", None)]
    assert tell(enroll("nobody", live_point=[0.5, 0.99])) == [("NO_FACE", "live")]
    own = enroll("own", live_point=right)
    assert (own["decision"], own["reasons"]) == ("approved", [])
    record = fresh.read(fresh.ask("GET", f"{PATH}/{own['enrollment_id']}"))
    chosen = record["quality"]["live"]
    assert [chosen["point_x"], chosen["point_y"]] == right
    assert "point_x" not in record["quality"]["portrait"]
    again = fresh.enroll(body | {"live_point": right}, "own", kind=kind)
    assert again.status_code == 200
    moved = fresh.enroll(body | {"live_point": left}, "own", kind=kind)
    fresh.assert_refused(moved, 422, "REQUEST.IDEMPOTENCY_MISMATCH")


def test_one_picture_is_no_pair_whichever_faces_are_chosen(fresh, activation, faces) -> None:
    both = show_two(fresh, faces["stranger"], faces["stranger_again"])
    body = activation(live=both, portrait=both, live_point=[0.25, 0.5], portrait_point=[0.75, 0.5])
    told = fresh.read(fresh.enroll(body, "pair"))
    assert told["decision"] == "rejected"
    assert [one["reason"] for one in told["reasons"]] == ["SAME_PHOTOGRAPH"]


@pytest.mark.parametrize("point", [[0.5], [0.5, 0.5, 0.5], [0.5, 1.1], "middle"])
def test_what_is_no_point_is_refused_by_its_field(fresh, activation, point: Any) -> None:
    refused = fresh.enroll(activation(portrait_point=point), "key")
    fresh.assert_refused(refused, 400, "REQUEST.MALFORMED")
    assert "portrait_point" in refused.text


def test_a_repeated_request_gets_the_stored_answer_and_costs_no_extraction(
    fresh, activation
) -> None:
    body = activation()
    first = fresh.enroll(body, "key-1", key="b1")
    counted = _count_extractions(fresh)
    assert counted > 0
    # Another encoding of the same request, by another key of the same carrier.
    again = fresh.enroll(body, "key-1", key="blue", kind="form")
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.headers["idempotency-replayed"] == "true"
    assert fresh.read(again) == {**fresh.read(first), "is_repeated": True}
    closed = fresh.enroll(activation(outlet="b3"), "key-1", key="blue")
    assert closed.status_code in {403, 422}
    assert _count_extractions(fresh) == counted


def _count_extractions(service: Any) -> float:
    text = service.parts.meter.render()[0].decode()
    start = 'sosie_stage_seconds_count{stage="extract"} '
    return sum(float(line[len(start) :]) for line in text.splitlines() if line.startswith(start))


def test_of_two_requests_with_one_key_one_is_in_flight(fresh, activation) -> None:
    body = activation()

    async def race() -> list[Any]:
        content = encode(body, MSGPACK)
        headers = {**KEY, "authorization": f"Bearer {fresh.keys['b1']}", "content-type": MSGPACK}
        return await asyncio.gather(
            *(fresh._send("POST", PATH, headers=headers, content=content) for _ in range(8))
        )

    answers = fresh.run(race())
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses.count(201) == 1
    assert set(statuses) <= {200, 201, 409}
    for answer in answers:
        if answer.status_code == 409:
            fresh.assert_refused(answer, 409, "REQUEST.IN_FLIGHT")
    ids = {fresh.read(a)["enrollment_id"] for a in answers if a.status_code != 409}
    assert len(ids) == 1


@pytest.mark.parametrize(
    ("frames", "reason"), [(["faceless"], "NO_FACE"), (["stranger", "live"], "LIVE_FRAMES_DIFFER")]
)
def test_a_face_that_cannot_be_compared_is_a_decision(
    fresh, activation, faces, frames: list[str], reason: str
) -> None:
    response = fresh.enroll(activation(live=[faces[name] for name in frames]), "key-1")
    answer = fresh.read(response)
    assert (response.status_code, answer["decision"]) == (201, "rejected")
    first = answer["reasons"][0]
    assert first.pop("advice").keys() == {"en", "zh", "ko"}
    assert first == {"reason": reason, "decision": "rejected", "photograph": "live"}
    assert not any(one["is_fused"] for one in answer["frames"])
    search = answer["duplicate_search"]
    assert search.pop("ran") is False
    assert set(search.values()) == {None}


def test_an_outlets_key_enrolls_there_alone(fresh, activation) -> None:
    other = fresh.enroll(activation(outlet="b2"), "key-1", key="b1")
    fresh.assert_refused(other, 403, "ACCESS.FORBIDDEN")
    without = fresh.enroll(activation(outlet=None), "key-1", key="b1")
    assert without.status_code == 201
    left_out = fresh.enroll(activation(outlet=None), "key-1", key="blue")
    fresh.assert_refused(left_out, 400, "REQUEST.MALFORMED")


def test_the_answer_to_a_late_retry_is_still_given(fresh, activation, monkeypatch) -> None:
    body = activation()
    first = fresh.enroll(body, "key-1")
    later = datetime.now(UTC) + timedelta(hours=30)
    monkeypatch.setattr("serving.api.routes.enrollments.utc_now", lambda: later)
    again = fresh.enroll(body, "key-1")
    assert (again.status_code, fresh.read(again)["enrollment_id"]) == (
        200,
        fresh.read(first)["enrollment_id"],
    )
    fresh_one = fresh.enroll(body, "key-2")
    fresh.assert_refused(fresh_one, 400, "REQUEST.CAPTURE_TIME")


def test_what_was_decided_is_read_by_id_without_name_or_number(service, enrolled) -> None:
    response = service.ask("GET", f"{PATH}/{enrolled['enrollment_id']}", key="blue")
    answer = service.read(response)
    shown = read(answer, EnrollmentRecord)
    assert answer.keys() == set(EnrollmentRecord.__struct_fields__)
    assert (shown.decision, shown.carrier, shown.outlet) == ("approved", "blue", "b1")
    for name in ("scores", "thresholds", "quality", "document_id", "model_digest"):
        assert answer[name] == enrolled[name]
    assert "Aileen" not in response.text
    assert "110105199003071239" not in response.text


def test_what_was_decided_is_found_by_its_key(fresh, activation) -> None:
    first = fresh.read(fresh.enroll(activation(), "key-1", key="b1"))
    for key in ("b1", "blue"):
        again = fresh.ask("GET", PATH, key=key, params={"idempotency_key": "key-1"})
        assert fresh.read(again) == {**first, "is_repeated": True}
    texts = set()
    for key, name in (("b2", "key-1"), ("r1", "key-1"), ("red", "key-1"), ("b2", "key-2")):
        hidden = fresh.ask("GET", PATH, key=key, params={"idempotency_key": name})
        texts.add(fresh.assert_refused(hidden, 404, "REQUEST.NOT_FOUND"))
    assert len(texts) == 1


def test_reads_are_audited(fresh, activation) -> None:
    answer = fresh.read(fresh.enroll(activation(), "key-1", key="b1"))
    before = fresh.parts.store.audit_head()[0]
    fresh.ask("GET", f"{PATH}/{answer['enrollment_id']}", key="fraud")
    fresh.ask("GET", PATH, key="b1", params={"idempotency_key": "key-1"})
    fresh.ask("GET", f"{PATH}/{answer['enrollment_id']}", key="red")
    entries = fresh.audited(before)
    assert [(entry.action, entry.subject) for entry in entries] == [
        ("enrollment.read", answer["enrollment_id"])
    ] * 2
    starts = [entry.actor.partition(":")[0] for entry in entries]
    assert starts == ["fraud (key", "key"]


def test_a_repeated_request_is_audited_before_it_is_answered(
    fresh, activation, monkeypatch
) -> None:
    body = activation()
    answer = fresh.read(fresh.enroll(body, "key-1", key="b1"))
    before = fresh.parts.store.audit_head()[0]
    assert fresh.enroll(body, "key-1", key="blue").status_code == 200
    # Found by the registrar, as where two race.
    find = enrollments._answer_early

    def find_nothing(*given: Any) -> tuple[Any, Any]:
        asked = find(*given)[0]
        return asked, SimpleNamespace(request=asked)

    monkeypatch.setattr(enrollments, "_answer_early", find_nothing)
    assert fresh.enroll(body, "key-1", key="blue").status_code == 200
    entries = fresh.audited(before)
    actor = f"key:{fresh.keys['blue'].split('_')[-2]}"
    assert [(one.actor, one.action, one.subject) for one in entries] == [
        (actor, "enrollment.read", answer["enrollment_id"])
    ] * 2
    monkeypatch.undo()

    async def fail(*_: Any) -> None:
        raise StorageFailed("the database is gone")

    monkeypatch.setattr(fresh.parts.registrar, "carry", fail)
    unaudited = fresh.enroll(body, "key-1", key="b1")
    assert unaudited.status_code == 503
    assert answer["enrollment_id"] not in unaudited.text
