"""Structs of values, and types that several threads decode.

msgspec describes a type to itself when it is first decoded, and crashes the process where two
threads do so at once.
"""

from collections.abc import Callable
from functools import cache
from threading import Lock
from typing import Any, TypeVar, cast, dataclass_transform

import msgspec
from msgspec.json import Decoder

T = TypeVar("T")

_lock = Lock()


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Value(msgspec.Struct, frozen=True):
    """A struct of values, which are never set again."""


class StrictValue(Value, forbid_unknown_fields=True):
    """A struct of values that refuses fields which it does not have."""


def _describe(kind: type[T]) -> type[T]:
    with _lock:
        Decoder(kind)
    return kind


prepare: Callable[[type[T]], type[T]] = cast(Any, cache(_describe))
"""The type itself, described by one thread while the others wait."""
