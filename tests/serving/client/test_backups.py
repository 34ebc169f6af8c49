"""`sosie backup` of a home that a service has open asks that service, on a real socket."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any


def test_a_home_that_is_served_is_copied_by_its_service(
    service: Any, listen: Callable[..., str], sosie: Any, tmp_path: Path
) -> None:
    home = service.log_file.parent
    port = listen().rpartition(":")[2]
    before = {one["key_id"] for one in keys_of(sosie, home)}
    made = sosie(
        "backup", tmp_path / "copy", "--home", home, "--json", env={"SOSIE_SERVE__PORT": port}
    )
    assert made.code == 0, made.err
    assert {one.name for one in (tmp_path / "copy").iterdir()} == {
        "manifest.json",
        "registry.sqlite",
    }
    assert list((home / "backups").iterdir()) == []
    (key,) = [one for one in keys_of(sosie, home) if one["key_id"] not in before]
    assert (key["role"], key["state"]) == ("operator", "revoked")
    refused = sosie("restore", tmp_path / "copy", "--home", home, "--replace")
    assert refused.code == 2
    assert "writes to this registry" in refused.err


def keys_of(sosie: Any, home: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = sosie("apikey", "list", "--home", home, "--json").json["keys"]
    return found
