"""Bodies are read strictly and bounded, errors name fields and never values, answers are typed."""

import json
import re
from typing import Any

import msgpack
import pytest

from serving.api.body import (
    JSON,
    MAX_ARRAY,
    MAX_CONTAINERS,
    MAX_ELEMENTS,
    MAX_KEYS,
    MSGPACK,
    choose_type,
    decode,
    decode_form,
    decode_query,
    encode,
    unpack,
)
from serving.errors import Malformed, NotAcceptable, TooManyItems, TypeUnsupported
from serving.wire.cases import CaseQuery, NoteRequest, OutcomeRequest
from serving.wire.enrollments import EnrollmentRequest
from serving.wire.lines import HolderRequest
from serving.wire.matching import MatchRequest, TemplatesRequest


def read_plain(kind: str, body: bytes) -> Any:
    return unpack(body) if kind == MSGPACK else decode(kind, body, Any)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"{} {}",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": "\xff"}',
        b'{"a": "\\ud800"}',
        b"\xef\xbb\xbf{}",
        b'{"a":' + b"9" * 5000 + b"}",
        b"[" * 1000 + b"]" * 1000,
    ],
)
def test_bad_json_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        decode(JSON, body, Any)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\xc0\xc0",
        b"\xa2\xff\xff",
        b"\x81\xa1a",
        b"\x81\x01\x02",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x91" * 100_000 + b"\x01",
        msgpack.packb(msgpack.ExtType(5, b"abc")),
        msgpack.packb({"at": msgpack.Timestamp(1)}),
        msgpack.packb(dict.fromkeys(map(str, range(MAX_KEYS + 1)))),
    ],
)
def test_bad_msgpack_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        unpack(body)
    with pytest.raises(Malformed):
        decode(MSGPACK, body, NoteRequest)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (JSON, b"[" * 100_000),
        (JSON, b"[" + b"{}," * MAX_CONTAINERS + b"{}]"),
        (JSON, b"[" + b"1," * 70_000 + b"1]"),
        (MSGPACK, b"\xdd\xff\xff\xff\xff"),
        (MSGPACK, msgpack.packb([0] * (MAX_ARRAY + 1))),
        (MSGPACK, msgpack.packb([[[]] * MAX_ARRAY] * (MAX_CONTAINERS // MAX_ARRAY + 1))),
        (MSGPACK, msgpack.packb([[1.5] * MAX_ARRAY] * (MAX_ELEMENTS // MAX_ARRAY + 1))),
        (MSGPACK, msgpack.packb([[{"a": "é"}] * MAX_ARRAY, *[["é"] * MAX_ARRAY] * 128])),
    ],
)
def test_more_than_any_request_needs_is_refused_as_such_in_both_types(
    kind: str, body: bytes
) -> None:
    with pytest.raises(TooManyItems):
        read_plain(kind, body)


def test_a_message_holds_nothing_of_the_body() -> None:
    for body in (b'{"name": Aileen}', b'"Aileen', b'{"Aileen": 1,}'):
        with pytest.raises(Malformed) as caught:
            decode(JSON, body, NoteRequest)
        assert "Aileen" not in str(caught.value)


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "text/plain",
        "application/xml",
        "application/json; charset=latin-1",
        "json",
        "a/b,",
    ],
)
def test_another_content_type_is_unsupported(content_type: str | None) -> None:
    with pytest.raises(TypeUnsupported):
        decode(content_type, b"{}", Any)


@pytest.mark.parametrize(
    "content_type", ["application/json", "APPLICATION/JSON", 'application/json; charset="UTF-8"']
)
def test_json_may_say_that_it_is_utf8(content_type: str) -> None:
    assert decode(content_type, b"{}", Any) == {}


@pytest.mark.parametrize(
    ("accept", "content_type", "chosen"),
    [
        (None, None, JSON),
        (None, "multipart/form-data; boundary=x", JSON),
        (None, MSGPACK, MSGPACK),
        (None, "application/x-msgpack", MSGPACK),
        ("*/*", MSGPACK, MSGPACK),
        ("*/*", JSON, JSON),
        ("application/*", MSGPACK, MSGPACK),
        ("application/json", MSGPACK, JSON),
        ("application/msgpack", JSON, MSGPACK),
        ("application/vnd.msgpack", None, MSGPACK),
        ("application/json;q=0.4, application/msgpack;q=0.5", JSON, MSGPACK),
        ("application/msgpack;q=0, */*", MSGPACK, JSON),
        ("text/html, */*;q=0.1", None, JSON),
        ("Application/JSON", MSGPACK, JSON),
    ],
)
def test_the_answer_has_the_type_that_the_client_prefers(
    accept: str | None, content_type: str | None, chosen: str
) -> None:
    assert choose_type(accept, content_type) == chosen


@pytest.mark.parametrize("accept", ["text/html", "application/json;q=0", "image/*", "*/*;q=x", ","])
def test_a_client_that_takes_neither_type_is_told(accept: str) -> None:
    with pytest.raises(NotAcceptable):
        choose_type(accept, None)


@pytest.mark.parametrize("text", ["a", "YQ", "YQ==\n", "YQ=", "Y-_=", "é", "YQ==YQ=="])
@pytest.mark.parametrize("kind", [JSON, MSGPACK])
def test_base64_is_read_strictly(text: str, kind: str) -> None:
    body = {"items": [{"image": text}]}
    with pytest.raises(Malformed, match=r"items\.0\.image: not base64"):
        decode(kind, encode(body, kind), TemplatesRequest)


@pytest.mark.parametrize("size", [1, 2**21])
def test_images_are_binary_or_base64_in_messagepack(size: int) -> None:
    image = b"x" * size
    text = json.loads(encode(image, JSON))
    for given in (image, text):
        body = encode({"items": [{"image": given}]}, MSGPACK)
        assert decode(MSGPACK, body, TemplatesRequest).items[0].image == image


def test_an_answer_is_never_json_with_a_nan() -> None:
    assert json.loads(encode({"score": float("nan")}, JSON)) == {"score": None}


TEMPLATE = {"template": "AAAA"}
PAIR = {"probe": TEMPLATE, "reference": TEMPLATE}
FAULTS: list[tuple[Any, type[Any], str]] = [
    ([], MatchRequest, "the request: expected `object`"),
    ({"item": []}, MatchRequest, "item: unknown field: known are items"),
    ({"items": []}, MatchRequest, "items: expected `array` of length >= 1"),
    ({"items": [PAIR, {}]}, MatchRequest, "items.1.probe: missing"),
    ({"items": [{**PAIR, "refrence": 1}]}, MatchRequest, "items.0.refrence: unknown field"),
    ({"items": [{**PAIR, "Aileen Probe": 1}]}, MatchRequest, "items.0: unknown field"),
    *(
        ({"items": [{**PAIR, name: 1}]}, MatchRequest, "items.0: unknown field")
        for name in ("110105199003071239", "+8613800138000", "Aileen", "x" * 65, "é", "")
    ),
    ({"items": [{"probe": TEMPLATE}]}, MatchRequest, "items.0: nothing to do"),
    ({"items": [{**PAIR, "search": "Aileen"}]}, MatchRequest, "items.0.search: expected `bool`"),
    ({"items": [{**PAIR, "id": "x" * 129}]}, MatchRequest, "items.0.id: expected `str` of length"),
    ({"items": [{**PAIR, "probe": {}}]}, MatchRequest, "items.0.probe: give an image"),
    ({"items": [{"probe": TEMPLATE | {"image": "AA=="}}]}, MatchRequest, "items.0.probe: give"),
    (
        {"items": [{**PAIR, "probe": {"template": 1}}]},
        MatchRequest,
        "items.0.probe.template: expected",
    ),
    ({"outcome": "Aileen"}, OutcomeRequest, "outcome: not one of fraud, twins, mistake, unf"),
    ({"outcome": "' - at `$.Aileen`"}, OutcomeRequest, "outcome: not one of"),
    ({"` - at `$.Aileen": 1}, MatchRequest, "the request is not what /openapi.json describes"),
    ({"text": "Aileen\0"}, NoteRequest, "text holds characters"),
    ({"outcome": "fraud", "seen_at": "Aileen"}, OutcomeRequest, "seen_at: not a moment"),
    ({"document": {"type": "cn-ric"}}, HolderRequest, "document.number: missing"),
    ({"document": {"type": "cn-ric", "number": 5}}, HolderRequest, "document.number: expected"),
    ({"document": {"expires_on": "Aileen"}}, EnrollmentRequest, "document.expires_on: invalid"),
]


@pytest.mark.parametrize(("body", "kind", "words"), FAULTS)
@pytest.mark.parametrize("media_type", [JSON, MSGPACK])
def test_a_fault_is_named_by_its_field_and_never_by_its_value(
    body: Any, kind: type[Any], words: str, media_type: str
) -> None:
    with pytest.raises(Malformed, match=re.escape(words)) as caught:
        decode(media_type, encode(body, media_type), kind)
    place = words.partition(":")[0] if ":" in words else ""
    if re.fullmatch(r"[a-z_.0-9]+", place):
        assert caught.value.fields == (f"/{place.replace('.', '/')}",)
    assert "Aileen" not in f"{caught.value} {caught.value.fields}"
    assert "110105" not in str(caught.value)


@pytest.mark.parametrize("media_type", [JSON, MSGPACK])
def test_more_items_than_a_call_may_bring_are_an_error_of_their_own(media_type: str) -> None:
    whole = decode(media_type, encode({"items": [PAIR] * 256}, media_type), MatchRequest)
    assert len(whole.items) == 256
    with pytest.raises(TooManyItems, match="256"):
        decode(media_type, encode({"items": [PAIR] * 257}, media_type), MatchRequest)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"limit": "Aileen"}, "limit: expected `int`"),
        ({"limit": "201"}, "limit: expected `int` <= 200"),
        ({"state": "Aileen"}, "state: not one of open, assigned"),
        ({"stat": "open"}, "stat: unknown field: known are limit, after, sort, state"),
        ({"Aileen Probe": "1"}, "the request: unknown field"),
        ({"after": "\0"}, "after holds characters"),
    ],
)
def test_a_query_string_is_read_as_strictly(query: dict[str, str], words: str) -> None:
    with pytest.raises(Malformed, match=re.escape(words)) as caught:
        decode_query(query, CaseQuery)
    assert "Aileen" not in str(caught.value)
    assert decode_query({"limit": "7", "state": "alive"}, CaseQuery).limit == 7


TYPE = "multipart/form-data; boundary=----x"
IMAGE = b"\xff\xd8\r\n--nearly\r\n\x00\xff"


def part(name: str | None, data: bytes, *more: str, file: str = '; filename="a"') -> bytes:
    lines = [f'Content-Disposition: form-data; name="{name}"{file}'] if name is not None else []
    head = "\r\n".join([*lines, *more])
    return b"------x\r\n" + head.encode() + b"\r\n\r\n" + data + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"------x--\r\n"


def written(value: Any) -> bytes:
    return part("request", json.dumps(value).encode(), file="")


def test_files_join_the_request() -> None:
    body = form(
        written({"outlet": "b1"}), part("live", IMAGE, "Content-Type: image/jpeg"), part("x", b"")
    )
    assert decode_form(TYPE, body) == {"outlet": "b1", "live": IMAGE, "x": b""}


def test_a_name_is_a_path() -> None:
    body = form(
        part("probe.image", IMAGE),
        part("items.1.probe.image", b"1"),
        written({"items": [{"id": "a"}, {"probe": {}}]}),
    )
    assert decode_form(TYPE, body) == {
        "items": [{"id": "a"}, {"probe": {"image": b"1"}}],
        "probe": {"image": IMAGE},
    }


@pytest.mark.parametrize(
    "body",
    [
        b"",
        form(written({"live": 1}), part("live", IMAGE)),
        form(written({"live": [1]}), part("live", IMAGE)),
        form(written({}), written({})),
        form(written([])),
        form(part("request", b"{")),
        form(part(None, b"x", "Content-Type: text/plain")),
        form(part("items.1.live", b"x"), written({"items": []})),
        form(part("items.9999999999999999999.live", b"x"), written({"items": [{}]})),
        form(part("items.-1.live", b"x"), written({"items": [{}]})),
        form(part("a.b", b"x"), written({"a": 1})),
        form(part("live", b"x", "Content-Transfer-Encoding: base64")),
        form(part("live", b"x", "X-Long: " + "y" * 3000)),
        form(part("live", b"x", *(f"X-{n}: y" for n in range(20)))),
        form(*(part(f"p{n}", b"x") for n in range(700))),
        written({}) + b"------x\r\nContent-Disposition: form-data; name=live\r\n\r\ncut",
    ],
)
def test_a_form_that_is_not_sound_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        decode_form(TYPE, body)


def test_a_form_alone_is_a_request_with_its_lists_and_texts() -> None:
    files = [part(f"items.{n}.{name}", IMAGE) for n in (0, 1) for name in ("probe", "reference")]
    more = part("items.1.search", b"true", file=""), part("items.0.id", b"12", file="")
    unnamed = part("items.2.probe", IMAGE, file=""), part("items.2.search", b"1", file="")
    read = decode(TYPE, form(*files, *more, *unnamed), MatchRequest)
    assert [(one.id, one.search, one.probe.image) for one in read.items] == [
        *(("12", False, IMAGE), (None, True, IMAGE), (None, True, IMAGE))
    ]


def test_parts_of_one_name_are_frames_in_their_order() -> None:
    frames = [IMAGE, b"2", b"3"]
    body = form(
        *(part("probe", one) for one in frames),
        part("reference.image", b"r"),
        *(part("items.0.probe", one) for one in frames),
        written({"items": [{}]}),
    )
    read = decode_form(TYPE, body)
    assert read["probe"] == read["items"][0]["probe"] == {"image": frames}
    assert read["reference"] == {"image": b"r"}


@pytest.mark.parametrize(
    ("frames", "fault"),
    [
        ([], "live: expected `array` of length >= 1"),
        (["aa=="] * 9, "live: expected `array` of length <= 8"),
        (["aa==", 1], "live.1: expected `bytes`, got `int`"),
        (["aa==", "!"], "live.1: not base64"),
        ({}, "live: expected `bytes | array | null`, got `object`"),
    ],
)
def test_what_is_wrong_with_frames_is_told_with_its_place(frames: Any, fault: str) -> None:
    body = json.dumps({"live": frames}).encode()
    with pytest.raises(Malformed, match=re.escape(fault)):
        decode(JSON, body, EnrollmentRequest)


def test_a_portrait_is_one_photograph() -> None:
    body = form(written({}), part("portrait", IMAGE), part("portrait", IMAGE))
    with pytest.raises(Malformed, match=r"portrait: expected `bytes \| null`, got `array`"):
        decode(TYPE, body, EnrollmentRequest)


def test_a_face_is_named_by_its_field_or_by_its_image() -> None:
    for name in ("probe", "probe.image"):
        assert decode_form(TYPE, form(part(name, IMAGE))) == {"probe": {"image": IMAGE}}
    body = form(written({"items": [{"search": True}]}), part("items.0.probe", IMAGE))
    assert decode(TYPE, body, MatchRequest).items[0].probe.image == IMAGE
    with pytest.raises(Malformed, match=r"the part probe\.image of the form has"):
        decode_form(TYPE, form(part("probe", IMAGE), part("probe.image", IMAGE)))


def test_a_part_that_has_no_place_is_named_where_that_is_safe() -> None:
    with pytest.raises(Malformed, match="photo: unknown field: known are items"):
        decode(TYPE, form(part("photo", IMAGE)), TemplatesRequest)
    with pytest.raises(Malformed, match="the request: unknown field"):
        decode(TYPE, form(part("Aileen Probe", IMAGE)), TemplatesRequest)


@pytest.mark.parametrize(
    "content_type", ["multipart/form-data", "multipart/form-data; boundary=" + "y" * 100]
)
def test_a_boundary_is_needed(content_type: str) -> None:
    with pytest.raises(Malformed):
        decode_form(content_type, form(written({})))
