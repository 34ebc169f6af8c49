"""The vault: rotations, seals, look-ups and snapshot files."""

from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import SealBroken
from engine.registry import file_ciphers
from engine.registry.file_ciphers import FileCipher
from engine.registry.keyring import Key, KeyRing
from engine.registry.vault import WATCHED_TEMPLATE, Vault, key_version, rotation_matrix
from indexes.snapshots.manifest import FileSeal

DIM = 32
RING = KeyRing.generate()
VAULT = Vault(RING, DIM)
KNOWN = Key(1, bytes(range(32)))


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(
    ("dim", "corners"),
    [
        (4, (-0.20842249124479673, -0.794356048865531, -0.454354593364803, 0.9655289792163301)),
        (128, (0.0912019056215756, -0.01018406118540923, 0.05842358119543115, 0.02889850889963577)),
    ],
)
def test_rotation_of_a_known_key_is_the_same_on_every_machine(dim, corners) -> None:
    matrix = rotation_matrix(KNOWN, dim)
    found = (matrix[0, 0], matrix[0, -1], matrix[-1, 0], matrix[dim // 2, 1])
    assert found == pytest.approx(corners, abs=1e-6)


@pytest.mark.parametrize("dim", [1, 2, 32, 128, 512])
def test_rotation_is_orthogonal(dim: int) -> None:
    matrix = rotation_matrix(RING.rotation, dim)
    assert np.abs(matrix @ matrix.T - np.eye(dim)).max() < 1e-12


def test_rotations_are_uniform_over_the_orthogonal_group() -> None:
    dim, count = 4, 3000
    matrices = np.stack(
        [rotation_matrix(Key(1, number.to_bytes(32, "big")), dim) for number in range(count)]
    )
    # Under the Haar measure E[q] = 0, E[q^2] = 1/dim, E[trace] = 0, E[trace^2] = 1, and half of
    # the determinants are -1. The bounds are five standard errors.
    assert np.abs(matrices.mean(axis=0)).max() < 5 * np.sqrt(1 / dim / count)
    assert np.abs((matrices**2).mean(axis=0) - 1 / dim).max() < 5 * 0.22 / np.sqrt(count)
    traces = np.trace(matrices, axis1=1, axis2=2)
    assert abs(traces.mean()) < 5 / np.sqrt(count)
    assert abs((traces**2).mean() - 1) < 5 * 1.5 / np.sqrt(count)
    assert abs((np.linalg.det(matrices) > 0).mean() - 0.5) < 5 * 0.5 / np.sqrt(count)


@pytest.mark.parametrize("dim", [DIM, 128, 512])
def test_a_row_is_turned_to_the_same_bits_whatever_stands_beside_it(dim: int, random_units) -> None:
    vault = Vault(RING, dim)
    rows = random_units(65, dim)
    alone = np.concatenate([vault.rotate(rows[place : place + 1]) for place in range(65)])
    assert np.array_equal(vault.rotate(rows), alone)
    for part in (slice(0, 0), slice(7, 24), slice(64, None), slice(None, None, -3)):
        assert np.array_equal(vault.rotate(rows[part]), alone[part])
    matrix = rotation_matrix(RING.rotation, dim)
    assert np.abs(alone - rows.astype(np.float64) @ matrix.T).max() < 1e-6


def test_templates_of_two_deployments_are_unlinkable(random_units) -> None:
    rows = random_units(500, 128)
    ours, theirs = (Vault(KeyRing.generate(), 128).rotate(rows) for _ in range(2))
    mated = (ours * theirs).sum(axis=1)
    strangers = (ours * np.roll(theirs, 1, axis=0)).sum(axis=1)
    # The same face scores like any two faces: both spread by 1/sqrt(128).
    assert abs(mated.mean()) < 0.1
    assert mated.std() == pytest.approx(strangers.std(), rel=0.2)


@settings(deadline=None)
@given(st.binary(max_size=200), st.one_of(st.integers(0, 2**62), st.uuids().map(str)))
def test_sealed_value_opens_in_its_place(data: bytes, row: str | int) -> None:
    sealed = VAULT.seal("lines.msisdn", row, data)
    assert VAULT.open("lines.msisdn", row, sealed) == data
    assert len(data) < 8 or data not in sealed


def test_sealing_twice_gives_two_values() -> None:
    sealed = {VAULT.seal("lines.msisdn", "a", b"same") for _ in range(100)}
    assert len(sealed) == 100


def test_every_altered_bit_and_every_truncation_is_refused() -> None:
    sealed = VAULT.seal("lines.msisdn", "a", b"data")
    for bit in range(8 * len(sealed)):
        altered = bytearray(sealed)
        altered[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SealBroken):
            VAULT.open("lines.msisdn", "a", bytes(altered))
    for length in range(len(sealed)):
        with pytest.raises(SealBroken):
            VAULT.open("lines.msisdn", "a", sealed[:length])


def test_sealed_value_of_another_row_column_or_deployment_is_refused() -> None:
    sealed = VAULT.seal("lines.msisdn", "a", b"data")
    for place, row in (("lines.msisdn", "b"), ("documents.identity", "a"), ("lines.msisd", "na")):
        with pytest.raises(SealBroken):
            VAULT.open(place, row, sealed)
    same_keys = replace(RING, deployment_id=KeyRing.generate().deployment_id)
    for ring in (KeyRing.generate(), same_keys):
        with pytest.raises(SealBroken):
            Vault(ring, DIM).open("lines.msisdn", "a", sealed)


def test_value_of_an_older_data_key_opens_until_the_key_is_retired() -> None:
    sealed = VAULT.seal("lines.msisdn", "a", b"data")
    wider = RING.with_new_data_key()
    assert Vault(wider, DIM).open("lines.msisdn", "a", sealed) == b"data"
    assert key_version(Vault(wider, DIM).seal("lines.msisdn", "a", b"data")) == 2
    with pytest.raises(SealBroken, match="key ring"):
        Vault(wider.with_active_alone(()), DIM).open("lines.msisdn", "a", sealed)


def test_batched_templates_are_the_single_ones(random_units) -> None:
    rows = random_units(20)
    ids = list(range(100, 120))
    sealed = VAULT.seal_templates(ids, rows)
    assert np.array_equal(VAULT.open_templates(ids, sealed), rows)
    assert VAULT.open("references.template", 107, sealed[7]) == rows[7].astype("<f4").tobytes()
    with pytest.raises(SealBroken, match="row 100"):
        VAULT.open_templates([100, 101], sealed[1::-1])
    with pytest.raises(SealBroken):
        VAULT.open_templates(ids, sealed, WATCHED_TEMPLATE)
    assert VAULT.seal_templates([], rows[:0]) == []
    assert VAULT.open_templates([], []).shape == (0, DIM)


def test_templates_of_two_data_keys_open_in_one_batch(random_units) -> None:
    rows = random_units(20)
    wider = Vault(RING.with_new_data_key(), DIM)
    sealed = VAULT.seal_templates(range(10), rows[:10])
    sealed += wider.seal_templates(range(10, 20), rows[10:])
    assert np.array_equal(wider.open_templates(range(20), sealed), rows)


def test_tokens_of_two_days_are_sealed_with_two_keys_and_none_of_them_is_the_data_key() -> None:
    secrets = {VAULT.ring.active_data_key.secret}
    for day in (20_000, 20_001):
        token = VAULT.seal_token("issued.template", "row", b"data", 86_400.0 * day)
        assert VAULT.open_token("issued.template", "row", token) == b"data"
        header = token[:5]
        assert header == bytes([2]) + bytes([0, 1]) + day.to_bytes(2, "big")
        info = b"\0".join((b"sosie tokens", RING.deployment_id.encode(), str(day).encode()))
        secret = HKDF(SHA256(), 32, salt=None, info=info).derive(RING.data[0].secret)
        context = VAULT._context("issued.template") + b"row"
        assert AESGCM(secret).decrypt(token[5:17], token[17:], header + context) == b"data"
        secrets.add(secret)
        other_day = header[:3] + (day + 1).to_bytes(2, "big") + token[5:]
        for spoilt in (other_day, token[:-1], token[:12], token[:4], b"", b"\2"):
            with pytest.raises(SealBroken):
                VAULT.open_token("issued.template", "row", spoilt)
        with pytest.raises(SealBroken):
            VAULT.open_token("issued.template", "other", token)
    assert len(secrets) == 3


def test_a_token_opens_until_its_data_key_is_retired_and_one_of_an_older_version_too() -> None:
    wider = RING.with_new_data_key()
    token = VAULT.seal_token("sign_in.flow", "flow", b"data")
    older = VAULT.seal("sign_in.flow", "flow", b"data")
    for one in (token, older):
        assert Vault(wider, DIM).open_token("sign_in.flow", "flow", one) == b"data"
        with pytest.raises(SealBroken):
            Vault(wider.with_active_alone(()), DIM).open_token("sign_in.flow", "flow", one)


def test_look_ups_of_different_kinds_or_keys_never_meet() -> None:
    values = {
        VAULT.look_up("name", "x"),
        VAULT.look_up("namex", ""),
        VAULT.look_up("nam", "ex"),
        VAULT.look_up("msisdn", "x"),
        Vault(KeyRing.generate(), DIM).look_up("name", "x"),
    }
    assert len(values) == 5
    assert {len(value) for value in values} == {32}
    assert VAULT.look_up("name", "x") == Vault(RING, 64).look_up("name", "x")


def test_rotation_id_and_key_check_tell_rings_apart_and_survive_new_data_keys() -> None:
    other, wider = Vault(KeyRing.generate(), DIM), Vault(RING.with_new_data_key(), DIM)
    assert VAULT.rotation_id != other.rotation_id
    assert VAULT.key_check != other.key_check
    assert (VAULT.rotation_id, VAULT.key_check) == (wider.rotation_id, wider.key_check)
    assert VAULT.rotation_id != Vault(RING, DIM + 1).rotation_id


def test_snapshot_sealer_binds_bytes_to_their_context() -> None:
    sealer = VAULT.sealer()
    sealed = sealer.seal(b"segment", b"\x00manifest\xff")
    assert sealer.open(sealed, b"\x00manifest\xff") == b"segment"
    with pytest.raises(SealBroken):
        sealer.open(sealed, b"\x00manifest\xfe")


def test_neither_a_vault_nor_a_file_seal_shows_a_secret() -> None:
    assert repr(FILE) == "FileCipher()"
    shown = f"{VAULT!r} {VAULT}"
    assert not any(key.secret.hex() in shown for key in (RING.rotation, RING.lookup, *RING.data))


KEY = Key(1, bytes(range(32)))
NAME = "0f" * 16
FILE = FileCipher.derive(KEY, b"here", NAME)
PLAIN = np.random.default_rng(0).bytes(10_000)
HIDDEN = FILE.hide(PLAIN, 0)


def reveal(file: FileSeal, hidden: bytes, offset: int) -> bytes:
    plain = np.empty(len(hidden), np.uint8)
    file.reveal(hidden, offset, plain)
    return plain.tobytes()


def test_pieces_are_hidden_and_revealed_as_the_whole() -> None:
    assert FILE.hide(PLAIN[4096:5000], 4096) == HIDDEN[4096:5000]
    assert reveal(FILE, HIDDEN[32:], 32) == PLAIN[32:]


@given(size=st.integers(1, 70), offsets=st.lists(st.integers(0, 9_900), max_size=40))
def test_rows_are_revealed_as_counter_mode_would(size: int, offsets: list[int]) -> None:
    rows = [np.frombuffer(HIDDEN[start : start + size], np.uint8) for start in offsets]
    hidden = np.array(rows, np.uint8).reshape(-1, size)
    with patch.object(file_ciphers, "_BLOCKS_AT_ONCE", 16):
        plain = FILE.reveal_rows(hidden, np.array(offsets, np.int64))
    assert [row.tobytes() for row in plain] == [PLAIN[start : start + size] for start in offsets]


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


def test_the_vault_gives_files_of_every_key_that_the_ring_still_has() -> None:
    ring = KeyRing.generate()
    old = Vault(ring, 32).sealer()
    hidden = old.file(NAME, old.file_key).hide(PLAIN, 0)
    newer = ring.with_new_data_key()
    new = Vault(newer, 32).sealer()
    assert new.file_key != old.file_key
    assert reveal(new.file(NAME, old.file_key), hidden, 0) == PLAIN
    assert reveal(new.file(NAME, new.file_key), hidden, 0) != PLAIN
    retired = Vault(newer.with_active_alone(()), 32).sealer()
    with pytest.raises(SealBroken):
        retired.file(NAME, old.file_key)
