"""One node of the service: a process that starts or joins Ray and deploys the application.

It is a child of `sosie serve`, which starts another one when this one dies.
"""

import ctypes
import importlib
import json
import os
import re
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayActorError, RayError
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
from ray.serve.config import HTTPOptions, ProxyLocation
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview, LoggingConfig
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from engine.errors import RequestError
from serving.cluster.environment import NodePlan, Site, registrar_timeout_s
from serving.cluster.haproxy import PLACE, STOPPING, command, is_ours, list_sockets, read_statistics
from serving.errors import Fault, describe
from serving.settings.sections import ServeSettings
from serving.settings.settings import find_node_folder

# An orderly stop: first the proxy refuses new requests and lets running ones end. Serve would stop
# all deployments at once, and a photograph being extracted would find no registrar.

ANSWER_TIMEOUT_S = 2.0
LOOK_EVERY_S = 0.1
START_S = 5.0
"""For a process on another node to begin."""


def drain_proxies(folder: Path, timeout_s: float) -> bool:
    """Makes every HAProxy with a socket below `folder` refuse requests (503, readiness included),
    and waits until none is running; False if some still are after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        # Repeated each time: a reloaded proxy has lost the setting.
        ongoing = sum(_refuse_and_count(path) for path in list_sockets(folder))
        if not ongoing:
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(LOOK_EVERY_S)


def drain_nodes(timeout_s: float) -> bool:
    """`drain_proxies` on each node of the cluster that this process has joined: a proxy's socket is
    in a folder of its node (`sosie ray-environment`). Nodes without a proxy are skipped."""
    drain = ray.remote(num_cpus=0, max_retries=0)(drain_here)
    asked = [
        drain.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(timeout_s)
        for node in ray.nodes()
        if node["Alive"]
    ]
    done, late = ray.wait(asked, num_returns=len(asked), timeout=timeout_s + START_S)
    for call in late:
        ray.cancel(call, force=True)
    return not late and all(map(_has_drained, done))


def drain_here(timeout_s: float) -> bool:
    """`drain_proxies` on this node, as a task of its Ray."""
    node = find_node_folder()
    return node is None or drain_proxies(node / PLACE, timeout_s)


def _has_drained(call: Any) -> bool:
    try:
        return bool(ray.get(call))
    except RayError:
        # A node that is gone has no proxy any more.
        return True


def _refuse_and_count(path: Path) -> int:
    """The number of running requests of this proxy; 0 if it does not answer any more."""
    try:
        command(path, f"experimental-mode on; set var {STOPPING} int(1)", ANSWER_TIMEOUT_S)
        rows = read_statistics(path, ANSWER_TIMEOUT_S)
    except OSError:
        return 0
    return sum(int(row["scur"] or 0) for row in rows if is_ours(row))


OBJECT_STORE_BYTES = 128 << 20
"""Small: calls carry their arguments, and shards copy theirs."""

KEEP_ALIVE_S = 75
NAME = "sosie"
LOOPBACK = "127.0.0.1"
APPLICATION = "serving.cluster.application"
WATCH_S = 4.0
"""Between two questions whether Serve's controller answers."""
CONTROLLER_TIMEOUT_S = 10.0
LOST_AFTER = 2
_PR_SET_PDEATHSIG = 1


def main(arguments: Sequence[str]) -> int:
    """Runs a node until SIGTERM; returns 0 if it has drained, else 1."""
    plan = NodePlan.read(arguments[0])
    # However the parent ends, no node is left behind.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != plan.supervisor:
        # It has died already.
        return 1
    stop = threading.Event()
    # Takes seconds of imports, while Ray's own processes start.
    prepared = ThreadPoolExecutor(1).submit(_prepare, plan)
    what = "Ray"
    try:
        connect(plan)
        what = "the service"
        for number in (signal.SIGTERM, signal.SIGINT):
            # Only now: Ray installs handlers of its own, which end the process at once.
            signal.signal(number, lambda *_: stop.set())
        prepared.result()
        deploy(plan, stop)
    except Exception as error:  # noqa: BLE001 - the parent reports it in one line
        traceback.print_exc()
        _report(plan, asdict(_explain(error, what)))
        return 1
    _report(plan, {"deployed": True})
    is_lost = not _wait(stop)
    if not is_lost:
        withdraw(plan)
        # The parent does so too, unless it was killed.
        shutil.rmtree(plan.folder, ignore_errors=True)
    return int(is_lost)


def _prepare(plan: NodePlan) -> None:
    application = importlib.import_module(APPLICATION)
    if plan.is_first:
        application.require_sound(Site(plan.home, plan.file))


def connect(plan: NodePlan) -> None:
    """Starts Ray on loopback, or joins the cluster in the settings."""
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": "warning", "namespace": NAME}
    if plan.ray_address:
        ray.init(address=plan.ray_address, **common)
        return
    ray.init(
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        _node_ip_address=LOOPBACK,
        _temp_dir=str(Path(plan.folder) / "ray"),
        **common,
    )


def deploy(plan: NodePlan, stop: threading.Event) -> None:
    """Deploys the application; returns when its replicas have started, or at a stop."""
    settings = Site(plan.home, plan.file).load().serve
    require_gpus(settings, GPU_WAIT_S if plan.ray_address else 0.0, stop)
    application = importlib.import_module(APPLICATION)
    location = ProxyLocation.EveryNode if plan.ray_address else ProxyLocation.HeadOnly
    # Replicas listen on Serve's address: here on loopback, also if the proxy listens elsewhere.
    host = plan.host if plan.ray_address or not plan.is_proxied else LOOPBACK
    # Its proxies take seconds to be ready, in which the replicas can start.
    starting = ThreadPoolExecutor(1).submit(
        serve.start,
        proxy_location=location,
        http_options=HTTPOptions(host=host, port=plan.port, keep_alive_timeout_s=KEEP_ALIVE_S),
        logging_config=LoggingConfig(log_level="WARNING", enable_access_log=False),
    )
    while not _has_controller():
        if starting.done():
            # Its fault: without a controller the calls below would start Serve at its own address.
            starting.result()
        time.sleep(CONTROLLER_LOOK_S)
    if plan.ray_address:
        # Serve may have run before, and listen elsewhere.
        kept = serve.context._get_global_client().get_serve_details()["http_options"]["port"]
        if kept != plan.port:
            raise RequestError(
                f"Serve listens at port {kept} on this cluster, and [serve] port is {plan.port}: "
                "give both the same"
            )
    arguments = {"home": plan.home, "config": plan.file}
    target = serve.RunTarget(application.build(arguments), name=NAME, route_prefix="/")
    serve.run_many([target], wait_for_applications_running=False)
    _await_start(stop)
    # Serve replaces a proxy that ends before it is ready, and this call sees the first alone.
    with suppress(RayActorError):
        starting.result()


def _has_controller() -> bool:
    with suppress(ValueError):
        ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
        return True
    return False


GPU_WAIT_S = 45.0
"""For the nodes of a cluster to join."""
START_LOOK_S = 0.2
CONTROLLER_LOOK_S = 0.05


def require_gpus(settings: ServeSettings, wait_s: float, stop: threading.Event) -> None:
    """`RequestError` where the cluster has not as many GPUs as the embedders take, after
    `wait_s`: Serve would wait for them without end."""
    gpus, wanted = settings.embedder_gpus, settings.embedder_replicas
    if settings.embedder != "deployment" or not gpus:
        return
    deadline = time.monotonic() + wait_s
    while not stop.is_set():
        # What one takes is of one node.
        nodes = [node["Resources"].get("GPU", 0.0) for node in ray.nodes() if node["Alive"]]
        if sum(int(found / gpus) for found in nodes) >= wanted:
            return
        if time.monotonic() >= deadline:
            raise RequestError(
                f"{wanted} embedders take {gpus:g} GPUs each, and Ray finds {sum(nodes):g}: look "
                "at nvidia-smi (a container: --gpus all), or set embedder_gpus under [serve]"
            )
        stop.wait(1.0)


def _await_start(stop: threading.Event) -> None:
    """Returns when the application runs, or at a stop; `RequestError` where it cannot start."""
    while not stop.wait(START_LOOK_S):
        found = serve.status().applications.get(NAME)
        if found is not None and found.status == ApplicationStatus.RUNNING:
            return
        reason = "" if found is None else _read_fault(found)
        if reason or found is None or found.status == ApplicationStatus.DEPLOY_FAILED:
            reason = reason or "see log/node.log in the home folder"
            raise RequestError(f"the service did not start: {reason}")


_LASTING = re.compile(r"\bengine\.errors\.(?:RuntimeMissing|Model\w+): ([^\n\x1b]+)")
"""What a model's replica cannot start for, as Ray quotes it: another try does not help."""


def find_start_fault() -> str:
    """Why a model's replicas do not start, if that will not pass; else empty."""
    found = serve.status().applications.get(NAME)
    return "" if found is None else _read_fault(found)


def _read_fault(application: ApplicationStatusOverview) -> str:
    messages = (one.message for one in application.deployments.values())
    reasons = [reason for message in messages for reason in _LASTING.findall(message)]
    return str(reasons[-1]).strip() if reasons else ""


def withdraw(plan: NodePlan) -> None:
    """Ends the application, and Ray; on a cluster that others started the application only."""
    if plan.ray_address:
        drain_nodes(plan.drain_s)
    else:
        drain_proxies(Path(plan.folder), plan.drain_s)
    delete_application(plan.drain_s)
    if not plan.ray_address:
        serve.shutdown()
    ray.shutdown()


def end_application(address: str, drain_s: float) -> bool:
    """Ends the application of a running cluster as `sosie serve` does: every node's proxy refuses
    new requests and lets running ones end. False if some were still running after `drain_s`."""
    ray.init(address=address, log_to_driver=False, logging_level="warning", namespace=NAME)
    try:
        if NAME not in serve.status().applications:
            raise RequestError(f"no application {NAME} runs on this cluster")
        has_drained = drain_nodes(drain_s)
        delete_application(drain_s)
    finally:
        ray.shutdown()
    return has_drained


def delete_application(drain_s: float) -> None:
    """Deletes the application, and waits until it has ended, or its time is over."""
    serve.delete(NAME, _blocking=False)
    deadline = time.monotonic() + registrar_timeout_s(drain_s)
    while NAME in serve.status().applications and time.monotonic() < deadline:
        time.sleep(0.1)


def _wait(stop: threading.Event) -> bool:
    """True when stopped, False when Serve's controller has not answered for long; `serve.status`
    would take 25 ms."""
    failures = 0
    while not stop.wait(WATCH_S):
        try:
            controller = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
            ray.get(controller.check_alive.remote(), timeout=CONTROLLER_TIMEOUT_S)
            failures = 0
        except Exception:  # noqa: BLE001 - Ray's many ways to be gone
            failures += 1
        if failures >= LOST_AFTER:
            return False
    return True


def _explain(error: Exception, what: str) -> Fault:
    fault = describe(error)
    if fault.code != "INTERNAL":
        return fault
    # What a replica refuses to start with is ours, and one line.
    refused = re.search(rf"\b{RequestError.__module__}\.RequestError: ([^\n\x1b]+)", str(error))
    if refused is not None:
        return describe(RequestError(refused[1]))
    # Its text may quote data of a replica.
    kind = type(error).__name__
    return describe(
        RequestError(f"{what} did not start ({kind}): see log/node.log in the home folder")
    )


def _report(plan: NodePlan, said: dict[str, Any]) -> None:
    with suppress(OSError), os.fdopen(plan.report, "w", encoding="utf-8") as pipe:
        pipe.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
