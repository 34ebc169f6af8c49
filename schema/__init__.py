"""Vocabularies and structs that cross layers, and what makes a class of values."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar, dataclass_transform, overload

T = TypeVar("T")


@overload
def frozen(kind: type[T], /) -> type[T]: ...
@overload
def frozen(*, kw_only: bool = False, eq: bool = True) -> Callable[[type[T]], type[T]]: ...
@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(kind: Any = None, /, **options: bool) -> Any:
    """A dataclass of values: its fields are never set again, and there are no other attributes."""
    return dataclass(kind, frozen=True, slots=True, **options)
