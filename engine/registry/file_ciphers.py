"""Ciphers of the files of snapshots, and the seal of one shard's."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterator
from dataclasses import field

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from engine.errors import SealBroken
from engine.registry.keyring import SECRET_BYTES, Key
from indexes.base import Ints, Octets
from indexes.snapshots.manifest import Buffer
from schema import frozen

BLOCK_BYTES = 16
NONCE_BYTES = 12
_BLOCKS_AT_ONCE = 1 << 16


@frozen
class FileCipher:
    """Encryption of one snapshot file, whose rows can be read one by one; thread-safe.

    Encrypt, then authenticate: AES-256 in counter mode (NIST SP 800-38A, 6.5) combines block i of
    16 bytes with AES(k, i), so a row needs only its own blocks; HMAC-SHA256 (FIPS 198-1) over what
    lies on the disk authenticates the whole file, since counter mode alone lets a writer to the
    file turn chosen bits. Counter mode breaks where one key meets one counter twice, so every file
    has two keys of its own: HKDF (RFC 5869) over the data key, the deployment and the file's name,
    128 random bits for each file written. A file moved elsewhere does not authenticate.
    """

    _encryption: bytes = field(repr=False)
    _authentication: bytes = field(repr=False)

    @classmethod
    def derive(cls, key: Key, deployment: bytes, name: str) -> FileCipher:
        """The two keys of one file."""
        info = b"\0".join((b"sosie snapshot file", deployment, name.encode()))
        secret = HKDF(SHA256(), 2 * SECRET_BYTES, salt=None, info=info).derive(key.secret)
        return cls(secret[:SECRET_BYTES], secret[SECRET_BYTES:])

    def hide(self, plain: Buffer, offset: int) -> bytes:
        """Encrypts a run of bytes that lies in the file from `offset`, a multiple of 16."""
        return self._stream(offset).update(plain)

    def reveal(self, hidden: Buffer, offset: int, plain: Octets) -> None:
        """Decrypts the run at this offset to `plain`: counter mode is its own inverse."""
        self._stream(offset).update_into(hidden, plain.data)

    def _stream(self, offset: int) -> CipherContext:
        assert offset % BLOCK_BYTES == 0
        start = (offset // BLOCK_BYTES).to_bytes(BLOCK_BYTES, "big")
        return Cipher(algorithms.AES(self._encryption), modes.CTR(start)).encryptor()

    def reveal_rows(self, hidden: Octets, offsets: Ints) -> Octets:
        """Decrypts many short runs at any offsets: uint8[n, size] to uint8[n, size].

        One call of AES for thousands of rows: their counters are laid side by side and go
        through the block cipher alone (ECB), which is what counter mode does with them.
        """
        size = hidden.shape[1]
        # A run of `size` bytes that starts within a block reaches into one block more.
        blocks = (BLOCK_BYTES - 1 + size + BLOCK_BYTES - 1) // BLOCK_BYTES
        aes = Cipher(algorithms.AES(self._encryption), modes.ECB()).encryptor()  # noqa: S305
        plain = np.empty_like(hidden)
        for part in _parts(len(hidden), blocks):
            counters = np.zeros((len(offsets[part]), blocks, 2), ">u8")
            counters[:, :, 1] = (offsets[part] // BLOCK_BYTES)[:, None] + np.arange(blocks)
            stream = np.frombuffer(aes.update(counters.tobytes()), np.uint8)
            stream = stream.reshape(-1, blocks * BLOCK_BYTES)
            skipped = offsets[part] % BLOCK_BYTES
            if skipped.any():
                columns = skipped[:, None] + np.arange(size)
                stream = np.take_along_axis(stream, columns, axis=1)
            np.bitwise_xor(hidden[part], stream[:, :size], out=plain[part])
        return plain

    def digest(self) -> hmac.HMAC:
        """A new HMAC-SHA256, to be fed the whole file as it lies on the disk."""
        return hmac.new(self._authentication, digestmod=hashlib.sha256)


def _parts(rows: int, blocks: int) -> Iterator[slice]:
    """Rows in pieces whose counters fit the second-level cache, or nearly."""
    step = max(1, _BLOCKS_AT_ONCE // blocks)
    for start in range(0, rows, step):
        yield slice(start, start + step)


@frozen
class ShardSealer:
    """Sealer of the snapshots of one shard, by a key of their own: it can be sent to where the
    shard is, and opens nothing else. Who destroys the key has destroyed the snapshots, wherever
    their files are."""

    key: Key
    deployment: bytes

    @property
    def file_key(self) -> str:
        return self.key.fingerprint

    def seal(self, data: bytes, context: bytes) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        return nonce + AESGCM(self.key.secret).encrypt(nonce, data, context)

    def open(self, sealed: bytes, context: bytes) -> bytes:
        cipher = AESGCM(self.key.secret)
        try:
            return cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], context)
        except (InvalidTag, ValueError):
            raise SealBroken("a shard's snapshot is not sealed with the key of the shard") from None

    def file(self, name: str, key: str) -> FileCipher:
        """The seal of one file; `SealBroken` where it is of an earlier key."""
        if key != self.file_key:
            raise SealBroken("a file of a shard's snapshot is sealed with an earlier key")
        return FileCipher.derive(self.key, self.deployment, name)
