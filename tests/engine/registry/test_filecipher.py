"""A file under the vault: hidden, authenticated, and revealed in any pieces."""

from __future__ import annotations

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import SealBroken
from engine.registry.filecipher import FileCipher
from engine.registry.keyring import Key, KeyRing
from engine.registry.vault import Vault

KEY = Key(1, bytes(range(32)))
NAME = "0f" * 16
FILE = FileCipher.derive(KEY, b"here", NAME)
PLAIN = np.random.default_rng(0).bytes(10_000)
HIDDEN = FILE.hide(PLAIN, 0)


def test_counter_mode_is_the_standards() -> None:
    """NIST SP 800-38A, F.5.5: the first block of its example, with its key and counter."""
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    counter = int.from_bytes(bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"), "big")
    plain = bytes.fromhex("6bc1bee22e409f96e93d7e117393172a")
    hidden = FileCipher(key, bytes(32)).hide(plain, 16 * counter)
    assert hidden.hex() == "601ec313775789a5b7a7f504bbf3d228"


def test_pieces_are_hidden_and_revealed_as_the_whole() -> None:
    assert FILE.hide(PLAIN[4096:5000], 4096) == HIDDEN[4096:5000]
    assert FILE.reveal(HIDDEN[32:], 32) == PLAIN[32:]


@given(
    size=st.integers(1, 70),
    offsets=st.lists(st.integers(0, 9_900), max_size=40),
)
def test_rows_are_revealed_as_counter_mode_would(size: int, offsets: list[int]) -> None:
    rows = [np.frombuffer(HIDDEN[start : start + size], np.uint8) for start in offsets]
    hidden = np.array(rows, np.uint8).reshape(-1, size)
    plain = FILE.reveal_rows(hidden, np.array(offsets, np.int64))
    assert [row.tobytes() for row in plain] == [PLAIN[start : start + size] for start in offsets]


def test_rows_beyond_what_fits_at_once_are_revealed_too() -> None:
    whole = np.random.default_rng(1).bytes(1_600_000)
    hidden = np.frombuffer(FILE.hide(whole, 0), np.uint8).reshape(-1, 16)
    offsets = 16 * np.arange(len(hidden))
    order = np.random.default_rng(2).permutation(len(hidden))
    plain = FILE.reveal_rows(hidden[order], offsets[order])
    assert np.array_equal(plain, np.frombuffer(whole, np.uint8).reshape(-1, 16)[order])


def test_the_stream_beyond_32_bits_of_counter_is_the_standards_too() -> None:
    secret = FILE._encryption  # the oracle below needs the very key
    block = 2**33 + 5
    oracle = Cipher(algorithms.AES(secret), modes.CTR(block.to_bytes(16, "big"))).encryptor()
    expected = oracle.update(bytes(48))
    rows = FILE.reveal_rows(np.zeros((1, 48), np.uint8), np.array([16 * block]))
    assert rows.tobytes() == expected == FILE.hide(bytes(48), 16 * block)


@pytest.mark.parametrize(
    "other",
    [
        FileCipher.derive(Key(2, bytes(32)), b"here", NAME),
        FileCipher.derive(KEY, b"there", NAME),
        FileCipher.derive(KEY, b"here", "f0" * 16),
    ],
    ids=["key", "deployment", "name"],
)
def test_another_key_deployment_or_name_is_another_file(other: FileCipher) -> None:
    assert other.hide(bytes(64), 0) != FILE.hide(bytes(64), 0)
    digests = []
    for cipher in (FILE, other):
        digest = cipher.digest()
        digest.update(HIDDEN)
        digests.append(digest.digest())
    assert digests[0] != digests[1]


def test_no_block_of_a_file_is_hidden_like_another() -> None:
    blocks = np.frombuffer(FILE.hide(bytes(16_000), 0), np.uint8).reshape(-1, 16)
    assert len(np.unique(blocks, axis=0)) == 1000


def test_a_digest_is_keyed_and_grows() -> None:
    whole, grown = FILE.digest(), FILE.digest()
    whole.update(HIDDEN)
    grown.update(HIDDEN[:77])
    grown.update(HIDDEN[77:])
    assert whole.digest() == grown.digest()
    assert len(whole.digest()) == 32


def test_the_vault_gives_files_of_every_key_that_the_ring_still_has() -> None:
    ring = KeyRing.generate()
    old = Vault(ring, 32).sealer()
    hidden = old.file(NAME, old.file_key).hide(PLAIN, 0)
    newer = ring.with_new_data_key()
    new = Vault(newer, 32).sealer()
    assert new.file_key != old.file_key
    assert new.file(NAME, old.file_key).reveal(hidden, 0) == PLAIN
    assert new.file(NAME, new.file_key).reveal(hidden, 0) != PLAIN
    retired = Vault(newer.without_data_key(1), 32).sealer()
    with pytest.raises(SealBroken):
        retired.file(NAME, old.file_key)


def test_a_file_seal_shows_no_secret() -> None:
    assert repr(FILE) == "FileCipher()"
