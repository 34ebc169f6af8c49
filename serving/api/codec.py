"""The types that bodies have: JSON, MessagePack and forms in, JSON and MessagePack out.

What is decoded is plain (dict, list, str, bytes, numbers, None) and bounded in how much larger
than its body it may grow. In JSON, bytes are base64 (RFC 4648, section 4). `Call.read_body` reads
the bytes.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Mapping
from datetime import date, datetime
from functools import lru_cache
from typing import Any

import msgpack
import pydantic_core

from serving.refusals import Malformed, NotAcceptable, TooManyItems, TypeUnsupported

JSON = "application/json"
MSGPACK = "application/msgpack"
FORM = "multipart/form-data"
REQUEST_TYPES = (JSON, MSGPACK, FORM)

_MSGPACK_NAMES = frozenset({MSGPACK, "application/x-msgpack", "application/vnd.msgpack"})
_RANGES = {
    JSON: (JSON, "application/*", "*/*"),
    MSGPACK: (MSGPACK, "application/x-msgpack", "application/vnd.msgpack", "application/*", "*/*"),
}

# An empty list is one byte on the wire and 64 in memory: structure is bounded, not bytes alone.
MAX_CONTAINERS = 4096
MAX_ELEMENTS = 65_536
MAX_ARRAY = 512
MAX_KEYS = 64
_SMALL_BODY = 4096


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


def decode(content_type: str | None, body: bytes) -> Any:
    """What a body says.

    `Malformed` where it is not what its type says, `TooManyItems` where it holds more than any
    request needs, `TypeUnsupported`.
    """
    match parse_type(content_type):
        case "application/msgpack":
            return decode_msgpack(body)
        case "application/json":
            return decode_json(body)
        case _:
            from serving.api.forms import decode_form  # noqa: PLC0415 (forms hold JSON)

            return decode_form(content_type or "", body)


def decode_json(body: bytes) -> Any:
    """JSON (RFC 8259) without NaN and Infinity."""
    if len(body) > _SMALL_BODY:
        # Nothing of base64 is counted here.
        containers = body.count(b"[") + body.count(b"{")
        if containers > MAX_CONTAINERS or body.count(b",") > MAX_ELEMENTS:
            raise _too_many()
    try:
        return pydantic_core.from_json(body, allow_inf_nan=False, cache_strings="keys")
    except ValueError as error:
        place = str(error).rpartition(" at ")[2]
        where = f" ({place})" if place.startswith("line ") else ""
        raise Malformed(f"the body is not JSON in UTF-8{where}: send one object") from None


def decode_msgpack(body: bytes) -> Any:
    """MessagePack without extension types; texts are UTF-8, keys are texts."""
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
    """Stops a decoder that has made more containers, or put more into them, than requests need.

    What is not closed yet is bounded by the decoder's own depth and by the lengths it takes.
    """

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


def _refuse_extension(code: int, data: bytes) -> Any:
    del code, data
    raise Malformed("the body holds a MessagePack extension type: send times as texts")


def encode(value: Any, media_type: str) -> bytes:
    """JSON or MessagePack of plain values; moments and days are ISO texts, JSON's bytes base64."""
    if media_type == MSGPACK:
        packed: bytes = msgpack.packb(value, default=_write_plain)
        return packed
    return json.dumps(
        value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_write_plain
    ).encode()


def _write_plain(value: object) -> Any:
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, bytes):
        return binascii.b2a_base64(value, newline=False).decode()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no form in an answer")


def choose_type(accept: str | None, content_type: str | None) -> str:
    """The type of the answer; the request's own where the client takes both alike.

    `NotAcceptable` where the client takes neither.
    """
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
    # The most specific range counts (RFC 9110, 12.5.1).
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
