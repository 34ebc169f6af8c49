"""One node of the service: a process that starts Ray here, or joins it, and deploys on it.

It is a child of `sosie serve`, which starts another when this one dies.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve.config import HTTPOptions, ProxyLocation
from ray.serve.schema import LoggingConfig

from engine.errors import RequestError
from serving.cluster.draining import drain_nodes, drain_proxies
from serving.cluster.plan import NodePlan
from serving.cluster.stopping import registrar_timeout_s
from serving.errors import Fault, describe

OBJECT_STORE_BYTES = 128 << 20
"""Nothing large goes through it: calls carry their arguments, and shards copy theirs."""

KEEP_ALIVE_S = 75
NAME = "sosie"
LOOPBACK = "127.0.0.1"
APPLICATION = "serving.cluster.application"
WATCH_S = 2.0
LOST_AFTER = 3
_PR_SET_PDEATHSIG = 1


def main(arguments: Sequence[str]) -> int:
    """Runs a node until it is told to stop (SIGTERM); 0 where it has drained, else 1."""
    plan = NodePlan.read(arguments[0])
    # Whatever becomes of the parent, no node is left behind.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    stop = threading.Event()
    # Its imports take a second, in which Ray's own processes start.
    threading.Thread(target=importlib.import_module, args=(APPLICATION,), daemon=True).start()
    what = "Ray"
    try:
        connect(plan)
        what = "the service"
        for number in (signal.SIGTERM, signal.SIGINT):
            # Only now: Ray sets its own, with which a process ends at once.
            signal.signal(number, lambda *_: stop.set())
        deploy(plan)
    except Exception as error:  # noqa: BLE001 - the parent says it in one line
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


def connect(plan: NodePlan) -> None:
    """Starts Ray on loopback, or joins the cluster that the settings name."""
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


def deploy(plan: NodePlan) -> None:
    """Deploys the application; returns when its replicas have started."""
    application = importlib.import_module(APPLICATION)
    location = ProxyLocation.EveryNode if plan.ray_address else ProxyLocation.HeadOnly
    # Replicas listen where Serve is told to. Here they stay on loopback, whatever the proxy does.
    host = plan.host if plan.ray_address or not plan.is_proxied else LOOPBACK
    serve.start(
        proxy_location=location,
        http_options=HTTPOptions(host=host, port=plan.port, keep_alive_timeout_s=KEEP_ALIVE_S),
        logging_config=LoggingConfig(log_level="WARNING", enable_access_log=False),
    )
    arguments = {"home": plan.home, "config": plan.file}
    serve.run(application.build(arguments), name=NAME, route_prefix="/")


def withdraw(plan: NodePlan) -> None:
    """Takes no more, lets what runs end within the drain time, and stops Ray; of a cluster that
    others started it takes away the application only."""
    if plan.ray_address:
        drain_nodes(plan.drain_s)
    else:
        drain_proxies(Path(plan.folder), plan.drain_s)
    serve.delete(NAME, _blocking=False)
    deadline = time.monotonic() + registrar_timeout_s(plan.drain_s)
    while NAME in serve.status().applications and time.monotonic() < deadline:
        time.sleep(0.1)
    if not plan.ray_address:
        serve.shutdown()
    ray.shutdown()


def _wait(stop: threading.Event) -> bool:
    """True when told to stop, False when Serve's controller has not answered for long."""
    failures = 0
    while not stop.wait(WATCH_S):
        try:
            serve.status()
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
    # Its text may quote whatever a replica was doing.
    kind = type(error).__name__
    return describe(RequestError(f"{what} did not start ({kind}): see node.log beside the log"))


def _report(plan: NodePlan, said: dict[str, Any]) -> None:
    with suppress(OSError), os.fdopen(plan.report, "w", encoding="utf-8") as pipe:
        pipe.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
