"""Environment variables of a node from its settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serving.cluster.environment import make_environment
from serving.cluster.haproxy import ProxyConfig
from serving.sections import ServeSettings


def _read_config(variables: dict[str, str]) -> ProxyConfig:
    """The configuration of the proxy, from what the wrapper reads."""
    return ProxyConfig(**json.loads(variables["SOSIE_PROXY_CONFIG"]))


def test_the_proxys_bounds_are_those_of_an_ingress_times_their_number(tmp_path: Path) -> None:
    settings = ServeSettings(
        ingress_replicas=3, requests_ongoing=7, matches_ongoing=5, enrollments_ongoing=2
    )
    config = _read_config(make_environment(settings, tmp_path, tmp_path / "log", is_local=True))
    assert (config.ongoing, config.match_ongoing, config.enroll_ongoing) == (21, 15, 6)


def test_workers_start_with_the_default_priority_where_it_is_set_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def read() -> str | None:
        made = make_environment(ServeSettings(), tmp_path, tmp_path / "log", is_local=False)
        return made.get(name)

    monkeypatch.delenv(name, raising=False)
    assert read() == {"OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_THREAD_TIMEOUT": "4"}[name]
    monkeypatch.setenv(name, "other")
    assert read() == "other"
