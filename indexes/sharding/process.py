"""A shard in a process of its own, which ends with this one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Lock, Thread
from typing import Any

from indexes import errors
from indexes.errors import IndexFault, SearchInvalid, ShardLost
from indexes.sharding.caller import ShardCaller
from indexes.sharding.host import plan_for
from indexes.sharding.shards import ShardedIndex, ShardPlan, close_all
from indexes.sharding.wire import Wire

# Before numpy and faiss are loaded, for that is when they count the cores.
_BOOTSTRAP = """
import os, sys
home, threads, *arguments = sys.argv[1:]
sys.path.insert(0, home)
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = threads
from indexes.sharding.child import run
run(*map(int, arguments))
"""
_HOME = str(Path(__file__).resolve().parents[2])
_REFUSALS = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, IndexFault)
}
_ENDS_WITHIN_S = 2.0


class ProcessShard(ShardCaller):
    """A `Shard` in a child process, over a private socket pair.

    The child is there at once, and of use when `opened` is done. It ends when this object is
    closed or this process ends, however it ends. It writes its log lines to stderr. A child that
    dies fails the calls it has not answered, and all later ones, with `ShardLost`.
    """

    def __init__(self, plan: ShardPlan, number: int = 0) -> None:
        ours, theirs = socket.socketpair()
        self._number = number
        self._wire = Wire(ours)
        with theirs, ExitStack() as undo:
            undo.callback(self._wire.close)
            self._process = _started(theirs.fileno(), plan, number)
            undo.pop_all()
        self._lock = Lock()
        self._calls = 0
        self._waiting: dict[int, tuple[str, Future[Any]]] = {}
        self._lost: str | None = None
        self._reader = Thread(target=self._read, name=f"shard-{number}", daemon=True)
        self._reader.start()
        self.opened: Future[None] = self._call("open", plan)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def lost(self) -> str | None:
        return self._lost

    def close(self) -> None:
        """Ends the process and waits until it is gone; a second time it does nothing."""
        self._lose(f"shard {self._number} is closed; open the gallery again")
        self._reader.join()

    def _call(self, operation: str, *arguments: object) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()  # a shard cannot be told to stop
        with self._lock:
            if self._lost is not None:
                future.set_exception(ShardLost(self._lost))
                return future
            self._calls += 1
            call = self._calls
            self._waiting[call] = (operation, future)
        try:
            self._wire.send([call, operation, arguments])
        except OSError:
            self._lose(self._died())
        except BaseException:
            # Half a message may be on its way, and nothing that follows could be understood.
            self._lose(self._died())
            raise
        return future

    def _read(self) -> None:
        """Hands answers to those who wait, until the process or this object ends."""
        try:
            with suppress(OSError, EOFError):
                while True:
                    call, outcome, *content = self._wire.receive()
                    with self._lock:
                        waiting = self._waiting.pop(call, None)
                    if waiting is not None:  # or it has been told that the shard is lost
                        self._settle(*waiting, outcome, content)
        finally:
            self._lose(self._died())
            self._bury()
            self._wire.close()

    def _settle(
        self, operation: str, future: Future[Any], outcome: str, content: Sequence[Any]
    ) -> None:
        if outcome == "done":
            future.set_result(content[0])
        elif outcome == "refused":
            kind, text = content
            future.set_exception(_REFUSALS.get(kind, IndexFault)(text))
        else:
            failure = f"shard {self._number} failed at {operation} with {content[0]}"
            future.set_exception(RuntimeError(f"{failure}; its log line says where"))

    def _lose(self, why: str) -> None:
        with self._lock:
            self._lost = self._lost or why
            waiting, self._waiting = self._waiting, {}
        self._wire.end()
        for _, future in waiting.values():
            future.set_exception(ShardLost(self._lost))

    def _died(self) -> str:
        return (
            f"shard {self._number} of the gallery has lost its process; "
            "restart to rebuild the gallery from the store"
        )

    def _bury(self) -> None:
        try:
            self._process.wait(_ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def open_processes(plan: ShardPlan, shards: int, start_within_s: float = 120.0) -> ShardedIndex:
    """A gallery split over so many processes, started side by side; `close` ends them.

    Where the plan leaves the number of threads open, each gets its share of the cores. A process
    that is not ready in time raises `ShardLost`, and then none is left running. The first start
    on a machine compiles the kernels, which takes a while.
    """
    if shards < 1:
        raise SearchInvalid(f"shards is {shards}; give at least 1")
    plan = plan_for(plan, shards)
    deadline = time.monotonic() + start_within_s
    started: list[ProcessShard] = []
    try:
        for number in range(shards):
            started.append(ProcessShard(plan, number))
        for shard in started:
            shard.opened.result(max(0.0, deadline - time.monotonic()))
        return ShardedIndex(plan, started)
    except BaseException as failure:
        close_all(started)
        if isinstance(failure, TimeoutError):
            raise ShardLost(f"a shard did not start within {start_within_s:g} s") from None
        raise


def _started(channel: int, plan: ShardPlan, number: int) -> subprocess.Popen[bytes]:
    arguments = [_HOME, plan_for(plan, 1).threads, channel, number, os.getpid()]
    return subprocess.Popen(  # noqa: S603 - our own interpreter and module
        [sys.executable, "-P", "-c", _BOOTSTRAP, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=[channel],
        # Out of the terminal's foreground group: Ctrl-C is for the parent.
        process_group=0,
    )
