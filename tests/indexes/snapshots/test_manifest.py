"""The manifest: anything but an exact one of ours is refused before it is used."""

import hashlib
import json
import struct

import msgspec
import pytest

from indexes.errors import SnapshotDamaged
from indexes.snapshots.manifest import (
    SIZE_LIMIT_BYTES,
    FileEntry,
    Header,
    Origin,
    SegmentEntry,
    SnapshotManifest,
)
from tests.indexes.snapshots.unsealed import Unsealed

ORIGIN = Origin("exact8", 16, model_digest="5face", key_id="key-1", deployment_id="here")


def entry(digit: str) -> FileEntry:
    return FileEntry(digit * 32, 1000, "ab" * 32, "key")


MANIFEST = SnapshotManifest(
    header=Header(ORIGIN, count=20, sequence=3, mark="here"),
    loose_rows=4,
    state=entry("1"),
    segments=(
        SegmentEntry("a" * 32, 10, 64, 64, 0.4, "float32", entry("2")),
        SegmentEntry("b" * 32, 6, 64, 64, 0.4, "float16", entry("3")),
    ),
)


def body_with(path: str, value: object) -> bytes:
    """The manifest's body with another value at `a.0.b`, or without it where that is `...`."""
    body = msgspec.to_builtins(MANIFEST)
    place = body
    *way, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    for step in way:
        place = place[step]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return json.dumps(body).encode()


def content_of(body: bytes, version: int = 2) -> bytes:
    """A file that is whole, as far as its digest says."""
    signed = struct.pack("<8sII", b"SOSIESNP", version, len(body)) + body
    return signed + hashlib.sha256(signed).digest()


def test_a_manifest_comes_back_as_it_was() -> None:
    content = MANIFEST.encode(Unsealed())
    decoded = SnapshotManifest.decode(content)
    assert decoded == MANIFEST
    decoded.verify(content, ORIGIN, Unsealed())
    names = [f"state-{'1' * 32}", f"segment-{'2' * 32}", f"segment-{'3' * 32}"]
    assert list(decoded.files) == names


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("header", ...),
        ("header.origin", None),
        ("header.origin.dim", "16"),
        ("header.origin.extra", 1),
        ("header.count", -1),
        ("header.sequence", 1.5),
        ("header.count", True),
        ("header.mark", 7),
        ("loose_rows", ...),
        ("loose_rows", -4),
        ("state", []),
        ("state.name", "../../../../etc/passwd0123456789"),
        ("state.name", "2" * 32),
        ("state.name", 5),
        ("state.size_bytes", -1),
        ("state.digest", "ab"),
        ("state.digest", "zz" * 32),
        ("state.key", None),
        ("segments", {"a": 1}),
        ("segments.0.file", ...),
        ("segments.0.segment", "b" * 32),
        ("segments.0.segment", "A" * 32),
        ("segments.0.rows", "10"),
        ("segments.0.width", -64),
        ("segments.0.limit", "0.4"),
        ("segments.0.limit", float("nan")),
        ("segments.0.dtype", "object"),
        ("segments.0.file.name", "1" * 32),
    ],
)
def test_a_malformed_manifest_with_a_right_digest_is_damage(path: str, value: object) -> None:
    with pytest.raises(SnapshotDamaged):
        SnapshotManifest.decode(content_of(body_with(path, value)))


@pytest.mark.parametrize("body", [b"[]", b"{}", b"null", b"[" * 100_000, b"\xff", b""])
def test_what_is_no_manifest_at_all_is_damage(body: bytes) -> None:
    with pytest.raises(SnapshotDamaged):
        SnapshotManifest.decode(content_of(body))


def test_a_valid_body_with_a_recomputed_digest_is_accepted() -> None:
    """Otherwise the two tests above would pass for any input."""
    assert SnapshotManifest.decode(content_of(body_with("loose_rows", 4))) == MANIFEST


def test_a_file_too_long_to_be_a_manifest_is_damage() -> None:
    with pytest.raises(SnapshotDamaged):
        SnapshotManifest.decode(content_of(msgspec.json.encode(MANIFEST).ljust(SIZE_LIMIT_BYTES)))
