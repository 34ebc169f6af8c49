"""`sosie keys rotate`."""

import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.registry.keyring import KeyRing
from engine.registry.vault import name_reference
from serving.deployment.deployment import Deployment
from serving.deployment.snapshots import SHARD_KEYS_FOLDER, ShardKeys
from serving.doctor import SEALS_TO_ROTATE
from serving.settings.settings import load_settings
from tests.row_codes import alter, vouch
from tests.serving.identity_provider import free_port


@pytest.fixture
def ring_path(full_home) -> Path:
    return full_home / "keyring.json"


def assert_whole(home: Path, sosie: Any, photographs: Any) -> None:
    """One data key, and every sealed value opens with it."""
    assert len(KeyRing.load(home / "keyring.json").data) == 1
    assert sosie("search", photographs.later, "--home", home).code == 0
    with Deployment(home, load_settings(home)) as deployment:
        assert deployment.restored.fault is None
    document = ("--document-type", "cn-ric", "--document-number", "110105199003071239")
    lines = ("lines", "--live", photographs.later, *document, "--reveal", "--home", home)
    assert "+8613800138000" in sosie(*lines).out


def test_a_rotation_loses_no_value_and_retires_the_old_key(
    full_home, ring_path, sosie, photographs
) -> None:
    before = KeyRing.load(ring_path)
    with Deployment(full_home, load_settings(full_home)) as deployment:
        deployment.save_snapshot()
        ShardKeys(deployment.store, full_home / SHARD_KEYS_FOLDER).find_or_make("0-of-1")
    outcome = sosie("keys", "rotate", "--home", full_home, "--json")
    assert outcome.code == 0
    assert (outcome.json["active"], outcome.json["retired"]) == (2, [1])
    assert outcome.json["resumed"] is False
    assert outcome.json["resealed"]["references"] == 1
    assert outcome.json["shard_snapshots"] == 1
    assert list((full_home / SHARD_KEYS_FOLDER).iterdir()) == []
    after = KeyRing.load(ring_path)
    assert after.data[0].secret != before.data[0].secret
    assert after.rotation == before.rotation
    assert_whole(full_home, sosie, photographs)


def test_a_rotation_that_stopped_after_its_new_key_or_before_its_last_ring_was_saved_is_finished(
    full_home, ring_path, sosie, photographs
) -> None:
    both = KeyRing.load(ring_path).with_new_data_key()
    both.save(ring_path)
    warned = sosie("doctor", "--home", full_home)
    assert (warned.code, "sosie keys rotate" in warned.out) == (0, True)
    outcome = sosie("keys", "rotate", "--home", full_home, "--json").json
    assert (outcome["resumed"], outcome["retired"]) == (True, [1])
    assert_whole(full_home, sosie, photographs)
    both.save(ring_path)
    assert "Finished" in sosie("keys", "rotate", "--home", full_home).out
    assert_whole(full_home, sosie, photographs)


def states(outcome: Any) -> dict[str, str]:
    return {check["subject"]: check["state"] for check in outcome.json["checks"]}


def test_a_sound_deployment_is_well(full_home, sosie) -> None:
    outcome = sosie("doctor", "--home", full_home, "--json")
    assert (outcome.code, outcome.json["ok"]) == (0, True)
    found = states(outcome)
    assert set(found) >= {
        "python", "cpu", "memory", "packages", "runtime", "telemetry", "machine code", "detector",
        "embedder", "calibration", "key ring", "registry", "gallery", "index", "snapshot",
        "audit chain",
    }  # fmt: skip
    assert all(state != "broken" for state in found.values())
    assert len(sosie("doctor", "--home", full_home).out.splitlines()) == len(found)


def test_what_onnx_runtime_kept_for_its_maker_is_told_of(tmp_path, sosie, monkeypatch) -> None:
    def examine() -> dict[str, str]:
        return sosie("doctor", "--json", env={"HOME": str(tmp_path)}).check("telemetry")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert examine()["state"] == "ok"
    (tmp_path / ".cache/Microsoft/DeveloperTools/.onnxruntime").mkdir(parents=True)
    assert (examine()["state"], str(tmp_path) in examine()["detail"]) == ("warning", True)


def test_a_gallery_too_large_for_the_false_candidates_asked_is_told(full_home, sosie) -> None:
    def examine(asked: str) -> dict[str, str]:
        env = {"SOSIE_THRESHOLDS__REVIEW_FALSE_CANDIDATES": asked}
        return sosie("doctor", "--home", full_home, "--json", env=env).check("false candidates")

    assert examine("0.1")["state"] == "ok"
    warned = examine("1e-7")
    assert warned["state"] == "warning"
    assert "in 1 references: 6.3e-07" in warned["detail"]
    assert "review_false_candidates" in warned["advice"]


def test_a_provider_that_is_down_is_a_warning_of_one_line(full_home, sosie) -> None:
    issuer = f"http://127.0.0.1:{free_port()}"
    given = {"ISSUER": issuer, "CLIENT_ID": "s", "CLIENT_SECRET": "pst"}
    env = {f"SOSIE_SIGN_IN__{name}": value for name, value in given.items()}
    env["SOSIE_SERVE__PUBLIC_URL"] = "https://s.example"
    env["SOSIE_SIGN_IN__GROUPS"] = '{"team": "fraud"}'
    outcome = sosie("doctor", "--home", full_home, "--json", env=env)
    found = outcome.check("sign-in")
    assert (found["state"], "does not answer" in found["detail"]) == ("warning", True)
    assert "pst" not in outcome.out


def test_the_rows_of_a_large_registry_are_read_where_that_is_asked_for(
    full_home, sosie, monkeypatch
) -> None:
    monkeypatch.setattr("serving.doctor.QUICK_ROWS", 3)
    quick = sosie("doctor", "--home", full_home)
    assert "run sosie doctor --deep" in quick.out
    deep = sosie("doctor", "--deep", "--home", full_home, "--json")
    assert states(deep)["database"] == "ok"


def test_without_a_home_the_machine_and_the_models_are_examined(
    sosie, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = sosie("doctor", "--json")
    assert outcome.code == 0
    assert states(outcome)["deployment"] == "warning"
    assert states(outcome)["embedder"] == "ok"


def test_a_key_ring_that_others_can_read_is_broken(full_home, sosie) -> None:
    (full_home / "keyring.json").chmod(0o640)
    outcome = sosie("doctor", "--home", full_home)
    assert outcome.code == 1
    assert "chmod 600" in outcome.out


def test_a_data_key_that_has_sealed_half_of_what_is_safe_is_told_long_before(
    full_home, sosie, monkeypatch
) -> None:
    def examine() -> dict[str, str]:
        return sosie("doctor", "--home", full_home, "--json").check("key ring")

    assert examine()["state"] == "ok"
    assert "of 4,294,967,296" in examine()["detail"]
    assert SEALS_TO_ROTATE == 2**31
    monkeypatch.setattr("serving.doctor.SEALS_TO_ROTATE", 3)
    warned = examine()
    assert (warned["state"], "sosie keys rotate" in warned["advice"]) == ("warning", True)


@pytest.mark.parametrize(
    ("statement", "broken", "sound"),
    [
        ("DELETE FROM audit WHERE number = 2", "audit chain", "gallery"),
        ("UPDATE \"references\" SET template = template || x'00'", "gallery", "audit chain"),
    ],
)
def test_what_was_altered_in_the_registry_is_broken(
    statement: str, broken: str, sound: str, full_home, sosie
) -> None:
    alter(full_home, statement)
    outcome = sosie("doctor", "--home", full_home, "--json")
    assert outcome.code == 1
    assert (states(outcome)[broken], states(outcome)[sound]) == ("broken", "ok")


def test_doctor_tells_that_there_is_no_snapshot_and_that_removed_references_are_overdue(
    full_home, sosie, monkeypatch
) -> None:
    outcome = sosie("doctor", "--home", full_home, "--json")
    assert states(outcome)["snapshot"] == "ok"
    assert "upkeep" not in states(outcome)
    monkeypatch.setattr("serving.doctor.SNAPSHOT_AFTER", 0)
    monkeypatch.setattr("indexes.gallery.Gallery.deadline_s", lambda _: -7200.0)
    outcome = sosie("doctor", "--home", full_home, "--json")
    assert (states(outcome)["snapshot"], states(outcome)["upkeep"]) == ("warning", "warning")
    assert "2.0 h beyond erasure_deadline_h" in outcome.out


def test_a_damaged_snapshot_is_a_warning_and_harms_nothing(
    full_home, sosie, photographs, tmp_path
) -> None:
    with Deployment(full_home, load_settings(full_home)) as deployment:
        deployment.save_snapshot()
    for data in (full_home / "gallery").glob("state-*"):
        data.write_bytes(data.read_bytes()[:-1])
    outcome = sosie("doctor", "--home", full_home, "--json")
    assert outcome.code == 0
    assert states(outcome)["snapshot"] == "warning"
    assert states(outcome)["gallery"] == "ok"
    assert sosie("search", photographs.later, "--home", full_home).code == 0


def test_every_choice_of_gallery_is_equal_to_the_store(full_home, sosie, photographs) -> None:
    variables = {"SOSIE_GALLERY__ROWS": "float16", "SOSIE_GALLERY__MAPPED": "true"}
    outcome = sosie("doctor", "--home", full_home, "--json", env=variables)
    assert outcome.code == 0
    index = outcome.check("index")
    assert index["detail"].startswith("exact8")
    assert "bytes a reference" in index["detail"]
    found = sosie("search", photographs.later, "--home", full_home, "--json", env=variables)
    assert found.json["found"] == 1


def replace_reference(home: Path, tmp_path: Path, new_id: int, vector: NDArray[np.float32]) -> None:
    """Puts another template, well sealed, in the place of the only reference."""
    with Deployment(home, load_settings(home)) as deployment:
        (document,) = deployment.store.documents_of([1]).values()
        named = name_reference(new_id, document)
        (sealed,) = deployment.vault.seal_templates([named], vector[None])
    with sqlite3.connect(home / "registry.sqlite") as database:
        database.execute('UPDATE "references" SET id = ?, template = ?', (new_id, sealed))
    database.close()
    with Deployment(home, load_settings(home), tmp_path / "cache") as deployment:
        vouch(deployment.store.engine, deployment.vault)


@pytest.mark.parametrize(("new_id", "length"), [(1, 1.0), (3, 1.0), (1, 0.0)])
def test_a_gallery_of_as_many_but_other_references_and_a_template_that_no_index_takes_are_broken(
    new_id: int, length: float, full_home, sosie, tmp_path
) -> None:
    with Deployment(full_home, load_settings(full_home)) as deployment:
        deployment.save_snapshot()
    replace_reference(full_home, tmp_path, new_id, length * np.eye(1, 128, dtype=np.float32)[0])
    outcome = sosie("doctor", "--home", full_home, "--json")
    assert outcome.code == 1
    assert (states(outcome)["gallery"], states(outcome)["audit chain"]) == ("broken", "ok")
