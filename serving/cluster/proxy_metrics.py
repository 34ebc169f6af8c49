"""Metrics of a node's HAProxy, above all of the requests that it answers itself.

Such requests (too many at once, no ingress left) reach no ingress, so nothing else counts them.
"""

import time
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from serving.cluster.haproxy import FRONTEND, Row, is_ours, list_sockets, read_statistics

TIMEOUT_S = 0.2
"""For all of a node's proxies: a scrape never waits for one that hangs."""

STATUSES = ("4xx", "5xx")


class ProxyCollector(Collector):
    """Collects from proxies with a socket below `folder` at each scrape; empty if none answers."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        """Takes at most `TIMEOUT_S`; never raises."""
        rows = self._read()
        return _show(rows) if rows else []

    def describe(self) -> Iterable[Metric]:
        return _show([])

    def _read(self) -> list[Row]:
        deadline = time.monotonic() + TIMEOUT_S
        rows: list[Row] = []
        for path in list_sockets(self._folder):
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                break
            try:
                rows += read_statistics(path, left_s)
            except OSError:
                # The proxy is gone, or hangs.
                continue
        return rows


def _show(rows: list[Row]) -> list[Metric]:
    requests = CounterMetricFamily(
        "sosie_proxy_requests", "Requests that the proxy passed to ingresses.", labels=["backend"]
    )
    failed = CounterMetricFamily(
        "sosie_proxy_failed",
        "Of those, what no ingress answered: the proxy said 503.",
        labels=["backend"],
    )
    refused = CounterMetricFamily(
        "sosie_proxy_refused", "Requests that the proxy answered itself.", labels=["status"]
    )
    sessions = GaugeMetricFamily(
        "sosie_proxy_sessions", "Requests that ingresses are answering.", labels=["backend"]
    )
    queue = GaugeMetricFamily(
        "sosie_proxy_queue", "Requests that wait in the proxy.", labels=["backend"]
    )
    passed = [row for row in rows if is_ours(row)]
    for name in sorted({row["pxname"] for row in passed}):
        own = [row for row in passed if row["pxname"] == name]
        requests.add_metric([name], _sum(own, "req_tot"))
        failed.add_metric([name], _sum(own, "econ") + _sum(own, "eresp"))
        sessions.add_metric([name], _sum(own, "scur"))
        queue.add_metric([name], _sum(own, "qcur"))
    entered = [row for row in rows if row["svname"] == FRONTEND]
    for status in STATUSES if entered else ():
        column = f"hrsp_{status}"
        # What the frontend answered and no ingress's backend did. Both count at a request's end.
        refused.add_metric([status], max(0, _sum(entered, column) - _sum(passed, column)))
    return [requests, failed, refused, sessions, queue]


def _sum(rows: list[Row], column: str) -> int:
    return sum(int(row[column] or 0) for row in rows)
