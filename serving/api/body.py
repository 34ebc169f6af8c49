"""Bodies: JSON, MessagePack and forms in, JSON and MessagePack out; bounded in how much larger they
grow when read, in memory alone: no face lies in the clear on a disk. An error names the field,
never its value."""

import asyncio
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any, ParamSpec, TypeVar

import msgpack
import msgspec
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from engine.formatting import size
from serving.access.authentication import count_shares
from serving.access.authorization import Holder
from serving.errors import (
    BodyTooLarge,
    Busy,
    Malformed,
    NotAcceptable,
    TooManyItems,
    TypeUnsupported,
    describe_invalid,
    name_safely,
)
from serving.wire.fields import Invalid, Template, decode_msgpack, encode_json, encode_msgpack, read
from serving.wire.matching import MatchRequest, TemplatesRequest

P = ParamSpec("P")
T = TypeVar("T")

JSON = "application/json"
MSGPACK = "application/msgpack"
FORM = "multipart/form-data"
PROBLEM = "application/problem+json"
REQUEST_TYPES = (JSON, MSGPACK, FORM)

_MSGPACK_NAMES = frozenset({MSGPACK, "application/x-msgpack", "application/vnd.msgpack"})
_RANGES = {
    JSON: (JSON, PROBLEM, "application/*", "*/*"),
    MSGPACK: (MSGPACK, "application/x-msgpack", "application/vnd.msgpack", "application/*", "*/*"),
}

# An empty list is one byte on the wire and 64 in memory: structure is bounded, not bytes alone.
MAX_CONTAINERS = 4096
MAX_ELEMENTS = 65_536
MAX_ARRAY = 512
MAX_KEYS = 64
_SMALL_JSON = 4096

_NATIVE: frozenset[type[Any]] = frozenset({MatchRequest, TemplatesRequest})
"""Read straight from MessagePack: every value in them has a type of msgspec's own, so that no
structure is made which the type does not have."""

BODIES_HELD = 8
"""So many of the largest bodies an ingress holds at once, or as many more as are smaller."""
LEAST_BYTES = 64 * 1024
"""What a body takes at least while it comes, whatever has come of it."""
LARGE_BYTES = 256 * 1024
"""A smaller body costs the event loop less than a thread does."""

# What is decoded takes memory besides its body: a few at a time.
_threads = ThreadPoolExecutor(2, "decoder")

# -- Types ------------------------------------------------------------------------------------


def parse_type(content_type: str | None) -> str:
    """The media type of a request's body; `TypeUnsupported` for one that no route reads."""
    name, _, parameters = (content_type or "").partition(";")
    name = name.strip().lower()
    if name in _MSGPACK_NAMES:
        return MSGPACK
    if name == FORM:
        return FORM
    if name == JSON and _is_utf8(parameters):
        return JSON
    raise TypeUnsupported(f"give the Content-Type of the body: {', '.join(REQUEST_TYPES)}")


def _is_utf8(parameters: str) -> bool:
    for parameter in parameters.split(";"):
        key, _, value = parameter.partition("=")
        if key.strip().lower() == "charset":
            return value.strip().strip('"').lower() in {"utf-8", "utf8"}
    return True


def choose_type(accept: str | None, content_type: str | None) -> str:
    """The type of the answer, the request's own where the client takes both alike; `NotAcceptable`
    for neither."""
    return _choose(accept or "", _own_type(content_type))


def _own_type(content_type: str | None) -> str:
    if content_type is None or content_type == JSON:
        return JSON
    name = content_type.partition(";")[0].strip().lower()
    return MSGPACK if name in _MSGPACK_NAMES else JSON


@lru_cache(maxsize=64)
def _choose(accept: str, own: str) -> str:
    if not accept.strip():
        return own
    wanted = _read_accept(accept)
    other = MSGPACK if own == JSON else JSON
    own_weight, other_weight = (_weigh(wanted, kind) for kind in (own, other))
    if own_weight == other_weight == 0:
        raise NotAcceptable(f"answers are {JSON} or {MSGPACK}: accept one of them")
    return own if own_weight >= other_weight else other


def _weigh(wanted: Mapping[str, float], kind: str) -> float:
    # The most specific range counts (RFC 9110, 12.5.1). Errors alone come as problems.
    return next((wanted[name] for name in _RANGES[kind] if name in wanted), 0.0)


def _read_accept(accept: str) -> dict[str, float]:
    wanted: dict[str, float] = {}
    for item in accept[:1024].split(","):
        name, *parameters = (part.strip().lower() for part in item.split(";"))
        weight = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    weight = min(max(float(parameter[2:]), 0.0), 1.0)
                except ValueError:
                    weight = 0.0
        if name:
            wanted[name] = max(weight, wanted.get(name, 0.0))
    return wanted


# -- Lengths and memory -----------------------------------------------------------------------


def read_length(headers: Mapping[bytes, bytes], limit_bytes: int) -> int | None:
    """The Content-Length, None where there is none; `BodyTooLarge`, `Malformed`, `TypeUnsupported`
    for a compressed body."""
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise TypeUnsupported("a compressed body is not read: send it without Content-Encoding")
    given = headers.get(b"content-length")
    if given is None:
        return None
    if not given.isdigit():
        raise Malformed("the Content-Length is not one whole number")
    if len(given) > 15 or int(given) > limit_bytes:
        raise too_large(limit_bytes)
    return int(given)


def too_large(limit_bytes: int) -> BodyTooLarge:
    """The error for a body that is larger."""
    return BodyTooLarge(f"the body is larger than {size(limit_bytes)}: send less at once")


class BodyBudget:
    """Bytes of bodies that may still be held, and who holds the others; for one event loop. No
    carrier holds more than is free besides, one alone half, the next a quarter: however slowly
    others send, another finds some left. Nor has a key more than its carrier could take besides."""

    __slots__ = ("_held", "_left")

    def __init__(self, max_body_mib: float) -> None:
        self._left = BODIES_HELD * int(max_body_mib * 2**20)
        self._held: Counter[str | Holder] = Counter()

    def take(self, size_bytes: int, holder: Holder) -> None:
        """Reserves memory for a body; `Busy` where it would leave too little for others."""
        of_carrier, of_key = self._held[holder.tenant], self._held[holder]
        room = self._left - size_bytes - of_carrier
        if size_bytes > room or of_key + size_bytes > room:
            raise Busy("the bodies of other requests fill the memory set aside: try again later")
        self._change(size_bytes, holder)

    def give_back(self, size_bytes: int, holder: Holder) -> None:
        self._change(-size_bytes, holder)

    def _change(self, size_bytes: int, holder: Holder) -> None:
        self._left -= size_bytes
        count_shares(self._held, size_bytes, holder)


async def work_apart(size_bytes: int, work: Callable[P, T], *given: P.args, **more: P.kwargs) -> T:
    """The result of work on a body of this size; a large one is worked on in a thread."""
    if size_bytes <= LARGE_BYTES:
        return work(*given, **more)
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_threads, partial(work, *given, **more))


# -- Reading and writing ----------------------------------------------------------------------


def encode(value: object, media_type: str) -> bytes:
    """An answer in JSON or MessagePack."""
    return encode_msgpack(value) if media_type == MSGPACK else encode_json(value)


def decode(content_type: str | None, body: bytes, kind: type[T]) -> T:
    """A body as this type; `Malformed`, `TypeUnsupported`, or `TooManyItems` where it holds more
    than any request needs."""
    media_type = parse_type(content_type)
    if media_type == MSGPACK and kind in _NATIVE:
        # What is refused here is read again below: a text may stand where binary is expected.
        with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return decode_msgpack(body, kind)
    if media_type == MSGPACK:
        value = unpack(body)
    elif media_type == JSON:
        value = _read_json(body)
    else:
        value = decode_form(content_type or "", body)
    _read_templates(value)
    try:
        return read(value, kind, is_text=media_type == FORM)
    except Invalid as error:
        raise describe_invalid(error, kind) from None


def decode_query(query: Mapping[str, str | list[str]], kind: type[T]) -> T:
    """A query string as this type; `Malformed`."""
    try:
        return read(query, kind, is_text=True)
    except Invalid as error:
        raise describe_invalid(error, kind) from None


def _read_json(body: bytes) -> Any:
    """JSON (RFC 8259) without NaN and Infinity; of base64 nothing is counted."""
    if len(body) > _SMALL_JSON:
        containers = body.count(b"[") + body.count(b"{")
        if containers > MAX_CONTAINERS or body.count(b",") > MAX_ELEMENTS:
            raise _too_many()
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        place = re.search(r"\(byte \d+\)$", str(error))
        where = f" {place[0]}" if place else ""
        raise Malformed(f"the body is not JSON in UTF-8{where}: send one object") from None


def _read_templates(value: Any) -> None:
    """Turns the texts of templates into what they stand for, as deep as they are."""
    if type(value) is dict:
        template = value.get("template")
        if type(template) is str:
            value["template"] = bytes(Template.read(template))
        value = value.values()
    elif type(value) is not list:
        return
    for one in value:
        _read_templates(one)


def unpack(body: bytes) -> Any:
    """MessagePack without extension types as plain values; texts are UTF-8, keys are texts."""
    count = _Count()
    try:
        return msgpack.unpackb(
            body,
            raw=False,
            strict_map_key=True,
            max_array_len=MAX_ARRAY,
            max_map_len=MAX_KEYS,
            max_ext_len=0,
            ext_hook=_refuse_extension,
            object_hook=count,
            list_hook=count,
        )
    except (Malformed, TooManyItems):
        raise
    # ExtraData, FormatError, StackError and UnicodeDecodeError are ValueErrors.
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        if "max_array_len" in str(error):
            raise _too_many() from None
        raise Malformed(
            "the body is not one MessagePack value of maps, arrays, texts and binaries"
        ) from None


class _Count:
    """Stops a decoder that has made more containers, or put more into them, than requests need; its
    own depth and lengths bound what is not closed yet."""

    __slots__ = ("_containers", "_elements")

    def __init__(self) -> None:
        self._containers, self._elements = MAX_CONTAINERS, MAX_ELEMENTS

    def __call__(self, made: Any) -> Any:
        self._containers -= 1
        self._elements -= len(made)
        if self._containers < 0 or self._elements < 0:
            raise _too_many()
        return made


def _too_many() -> TooManyItems:
    return TooManyItems("the body has too many values: split it into several requests")


def _refuse_extension(_code: int, _data: bytes) -> Any:
    raise Malformed("the body holds a MessagePack extension type: send times as texts")


# -- Forms ------------------------------------------------------------------------------------

REQUEST_PART = "request"
FACE_PARTS = frozenset({"probe", "reference"})
MAX_PARTS = 600
MAX_PART_HEADERS = 8
MAX_HEADER_BYTES = 1024
MAX_DEPTH = 4


def decode_form(content_type: str, body: bytes) -> Any:
    """The object of the part `request`, with each other part at its name.

    A name may be a path into the object: `live`, `document.number`, `items.0.probe`; a list begins
    with 0. A face is its image, which may be named besides: `probe.image`. Parts of one name are a
    list, as frames are. What is no file and is text is a text, as in a query. `Malformed` where a
    form cannot be read or gives one value by two names.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    if not 1 <= len(boundary) <= 70:
        raise Malformed("the form names no boundary of 1 to 70 characters in its Content-Type")
    parts = _PartReader()
    parser = MultipartParser(
        boundary,
        callbacks={
            "on_part_begin": parts.begin,
            "on_part_data": parts.add,
            "on_part_end": parts.end,
            "on_header_field": parts.add_field,
            "on_header_value": parts.add_value,
            "on_header_end": parts.end_header,
            "on_end": parts.finish,
        },
        max_header_count=MAX_PART_HEADERS,
        max_header_size=MAX_HEADER_BYTES,
    )
    try:
        parser.write(body)
        parser.finalize()
    except FormParserError:
        parts.is_whole = False
    if not parts.is_whole:
        raise Malformed("the form is not whole: check its boundary and its parts")
    return _compose(parts.found)


def _compose(parts: list[tuple[str, bytes | str]]) -> Any:
    written = [data for name, data in parts if name == REQUEST_PART]
    if len(written) > 1:
        raise Malformed("the form has several parts named request: send one")
    value: Any = {}
    if written:
        (data,) = written
        value = _read_json(data.encode() if isinstance(data, str) else data)
    if not isinstance(value, dict):
        raise Malformed("the part request is not a JSON object")
    named: dict[str, list[bytes | str]] = defaultdict(list)
    for name, data in parts:
        if name != REQUEST_PART:
            named[name].append(data)
    for name, files in named.items():
        _place(value, name, files if len(files) > 1 else files[0])
    return value


def _place(root: dict[str, Any], name: str, data: object) -> None:
    *steps, last = name.split(".", MAX_DEPTH)
    if last in FACE_PARTS:
        steps, last = [*steps, last], "image"
    holder: Any = root
    for step, after in pairwise([*steps, last]):
        if isinstance(holder, dict):
            holder = holder.setdefault(step, [] if after.isdecimal() else {})
        elif isinstance(holder, list) and step.isdecimal() and int(step[:6]) <= len(holder):
            if int(step[:6]) == len(holder):
                holder.append({})
            holder = holder[int(step[:6])]
        else:
            holder = None
    if not isinstance(holder, dict) or last in holder:
        shown = name_safely(name)
        part = f"the part {shown}" if shown else "a part"
        raise Malformed(f"{part} of the form has a name that is taken, or no place in the request")
    holder[last] = data


class _PartReader:
    """Collects the parts of one form; the parser's callbacks."""

    def __init__(self) -> None:
        self.found: list[tuple[str, bytes | str]] = []
        self.is_whole = False
        self._begin_part()

    def _begin_part(self) -> None:
        self._name: str | None = None
        self._is_file = False
        self._chunks: list[bytes] = []
        self._field = self._value = b""

    def begin(self) -> None:
        if len(self.found) >= MAX_PARTS:
            raise Malformed(f"the form has more than {MAX_PARTS} parts")
        self._begin_part()

    def add(self, data: bytes, start: int, end: int) -> None:
        self._chunks.append(data[start:end])

    def end(self) -> None:
        if self._name is None:
            raise Malformed("a part of the form has no name in its Content-Disposition")
        data = b"".join(self._chunks)
        # A photograph that comes without a name of a file is no text in UTF-8.
        with suppress(UnicodeDecodeError):
            if not self._is_file:
                self.found.append((self._name, data.decode()))
                return
        self.found.append((self._name, data))

    def finish(self) -> None:
        self.is_whole = True

    def add_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def add_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def end_header(self) -> None:
        if self._field.lower() == b"content-disposition":
            options = parse_options_header(self._value)[1]
            name, self._is_file = options.get(b"name", b""), b"filename" in options
            try:
                self._name = name.decode()
            except UnicodeDecodeError:
                raise Malformed("a part of the form has a name that is no text") from None
        elif self._field.lower() == b"content-transfer-encoding" and self._value.lower() not in {
            b"binary",
            b"8bit",
        }:
            raise Malformed("a part of the form has a Content-Transfer-Encoding: send it as it is")
        self._field = self._value = b""
