"""A node as a child process, and the folder that lasts as long as it does."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from serving.cluster.environment import make_environment
from serving.cluster.processes import (
    NODE_MODULE,
    Role,
    end_descendants,
    list_descendants,
    reap_orphans,
)
from serving.cluster.site import Site
from serving.errors import ExitCode, Fault
from serving.settings import ServeSettings

FOLDER_PREFIX, OWNER_FILE = "sosie-", "owner"
OUTPUT_FILE = "node.log"
"""What Ray and Serve say of the last start; beside the service's log."""

LONGEST_FOLDER = 25
"""The path of a socket has 107 characters at most, and those below the folder need 82 of them."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be served, and where."""

    site: Site
    serve: ServeSettings

    @property
    def url(self) -> str:
        return f"http://{self.serve.host}:{self.serve.port}"


class NodeProcess:
    """A node's process, in a session of its own, and the folder that lasts as long as it does."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self.is_deployed = False
        self._said = b""

    def __enter__(self) -> Self:
        settings = self._order.serve
        self._folder = make_folder()
        log = Path(self._order.site.home) / settings.log_file
        environment = make_environment(
            settings, self._folder, log, is_local=not settings.ray_address
        )
        self._pipe, report = os.pipe()
        os.set_blocking(self._pipe, False)
        plan = {
            "home": self._order.site.home,
            "file": self._order.site.file,
            "host": settings.host,
            "port": settings.port,
            "ray_address": settings.ray_address,
            "folder": str(self._folder),
            "drain_s": settings.drain_s,
            "report": report,
        }
        output_path = log.with_name(OUTPUT_FILE)
        output_path.parent.mkdir(parents=True, exist_ok=True)
        with output_path.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", NODE_MODULE, json.dumps(plan)],
                env=environment,
                pass_fds=(report,),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        os.close(report)
        return self

    def __exit__(self, *_: object) -> None:
        # What is left of a dead node would hold its ports, and the lease.
        end_descendants(os.getpid())
        self._process.wait()
        os.close(self._pipe)
        shutil.rmtree(self._folder, ignore_errors=True)

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()

    def end_strays(self) -> None:
        """Kills a proxy that has lost the actor that ruled it: it holds the port of the next."""
        reap_orphans(spared=self._process.pid)
        for one in list_descendants(os.getpid()):
            if one.role is Role.PROXY and one.parent == os.getpid():
                with suppress(ProcessLookupError):
                    os.kill(one.pid, signal.SIGKILL)

    def read_refusal(self) -> Fault | None:
        """Why the node could not start, once it has said so."""
        with suppress(BlockingIOError):
            self._said += os.read(self._pipe, 65536)
        if not self._said.endswith(b"\n"):
            return None
        said = json.loads(self._said)
        self.is_deployed = bool(said.get("deployed"))
        if self.is_deployed:
            return None
        return Fault(**said | {"exit_code": ExitCode(said["exit_code"])})


def make_folder() -> Path:
    """A folder that nobody else may read, with a path short enough for sockets below it.

    Those whose owners were killed are removed.
    """
    shared = Path(tempfile.gettempdir())
    if len(str(shared)) + len("/sosie-12345678") > LONGEST_FOLDER:
        shared = Path("/tmp")  # noqa: S108 - mkdtemp makes a folder of its own there
    for left in shared.glob(f"{FOLDER_PREFIX}*/{OWNER_FILE}"):
        with suppress(OSError, ValueError):
            if _is_gone(int(left.read_text(encoding="utf-8"))):
                shutil.rmtree(left.parent, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=shared))
    (folder / OWNER_FILE).write_text(str(os.getpid()), encoding="utf-8")
    return folder


def _is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
