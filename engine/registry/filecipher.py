"""One file hidden and authenticated, so that any row of it can be revealed by itself.

Encrypt, then authenticate. The file is hidden by AES-256 in counter mode (NIST SP 800-38A, 6.5):
block i of 16 bytes is combined with AES(k, i), i as a big-endian number of 128 bits, so a row
needs only its own blocks. HMAC-SHA256 (FIPS 198-1) over what then lies on the disk authenticates
the whole file; counter mode by itself lets whoever writes to the file turn chosen bits.

Counter mode breaks where one key meets one counter twice. Every file therefore has two keys of
its own, which HKDF (RFC 5869) derives from the data key, the deployment and the name of the
file: 128 random bits, drawn anew for every file that is written. No counter needs to be stored,
and a file moved to another name or deployment does not authenticate.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from engine.registry.keyring import SECRET_BYTES, Key
from indexes.snapshots.sealing import Buffer, Octets

BLOCK_BYTES = 16
_BLOCKS_AT_ONCE = 1 << 16


@dataclass(frozen=True, slots=True)
class FileCipher:
    """The vault behind the `FileSeal` seam of index snapshots; thread-safe."""

    _encryption: bytes = field(repr=False)
    _authentication: bytes = field(repr=False)

    @classmethod
    def derive(cls, key: Key, deployment: bytes, name: str) -> FileCipher:
        """The two keys of one file."""
        info = b"\0".join((b"sosie snapshot file", deployment, name.encode()))
        secret = HKDF(SHA256(), 2 * SECRET_BYTES, salt=None, info=info).derive(key.secret)
        return cls(secret[:SECRET_BYTES], secret[SECRET_BYTES:])

    def hide(self, plain: Buffer, offset: int) -> bytes:
        """What lies in the file from `offset`, a multiple of 16, for this run."""
        assert offset % BLOCK_BYTES == 0
        start = (offset // BLOCK_BYTES).to_bytes(BLOCK_BYTES, "big")
        return Cipher(algorithms.AES(self._encryption), modes.CTR(start)).encryptor().update(plain)

    def reveal(self, hidden: Buffer, offset: int) -> bytes:
        """The run that was hidden at this offset: counter mode undoes itself."""
        return self.hide(hidden, offset)

    def reveal_rows(self, hidden: Octets, offsets: NDArray[np.int64]) -> Octets:
        """The same for many short runs at any offsets: uint8[n, size] to uint8[n, size].

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
