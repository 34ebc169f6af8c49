"""The last line of defence: what a log line never shows, whoever wrote it there."""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping
from datetime import date, datetime
from enum import Enum
from functools import lru_cache
from math import isfinite
from pathlib import PurePath
from types import TracebackType
from typing import Any
from uuid import UUID

WITHHELD = "[withheld]"
TEXT_LIMIT = 2000
DEPTH_LIMIT = 4
FRAME_LIMIT = 12

FORBIDDEN = frozenset(
    {
        *("image", "images", "photograph", "photographs", "photo", "photos", "portrait"),
        *("vector", "vectors", "embedding", "embeddings", "template", "templates"),
        *("token", "tokens", "probe", "probes", "name", "names", "surname", "birth"),
        *("number", "numbers", "msisdn", "msisdns", "phone", "document", "documents"),
        *("body", "payload", "headers", "query", "path", "url", "dsn"),
        *("key", "keys", "apikey", "authorization", "password", "passphrase", "secret"),
        *("cookie", "credential", "credentials"),
    }
)
"""Words of a field's name that make its value personal or secret."""

ALLOWED = frozenset({"key_id", "document_id"})
"""Fields that have such a word and yet are neither."""

# A number in E.164 form, an API key, a credential of a header, the password of a URL.
_SECRETS = (
    r"\+\d{7,15}\b|\bsosie_[A-Za-z0-9]+_\S+|\b(?:Bearer|Basic)\s+\S+|(?<=//)[^/\s:@]*:[^/\s@]+@"
)
_IN_WORDS = re.compile(_SECRETS)
# In prose, a long run of digits is somebody's number; in an identifier it need not be.
_IN_PROSE = re.compile(_SECRETS + r"|\b\d{10,}[Xx]?\b")
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")


@lru_cache(maxsize=1024)
def is_forbidden(field: str) -> bool:
    """True for `msisdn`, `api_key`, `holderName`; false for `key_id`."""
    if field in ALLOWED:
        return False
    return any(word.lower() in FORBIDDEN for word in _WORDS.findall(field))


def withhold(logger: object, method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """A structlog processor: fields of forbidden names, bytes, arrays, numbers and keys in texts
    become `[withheld]`; an exception shows its type and where it was raised, not its text."""
    del logger, method
    for field, value in event.items():
        kind = type(value)
        if is_forbidden(field):
            event[field] = WITHHELD
        elif kind is str:
            event[field] = show_text(value)
        elif kind is not int and kind is not bool and value is not None:
            event[field] = _show(value, DEPTH_LIMIT)
    return event


def show_error(error: BaseException) -> dict[str, Any]:
    """The type of an exception, its place in the code, and the same of its cause."""
    shown: dict[str, Any] = {
        "type": type(error).__qualname__,
        "where": _list_frames(error.__traceback__),
    }
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        shown["cause"] = type(cause).__qualname__
        shown["cause_where"] = _list_frames(cause.__traceback__)
    return shown


def show_text(text: str) -> str:
    if " " in text:
        text = _IN_PROSE.sub(WITHHELD, text)
    elif "+" in text or "_" in text or "@" in text:
        text = _IN_WORDS.sub(WITHHELD, text)
    return text if len(text) <= TEXT_LIMIT else text[:TEXT_LIMIT]


def _list_frames(trace: TracebackType | None) -> list[str]:
    frames = []
    while trace is not None:
        code = trace.tb_frame.f_code
        frames.append(f"{PurePath(code.co_filename).name}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return frames[-FRAME_LIMIT:]


def _show(value: object, depth: int) -> object:  # noqa: PLR0911 -- one line a kind of value
    if value is None or (isinstance(value, (bool, int)) and not isinstance(value, Enum)):
        return value
    if isinstance(value, float):
        return float(value) if isfinite(value) else str(value)
    if isinstance(value, Enum):
        return _show(value.value, depth)
    if isinstance(value, str):
        return show_text(value)
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if isinstance(value, (UUID, PurePath)):
        return str(value)
    if isinstance(value, BaseException):
        return show_error(value)
    if depth and isinstance(value, Mapping):
        return {
            str(field): WITHHELD if is_forbidden(str(field)) else _show(item, depth - 1)
            for field, item in value.items()
        }
    if depth and isinstance(value, (list, tuple, set, frozenset)):
        return [_show(item, depth - 1) for item in value]
    # Bytes, arrays, and whatever has a repr that nobody looked at.
    return WITHHELD
