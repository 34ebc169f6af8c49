"""`sosie keys rotate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.registry.keyring import KeyRing
from serving.compose import Deployment
from serving.settings import load_settings


@pytest.fixture
def ring_path(full_home: Path) -> Path:
    return full_home / "keyring.json"


def assert_whole(home: Path, sosie: Any, photographs: Any, tmp_path: Path) -> None:
    """One data key, and every sealed value opens with it."""
    assert len(KeyRing.load(home / "keyring.json").data) == 1
    assert sosie("search", photographs.later, "--home", home).code == 0
    with Deployment(home, load_settings(home), tmp_path / "cache") as deployment:
        assert deployment.restored.fault is None
    document = ("--document-type", "cn-ric", "--document-number", "110105199003071239")
    lines = ("lines", "--live", photographs.later, *document, "--reveal", "--home", home)
    assert "+8613800138000" in sosie(*lines).out


def test_a_rotation_loses_no_value_and_retires_the_old_key(
    full_home: Path, ring_path: Path, sosie: Any, photographs: Any, tmp_path: Path
) -> None:
    before = KeyRing.load(ring_path)
    with Deployment(full_home, load_settings(full_home), tmp_path / "cache") as deployment:
        deployment.save_snapshot()
    outcome = sosie("keys", "rotate", "--home", full_home, "--json")
    assert outcome.code == 0
    assert (outcome.json["active"], outcome.json["retired"]) == (2, [1])
    assert outcome.json["resumed"] is False
    assert outcome.json["resealed"]["references"] == 1
    after = KeyRing.load(ring_path)
    assert after.data[0].secret != before.data[0].secret
    assert after.rotation == before.rotation
    assert_whole(full_home, sosie, photographs, tmp_path)


def test_a_rotation_that_stopped_after_its_new_key_is_finished(
    full_home: Path, ring_path: Path, sosie: Any, photographs: Any, tmp_path: Path
) -> None:
    KeyRing.load(ring_path).with_new_data_key().save(ring_path)
    warned = sosie("doctor", "--home", full_home)
    assert warned.code == 0
    assert "sosie keys rotate" in warned.out
    outcome = sosie("keys", "rotate", "--home", full_home, "--json")
    assert outcome.json["resumed"] is True
    assert outcome.json["retired"] == [1]
    assert_whole(full_home, sosie, photographs, tmp_path)


def test_a_rotation_that_stopped_before_the_ring_was_saved_is_finished(
    full_home: Path, ring_path: Path, sosie: Any, photographs: Any, tmp_path: Path
) -> None:
    both = KeyRing.load(ring_path).with_new_data_key()
    both.save(ring_path)
    assert sosie("keys", "rotate", "--home", full_home).code == 0
    both.save(ring_path)
    assert "Finished" in sosie("keys", "rotate", "--home", full_home).out
    assert_whole(full_home, sosie, photographs, tmp_path)


def test_the_ring_from_before_a_rotation_is_refused(
    full_home: Path, ring_path: Path, sosie: Any, photographs: Any, assert_refused: Any
) -> None:
    old = ring_path.read_bytes()
    assert sosie("keys", "rotate", "--home", full_home).code == 0
    ring_path.write_bytes(old)
    assert_refused(
        sosie("search", photographs.later, "--home", full_home), "newest backup of the key ring"
    )
