"""Manifest of a snapshot: the list of its files and their origin, sealed.

Layout, little-endian: magic, format version, length of the body; the body in JSON; the SHA-256
of all that; the same digest sealed. The digest distinguishes damage from a foreign snapshot, whose
seal does not open; the seal detects forgery. Later versions change the body only.

A segment's file is named by every manifest from the one after it was written until the segment
is gone; the state's file by one manifest only. The manifest's seal vouches for the size, shapes and
keyed digest of each file.
"""

from __future__ import annotations

import hashlib
import struct
from hmac import HMAC
from typing import Annotated, Literal, Protocol

import msgspec
from msgspec import Meta

from indexes.base import Ints, Octets
from indexes.errors import SnapshotDamaged, SnapshotForeign
from schema.decoding import StrictValue

Buffer = bytes | memoryview


class FileSeal(Protocol):
    """Encrypts and authenticates one file; its bytes keep their number and positions.

    A run starts at a multiple of 16 bytes. Encryption alone prevents no forgery: use revealed bytes
    only after comparing the digest of the whole file on the disk. A seal is for one content: it
    must never hide a second one. Thread-safe.
    """

    def hide(self, plain: Buffer, offset: int) -> bytes:
        """The bytes of this run in the file."""
        ...

    def reveal(self, hidden: Buffer, offset: int, plain: Octets) -> None:
        """Writes the run that was hidden at this offset to `plain`, uint8[n] of its size."""
        ...

    def reveal_rows(self, hidden: Octets, offsets: Ints) -> Octets:
        """Many short runs at once, at any offsets: uint8[n, size] to uint8[n, size]."""
        ...

    def digest(self) -> HMAC:
        """A new keyed digest for the whole file as it is on the disk."""
        ...


class Sealer(Protocol):
    """Binds bytes to a context, so that altering or exchanging either is detected."""

    @property
    def file_key(self) -> str:
        """The name of the key for new files; does not reveal it."""
        ...

    def seal(self, data: bytes, context: bytes) -> bytes: ...

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """The sealed data; any exception where data or context differ from what was sealed."""
        ...

    def file(self, name: str, key: str) -> FileSeal:
        """The seal for the file of this name under the named key; each file name is used once.

        Any exception for an unknown key.
        """
        ...


FORMAT_VERSION = 2
SIZE_LIMIT_BYTES = 1 << 24

_MAGIC = b"SOSIESNP"
_PREFIX = struct.Struct("<8sII")
_DIGEST_BYTES = 32
_SEAL_CONTEXT = b"sosie snapshot manifest"
_MALFORMED = "the snapshot's manifest is malformed; rebuild it from the store"

# Anyone may have written a manifest: nothing but what we write is taken from one.
Count = Annotated[int, Meta(ge=0)]
Name = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


class Origin(StrictValue):
    """The deployment of a snapshot; if any field differs, its vectors are meaningless here.

    `precision` is the type to which vectors were rounded when they were added.
    """

    index_kind: str
    dim: Count
    model_digest: str
    key_id: str
    deployment_id: str
    precision: str = "float32"


class Header(StrictValue):
    """Origin, number of references and watermark of a snapshot; `mark` is the caller's position of
    its store, which identifies this history."""

    origin: Origin
    count: Count
    sequence: Count
    mark: str
    version: int = FORMAT_VERSION


class FileEntry(StrictValue):
    """A file: its random name, size, keyed digest in hex, and the name of its key."""

    name: Name
    size_bytes: Count
    digest: Digest
    key: str


class SegmentEntry(StrictValue):
    """The file of a sealed segment, and the shapes in it.

    `segment` is the segment's own name; codes are uint8[padded_rows, width], vectors
    `dtype`[rows, dim], `limit` is the component that has the highest code.
    """

    segment: Name
    rows: Count
    padded_rows: Count
    width: Count
    limit: float
    dtype: Literal["float32", "float16"]
    file: FileEntry


class SnapshotManifest(StrictValue):
    """A header, the file of the state, and those of the segments in the order of the state.

    `loose_rows` is the number of references in the state's file, which are in no segment.
    """

    header: Header
    loose_rows: Count
    state: FileEntry
    segments: tuple[SegmentEntry, ...]

    @property
    def files(self) -> tuple[str, ...]:
        """The names on the disk of all files except the manifest."""
        segments = (segment_file(entry.file.name) for entry in self.segments)
        return (state_file(self.state.name), *segments)

    def encode(self, sealer: Sealer) -> bytes:
        """The file's content."""
        body = msgspec.json.encode(self, order="sorted")
        signed = _PREFIX.pack(_MAGIC, self.header.version, len(body)) + body
        digest = hashlib.sha256(signed).digest()
        return signed + digest + sealer.seal(digest, _SEAL_CONTEXT)

    @staticmethod
    def decode(content: bytes) -> SnapshotManifest:
        """An undamaged manifest of any origin, not yet authenticated; see `verify`.

        `SnapshotDamaged`, or `SnapshotForeign` for another format version.
        """
        version, body, _, _ = _split(content)
        if version != FORMAT_VERSION:
            raise SnapshotForeign(
                f"the snapshot has format version {version}, not {FORMAT_VERSION}; "
                "rebuild it from the store"
            )
        try:
            manifest = msgspec.json.decode(body, type=SnapshotManifest)
        except (msgspec.MsgspecError, ValueError, RecursionError) as fault:
            raise SnapshotDamaged(_MALFORMED) from fault
        names = [manifest.state.name]
        for entry in manifest.segments:
            names += [entry.segment, entry.file.name]
        if len(set(names)) != len(names):
            raise SnapshotDamaged(_MALFORMED)
        return manifest

    def verify(self, content: bytes, origin: Origin, sealer: Sealer) -> None:
        """Checks that this manifest, decoded from the content, has our origin and our seal."""
        theirs = self.header.origin
        names = Origin.__struct_fields__
        other = [name for name in names if getattr(theirs, name) != getattr(origin, name)]
        if other:
            raise SnapshotForeign(
                f"the snapshot is of another {', '.join(other)}; rebuild it from the store"
            )
        _, _, digest, seal = _split(content)
        try:
            opened = sealer.open(seal, _SEAL_CONTEXT)
        except MemoryError:
            raise
        except Exception as fault:
            raise SnapshotDamaged(
                "the snapshot's manifest does not open; rebuild the snapshot from the store"
            ) from fault
        if opened != digest:
            raise SnapshotDamaged("the snapshot's manifest is not the sealed one; rebuild it")


def state_file(name: str) -> str:
    """The name on the disk of a state's file."""
    return f"state-{name}"


def segment_file(name: str) -> str:
    """The name on the disk of a segment's file."""
    return f"segment-{name}"


def unseal_file(sealer: Sealer, entry: FileEntry) -> FileSeal:
    """The seal of a file; `SnapshotDamaged` without its key."""
    try:
        return sealer.file(entry.name, entry.key)
    except Exception as fault:
        raise SnapshotDamaged(
            "the snapshot has a file under a key that we do not have; rebuild it from the store"
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
