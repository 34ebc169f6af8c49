"""An operator's backups: made beside decisions, checked, listed, audited."""

from typing import Any

from engine.registry import backup
from serving.wire.fields import read
from serving.wire.oversight import Backup, Backups
from tests.waiting import wait_until


def wait_for(service: Any, name: str) -> dict[str, Any]:
    def find_ended() -> dict[str, Any] | None:
        answer = service.read(service.ask("GET", "/v1/backups", key="operator"))
        read(answer, Backups)
        (found,) = [one for one in answer["backups"] if one["name"] == name]
        return dict(found) if found["state"] != "running" else None

    return wait_until(find_ended)


def test_a_backup_is_made_beside_enrollments_and_lies_in_the_home(
    fresh, tmp_path, activation, monkeypatch
) -> None:
    monkeypatch.setattr(backup, "PAGES_PER_STEP", 1)
    monkeypatch.setattr(backup, "PAUSE_S", 0.02)
    started = fresh.ask("POST", "/v1/backups", key="operator")
    assert started.status_code == 201
    first = fresh.read(started)
    read(first, Backup)
    assert (first["state"], first["audit_number"]) == ("running", None)
    # One at a time: whoever asks meanwhile is shown the one that runs.
    again = fresh.read(fresh.ask("POST", "/v1/backups", key="operator"))
    assert again["name"] == first["name"]
    enrolled = fresh.enroll(activation(), "k", key="b1")
    assert enrolled.status_code == 201
    made = wait_for(fresh, first["name"])
    assert (made["state"], made["fault"]) == ("done", None)
    folder = tmp_path / "served" / "backups" / made["name"]
    assert {one.name for one in folder.iterdir()} == {"manifest.json", "registry.sqlite"}
    audit = fresh.read(
        fresh.ask("GET", "/v1/audit", key="operator", params={"action": "backup.made"})
    )
    (entry,) = audit["entries"]
    assert entry["actor"].startswith("operator (key:")
    assert entry["detail"]["audit_number"] == made["audit_number"]


def test_a_backup_that_fails_says_why_and_leaves_nothing(fresh, tmp_path) -> None:
    (tmp_path / "served" / "backups").write_text("a file in its place")
    started = fresh.read(fresh.ask("POST", "/v1/backups", key="operator"))
    failed = wait_for(fresh, started["name"])
    assert failed["state"] == "failed"
    assert failed["fault"]


def test_closing_stops_a_backup_of_which_nothing_stays(fresh, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(backup, "PAGES_PER_STEP", 1)
    monkeypatch.setattr(backup, "PAUSE_S", 0.05)
    fresh.ask("POST", "/v1/backups", key="operator")
    fresh.match.close()
    folder = tmp_path / "served" / "backups"
    assert list(folder.iterdir() if folder.exists() else []) == []
