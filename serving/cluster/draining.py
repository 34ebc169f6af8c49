"""Stops a node in order: first the proxy refuses what is new, and lets end what runs.

Serve would stop all deployments at once, and a photograph being looked at would find no registrar.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from serving.cluster.proxy import STOPPING
from serving.cluster.proxy_socket import PLACE, command, is_ours, list_sockets, read_statistics
from serving.settings import find_metrics_folder

ANSWER_TIMEOUT_S = 2.0
LOOK_EVERY_S = 0.1
START_S = 5.0
"""For a process on another node to begin."""


def drain_proxies(
    folder: Path, timeout_s: float, clock: Callable[[], float] = time.monotonic
) -> bool:
    """Has every HAProxy with a socket below `folder` refuse requests (503, and so readiness), and
    waits until none runs. False where some still did after `timeout_s`."""
    deadline = clock() + timeout_s
    while True:
        # Again each time: a proxy that was reloaded meanwhile has forgotten.
        ongoing = sum(_refuse_and_count(path) for path in list_sockets(folder))
        if not ongoing:
            return True
        if clock() >= deadline:
            return False
        time.sleep(LOOK_EVERY_S)


def drain_nodes(timeout_s: float) -> bool:
    """The same on each node of the cluster that this process has joined: a proxy's socket is in a
    folder that its own node knows (`sosie ray-environment`). Nodes without one are passed over."""
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
    """`drain_proxies` of the node on which it runs, as a process of that node's Ray."""
    metrics = find_metrics_folder()
    return metrics is None or drain_proxies(metrics.parent / PLACE, timeout_s)


def _has_drained(call: Any) -> bool:
    try:
        return bool(ray.get(call))
    except RayError:
        # A node that is gone meanwhile has no proxy any more.
        return True


def _refuse_and_count(path: Path) -> int:
    """Requests that this proxy has under way; 0 where it does not answer any more."""
    try:
        command(path, f"experimental-mode on; set var {STOPPING} int(1)", ANSWER_TIMEOUT_S)
        rows = read_statistics(path, ANSWER_TIMEOUT_S)
    except OSError:
        return 0
    return sum(int(row["scur"] or 0) for row in rows if is_ours(row))
