"""The small file that names a snapshot's data and says whose it is.

Layout, little-endian: magic, format version, length of the body; the body in JSON; the SHA-256
of all that; the same digest sealed. The digest tells damage from a foreign snapshot, whose seal
we cannot open; the seal tells a forger. Later versions change the body only.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from indexes.errors import SnapshotDamaged, SnapshotForeign
from indexes.sealing import Sealer

FORMAT_VERSION = 1
SIZE_LIMIT_BYTES = 1 << 20

_MAGIC = b"SOSIESNP"
_PREFIX = struct.Struct("<8sII")
_DIGEST_BYTES = 32
_SEAL_CONTEXT = b"sosie snapshot manifest"
_CHUNK_CONTEXT = b"sosie snapshot chunk"


@dataclass(frozen=True, slots=True)
class Origin:
    """What a snapshot belongs to; with any of it different, its vectors mean nothing here."""

    index_kind: str
    dim: int
    model_digest: str
    key_id: str
    deployment_id: str


@dataclass(frozen=True, slots=True)
class Header:
    """One snapshot: its origin, references, watermark, and a name that no other one has.

    `mark` is the caller's: where its store stood, to tell this history from another.
    """

    origin: Origin
    count: int
    sequence: int
    name: str
    mark: str
    version: int = FORMAT_VERSION

    def digest(self) -> bytes:
        """SHA-256 over all fields."""
        return hashlib.sha256(_json(asdict(self))).digest()


@dataclass(frozen=True, slots=True)
class Chunk:
    """A run of references in the data file, and the size it has there."""

    rows: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """A header and the chunks of its data file, in order."""

    header: Header
    chunks: tuple[Chunk, ...]

    @property
    def data_file(self) -> str:
        return f"data-{self.header.name}"

    def encode(self, sealer: Sealer) -> bytes:
        """The file's content."""
        body = _json(asdict(self))
        signed = _PREFIX.pack(_MAGIC, self.header.version, len(body)) + body
        digest = hashlib.sha256(signed).digest()
        return signed + digest + sealer.seal(digest, _SEAL_CONTEXT)

    @classmethod
    def decode(cls, content: bytes) -> Self:
        """The manifest, whole but of any origin and by any hand; see `verify`.

        `SnapshotDamaged`, or `SnapshotForeign` for a format version that we cannot read.
        """
        version, body, _, _ = _split(content)
        if version != FORMAT_VERSION:
            raise SnapshotForeign(
                f"the snapshot has format version {version}, not {FORMAT_VERSION}; "
                "rebuild it from the store"
            )
        try:
            return cls._from_fields(json.loads(body))
        except (KeyError, TypeError, ValueError, RecursionError) as fault:
            raise SnapshotDamaged(
                "the snapshot's manifest is malformed; rebuild it from the store"
            ) from fault

    def verify(self, content: bytes, origin: Origin, sealer: Sealer) -> None:
        """Checks that this, decoded from the content, is ours and sealed by our key."""
        theirs = self.header.origin
        names = [field.name for field in fields(Origin)]
        other = [name for name in names if getattr(theirs, name) != getattr(origin, name)]
        if other:
            raise SnapshotForeign(
                f"the snapshot is of another {', '.join(other)}; rebuild it from the store"
            )
        _, _, digest, seal = _split(content)
        if unseal(sealer, seal, _SEAL_CONTEXT, "manifest") != digest:
            raise SnapshotDamaged("the snapshot's manifest is not the sealed one; rebuild it")

    @classmethod
    def _from_fields(cls, body: dict[str, Any]) -> Self:
        """Takes nothing for granted: the body may have been written by anybody."""
        header = dict(body["header"])
        origin = Origin(**header.pop("origin"))
        manifest = cls(
            header=Header(origin=origin, **header),
            chunks=tuple(Chunk(**chunk) for chunk in body["chunks"]),
        )
        counts = [manifest.header.count, manifest.header.sequence, origin.dim]
        counts += [count for chunk in manifest.chunks for count in (chunk.rows, chunk.size_bytes)]
        if any(type(count) is not int or count < 0 for count in counts):
            raise ValueError("a count is not a whole number")
        if type(manifest.header.mark) is not str:
            raise ValueError("the mark is not text")
        if not re.fullmatch(r"[0-9a-f]{32}", manifest.header.name):
            raise ValueError("the name is not one that we give")
        if sum(chunk.rows for chunk in manifest.chunks) != manifest.header.count:
            raise ValueError("the chunks do not add up")
        return manifest


def chunk_context(header: Header, chunks: int) -> Callable[[int], bytes]:
    """What chunk `number` is sealed with: it fits its own place in its own snapshot only."""
    digest = header.digest()
    return lambda number: _CHUNK_CONTEXT + digest + struct.pack("<II", number, chunks)


def unseal(sealer: Sealer, sealed: bytes, context: bytes, what: str) -> bytes:
    """What was sealed; `SnapshotDamaged` where the sealer refuses."""
    try:
        return sealer.open(sealed, context)
    except MemoryError:
        raise
    except Exception as fault:
        raise SnapshotDamaged(
            f"the snapshot's {what} does not open; rebuild the snapshot from the store"
        ) from fault


def _split(content: bytes) -> tuple[int, bytes, bytes, bytes]:
    """Format version, body, digest and seal of an undamaged manifest."""
    damaged = SnapshotDamaged("the snapshot's manifest is damaged; rebuild it from the store")
    if len(content) < _PREFIX.size or len(content) > SIZE_LIMIT_BYTES:
        raise damaged
    magic, version, body_size = _PREFIX.unpack_from(content)
    end = _PREFIX.size + body_size
    digest, seal = content[end : end + _DIGEST_BYTES], content[end + _DIGEST_BYTES :]
    if magic != _MAGIC or hashlib.sha256(content[:end]).digest() != digest:
        raise damaged
    return version, content[_PREFIX.size : end], digest, seal


def _json(body: dict[str, Any]) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
