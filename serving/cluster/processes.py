"""Processes of a running service: their roles, their end, and one as a child. Linux only."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import RequestError
from schema import frozen

if TYPE_CHECKING:
    import psutil

NODE_MODULE = "serving.cluster.node"
RAY_AGENT_PORT = 52365
"""Of the agent of a node that Ray starts here; Ray has no way to name another."""
_REPLICA = "ray::ServeReplica:"


def end_with_starter(descriptor: int = 0) -> None:
    """From now on this process gets SIGTERM when the pipe of which it has the reading end is closed
    at the other, as it is when the process that holds that end dies, of SIGKILL too."""

    def wait() -> None:
        while os.read(descriptor, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="starter", daemon=True).start()


class Role(StrEnum):
    """The role of a process of a service. `agent`: Ray's monitoring; `other`: idle workers and
    processes with none of these roles."""

    NODE = "node"
    GCS = "gcs"
    RAYLET = "raylet"
    CONTROLLER = "controller"
    PROXY_KEEPER = "proxy_keeper"
    PROXY = "haproxy"
    INGRESS = "ingress"
    REGISTRAR = "registrar"
    EMBEDDER = "embedder"
    SHARD = "shard"
    AGENT = "agent"
    OTHER = "other"


@frozen
class Process:
    """A living process: `words` is its command line, or the title that it has set."""

    pid: int
    words: tuple[str, ...]

    @property
    def role(self) -> Role:
        title = self.words[0] if self.words else ""
        if title.startswith(_REPLICA):
            # ray::ServeReplica:sosie:Ingress, with a dot and the method while it runs one.
            name = title.removeprefix(_REPLICA).split(":")[-1].split(".")[0].split("(")[0].strip()
            try:
                return Role(name.lower())
            except ValueError:
                return Role.OTHER
        for start, role in _TITLES.items():
            if title.startswith(start):
                return role
        if NODE_MODULE in self.words:
            return Role.NODE
        # A script follows its interpreter, and an option of that.
        if _AGENTS.intersection(map(os.path.basename, self.words[1:3])):
            return Role.AGENT
        return _PROGRAMS.get(os.path.basename(title), Role.OTHER)


_TITLES = {
    "ray::ServeController": Role.CONTROLLER,
    "ray::HAProxyManager": Role.PROXY_KEEPER,
    "ray::ShardActor": Role.SHARD,
    "ray::DashboardAgent": Role.AGENT,
    "ray::RuntimeEnvAgent": Role.AGENT,
}
_PROGRAMS = {"gcs_server": Role.GCS, "raylet": Role.RAYLET, "haproxy": Role.PROXY}
_AGENTS = frozenset({"dashboard.py", "monitor.py", "log_monitor.py"})


def find_processes(supervisor_pid: int) -> dict[Role, list[int]]:
    """The living descendants of `sosie serve` by role, in order of their start."""
    found: dict[Role, list[int]] = {role: [] for role in Role}
    for process in list_descendants(supervisor_pid):
        found[process.role].append(process.pid)
    return found


def list_descendants(pid: int) -> list[Process]:
    """All living descendants, by process id."""
    import psutil  # noqa: PLC0415 - an extra

    try:
        family = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return sorted(_read_living(family), key=lambda process: process.pid)


def _read_living(processes: Iterable[psutil.Process]) -> Iterator[Process]:
    """These processes, without those that have ended meanwhile, or wait to be reaped."""
    import psutil  # noqa: PLC0415 - an extra

    for one in processes:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            yield Process(one.pid, tuple(filter(None, one.cmdline())))


def end_descendants(pid: int) -> list[int]:
    """Kills every descendant of `pid`, this process, a subreaper, until none is left; returns those
    alive after ten seconds."""
    deadline = time.monotonic() + 10
    while True:
        doomed = [process.pid for process in list_descendants(pid)]
        for one in doomed:
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
        reap_orphans()
        if not doomed or time.monotonic() > deadline:
            return doomed
        time.sleep(0.02)


def reap_orphans(spared: int | None = None) -> list[Process]:
    """Reads the exit status of ended children, so that none stays a zombie, and returns those that
    live; not of `spared`, for which its owner waits."""
    import psutil  # noqa: PLC0415 - an extra

    children: list[int] = []
    # Asked for every second: not of all processes of the machine, where the kernel keeps a list.
    for path in Path("/proc/self/task").glob("*/children"):
        # An orphan is given to any of the threads.
        with suppress(OSError):
            children += map(int, path.read_text().split())
    living = []
    for child in children or [one.pid for one in psutil.Process().children()]:
        with suppress(ChildProcessError, psutil.NoSuchProcess):
            if child != spared and not any(os.waitpid(child, os.WNOHANG)):
                living.append(psutil.Process(child))
    return list(_read_living(living))


START_TIMEOUT_S, STOP_TIMEOUT_S = 600.0, 120.0
POLL_S, ASKED_S = 0.05, 2.0
SHOWN_CHARACTERS = 2_000


class ServiceFailed(RequestError, code="SERVICE.FAILED"):
    """The service did not start, or ended by itself."""


class ChildService:
    """`sosie serve` on a home as a child process, not ready at once; it ends with this process,
    even where that is killed. Stop it, whatever happens."""

    def __init__(self, home: Path, environment: Mapping[str, str]) -> None:
        from serving.cluster.environment import find_port  # noqa: PLC0415 - it loads the settings

        self.home, self.port = home, find_port()
        self.url = f"http://127.0.0.1:{self.port}"
        own = {"SOSIE_SERVE__PORT": str(self.port), "SOSIE_SERVE__LOG_FILE": "log/service.jsonl"}
        self._environment = {**environment, **own}
        self._log = home.parent / f"{home.name}-serve.log"
        self._process = self._start()

    @property
    def pid(self) -> int:
        """The process id of `sosie serve` itself."""
        return self._process.pid

    def require_running(self) -> None:
        """`ServiceFailed` where it has ended by itself."""
        status = self._process.poll()
        if status is not None:
            raise ServiceFailed(f"`sosie serve` ended with status {status}: {self._read_log()}")

    def wait_ready(self, since: float, timeout_s: float = START_TIMEOUT_S) -> float:
        """Seconds from `since` (of `time.perf_counter`) to its first answer that it is ready."""
        import httpx  # noqa: PLC0415 - an extra

        from serving.client import CallFailed, Client, Options  # noqa: PLC0415 - needs it

        asked = Options(timeout_s=ASKED_S)
        with Client(self.url, retries=0, transport=httpx.HTTPTransport()) as client:
            while time.perf_counter() - since < timeout_s:
                self.require_running()
                with suppress(CallFailed):
                    if client.ready(asked).is_ready:
                        return time.perf_counter() - since
                time.sleep(POLL_S)
        raise ServiceFailed(
            f"the service was not ready after {timeout_s:.0f} s: {self._read_log()}"
        )

    def stop(self) -> None:
        """Asks it to end, as an operator does; what does not end in time is killed."""
        import psutil  # noqa: PLC0415 - an extra

        family = list_family(self.pid)
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._wait()
        kill_hard(psutil.wait_procs(family, STOP_TIMEOUT_S / 6)[1])

    def _start(self) -> subprocess.Popen[bytes]:
        words = ["-P", "-m", "serving.cli.main", "serve", "--home", str(self.home)]
        with self._log.open("ab") as file:
            return subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, *words, "--until-stdin-closes"],
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for the starter, which then stops the service itself.
                start_new_session=True,
            )

    def _wait(self) -> None:
        self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()

    def _read_log(self) -> str:
        text = self._log.read_text(encoding="utf-8", errors="replace").strip()
        return " ".join(text[-SHOWN_CHARACTERS:].split()) or "it said nothing"


def list_family(pid: int) -> list[psutil.Process]:
    """A process and all its descendants that are alive."""
    import psutil  # noqa: PLC0415 - an extra

    with suppress(psutil.NoSuchProcess):
        first = psutil.Process(pid)
        return [first, *first.children(recursive=True)]
    return []


def kill_hard(processes: Iterable[psutil.Process]) -> None:
    """SIGKILL, to each in turn; those that are gone already are left out."""
    import psutil  # noqa: PLC0415 - an extra

    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def main() -> None:
    """The process that delivers events beside the registrar: it ends with the process that started
    it, which gives it the deployment's class, home and settings on standard input."""
    from serving.cluster.environment import Site  # noqa: PLC0415 - the processes that look at others need neither
    from serving.webhooks.keeper import deliver  # noqa: PLC0415

    kind, home, settings = pickle.load(sys.stdin.buffer)  # noqa: S301 - of the process that started it
    end_with_starter()
    with kind(home, settings) as deployment:
        deliver(deployment, Site.of(home, None).open_log(settings.serve, "webhooks"))


if __name__ == "__main__":
    main()
