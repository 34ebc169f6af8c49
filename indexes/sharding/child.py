"""The process of a shard: answers what comes over its socket, and ends with its parent."""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import traceback
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from threading import Lock, Thread

from indexes.errors import IndexFault
from indexes.sharding.host import CALLS_AT_ONCE, OPERATIONS, ShardHost
from indexes.sharding.wire import Wire

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
