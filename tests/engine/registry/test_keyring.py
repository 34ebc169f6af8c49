import json
import os
from pathlib import Path

import pytest

from engine.errors import KeyRingError, KeyRingInvalid, KeyRingMissing
from engine.registry.keyring import Key, KeyRing


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "keys.json"


def secrets_of(ring: KeyRing) -> list[str]:
    keys = [ring.rotation, ring.lookup, ring.audit, *ring.data]
    return [text for key in keys for text in (key.secret.hex(), repr(key.secret))]


def test_created_ring_is_readable_by_its_owner_alone_and_loads_again(path) -> None:
    ring = KeyRing.create(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert KeyRing.load(path) == ring
    assert os.listdir(path.parent) == [path.name]


def test_create_never_overwrites(path) -> None:
    ring = KeyRing.create(path)
    with pytest.raises(KeyRingError, match="exists already"):
        KeyRing.create(path)
    assert KeyRing.load(path) == ring
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("mode", [0o640, 0o620, 0o604, 0o602, 0o644])
def test_ring_open_to_others_is_refused_with_the_command_to_run(path, mode: int) -> None:
    KeyRing.create(path)
    path.chmod(mode)
    with pytest.raises(KeyRingInvalid, match=f"run chmod 600 {path}"):
        KeyRing.load(path)


def test_missing_ring_is_named(path) -> None:
    with pytest.raises(KeyRingMissing, match="restore your backup") as caught:
        KeyRing.load(path)
    assert "sosie init" not in str(caught.value)


def test_folder_in_place_of_the_ring_is_refused(tmp_path) -> None:
    with pytest.raises(KeyRingInvalid):
        KeyRing.load(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: {},
        lambda content: content | {"format": "other"},
        lambda content: content | {"format_version": 2},
        lambda content: content | {"extra": 1},
        lambda content: content | {"data": []},
        lambda content: content | {"data": content["data"] * 2},
        lambda content: content | {"deployment_id": "x"},
        lambda content: (
            content | {"lookup": {"version": 1, "secret": content["lookup"]["secret"][:-2]}}
        ),
        lambda content: content | {"audit": {"version": "1", "secret": content["audit"]["secret"]}},
        lambda content: content | {"audit": {"version": 0, "secret": content["audit"]["secret"]}},
    ],
)
def test_malformed_ring_is_refused_in_one_line_without_its_secrets(path, damage) -> None:
    ring = KeyRing.create(path)
    path.write_text(json.dumps(damage(json.loads(path.read_text()))))
    with pytest.raises(KeyRingInvalid) as caught:
        KeyRing.load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert not any(secret[:40] in message for secret in secrets_of(ring))
    assert caught.value.__cause__ is None


def test_ring_cut_at_any_byte_is_refused(path) -> None:
    KeyRing.create(path)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 2, 7):
        path.write_bytes(whole[:length])
        with pytest.raises(KeyRingInvalid):
            KeyRing.load(path)


def test_new_data_key_becomes_active_and_the_old_one_stays(path) -> None:
    ring = KeyRing.generate()
    wider = ring.with_new_data_key()
    wider.save(path)
    loaded = KeyRing.load(path)
    assert loaded == wider
    assert [key.version for key in loaded.data] == [1, 2]
    assert loaded.active_data_key == wider.data[1]
    assert (loaded.rotation, loaded.lookup, loaded.audit, loaded.data[0]) == (
        ring.rotation,
        ring.lookup,
        ring.audit,
        ring.active_data_key,
    )


def test_versions_are_never_used_again() -> None:
    ring = KeyRing.generate().with_new_data_key().with_active_alone(())
    assert ring.with_new_data_key().active_data_key.version == 3


def test_a_kept_key_is_saved_and_leaves_with_what_needs_it(path) -> None:
    ring = KeyRing.generate().with_new_data_key()
    kept = ring.with_active_alone([1])
    kept.save(path)
    assert KeyRing.load(path) == kept
    assert (kept.data, kept.kept) == (ring.data[1:], ring.data[:1])
    assert kept.with_new_data_key().with_active_alone([2]).kept == ring.data[1:]


def test_text_forms_show_fingerprints_and_no_secret() -> None:
    ring = KeyRing.generate().with_new_data_key()
    shown = f"{ring!r} {ring} {ring.data} {ring.fingerprints}"
    assert not any(secret in shown for secret in secrets_of(ring))
    assert len(set(ring.fingerprints.values())) == 5
    assert set(ring.fingerprints) == {"rotation", "lookup", "audit", "data:1", "data:2"}


def test_fingerprint_is_the_same_on_every_machine() -> None:
    assert Key(1, bytes(range(32))).fingerprint == "bbeacfcf19107f4b"


WITHOUT_ROOM = """
import resource, sys
from pathlib import Path
from engine.errors import KeyRingError
from engine.registry.keyring import KeyRing

ring = KeyRing.load(Path(sys.argv[1]))
# For a process of its own: the limit would hold for whatever the tests' output goes to.
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    ring.with_new_data_key().save(Path(sys.argv[1]))
except KeyRingError as error:
    print(error)
"""


def test_save_without_room_leaves_the_old_ring_whole(path, in_child) -> None:
    ring = KeyRing.create(path)
    said, failure = in_child(WITHOUT_ROOM, str(path)).communicate(timeout=120)
    assert "cannot be written" in said, failure
    assert KeyRing.load(path) == ring
    assert os.listdir(path.parent) == [path.name]
