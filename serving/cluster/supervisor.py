"""Supervisor of `sosie serve`: keeps one node running, and leaves no process behind."""

import ctypes
import fcntl
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, Self

from engine.errors import RequestError
from schema import frozen
from serving.cluster.environment import (
    LOG_PIPE,
    NodeFolder,
    NodePlan,
    Site,
    make_environment,
    open_private,
    supervisor_timeout_s,
)
from serving.cluster.processes import (
    NODE_MODULE,
    RAY_AGENT_PORT,
    Role,
    end_descendants,
    reap_orphans,
)
from serving.errors import ExitCode, Fault
from serving.settings.sections import ServeSettings
from serving.telemetry.logs import LogPipe

OUTPUT_FILE = "log/node.log"
"""Output of Ray and Serve since the last start; in the home folder."""


@frozen
class Order:
    """The order to serve: what, and where."""

    site: Site
    serve: ServeSettings

    @property
    def url(self) -> str:
        return self.serve.url


class NodeProcess:
    """A node's process, in its own session, and the folder that exists as long as it runs."""

    def __init__(self, order: Order, *, is_first: bool) -> None:
        self._order, self._is_first = order, is_first
        self.is_deployed = False
        self._received = b""

    def __enter__(self) -> Self:
        settings = self._order.serve
        self._folder = NodeFolder()
        pipe = self._folder.path / LOG_PIPE
        self._log = LogPipe(pipe, self._order.site.find_log(settings))
        environment = make_environment(
            settings, self._folder.path, pipe, is_local=not settings.ray_address
        )
        self._pipe, report = os.pipe()
        os.set_blocking(self._pipe, False)
        plan = NodePlan(
            home=self._order.site.home,
            file=self._order.site.file,
            host=settings.host,
            port=settings.port,
            ray_address=settings.ray_address,
            folder=str(self._folder.path),
            drain_s=settings.drain_s,
            is_proxied=settings.proxy == "haproxy",
            is_first=self._is_first,
            report=report,
            supervisor=os.getpid(),
        )
        output_path = Path(self._order.site.home) / OUTPUT_FILE
        output_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(output_path, "wb", opener=open_private) as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", NODE_MODULE, plan.write()],
                env=environment,
                # The node owns the folder too, for it may outlive this process while it drains.
                pass_fds=(report, self._folder.owner),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        os.close(report)
        return self

    def __exit__(self, *_: object) -> None:
        # Remaining processes of a dead node would hold its ports, and the lease.
        end_descendants(os.getpid())
        self._process.wait()
        os.close(self._pipe)
        self._log.close()
        self._folder.close()

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()

    def maintain(self) -> None:
        """Ends orphaned proxies; to be called periodically."""
        for one in reap_orphans(spared=self._process.pid):
            # A proxy without the actor that controlled it holds the port of the next.
            if one.role is Role.PROXY:
                with suppress(ProcessLookupError):
                    os.kill(one.pid, signal.SIGKILL)

    def read_refusal(self) -> Fault | None:
        """Why the node could not start, once it has reported that."""
        with suppress(BlockingIOError):
            self._received += os.read(self._pipe, 65536)
        if not self._received.endswith(b"\n"):
            return None
        said = json.loads(self._received)
        self.is_deployed = bool(said.get("deployed"))
        if self.is_deployed:
            return None
        return Fault(**said | {"exit_code": ExitCode(said["exit_code"])})


LOCK_FILE = "serve.lock"
READY_PATH = "/health/ready"
TICK_S = 0.1
LOOK_S = 1.0
"""Between two looks for orphans of a ready service."""
ASK_S = 5.0
"""Between two questions whether it still is: each takes 16 ms of a core, a fifth of what an idle
service would take in a second."""

PROBE_TIMEOUT_S = 2.0
STUCK_S = 45.0
"""A node whose ingresses have not answered for so long is not repaired by Serve any more."""

RESTARTS = 5
RESTARTS_WITHIN_S = 300.0
BACKOFF_S = (0.0, 1.0, 2.0, 4.0, 8.0)
_PR_SET_CHILD_SUBREAPER = 36

Report = Callable[[str, Mapping[str, Any]], None]
"""Called with each event: `starting`, `ready`, `unready`, `lost`, `stopping`, `stopped`."""


class NodeRefused(Exception):
    """A node that could not start, with the reason that it reported."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


def require_port(host: str, port: int) -> None:
    """`RequestError` where the port cannot be listened on, or Ray itself will need it."""
    if port == RAY_AGENT_PORT:
        raise RequestError(f"Ray itself listens at port {port}: choose another --port")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise RequestError(
                f"{host}:{port} cannot be listened on ({error.strerror}): choose another --port"
            ) from None


@contextmanager
def claim(home: Path) -> Iterator[None]:
    """Holds the home's lock; `RequestError` while another `sosie serve` holds it."""
    path = home / LOCK_FILE
    with open(path, "a+", encoding="utf-8", opener=open_private) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise RequestError(
                f"process {file.read().strip() or '?'} serves {home} already: stop it first"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


class Supervisor:
    """Runs nodes one after another until it is stopped, or they die too often."""

    def __init__(self, order: Order, report: Report) -> None:
        self._order = order
        self._report = report
        self._stopping = False
        self._is_forced = False
        self._deaths: list[float] = []
        self._began = time.monotonic()

    def run(self) -> ExitCode:
        """Returns when all processes have ended; `NodeRefused` if the first node cannot start."""
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        try:
            return self._run()
        finally:
            end_descendants(os.getpid())

    def _run(self) -> ExitCode:
        for start in count():
            self._report("starting", {"url": self._order.url})
            self._began = time.monotonic()
            with NodeProcess(self._order, is_first=not start) as node:
                refusal = self._watch(node)
            if self._stopping:
                self._report("stopped", {})
                return ExitCode.FINE
            if refusal is not None and not self._deaths:
                raise NodeRefused(refusal)
            if not self._may_restart(refusal):
                break
        return ExitCode.INTERNAL

    def _on_signal(self, *_: object) -> None:
        self._is_forced = self._stopping
        self._stopping = True

    def _watch(self, node: NodeProcess) -> Fault | None:
        """Watches the node until it ends; returns why it did not start, if it reported that."""
        was_ready, seen_at, look_at, ask_at = False, time.monotonic(), 0.0, 0.0
        while node.is_alive():
            if self._stopping:
                self._stop(node)
                return None
            time.sleep(TICK_S)
            if time.monotonic() < look_at:
                continue
            refusal = node.read_refusal()
            if refusal is not None:
                return refusal
            node.maintain()
            look_at = time.monotonic() + (LOOK_S if was_ready else 0.0)
            if time.monotonic() < ask_at:
                continue
            is_ready, is_answered = _ask(self._order.serve)
            if is_ready != was_ready:
                self._report_readiness(is_ready)
                was_ready = is_ready
            if is_answered or not node.is_deployed:
                seen_at = time.monotonic()
            elif time.monotonic() - seen_at > STUCK_S:
                node.kill()
            ask_at = time.monotonic() + (ASK_S if is_ready else 0.0)
        return node.read_refusal()

    def _report_readiness(self, is_ready: bool) -> None:
        now = time.monotonic()
        details = {"after_s": round(now - self._began, 2), "home": self._order.site.home}
        self._report("ready" if is_ready else "unready", details | {"url": self._order.url})
        self._began = now

    def _stop(self, node: NodeProcess) -> None:
        self._report("stopping", {"drain_s": self._order.serve.drain_s})
        node.terminate()
        deadline = time.monotonic() + supervisor_timeout_s(self._order.serve.drain_s)
        while node.is_alive() and time.monotonic() < deadline and not self._is_forced:
            time.sleep(TICK_S)

    def _may_restart(self, refusal: Fault | None) -> bool:
        now = time.monotonic()
        self._deaths = [one for one in self._deaths if now - one < RESTARTS_WITHIN_S] + [now]
        detail = "" if refusal is None else refusal.message
        self._report("lost", {"times": len(self._deaths), "detail": detail})
        if len(self._deaths) > RESTARTS:
            return False
        pause_until = now + BACKOFF_S[min(len(self._deaths), len(BACKOFF_S)) - 1]
        while time.monotonic() < pause_until and not self._stopping:
            time.sleep(TICK_S)
        return True


def _ask(settings: ServeSettings) -> tuple[bool, bool]:
    """Asks whether the service is ready, and whether an ingress (not only the proxy) answered."""
    is_any = settings.host in ("0.0.0.0", "::")  # noqa: S104 - only compared, not bound
    host = "127.0.0.1" if is_any else settings.host
    connection = http.client.HTTPConnection(host, settings.port, timeout=PROBE_TIMEOUT_S)
    try:
        connection.request("GET", READY_PATH)
        answer = connection.getresponse()
        return answer.status == http.HTTPStatus.OK, b'"phase"' in answer.read()
    except (OSError, http.client.HTTPException):
        return False, False
    finally:
        connection.close()
