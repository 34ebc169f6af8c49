"""What every index refuses before it changes anything."""

from __future__ import annotations

import math
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from indexes.base import Ids, Vectors
from indexes.errors import IdInvalid, SearchInvalid, VectorInvalid

_GREATEST = np.iinfo(np.int64).max

UNIT_TOLERANCE = 1e-3
"""How far from 1 the length of a row may be."""


def check_vectors(vectors: Vectors, dim: int) -> Vectors:
    """The same rows, C-contiguous, if they are `float32[n, dim]`, finite and of unit length."""
    array = _array(vectors, VectorInvalid, "vectors")
    if array.dtype != np.float32:
        raise VectorInvalid(f"vectors are {array.dtype}; give float32")
    if array.ndim != 2 or array.shape[1] != dim:
        raise VectorInvalid(f"vectors have shape {array.shape}; give (n, {dim})")
    rows: Vectors = np.ascontiguousarray(array)
    # The square of a large float32 overflows to infinity, which is refused as it should be.
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.sqrt(np.vecdot(rows, rows))
        fits = np.abs(lengths - 1) <= UNIT_TOLERANCE
    if not fits.all():
        row = int(fits.argmin())
        if not np.isfinite(rows[row]).all():
            raise VectorInvalid(f"vector {row} is not finite")
        raise VectorInvalid(f"vector {row} has length {lengths[row]:.4g}; scale it to 1")
    return rows


def check_ids(ids: Ids) -> list[int]:
    """The ids as a list, if they are `int64[n]` and not negative."""
    array = _array(ids, IdInvalid, "ids")
    if array.dtype != np.int64:
        raise IdInvalid(f"ids are {array.dtype}; give int64")
    if array.ndim != 1:
        raise IdInvalid(f"ids have shape {array.shape}; give one dimension")
    if len(array) and array.min() < 0:
        raise IdInvalid(f"id {array.min()} is negative; give 0 or more")
    keys: list[int] = array.tolist()
    return keys


def check_distinct(keys: list[int]) -> list[int]:
    """The same ids, if no two are equal."""
    if len(set(keys)) != len(keys):
        values, counts = np.unique(keys, return_counts=True)
        raise IdInvalid(f"id {values[counts > 1][0]} is given twice; give each id once")
    return keys


def check_references(ids: Ids, vectors: Vectors, dim: int) -> tuple[list[int], Vectors]:
    """Ids and their rows, if both are what may be added, and as many."""
    rows = check_vectors(vectors, dim)
    keys = check_distinct(check_ids(ids))
    if len(keys) != len(rows):
        raise IdInvalid(f"{len(keys)} ids for {len(rows)} vectors; give one for each")
    return keys, rows


def is_id(key: object) -> TypeGuard[int]:
    """Whether it may be an id; a bool or a float would equal one in a set or an array."""
    if isinstance(key, bool) or not isinstance(key, int | np.integer):
        return False
    return bool(0 <= key <= _GREATEST)


def check_hit_count(k: int) -> int:
    """k, if it is a whole number of at least 1."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise SearchInvalid(f"k is {k!r}; give a whole number of at least 1")
    return int(k)


def check_threshold(threshold: float) -> float:
    """The threshold, if it is a finite number."""
    if not isinstance(threshold, int | float | np.integer | np.floating) or not math.isfinite(
        threshold
    ):
        raise SearchInvalid(f"threshold is {threshold!r}; give a finite number")
    return float(threshold)


def _array(given: object, refusal: type[Exception], what: str) -> NDArray[Any]:
    if not isinstance(given, np.ndarray):
        raise refusal(f"{what} are a {type(given).__name__}; give a numpy array")
    return given
