"""A node as a child process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from serving.cluster.environment import make_environment
from serving.cluster.folders import NodeFolder, open_private
from serving.cluster.plan import NodePlan
from serving.cluster.priorities import place_ingresses, set_priorities
from serving.cluster.processes import (
    NODE_MODULE,
    Role,
    end_descendants,
    list_descendants,
    reap_orphans,
)
from serving.cluster.site import Site
from serving.errors import ExitCode, Fault
from serving.sections import ServeSettings

OUTPUT_FILE = "node.log"
"""What Ray and Serve say of the last start; beside the service's log."""


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
        self._folder = NodeFolder()
        log = Path(self._order.site.home) / settings.log_file
        environment = make_environment(
            settings, self._folder.path, log, is_local=not settings.ray_address
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
            report=report,
        )
        output_path = log.with_name(OUTPUT_FILE)
        output_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(output_path, "wb", opener=open_private) as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", NODE_MODULE, plan.write()],
                env=environment,
                # The folder is the node's too, should it outlive this process by its drain.
                pass_fds=(report, self._folder.owner),
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
        self._folder.close()

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()

    def tend(self) -> None:
        """Ends what has lost its parent, and says who goes first; to be called again and again."""
        reap_orphans(spared=self._process.pid)
        family = list_descendants(os.getpid())
        for one in family:
            # A proxy without the actor that ruled it holds the port of the next.
            if one.role is Role.PROXY and one.parent == os.getpid():
                with suppress(ProcessLookupError):
                    os.kill(one.pid, signal.SIGKILL)
        set_priorities(family)
        place_ingresses(family)

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
