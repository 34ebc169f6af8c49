"""The file of an existing base: opened, looked over once, and read row by row."""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engine.errors import RequestError
from engine.imports.columns import Columns
from engine.imports.faults import Field

PARQUET_MAGIC = b"PAR1"
_PIECE_BYTES = 1 << 20
_PACKED = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip (or a spreadsheet)",
    b"\x28\xb5\x2f\xfd": "zstd",
}


@dataclass(frozen=True, slots=True, eq=False)
class RawRow:
    """A row as it stands in the file, counted from 1 after the header.

    A malformed one has no texts. `vector` float32[n] is what a column of vectors holds, as it is.
    """

    number: int
    texts: Mapping[Field, str] = field(default_factory=dict, repr=False)
    vector: NDArray[np.float32] | None = field(default=None, repr=False)
    is_malformed: bool = False


class Source(Protocol):
    """A base of subscribers."""

    @property
    def columns(self) -> Columns: ...

    @property
    def digest(self) -> str:
        """SHA-256 of the file, in hex."""
        ...

    @property
    def has_vectors(self) -> bool:
        """Whether it brings vectors, which only the model that made them can tell from noise."""
        ...

    def count_rows(self) -> int:
        """How many rows there are, malformed ones included."""
        ...

    def rows(self) -> Iterator[RawRow]:
        """All rows in their order, a piece of the file in memory at a time."""
        ...


@dataclass(frozen=True, slots=True)
class Survey:
    """The first bytes of a file, and the SHA-256 of all of them."""

    start: bytes = field(repr=False)
    digest: str


def survey_file(path: Path) -> Survey:
    """Reads a file once; `RequestError` where it cannot be, or must be unpacked first."""
    digest, start = hashlib.sha256(), b""
    try:
        if not path.is_file():
            raise RequestError(f"{path} is not a file: name a CSV or Parquet file")
        with path.open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                start = start or piece[:8]
                digest.update(piece)
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from None
    packed = next((kind for magic, kind in _PACKED.items() if start.startswith(magic)), None)
    if packed is not None:
        raise RequestError(f"{path} is packed by {packed}: unpack it to CSV or Parquet first")
    return Survey(start, digest.hexdigest())


def require_encoding(path: Path, encoding: str) -> None:
    """Refuses a text file that is not in this encoding, and says in which line it is not."""
    try:
        "x".encode(encoding)
        decoder = codecs.getincrementaldecoder(encoding)()
    except LookupError:
        raise RequestError(
            "no encoding has this name: use utf-8, gb18030, big5, euc-kr, tis-620, windows-1252 …"
        ) from None
    lines = 1
    with path.open("rb") as file:
        while True:
            piece = file.read(_PIECE_BYTES)
            try:
                lines += decoder.decode(piece, final=not piece).count("\n")
            except UnicodeDecodeError as error:
                before = error.object[: error.start].decode(encoding, "ignore")
                line = lines + before.count("\n")
                raise RequestError(
                    f"{path}, line {line}: not {encoding.upper()}: name the file's encoding, "
                    "as --encoding gb18030"
                ) from None
            if not piece:
                return
