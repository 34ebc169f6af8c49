"""Python functions as machine code, kept on disk from one process to the next."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., Any])

_FOLDER = Path(__file__).parent
_settings: Any = numba.config


def compiled(function: Function, *, reordered: bool = False) -> Function:
    """The function as machine code, made at its first call and kept on disk where that is allowed.

    `reordered` lets LLVM add floats in any order, as vector instructions do. Where nothing can be
    written, each process makes its own code, which takes some seconds.
    """
    fastmath = {"reassoc", "contract"} if reordered else False
    try:
        with _cache_of_these_sources():
            made: object = numba.njit(nogil=True, cache=True, fastmath=fastmath)(function)
    except RuntimeError:
        made = numba.njit(nogil=True, fastmath=fastmath)(function)
    return cast(Function, made)


def _digest_sources() -> str:
    digest = hashlib.sha256()
    for source in sorted(_FOLDER.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


_DIGEST = _digest_sources()


@contextmanager
def _cache_of_these_sources() -> Iterator[None]:
    """Has numba keep its code under a digest of all that it is made of.

    By itself numba looks at the file of the function alone: after an update of another one that it
    calls, the old machine code would run.
    """
    given: str = _settings.CACHE_DIR
    folder = Path(given) if given else _FOLDER / "__pycache__"
    _settings.CACHE_DIR = str(folder / f"machine-code-{_DIGEST}")
    try:
        yield
    finally:
        _settings.CACHE_DIR = given
