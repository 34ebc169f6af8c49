"""The wire types: what both forms hold."""

import inspect
from datetime import UTC, datetime

import msgpack
import msgspec
import pytest

from schema import reasons
from serving.registrar.open_registry import MOST_CANDIDATES
from serving.wire import cases, enrollments, fields, matching, oversight
from serving.wire.fields import (
    Invalid,
    decode_json,
    decode_msgpack,
    encode_json,
    encode_msgpack,
    read,
)
from tests.serving.wire.test_vocabularies import MODULES

STRUCTS = {
    name: one
    for module in MODULES
    for name, one in vars(module).items()
    if inspect.isclass(one) and issubclass(one, msgspec.Struct)
}


def test_a_tenant_is_told_reasons_of_the_engines_or_that_they_are_withheld() -> None:
    [meta] = enrollments.ShownReason.__metadata__
    assert meta.extra_json_schema["enum"] == [*reasons.Reason, reasons.WITHHELD]


def test_a_match_lists_as_many_candidates_as_the_registrar() -> None:
    assert matching.MATCH_CANDIDATES == MOST_CANDIDATES


def test_no_two_types_have_one_name() -> None:
    defined = [
        name
        for module in MODULES
        for name, one in vars(module).items()
        if inspect.isclass(one) and one.__module__ == module.__name__
    ]
    assert len(set(defined)) == len(defined)


# CAMARA's requests have CAMARA's text.
@pytest.mark.parametrize("name", [one for one in STRUCTS if not one.startswith("SimSwap")])
def test_every_type_is_described(name: str) -> None:
    assert (STRUCTS[name].__doc__ or "").strip()
    msgspec.json.schema(STRUCTS[name], schema_hook=lambda _: {"type": "string"})


MOMENT = fields.Moment(2026, 1, 31, 12, 0, 0, 5, tzinfo=UTC)
TEMPLATES = matching.Templates(
    expires_at=MOMENT,
    model_digest="d",
    items=(matching.TemplateResult(id="a", template=fields.Template(b"\xff\x00\xfe")),),
)


def test_both_forms_are_what_any_reader_of_them_reads() -> None:
    moment = "2026-01-31T12:00:00.000005+00:00"
    written = msgspec.json.decode(encode_json(TEMPLATES))
    assert written["expires_at"] == moment
    assert written["items"] == [{"id": "a", "template": "_wD-"}]
    packed = msgpack.unpackb(encode_msgpack(TEMPLATES))
    assert packed["expires_at"] == moment
    assert packed["items"] == [{"id": "a", "template": b"\xff\x00\xfe"}]


def test_what_is_written_is_read_again() -> None:
    assert decode_json(encode_json(TEMPLATES), matching.Templates) == TEMPLATES
    assert decode_msgpack(encode_msgpack(TEMPLATES), matching.Templates) == TEMPLATES


def test_bytes_are_base64_in_json_and_binary_in_messagepack() -> None:
    crop = enrollments.Crop(photograph="live", image=b"\xff\xd8", kept_until=MOMENT)
    assert msgspec.json.decode(encode_json(crop))["image"] == "/9g="
    assert msgpack.unpackb(encode_msgpack(crop))["image"] == b"\xff\xd8"
    assert "xff" not in repr(crop)


def test_an_answer_may_have_more_than_its_reader_knows_and_a_request_may_not() -> None:
    more = {"status": "live", "since": 1}
    assert read(more, oversight.Liveness).status == "live"
    with pytest.raises(Invalid):
        read({"text": "a", "since": 1}, cases.NoteRequest)


def test_a_value_that_a_later_version_may_add_is_read() -> None:
    finding = {"reason": "A_NEW_ONE", "decision": "review", "photograph": None}
    assert read(finding, enrollments.Finding).reason == "A_NEW_ONE"


@pytest.mark.parametrize("text", ["2026-01-31T12:00:00", "yesterday", "", 5, None])
def test_a_moment_has_a_time_zone_and_its_error_no_value(text) -> None:
    with pytest.raises(Invalid) as caught:
        read({"outcome": "fraud", "seen_at": text or 0}, cases.OutcomeRequest)
    assert "yesterday" not in str(caught.value)


def test_a_moment_is_the_same_moment() -> None:
    now = datetime.now(UTC)
    assert fields.Moment.of(now) == now
    assert fields.Moment.of(now).isoformat() == now.isoformat()


def test_a_request_and_a_private_answer_show_nothing_of_themselves() -> None:
    document = fields.Document(type="cn-ric", number="110105199003071239", name="Aileen")
    assert repr(document) == "Document(…)"
    note = cases.CaseNote(at=MOMENT, actor="anna", kind="note", text="she was abroad")
    assert repr(note) == "CaseNote(…)"
