"""`sosie backup` of a home that a service has open asks that service, on a real socket."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


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


def test_the_operators_key_goes_to_no_proxy_of_the_environment(
    service: Any, listen: Callable[..., str], sosie: Any, tmp_path: Path
) -> None:
    port = listen().rpartition(":")[2]
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        address = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        names = ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
        proxied = dict.fromkeys(names, address)
        direct = {"NO_PROXY": "", "no_proxy": ""}
        given = ("backup", tmp_path / "copy", "--home", service.log_file.parent)
        made = sosie(*given, env={"SOSIE_SERVE__PORT": port, **proxied, **direct})
        proxy.setblocking(False)
        with pytest.raises(BlockingIOError):
            proxy.accept()
    assert made.code == 0, made.err


def keys_of(sosie: Any, home: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = sosie("apikey", "list", "--home", home, "--json").json["keys"]
    return found
