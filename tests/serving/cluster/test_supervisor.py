"""`sosie serve`: refusals before it starts, and how it ends its processes."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from engine.errors import KeyRingMissing, RequestError
from serving.cluster import environment
from serving.cluster.application import require_sound
from serving.cluster.environment import NodeFolder, Site, open_private, require_ray
from serving.cluster.node import require_gpus
from serving.cluster.processes import Process, Role, find_processes, list_descendants
from serving.cluster.supervisor import claim, require_port
from serving.settings.sections import ServeSettings
from tests.serving.cluster.conftest import refuse


def test_a_taken_port_is_reported_in_one_line(start_serve, home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        error = refuse(start_serve, "--home", home, "--port", port)
    assert str(port) in error["message"]
    assert "--port" in error["message"]


def test_a_stop_is_heeded_while_gpus_are_waited_for(monkeypatch) -> None:
    looked, stop = threading.Event(), threading.Event()

    def list_nodes() -> list[dict[str, Any]]:
        looked.set()
        return [{"Alive": True, "Resources": {"CPU": 2.0}}]

    monkeypatch.setattr("ray.nodes", list_nodes)
    settings = ServeSettings(embedder="deployment", embedder_gpus=1)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(require_gpus, settings, 3600.0, stop)
        assert looked.wait(60)
        stop.set()
        waiting.result(60)


def test_gpus_of_two_nodes_are_not_those_of_one(monkeypatch) -> None:
    nodes = [{"Alive": True, "Resources": {"GPU": 1.0}}] * 2
    monkeypatch.setattr("ray.nodes", lambda: nodes)

    def require(gpus: float, replicas: int) -> None:
        settings = ServeSettings(
            embedder="deployment", embedder_gpus=gpus, embedder_replicas=replicas
        )
        require_gpus(settings, 0.0, threading.Event())

    require(1, 2)
    require(0.5, 4)
    for gpus, replicas in ((2, 1), (1, 3)):
        with pytest.raises(RequestError, match="set embedder_gpus"):
            require(gpus, replicas)


@pytest.mark.parametrize(
    ("host", "port", "told"),
    [("127.0.0.1", 52365, "52365"), ("192.0.2.77", 8700, "cannot be listened on")],
)
def test_the_port_of_rays_own_agent_and_an_address_of_another_machine_are_refused_at_once(
    host: str, port: int, told: str
) -> None:
    with pytest.raises(RequestError, match=told):
        require_port(host, port)


def test_a_home_that_is_served_already_names_the_process(start_serve, home) -> None:
    with claim(home):
        error = refuse(start_serve, "--home", home)
    assert f"process {os.getpid()} " in error["message"]


def test_settings_that_are_not_valid_or_missing_are_named_before_anything_is_listened_to(
    sosie, home, tmp_path
) -> None:
    (tmp_path / "other.toml").write_text("[serve]\nprot = 1\n")
    for name, told in (("other.toml", "serve.prot"), ("none.toml", "none.toml")):
        refused = sosie("serve", "--home", home, "--config", tmp_path / name, "--json")
        assert (refused.code, refused.err) == (2, "")
        assert told in refused.json["error"]["message"]


def test_a_home_without_its_key_ring_is_refused(home) -> None:
    (home / "keyring.json").unlink()
    with pytest.raises(KeyRingMissing):
        require_sound(Site.of(home, None))


def test_without_ray_the_extra_is_named(monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(RequestError, match=r"pip install -e '\.\[serve\]'"):
        require_ray()


def test_processes_are_recognised_by_their_role() -> None:
    """Titles as Ray and Serve set them, worn by processes of ours."""
    titles = {
        Role.INGRESS: "ray::ServeReplica:sosie:Ingress",
        Role.REGISTRAR: "ray::ServeReplica:sosie:Registrar.perform",
        Role.CONTROLLER: "ray::ServeController.listen_for_change",
        Role.PROXY_KEEPER: "ray::HAProxyManager",
        Role.RAYLET: "/opt/ray/raylet",
        Role.GCS: "/opt/ray/gcs_server",
        Role.PROXY: "/opt/bin/haproxy",
        Role.AGENT: "ray::DashboardAgent",
        Role.OTHER: "ray::IDLE",
    }
    sleep = str(shutil.which("sleep"))
    started = {
        role: subprocess.Popen([title, "60"], executable=sleep) for role, title in titles.items()
    }
    try:
        found = find_processes(os.getpid())
        for role, process in started.items():
            assert process.pid in found[role]
    finally:
        for process in started.values():
            process.kill()
            process.wait()
    assert not {one.pid for one in started.values()} & {
        one.pid for one in list_descendants(os.getpid())
    }


def test_agents_of_ray_are_recognised_by_their_script() -> None:
    words = ("/usr/bin/python3", "-u", "/opt/ray/_private/log_monitor.py", "--session-dir=/tmp")
    assert Process(2, words).role is Role.AGENT


def test_a_process_whose_name_is_not_text_is_listed() -> None:
    """Linux cuts a name after fifteen bytes, wherever in a character that is."""
    renamed = (
        "import ctypes; ctypes.CDLL(None).prctl(15, b'\\xe5) \\xe5'); print(flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", renamed], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        assert process.pid in {one.pid for one in list_descendants(os.getpid())}
        process.communicate(b"\n")


_FAMILY = """
import ctypes, os, subprocess, sys
from serving.cluster.processes import end_descendants, list_descendants
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
parent = subprocess.Popen(
    [sys.executable, "-c",
     "import subprocess, time; one = subprocess.Popen(['sleep', '77'], start_new_session=True);"
     "print(one.pid, flush=True); time.sleep(77)"],
    stdout=subprocess.PIPE,
)
orphan = int(parent.stdout.readline())
parent.kill()
parent.wait()
found = [one.pid for one in list_descendants(os.getpid())]
print(found == [orphan], end_descendants(os.getpid()), list_descendants(os.getpid()))
"""


def test_an_orphan_of_a_dead_node_is_found_and_ended() -> None:
    """In a session of its own, whose parent was killed: only a subreaper can find it."""
    run = subprocess.run(
        [sys.executable, "-c", _FAMILY], capture_output=True, text=True, timeout=300, check=True
    )
    assert run.stdout.split("\n")[0] == "True [] []"


def test_what_a_killed_service_left_is_removed_at_the_next_start(monkeypatch) -> None:
    shared = Path(tempfile.mkdtemp(prefix="s", dir="/tmp"))
    monkeypatch.setattr(environment, "LONGEST_FOLDER", 100)
    monkeypatch.setattr(tempfile, "tempdir", str(shared))
    try:
        left, running = NodeFolder(), NodeFolder()
        os.close(left.owner)
        # As in another container: its process ids mean nothing here.
        (running.path / "owner").write_text("4194304")
        foreign = shared / "sosie-postgres"
        foreign.mkdir()
        made = NodeFolder()
        assert made.path.stat().st_mode & 0o777 == 0o700
        assert set(shared.iterdir()) == {running.path, made.path, foreign}
        with ThreadPoolExecutor() as pool:
            late = pool.submit(lambda: [(running.path / "late").touch() for _ in range(10**6)])
            running.close()
        assert isinstance(late.exception(), FileNotFoundError)
        assert set(shared.iterdir()) == {made.path, foreign}
        made.close()
    finally:
        shutil.rmtree(shared)


def test_a_long_temporary_folder_is_not_used(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = NodeFolder()
    folder.close()
    assert len(str(folder.path)) <= environment.LONGEST_FOLDER


def test_a_shell_can_read_the_environment_for_an_own_cluster(sosie, home) -> None:
    folder = Path("/tmp") / f"sosie-test-{os.getpid()}"
    try:
        outcome = sosie("ray-environment", folder, "--home", home)
        assert outcome.code == 0, outcome.err
        script = f"{outcome.out}\necho $RAY_SERVE_HAPROXY_BINARY_PATH"
        run = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
        assert os.access(run.stdout.strip(), os.X_OK)
        assert folder.stat().st_mode & 0o777 == 0o700
        counted = folder / "metrics/counter_1.db"
        counted.touch()
        assert sosie("ray-environment", folder, "--home", home).code == 0
        assert counted.exists()  # of a process that runs
        folder.chmod(0o755)
        open_folder = sosie("ray-environment", folder, "--home", home)
        assert open_folder.code == 2
        assert "chmod 700" in open_folder.err
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    refused = sosie("ray-environment", home / ("long" * 20), "--home", home)
    assert refused.code == 2
    assert "shorter" in refused.err


def test_files_in_a_home_are_readable_by_their_owner_only(home) -> None:
    with claim(home):
        assert (home / "serve.lock").stat().st_mode & 0o777 == 0o600
    old = home / "node.log"
    old.touch(mode=0o644)
    with open(old, "wb", opener=open_private):
        assert old.stat().st_mode & 0o777 == 0o600


def test_a_folder_of_another_user_is_refused(home, sosie, monkeypatch) -> None:
    folder = Path("/tmp") / f"sosie-alien-{os.getpid()}"[:20]
    folder.mkdir(mode=0o700)
    try:
        monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
        refused = sosie("ray-environment", folder, "--home", home)
        assert refused.code == 2
        assert "another user's" in refused.err
        assert list(folder.iterdir()) == []
    finally:
        folder.rmdir()
