"""`sosie backup` of a home that a service has open asks that service, on a real socket."""

import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from serving import operator_client
from serving.operator_client import ADDRESS_FILE, find_address, leave_address
from serving.settings.sections import ServeSettings

LEAVE = """
import sys
from pathlib import Path
from serving.operator_client import leave_address
from serving.settings.sections import ServeSettings
with leave_address(Path(sys.argv[1]), ServeSettings(port=18700)):
    print("left", flush=True)
    sys.stdin.read()
"""


def test_a_home_that_is_served_is_copied_by_its_service(service, listen, sosie, tmp_path) -> None:
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
    service, listen, sosie, tmp_path
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


def test_a_service_is_found_where_it_has_said_that_it_listens(
    service, listen, sosie, tmp_path
) -> None:
    home = service.log_file.parent
    port = int(listen().rpartition(":")[2])
    elsewhere = {"SOSIE_SERVE__PORT": "9"}
    with leave_address(home, ServeSettings(host="0.0.0.0", port=port)):
        assert (home / ADDRESS_FILE).stat().st_mode & 0o777 == 0o600
        made = sosie("backup", tmp_path / "copy", "--home", home, env=elsewhere)
    assert made.code == 0, made.err
    assert not (home / ADDRESS_FILE).exists()


def test_an_address_that_a_killed_service_has_left_counts_no_more(tmp_path) -> None:
    settings = ServeSettings(port=18701)
    command = [sys.executable, "-c", LEAVE, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as left:
        assert left.stdout.readline() == b"left\n"
        assert find_address(tmp_path, settings) == "http://127.0.0.1:18700"
        os.kill(left.pid, signal.SIGKILL)
    assert (tmp_path / ADDRESS_FILE).exists()
    assert find_address(tmp_path, settings) == settings.url
    with leave_address(tmp_path, settings):
        assert find_address(tmp_path, ServeSettings()) == settings.url


def test_a_service_that_does_not_answer_is_told_with_what_to_do(
    service, sosie, monkeypatch, tmp_path
) -> None:
    home = service.log_file.parent
    monkeypatch.setattr(operator_client, "START_S", 0.5)
    before = {one["key_id"] for one in keys_of(sosie, home)}
    given = ("backup", tmp_path / "copy", "--home", home, "--json")
    asked = sosie(*given, env={"SOSIE_SERVE__PORT": "9"})
    assert asked.code == 2
    error = asked.json["error"]
    assert error["code"] == "SERVICE.NOT_READY"
    assert "answers at http://127.0.0.1:9: start it or stop that process" in error["message"]
    (key,) = [one for one in keys_of(sosie, home) if one["key_id"] not in before]
    assert key["state"] == "revoked"


@pytest.mark.parametrize("said", [b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", b"\0"])
def test_whatever_else_listens_there_is_no_internal_error(
    service, sosie, monkeypatch, tmp_path, said: bytes
) -> None:
    monkeypatch.setattr(operator_client, "START_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        def answer() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = other.accept()
                    with connection:
                        connection.recv(65536)
                        connection.sendall(said)

        with ThreadPoolExecutor(1) as pool:
            pool.submit(answer)
            given = ("backup", tmp_path / "copy", "--home", service.log_file.parent)
            asked = sosie(*given, env={"SOSIE_SERVE__PORT": str(port)})
            other.shutdown(socket.SHUT_RDWR)
    assert asked.code == 2
    assert "internal" not in asked.err
    assert f"http://127.0.0.1:{port}" in asked.err


def keys_of(sosie: Any, home: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = sosie("apikey", "list", "--home", home, "--json").json["keys"]
    return found
