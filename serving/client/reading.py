"""From decoded values to typed answers."""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from datetime import datetime
from functools import cache
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")
Read = Callable[[Any], Any]


def read_answer(kind: type[T], value: object) -> T:
    """`value` as a dataclass; fields that are not known are ignored, `ValueError` for a misfit."""
    made: T = _reader(cast("Any", kind))(value)
    return made


@cache
def _reader(kind: Any) -> Read:
    if is_dataclass(kind):
        return _dataclass_reader(kind)
    return _SPECIAL.get(kind) or _generic_reader(kind) or _plain_reader(kind)


def _generic_reader(kind: Any) -> Read | None:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in {Union, types.UnionType}:
        return _optional_reader(_reader(next(one for one in inner if one is not type(None))))
    if origin is tuple:
        return _tuple_reader(_reader(inner[0]))
    if origin is dict:
        return _dict_reader(_reader(inner[1]))
    return None


def _dataclass_reader(kind: Any) -> Read:
    hints = get_type_hints(kind)
    readers = [(one.name, _reader(hints[one.name])) for one in fields(kind)]
    required = {
        one.name
        for one in fields(kind)
        if one.default is MISSING and one.default_factory is MISSING
    }

    def read(value: Any) -> Any:
        if type(value) is not dict or not required <= value.keys():
            raise ValueError(f"not a {kind.__name__}")
        return kind(**{name: one(value[name]) for name, one in readers if name in value})

    return read


def _optional_reader(inner: Read) -> Read:
    return lambda value: None if value is None else inner(value)


def _tuple_reader(inner: Read) -> Read:
    def read(value: Any) -> Any:
        if type(value) is not list:
            raise ValueError("not a list")
        return tuple(inner(one) for one in value)

    return read


def _dict_reader(inner: Read) -> Read:
    def read(value: Any) -> Any:
        if type(value) is not dict:
            raise ValueError("not an object")
        return {name: inner(one) for name, one in value.items()}

    return read


def _plain_reader(kind: Any) -> Read:
    def read(value: Any) -> Any:
        if type(value) is not kind:
            raise ValueError(f"not of type {kind.__name__}")
        return value

    return read


def _read_moment(value: Any) -> datetime:
    if type(value) is not str:
        raise ValueError("not a moment")
    return datetime.fromisoformat(value)


def _read_float(value: Any) -> float:
    if type(value) not in {float, int}:
        raise ValueError("not a number")
    return float(value)


_SPECIAL: dict[Any, Read] = {datetime: _read_moment, float: _read_float, Any: lambda value: value}
