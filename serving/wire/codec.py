"""Between wire types and their two forms, JSON and MessagePack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

import msgspec

from serving.wire.fields import Moment, Template

T = TypeVar("T")

Invalid = msgspec.ValidationError
"""A value that is not of the type it is read as. Of an enumeration its text holds the value."""


def encode_json(value: object) -> bytes:
    """JSON in UTF-8; bytes are base64 (RFC 4648, section 4)."""
    return _JSON.encode(value)


def encode_msgpack(value: object) -> bytes:
    """MessagePack without extension types."""
    return _MSGPACK.encode(value)


def decode_json(body: bytes, kind: type[T]) -> T:
    """`Invalid`, or `msgspec.DecodeError` where it is not JSON."""
    return msgspec.json.decode(body, type=kind, dec_hook=_read_field)


def decode_msgpack(body: bytes, kind: type[T]) -> T:
    """`Invalid`, or `msgspec.DecodeError` where it is not MessagePack."""
    return msgspec.msgpack.decode(body, type=kind, dec_hook=_read_field)


def read(value: object, kind: type[T], *, is_text: bool = False) -> T:
    """Decoded values as this type; where all of them are texts, numbers are read from them."""
    return msgspec.convert(value, kind, strict=not is_text, dec_hook=_read_field)


def plain(value: object) -> Any:
    """What `encode_json` writes, as plain values."""
    return msgspec.to_builtins(value, enc_hook=_write_json)


def _read_field(kind: type[Any], value: Any) -> Any:
    return cast(Any, kind).read(value)


def _write_json(value: Any) -> Any:
    return value.text if isinstance(value, Template) else _write(value)


def _write_msgpack(value: Any) -> Any:
    return bytes(value) if isinstance(value, Template) else _write(value)


def _write(value: Any) -> Any:
    if isinstance(value, Moment):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no form on the wire")


_JSON = msgspec.json.Encoder(enc_hook=_write_json)
_MSGPACK = msgspec.msgpack.Encoder(enc_hook=_write_msgpack)
