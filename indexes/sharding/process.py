"""A shard in a process of its own, which ends with this one."""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Lock, Thread
from typing import Any

from indexes import errors
from indexes.errors import IndexFault, SearchInvalid, ShardLost
from indexes.sharding.caller import ShardCaller
from indexes.sharding.host import CALLS_AT_ONCE, OPERATIONS, ShardHost, plan_for
from indexes.sharding.shards import ShardedIndex, ShardPlan, close_all
from indexes.sharding.wire import Wire

# Before numpy and faiss are loaded, for that is when they count the cores.
_BOOTSTRAP = """
import os, sys
home, threads, *arguments = sys.argv[1:]
sys.path.insert(0, home)
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = threads
from indexes.sharding.process import run
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


# The process of a shard: answers what comes over its socket, and ends with its parent.

_log = logging.getLogger(__name__)
_LOOKS_FOR_PARENT_EVERY_S = 1.0


def run(channel: int, number: int, parent: int) -> None:
    """Serves shard `number` over the socket of this descriptor until its other end is closed.

    Does not return: a shard keeps nothing that an orderly end would save, and must be gone at
    once, whatever its threads are doing.
    """
    # When to end is for the parent to say, also when a terminal or a supervisor signals to all.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    logging.basicConfig(format=f"shard {number}: %(levelname)s %(name)s: %(message)s")
    Thread(target=_end_with, args=(parent, channel), daemon=True).start()
    try:
        _serve(Wire(socket.socket(fileno=channel)))
    except (EOFError, OSError):
        os._exit(0)  # the parent closed the stream, or is gone
    except BaseException as failure:
        _log_failure("the shard", failure)
        raise
    finally:
        os._exit(1)


def _serve(wire: Wire) -> None:
    """Opens what the first call describes, and answers the others."""
    call, _, arguments = wire.receive()
    try:
        host = ShardHost(*arguments)
    except IndexFault as refusal:
        wire.send([call, "refused", type(refusal).__name__, str(refusal)])
        return
    wire.send([call, "done", None])
    turn = Lock()
    # Not to be waited for: where one sees the end of the stream, all else ends with it.
    pool = ThreadPoolExecutor(CALLS_AT_ONCE, "call")
    workers = [pool.submit(_work, wire, host, turn) for _ in range(CALLS_AT_ONCE)]
    next(as_completed(workers)).result()


def _work(wire: Wire, host: ShardHost, turn: Lock) -> None:
    """Receives a call, lets the next thread receive, and answers: nothing is handed over."""
    while True:
        with turn:
            call, operation, arguments = wire.receive()
        _answer(wire, host, call, operation, arguments)


def _answer(
    wire: Wire, host: ShardHost, call: int, operation: str, arguments: list[object]
) -> None:
    reply: list[object]
    try:
        assert operation in OPERATIONS
        reply = [call, "done", getattr(host, operation)(*arguments)]
    except IndexFault as refusal:
        reply = [call, "refused", type(refusal).__name__, str(refusal)]
    except Exception as failure:  # noqa: BLE001 - whatever it is, the caller must hear of it
        _log_failure(operation, failure)
        reply = [call, "failed", type(failure).__name__]
    with suppress(OSError):  # the parent is gone, and the main thread sees it too
        wire.send(reply)


def _end_with(parent: int, channel: int) -> None:
    """Ends the process with its stream or its parent.

    All threads may be at work and see no end of the stream; and a fork of the parent may hold the
    stream open when the parent is gone.
    """
    stream = select.poll()
    stream.register(channel, 0)  # a hang-up is always told
    while os.getppid() == parent and not stream.poll(_LOOKS_FOR_PARENT_EVERY_S * 1000):
        pass
    os._exit(0)


def _log_failure(what: str, failure: BaseException) -> None:
    """Its kind and its place; not its text, in which values might stand."""
    frames = traceback.extract_tb(failure.__traceback__)
    place = f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else "?"
    _log.error("%s failed with %s at %s", what, type(failure).__name__, place)
