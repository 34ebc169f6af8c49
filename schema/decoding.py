"""Types that several threads decode.

msgspec describes a type to itself when it is first decoded, and crashes the process where two
threads do so at once.
"""

from __future__ import annotations

from threading import Lock
from typing import Any, TypeVar

from msgspec.json import Decoder

T = TypeVar("T")

_lock = Lock()
_described: set[Any] = set()


def prepare(kind: type[T]) -> type[T]:
    """The type itself, described by one thread while the others wait."""
    if kind not in _described:
        with _lock:
            Decoder(kind)
            _described.add(kind)
    return kind
