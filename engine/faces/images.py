"""Decoding of photographs in processes that can be ended, to upright 8-bit RGB pixels."""

from __future__ import annotations

import fcntl
import json
import logging
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.errors import ImageError, ImageTooCostly, SosieError
from engine.faces.image_files import OUTCOMES, REPLY, REQUEST, ImageLimits, Upright, read_header

_log = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]

_ROOT = Path(__file__).parents[2]
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from engine.faces.image_files import serve; serve(*sys.argv[2:])"
)
_END_S = 2.0
_KEPT_BYTES = 16_000_000
_NOT_RUNNING = "photographs cannot be decoded here: the decoding process ends; report it"
_TOO_LONG = "decoding the image takes too long; save it as a plain JPEG"


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """Upright `pixels` uint8[h, w, 3] in RGB, of a picture of `size_px` (width, height).

    `pixels` lie in memory that is used again: they are the picture's only while it is in use.
    `reduction` full pixels make one of `pixels`: 1, 2, 4 or 8. `is_finest` where it could not be
    decoded at a finer scale. `coded_bytes` is what the file spends on the pixels.
    """

    pixels: Pixels
    size_px: tuple[int, int]
    reduction: int
    is_finest: bool
    coded_bytes: int


class Decoder:
    """Decodes image files in child processes, one for each thread that asks at once.

    A process that spends more than the limits allow, or that breaks, is ended and replaced: the
    decoders of images are C, and only a process can be stopped. Thread-safe. Close it after use.
    """

    def __init__(self, limits: ImageLimits | None = None) -> None:
        self._limits = limits or ImageLimits()
        self._lock = threading.Lock()
        # Started now, it is ready when the models are.
        self._idle = [_Process(self._limits)]
        self._is_closed = False

    @contextmanager
    def decode(self, data: bytes, side_px: int | None = None) -> Iterator[Image]:
        """The picture in an image file or a face record, as long as the block runs.

        Where the format allows it, it is decoded no finer than a longer side of `side_px` takes.
        Bytes after a JPEG's end are ignored (phones append video there), and so is an HDR gain map;
        transparency is laid on white. Raises an ImageError.
        """
        process, image = self._decode(data, side_px)
        try:
            yield image
        finally:
            del image
            process.forget()
            self._put_back(process)

    def _decode(self, data: bytes, side_px: int | None = None) -> tuple[_Process, Image]:
        if len(data) > self._limits.max_size_bytes:
            read_header(data, self._limits)
            raise AssertionError("a header is not read of a file that is too large")
        for may_repeat in (True, False):
            process = self._take()
            try:
                return process, process.decode(data, side_px or self._limits.reduced_side_px)
            except ImageError:
                self._put_back(process)
                raise
            except BaseException as error:
                process.end()
                if not isinstance(error, _Broken):
                    raise
                _log.warning("a decoding process was ended (%s) and is replaced", error)
                if error.is_ours:
                    raise SosieError(_NOT_RUNNING) from None
                # Something else may have ended it: the picture is given a second chance.
                if error.is_spent or not may_repeat:
                    raise ImageTooCostly(_TOO_LONG) from None
        raise AssertionError("the second attempt returns or raises")

    @property
    def processes(self) -> list[int]:
        """The ids of those that wait for a picture."""
        with self._lock:
            return [process.id for process in self._idle]

    def close(self) -> None:
        """Ends the processes; one that is at work when its picture is done."""
        with self._lock:
            self._is_closed = True
            left, self._idle = self._idle, []
        for process in left:
            process.end()

    def _take(self) -> _Process:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return _Process(self._limits)

    def _put_back(self, process: _Process) -> None:
        with self._lock:
            if not self._is_closed:
                self._idle.append(process)
                return
        process.end()


class _Broken(Exception):
    """The process gave no answer.

    `is_spent` where it had used up its CPU time or the wait, `is_ours` where it ended by itself:
    it answers whatever a file does to it, so it cannot run at all.
    """

    def __init__(self, why: str, *, is_spent: bool = False, is_ours: bool = False) -> None:
        super().__init__(why)
        self.is_spent, self.is_ours = is_spent, is_ours


class _Process:
    """A decoding process, our end of its socket, and the memory that both share."""

    def __init__(self, limits: ImageLimits) -> None:
        self._wait_s = limits.wait_s
        self._used_bytes = 0
        # Sealed: a process that was taken over cannot shorten it under our reads.
        handle = os.memfd_create("photograph", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self._link, its_end = socket.socketpair()
        try:
            os.ftruncate(handle, limits.shared_bytes)
            fcntl.fcntl(
                handle,
                fcntl.F_ADD_SEALS,
                fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL,
            )
            self._shared = mmap.mmap(handle, limits.shared_bytes)
            given = json.dumps([str(_ROOT), *sys.path]), json.dumps(asdict(limits)), str(handle)
            # Isolated: nothing of the environment or of a folder changes what it runs. An interrupt
            # at the terminal is for us; it ends when our end of the socket closes.
            self._child = subprocess.Popen(  # noqa: S603 - our own code
                [sys.executable, "-I", "-S", "-c", _BOOT, *given],
                stdin=its_end.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[handle],
                process_group=0,
            )
        finally:
            its_end.close()
            os.close(handle)

    @property
    def id(self) -> int:
        return self._child.pid

    def decode(self, data: bytes, side_px: int) -> Image:
        """One picture; `_Broken` where the process must be replaced."""
        self._deadline = time.monotonic() + self._wait_s
        self._shared[: len(data)] = data
        try:
            self._link.sendall(REQUEST.pack(len(data), side_px))
            outcome, *numbers = REPLY.unpack(self._receive(REPLY.size))
            error = OUTCOMES[outcome]
            if error is not None:
                raise error(self._receive(numbers[0]).decode())
        except TimeoutError:
            raise _Broken("it did not answer in time", is_spent=True) from None
        except OSError:
            raise self._find_cause() from None
        found = Upright(*numbers)
        count = 3 * found.width * found.height
        pixels = np.frombuffer(self._shared, np.uint8, count).reshape(found.height, found.width, 3)
        self._used_bytes = count
        return Image(
            pixels,
            (found.full_width, found.full_height),
            found.reduction,
            found.reduction == found.least_reduction,
            found.coded_bytes,
        )

    def forget(self) -> None:
        """Gives back the memory of a large picture; that of most serves the next one."""
        if self._used_bytes > _KEPT_BYTES:
            self._shared.madvise(mmap.MADV_REMOVE)

    def end(self) -> None:
        """Ends the process at once."""
        self._link.close()
        self._child.kill()
        self._child.wait()

    def _receive(self, length: int) -> bytes:
        taken = b""
        while len(taken) < length:
            self._link.settimeout(max(self._deadline - time.monotonic(), 1e-3))
            part = self._link.recv(length - len(taken))
            if not part:
                raise ConnectionResetError
            taken += part
        return taken

    def _find_cause(self) -> _Broken:
        with suppress(subprocess.TimeoutExpired):
            code = self._child.wait(_END_S)
            return _Broken(
                f"exit status {code}", is_spent=code == -signal.SIGPROF, is_ours=code >= 0
            )
        return _Broken("it closed its socket")
