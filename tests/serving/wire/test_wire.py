"""The wire types: what both forms hold."""

import inspect
import subprocess
import sys
from datetime import UTC

import msgpack
import msgspec
import pytest

from schema import reasons
from serving.registrar.open_registry import MOST_CANDIDATES
from serving.wire import cases, enrollments, fields, matching, oversight
from serving.wire.fields import Invalid, encode_json, encode_msgpack, read
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


def test_an_answer_may_have_more_than_its_reader_knows_and_a_request_may_not() -> None:
    more = {"status": "live", "since": 1}
    assert read(more, oversight.Liveness).status == "live"
    with pytest.raises(Invalid):
        read({"text": "a", "since": 1}, cases.NoteRequest)


@pytest.mark.parametrize("text", ["2026-01-31T12:00:00", "yesterday", "", 5, None])
def test_a_moment_has_a_time_zone_and_its_error_no_value(text) -> None:
    with pytest.raises(Invalid) as caught:
        read({"outcome": "fraud", "seen_at": text or 0}, cases.OutcomeRequest)
    assert "yesterday" not in str(caught.value)


def test_a_request_and_a_private_answer_show_nothing_of_themselves() -> None:
    document = fields.Document(type="cn-ric", number="110105199003071239", name="Aileen")
    assert repr(document) == "Document(…)"
    note = cases.CaseNote(at=MOMENT, actor="anna", kind="note", text="she was abroad")
    assert repr(note) == "CaseNote(…)"


RACE = """
import sys
from threading import Thread
from msgspec import convert, defstruct
from schema.decoding import prepare

sys.setswitchinterval(1e-6)
for _ in range(3000):
    inner = defstruct("Inner", [("text", str)])
    kind = defstruct("Outer", [("one", inner), ("all", dict[str, inner])])
    decode = lambda: convert({"one": {"text": "a"}, "all": {}}, prepare(kind))
    threads = [Thread(target=decode) for _ in range(4)]
    [one.start() for one in threads]
    [one.join() for one in threads]
"""


def test_threads_that_first_decode_a_type_at_once_do_not_crash() -> None:
    assert subprocess.run([sys.executable, "-c", RACE], check=False, timeout=300).returncode == 0
