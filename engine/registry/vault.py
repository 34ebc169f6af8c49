"""Vault: rotation of templates, sealing of values at rest, and keyed look-ups.

A database without its key ring shows no face, name or number, and templates of two deployments
cannot be linked. A holder of the key ring can undo the rotation: it is renewable and unlinkable in
the sense of ISO/IEC 24745, and not irreversible.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import struct
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from threading import Lock

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from engine.errors import SealBroken
from engine.models.catalog import Transform
from engine.registry.file_ciphers import NONCE_BYTES, FileCipher
from engine.registry.keyring import SECRET_BYTES, Key, KeyRing
from indexes.base import Doubles, Floats, overwrite_when_freed

_log = logging.getLogger(__name__)

SEAL_FORMAT = 1
MOST_SEALS = 2**32
"""With random nonces of 96 bits, a key (NIST SP 800-38D, 8.3)."""
KEY_HEADER_BYTES = 3  # format, then the key version, big-endian
_TAG_BYTES = 16
OVERHEAD_BYTES = KEY_HEADER_BYTES + NONCE_BYTES + _TAG_BYTES
_NONCE_END = KEY_HEADER_BYTES + NONCE_BYTES
_HEADER = itemgetter(slice(KEY_HEADER_BYTES))
_NONCE = itemgetter(slice(KEY_HEADER_BYTES, _NONCE_END))
_BODY = itemgetter(slice(_NONCE_END, None))

TOKEN_FORMAT = 2
_TOKEN_HEADER = struct.Struct(">BHH")
"""Format, version of the data key, and the day by its number since 1970."""
_DAY_S = 86_400
_TOKEN_KEYS = 64

REFERENCE_TEMPLATE = "references.template"
WATCHED_TEMPLATE = "watchlist.template"
ATTEMPT_TEMPLATE = "attempt_templates.template"
SECOND_TEMPLATE, SECOND_WATCHED = "references.second_template", "watchlist.second_template"
_SNAPSHOT = "snapshot"


def name_reference(reference_id: int, document_id: str) -> str:
    """The name of a reference's row in the seal of its template: with whose it is."""
    return f"{int(reference_id)}\0{document_id}"


def name_references(ids: Sequence[int], document_ids: Sequence[str]) -> list[str]:
    """The same of many, as the database gave their ids."""
    return list(map("%d\0%s".__mod__, zip(ids, document_ids, strict=True)))


def _id_of(name: str | int) -> str:
    return str(name).partition("\0")[0]


class SealCount:
    """The number of values that the active data key has sealed since they were last recorded;
    thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._new = 0

    def add(self, values: int = 1) -> None:
        with self._lock:
            self._new += values

    def take(self) -> int:
        """The number, to be recorded or added again."""
        with self._lock:
            taken, self._new = self._new, 0
        return taken


def add_seals(before: Mapping[str, int] | None, version: int, values: int) -> dict[str, int]:
    """The number of values that each data key has sealed, with so many more of one."""
    counted = dict(before or {})
    counted[str(version)] = counted.get(str(version), 0) + values
    return counted


MOST_NAMED = 10_000
"""Damaged rows of one table: of more than that each is no longer told."""


class SetAside:
    """Rows that were found damaged, by their table, since the process began; thread-safe.

    What they hold is told to nobody and stands for nothing; everything else goes on.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._rows: dict[str, set[str]] = {}
        self._tell: Callable[[str, int], object] = lambda _table, _count: None

    def watch(self, tell: Callable[[str, int], object]) -> None:
        """Tells a table and how many of its rows, now and whenever one more is found."""
        self._tell = tell
        for table, count in self.count().items():
            tell(table, count)

    def add(self, table: str, row: str) -> None:
        """Notes a row by its key, and logs it the first time."""
        with self._lock:
            known = self._rows.setdefault(table, set())
            is_new = row not in known and len(known) < MOST_NAMED
            if is_new:
                known.add(row)
        if is_new:
            _log.error("row_set_aside: %s of %s is damaged: run sosie doctor", row, table)
            self._tell(table, len(known))

    def has(self, table: str, row: str) -> bool:
        return row in self._rows.get(table, ())

    def names(self) -> list[str]:
        """Each of them by its table and its key."""
        with self._lock:
            return [f"{table}: {row}" for table in self._rows for row in sorted(self._rows[table])]

    def count(self) -> dict[str, int]:
        """The number of each table that has any."""
        with self._lock:
            return {table: len(rows) for table, rows in self._rows.items()}


class Vault:
    """The cryptography of one deployment for embeddings of one dimension; thread-safe.

    A sealed value is the format byte, the data key's version, a random 96-bit nonce and the
    AES-256-GCM ciphertext. Its authenticated context is that header, the deployment, the place
    (`table.column`) and the row, a template's with its document, so that it opens nowhere else.
    Random nonces allow `MOST_SEALS` a data key: each is counted, for `sosie doctor` to say when it
    is to be rotated.

    A token, which lies elsewhere and for hours, is sealed with a key of its day instead (UTC), so
    that however many are issued, the data key has no more seals; its header has the day as well.
    """

    def __init__(self, ring: KeyRing, dim: int, seals: SealCount | None = None) -> None:
        self.ring = ring
        self.dim = dim
        self.seals = seals or SealCount()
        self.set_aside = SetAside()
        self._others: dict[int, Vault] = {}
        self.deployment_id = ring.deployment_id
        self._ciphers = {key.version: AESGCM(key.secret) for key in ring.data}
        self._headers = {key.version: key_header(key.version) for key in ring.data}
        self._token_ciphers: dict[bytes, AESGCM] = {}
        self.active_data_version = ring.active_data_key.version
        self._matrix = rotation_matrix(ring.rotation, dim).T.astype(np.float32)
        derived = HKDF(SHA256(), SECRET_BYTES, salt=None, info=b"sosie authentication")
        self._authentication = derived.derive(ring.audit.secret)

    def of_dimension(self, dim: int) -> Vault:
        """The vault of the same deployment for vectors of another model; made once, since its
        rotation takes a second."""
        if dim == self.dim:
            return self
        if dim not in self._others:
            self._others[dim] = Vault(self.ring, dim, self.seals)
            self._others[dim].set_aside = self.set_aside
        return self._others[dim]

    def __repr__(self) -> str:
        return f"Vault(deployment_id={self.ring.deployment_id!r}, dim={self.dim})"

    @property
    def rotation_id(self) -> str:
        """Names the rotation, not secret: templates compare only under the same one."""
        return _mac(self.ring.rotation, b"rotation id", str(self.dim).encode()).hex()[:32]

    @property
    def key_check(self) -> bytes:
        """32 bytes kept in the database that only this ring's lasting keys reproduce."""
        lasting = (self.ring.rotation, self.ring.lookup, self.ring.audit)
        proofs = b"".join(_mac(key, b"key check", self.deployment_id.encode()) for key in lasting)
        return hashlib.sha256(proofs).digest()

    def rotate(self, vectors: Floats) -> Floats:
        """Rotates unit rows float32[n, dim]; scores among them stay the same.

        Scores are preserved to 1e-6. A row has the same bits in any batch, and only the caller's
        thread works.
        """
        self._assert_vectors(vectors)
        # A product of its own for each row (1 µs at 128): one of all, from 32 rows on, wakes the
        # threads of OpenBLAS, which then spin for 30 to 50 ms on the cores that extract faces, and
        # rounds a row by its place and the rows beside it.
        rotated: Floats = np.matmul(vectors[:, None], self._matrix)[:, 0]
        rotated /= np.linalg.norm(rotated, axis=1, keepdims=True)
        return rotated

    def turn(self, transform: Transform) -> Transform:
        """The same transform of rotated rows, so that none is turned back for it."""
        return transform.turned(self._matrix)

    def look_up(self, kind: str, value: str) -> bytes:
        """The keyed name (HMAC-SHA256) under which a value is found; kinds do not mix."""
        return _mac(self.ring.lookup, kind.encode(), value.encode())

    def chain(self, previous: bytes, entry: bytes) -> bytes:
        """The next hash of the audit chain, 32 bytes, like `previous`."""
        assert len(previous) == hashlib.sha256().digest_size
        return hmac.digest(self.ring.audit.secret, previous + entry, "sha256")

    def authenticate(self, purpose: str, content: bytes) -> bytes:
        """The code (HMAC-SHA256) of content for one purpose, by a key that lives as long as the
        deployment: rotating the data key alters none."""
        message = b"\0".join((self.deployment_id.encode(), purpose.encode(), content))
        return hmac.digest(self._authentication, message, "sha256")

    @staticmethod
    def is_equal(code: bytes, other: bytes) -> bool:
        """True where two codes are one; how long it takes tells nothing."""
        return hmac.compare_digest(code, other)

    def seal(self, place: str, row: str | int, data: bytes) -> bytes:
        """Seals a value for one place (`table.column`) and one row with the active data key."""
        return self._seal(self._context(place) + str(row).encode(), data)

    def open(self, place: str, row: str | int, sealed: bytes) -> bytes:
        """The value, if it was sealed for this place and row by this deployment."""
        try:
            return self._open_at(place, row, sealed)
        except SealBroken:
            self._set_aside(place, row)
            raise

    def seal_token(self, place: str, row: str, data: bytes, at_s: float | None = None) -> bytes:
        """Seals what is not kept here: the place and row say what it is for. It opens while the
        data key of now is in the ring, and is to say itself how long it is good for.

        `at_s`: seconds since 1970, now unless given.
        """
        day = int(time.time() if at_s is None else at_s) // _DAY_S
        header = _TOKEN_HEADER.pack(TOKEN_FORMAT, self.active_data_version, day)
        nonce, context = os.urandom(NONCE_BYTES), self._context(place) + row.encode()
        return header + nonce + self._token_cipher(header).encrypt(nonce, data, header + context)

    def open_token(self, place: str, row: str, token: bytes) -> bytes:
        """The value, if it was sealed for this place and row by this deployment; `SealBroken`.

        It may be of a version that sealed tokens with the data key.
        """
        if token[:1] != TOKEN_FORMAT.to_bytes():
            return self._open_at(place, row, token)
        header, context = token[: _TOKEN_HEADER.size], self._context(place) + row.encode()
        nonce = token[_TOKEN_HEADER.size : _TOKEN_HEADER.size + NONCE_BYTES]
        try:
            cipher, body = self._token_cipher(header), token[_TOKEN_HEADER.size + NONCE_BYTES :]
            return cipher.decrypt(nonce, body, header + context)
        except (InvalidTag, ValueError, struct.error, KeyError):
            raise SealBroken(f"this is no token of {place}: ask for a new one") from None

    def _token_cipher(self, header: bytes) -> AESGCM:
        """The key of a day: HKDF (RFC 5869) over the data key, the deployment and the day."""
        cipher = self._token_ciphers.get(header)
        if cipher is None:
            _, version, day = _TOKEN_HEADER.unpack(header)
            secret = {key.version: key.secret for key in self.ring.data}[version]
            info = b"\0".join((b"sosie tokens", self.deployment_id.encode(), str(day).encode()))
            cipher = AESGCM(HKDF(SHA256(), SECRET_BYTES, salt=None, info=info).derive(secret))
            if len(self._token_ciphers) >= _TOKEN_KEYS:
                # Anybody may send a token of any day.
                self._token_ciphers.clear()
            self._token_ciphers[header] = cipher
        return cipher

    def seal_templates(
        self, names: Sequence[str | int], vectors: Floats, place: str = REFERENCE_TEMPLATE
    ) -> list[bytes]:
        """Seals rotated rows float32[n, dim], each for the row that is named so."""
        self._assert_vectors(vectors)
        assert len(names) == len(vectors)
        context = self._context(place)
        rows = np.ascontiguousarray(vectors, dtype="<f4")
        return [
            self._seal(context + str(name).encode(), row.tobytes())
            for name, row in zip(names, rows, strict=True)
        ]

    def open_templates(
        self, names: Sequence[str | int], sealed: Sequence[bytes], place: str = REFERENCE_TEMPLATE
    ) -> Floats:
        """The rows float32[n, dim] that were sealed for the rows of these names."""
        assert len(names) == len(sealed)
        context = self._context(place)
        rows = overwrite_when_freed(np.empty((len(names), self.dim), dtype="<f4"))
        if not names:
            return rows.astype(np.float32)
        try:
            # To where they belong, one after another, without a line of Python for each: a start
            # opens millions.
            (header,) = set(map(_HEADER, sealed))
            cipher = self._ciphers.get(key_version(header))
            if cipher is None or header != self._headers[key_version(header)]:
                raise ValueError
            contexts = map((header + context).__add__, map(str.encode, map(str, names)))
            octets, size = rows.data.cast("B"), rows.data.nbytes // len(names)
            starts, ends = range(0, rows.data.nbytes, size), range(size, rows.data.nbytes + 1, size)
            slots = map(octets.__getitem__, map(slice, starts, ends))
            nonces, bodies = map(_NONCE, sealed), map(_BODY, sealed)
            # To the end, and nothing is kept of it.
            deque(map(cipher.decrypt_into, nonces, bodies, contexts, slots), maxlen=0)
        except (InvalidTag, ValueError, TypeError):
            # Of several keys, or one is not sound: one by one, which says what row it is.
            plain = [
                self._open_template(place, name, one)
                for name, one in zip(names, sealed, strict=True)
            ]
            rows = np.frombuffer(b"".join(plain), dtype="<f4").reshape(rows.shape)
        return rows.astype(np.float32, copy=not rows.flags.writeable)

    def _open_template(self, place: str, name: str | int, sealed: bytes) -> bytes:
        opened = self.open(place, name, sealed)
        if len(opened) != 4 * self.dim:
            # Of another model, by a row that says otherwise.
            self._set_aside(place, name)
            raise SealBroken(f"{place} of row {_id_of(name)} is of another model: run sosie doctor")
        return opened

    def sealer(self) -> SnapshotSealer:
        """Seals the files of an index snapshot."""
        return SnapshotSealer(self)

    def _open_at(self, place: str, row: str | int, sealed: bytes) -> bytes:
        context = self._context(place) + str(row).encode()
        return self._open(context, sealed, f"{place} of row {_id_of(row)}")

    def _set_aside(self, place: str, row: str | int) -> None:
        table, dot, _ = place.partition(".")
        if dot:
            self.set_aside.add(table, f"row {_id_of(row)}")

    def _context(self, place: str) -> bytes:
        return b"\0".join((b"sosie", self.deployment_id.encode(), place.encode(), b""))

    def _seal(self, context: bytes, data: bytes) -> bytes:
        version, nonce = self.active_data_version, os.urandom(NONCE_BYTES)
        header = self._headers[version]
        self.seals.add()
        return header + nonce + self._ciphers[version].encrypt(nonce, data, header + context)

    def _open(self, context: bytes, sealed: bytes, what: str) -> bytes:
        if not isinstance(sealed, bytes):
            # What a damaged value is read as that is none of its column's.
            raise SealBroken(f"{what} cannot be read: restore the database from a backup")
        header, version = sealed[:KEY_HEADER_BYTES], key_version(sealed)
        if header != self._headers.get(version) or len(sealed) < OVERHEAD_BYTES:
            raise SealBroken(f"{what} is not sealed with a key of this ring: check the key ring")
        try:
            return self._ciphers[version].decrypt(_NONCE(sealed), _BODY(sealed), header + context)
        except InvalidTag:
            raise SealBroken(
                f"{what} does not authenticate (altered, moved or of another key): "
                "restore the database from a backup"
            ) from None

    def _assert_vectors(self, vectors: Floats) -> None:
        assert vectors.dtype == np.float32
        assert vectors.ndim == 2
        assert vectors.shape[1] == self.dim


class SnapshotSealer:
    """Sealer of index snapshots; the context may be any bytes."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    @property
    def file_key(self) -> str:
        """The fingerprint of the data key that new files are sealed with."""
        return self._vault.ring.active_data_key.fingerprint

    def seal(self, data: bytes, context: bytes) -> bytes:
        """Seals a file's bytes for one context."""
        return self._vault.seal(_SNAPSHOT, context.hex(), data)

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """The bytes; `SealBroken` where they are another deployment's or another context's."""
        return self._vault.open(_SNAPSHOT, context.hex(), sealed)

    def file(self, name: str, key: str) -> FileCipher:
        """The seal of one file; `SealBroken` where the key is not of this ring."""
        found = [held for held in self._vault.ring.data if held.fingerprint == key]
        if not found:
            raise SealBroken("a snapshot's file is sealed with a key that this ring has not")
        return FileCipher.derive(found[0], self._vault.deployment_id.encode(), name)


def rotation_matrix(key: Key, dim: int) -> Doubles:
    """A uniformly (Haar) distributed orthogonal matrix float64[dim, dim] drawn from the key.

    Standard normals by Box and Muller, then QR with the signs of R's diagonal moved into Q
    (Mezzadri 2007, How to generate random matrices from the classical compact groups). The
    keystream is AES-256-CTR and not numpy's generator, whose stream may change between versions.
    """
    uniforms = _uniforms(key, count=2 * dim * dim, purpose=f"rotation {dim}")
    radius = np.sqrt(-2.0 * np.log(uniforms[0::2]))
    normals = (radius * np.cos(2.0 * np.pi * uniforms[1::2])).reshape(dim, dim)
    q, r = np.linalg.qr(normals)
    matrix: Doubles = q * np.sign(np.diagonal(r))
    return matrix


def key_version(sealed: bytes) -> int:
    """The version of the data key that a value was sealed with."""
    return int.from_bytes(sealed[1:KEY_HEADER_BYTES], "big")


def key_header(version: int) -> bytes:
    """The first bytes of every value sealed with this version."""
    return SEAL_FORMAT.to_bytes(1, "big") + version.to_bytes(2, "big")


def _uniforms(key: Key, count: int, purpose: str) -> Doubles:
    """Uniform float64[count] in the open interval (0, 1), 53 bits each."""
    derived = HKDF(SHA256(), length=32, salt=None, info=f"sosie {purpose}".encode())
    stream = Cipher(algorithms.AES(derived.derive(key.secret)), modes.CTR(bytes(16))).encryptor()
    words = np.frombuffer(stream.update(bytes(8 * count)), dtype="<u8")
    return ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def _mac(key: Key, domain: bytes, value: bytes) -> bytes:
    # The length keeps (domain, value) apart from any other split of the same bytes.
    message = len(domain).to_bytes(4, "big") + domain + value
    return hmac.digest(key.secret, message, "sha256")
