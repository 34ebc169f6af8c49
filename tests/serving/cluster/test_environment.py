"""Environment variables of a node from its settings."""

import socket
from pathlib import Path

import pytest
from ray.serve._private.constants import RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT

from engine.errors import RequestError
from serving.cluster.environment import FREE_PORTS, find_port, make_environment, renew_proxy_config
from serving.cluster.haproxy import read_config
from serving.settings.sections import ServeSettings


def test_a_running_node_takes_new_settings_and_keeps_its_address(tmp_path) -> None:
    for folder in (None, tmp_path):
        with pytest.raises(RequestError, match="ray-environment"):
            renew_proxy_config(ServeSettings(), folder)
    assert not renew_proxy_config(ServeSettings(proxy="ray"), tmp_path)
    settings = ServeSettings(requests_ongoing=7, matches_ongoing=5, enrollments_ongoing=2)
    make_environment(settings, tmp_path, tmp_path / "log", is_local=True)
    config = read_config(tmp_path)
    assert (config.ongoing, config.match_ongoing) == (7, 5)
    assert config.enroll_ongoing == settings.enrollments_admitted == 8
    assert not renew_proxy_config(settings, tmp_path)
    assert renew_proxy_config(ServeSettings(matches_ongoing=6), tmp_path)
    config = read_config(tmp_path)
    assert (config.match_ongoing, config.address) == (6, settings.host)


def test_workers_start_with_the_default_priority_where_it_is_set_afterwards(
    tmp_path, monkeypatch
) -> None:
    def read(*, is_local: bool) -> str | None:
        made = make_environment(ServeSettings(), tmp_path, tmp_path / "log", is_local=is_local)
        return made.get("RAY_worker_niceness")

    monkeypatch.delenv("RAY_worker_niceness", raising=False)
    assert read(is_local=True) == "0"
    assert read(is_local=False) is None
    monkeypatch.setenv("RAY_worker_niceness", "3")
    assert read(is_local=True) == "3"


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "OPENBLAS_THREAD_TIMEOUT"])
def test_blas_threads_do_not_spin_unless_the_operator_sets_it(
    tmp_path, monkeypatch, name: str
) -> None:
    def read() -> str | None:
        made = make_environment(ServeSettings(), tmp_path, tmp_path / "log", is_local=False)
        return made.get(name)

    monkeypatch.delenv(name, raising=False)
    assert read() == {"OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_THREAD_TIMEOUT": "4"}[name]
    monkeypatch.setenv(name, "other")
    assert read() == "other"


def test_no_connection_and_no_replica_is_given_a_port_that_was_found_for_a_process() -> None:
    given_from = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert FREE_PORTS.stop <= min(given_from, RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", find_port()))
        taken = listener.getsockname()[1]
        assert taken in FREE_PORTS
        assert taken not in {find_port() for _ in range(200)}
