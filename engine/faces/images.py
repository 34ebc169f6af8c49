"""Decoding of photographs in processes that can be ended, to upright 8-bit RGB pixels by Pillow.

The processes run this module: it imports no numpy.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import logging
import mmap
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image as PillowImage
from PIL.ImageFile import ImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from engine.errors import (
    ImageDamaged,
    ImageError,
    ImageTooCostly,
    ImageTooLarge,
    ImageUnsupported,
    SosieError,
)
from engine.faces.image_files import (
    ORIENTATION,
    ImageHeader,
    ImageLimits,
    Kind,
    damaged,
    read_header,
    read_tag,
)
from schema import frozen

if TYPE_CHECKING:
    from engine.faces.embedder import Pixels

_log = logging.getLogger(__name__)

_ROOT = Path(__file__).parents[2]
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from engine.faces.images import serve; serve(*sys.argv[2:])"
)
_END_S = 2.0
_KEPT_BYTES = 16_000_000
_NOT_RUNNING = "photographs cannot be decoded here: the decoding process ends; report it"
_TOO_LONG = "decoding the image takes too long; save it as a plain JPEG"


_READERS: dict[Kind, Callable[[BytesIO], ImageFile]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "WEBP": WebPImageFile,
    "JPEG2000": Jpeg2KImageFile,
}

# EXIF orientation to the transposition that makes the stored picture upright, and whether its
# first rows come from the last rows (or columns) of the stored one.
_UPRIGHT = {
    2: (PillowImage.Transpose.FLIP_LEFT_RIGHT, False),
    3: (PillowImage.Transpose.ROTATE_180, True),
    4: (PillowImage.Transpose.FLIP_TOP_BOTTOM, True),
    5: (PillowImage.Transpose.TRANSPOSE, False),
    6: (PillowImage.Transpose.ROTATE_270, False),
    7: (PillowImage.Transpose.TRANSVERSE, True),
    8: (PillowImage.Transpose.ROTATE_90, True),
}
_SIDEWAYS = (5, 6, 7, 8)
_STRIP_PIXELS = 1 << 18

# What Pillow's readers raise on damaged files; OSError includes "image file is truncated".
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError)


class Upright(NamedTuple):
    """A decoded picture: `width`, `height`, those of the full picture, and `reduction` (1 to 8).

    `least_reduction` is the finest scale at which the limits let it be decoded, `coded_bytes` what
    the file spends on the pixels.
    """

    width: int
    height: int
    full_width: int
    full_height: int
    reduction: int
    least_reduction: int
    coded_bytes: int


def decode_file(
    header: ImageHeader, limits: ImageLimits, write: Callable[[bytes], object], side_px: int
) -> Upright:
    """Decodes a file: `write` gets its upright rows, RGB, from the top.

    Its longer side has `side_px` or more, if that is less than the limits give it.

    Transparency is laid on white. Raises an ImageError before anything is written. Rows are
    converted, composited and turned a strip at a time: no second picture stands beside Pillow's.
    """
    orientation = header.orientation
    try:
        picture = _READERS[header.kind](BytesIO(header.data))
        if picture.size != header.stored_px:
            raise damaged()
        least = _choose_reduction(header, limits.reduced_side_px)
        # All scans of a progressive one are read for the smallest picture, too: once is enough.
        wanted = least if header.is_progressive else _choose_reduction(header, side_px)
        reduction = _reduce_scale(picture, max(least, wanted))
        if header.kind == "WEBP":
            exif = picture.info.get("exif", b"")
            orientation = read_tag(exif.removeprefix(b"Exif\0\0"), ORIENTATION) or 1
        picture.load()
    except _DAMAGE as error:
        raise damaged() from error
    # The reader of WebP keeps two more pictures; where its name changes they merely stay.
    vars(picture).pop("_decoder", None)
    sizes = picture.size, header.stored_px
    (width, height), (full_width, full_height) = (
        (one[::-1] for one in sizes) if orientation in _SIDEWAYS else sizes
    )
    for strip in _list_strips(picture, orientation):
        write(strip.tobytes())
    least = min(least, reduction)
    count = len(header.data)
    return Upright(width, height, full_width, full_height, reduction, least, count)


def _choose_reduction(header: ImageHeader, side_px: int) -> int:
    """The smallest scale at which the longer side has so many pixels."""
    longer, shorter = max(header.stored_px), min(header.stored_px)
    wanted = (one for one in header.reductions if longer // one >= side_px and shorter >= one)
    return next(wanted, 1)


def _reduce_scale(picture: ImageFile, reduction: int) -> int:
    """Set it to be decoded at that scale, by libjpeg's DCT or OpenJPEG's wavelets."""
    if reduction == 1:
        return 1
    if isinstance(picture, Jpeg2KImageFile):
        picture.reduce = reduction.bit_length() - 1
        return reduction
    width, height = picture.size
    drafted = picture.draft("RGB", (width // reduction, height // reduction))
    return reduction if drafted is not None else 1


def _list_strips(picture: PillowImage.Image, orientation: int) -> Iterator[PillowImage.Image]:
    """The upright picture in RGB, in strips of whole rows."""
    width, height = picture.size
    turn, is_reversed = _UPRIGHT.get(orientation, (None, False))
    along, across = (width, height) if orientation in _SIDEWAYS else (height, width)
    step = max(1, _STRIP_PIXELS // across)
    for start in range(0, along, step):
        first, last = start, min(start + step, along)
        if is_reversed:
            first, last = along - last, along - first
        box = (first, 0, last, height) if orientation in _SIDEWAYS else (0, first, width, last)
        strip = _to_rgb(picture.crop(box))
        yield strip if turn is None else strip.transpose(turn)


def _to_rgb(picture: PillowImage.Image) -> PillowImage.Image:
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture
    if picture.mode.startswith("I"):
        # 16-bit grey, its upper bytes: Pillow's own conversion would clip at 255.
        upper = picture.tobytes("raw", "I;16B")[::2]
        return PillowImage.frombytes("L", picture.size, upper).convert("RGB")
    if picture.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in picture.info:
        layers = picture.convert("RGBA")
        white = PillowImage.new("RGBA", layers.size, (255, 255, 255, 255))
        return PillowImage.alpha_composite(white, layers).convert("RGB")
    return picture.convert("RGB")


REQUEST = struct.Struct("<II")
"""Bytes of the file that lies in the shared memory, and `side_px` of `decode_file`."""
REPLY = struct.Struct("<B7I")
"""Index into `OUTCOMES`; then `Upright`, whose rows lie in the shared memory, or the length of the
message that follows and six zeros."""
OUTCOMES: tuple[type[ImageError] | None, ...] = (
    None,
    ImageDamaged,
    ImageTooCostly,
    ImageTooLarge,
    ImageUnsupported,
)


_LARGE_BYTES = 6 << 20
_KEPT_BY_MALLOC = {-1: 32 << 20, -3: 16 << 20}  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD


def serve(limits_json: str, memory: str) -> None:
    """Decodes what the socket at standard input asks for, until its other end closes.

    File and pixels lie in the memory file of this descriptor. The kernel ends this process when a
    picture has spent its CPU time, in whatever code it is.
    """
    limits = ImageLimits(**json.loads(limits_json))
    shared = mmap.mmap(int(memory), 0)
    # Memory of one picture serves the next: to have it from the kernel anew takes as long as
    # decoding a small one does.
    with suppress(AttributeError):  # a C library without it has its own ways
        for parameter, count in _KEPT_BY_MALLOC.items():
            ctypes.CDLL(None).mallopt(parameter, count)
    # No more address space than is in use and the limit; no core, which would hold a face.
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    most = pages * resource.getpagesize() + limits.memory_mb * 1_000_000
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with socket.socket(fileno=0) as link:
        while len(request := link.recv(REQUEST.size, socket.MSG_WAITALL)) == REQUEST.size:
            signal.setitimer(signal.ITIMER_PROF, limits.cpu_s)
            length, side_px = REQUEST.unpack(request)
            link.sendall(_answer(length, side_px, shared, limits))
            signal.setitimer(signal.ITIMER_PROF, 0)
            if length > _LARGE_BYTES:
                # The pieces of a large picture would stand beside the next one.
                with suppress(AttributeError):
                    ctypes.CDLL(None).malloc_trim(0)


def _answer(length: int, side_px: int, shared: mmap.mmap, limits: ImageLimits) -> bytes:
    shared.seek(0)
    refusal: ImageError
    try:
        header = read_header(shared[:length], limits)
        return REPLY.pack(0, *decode_file(header, limits, shared.write, side_px))
    except ImageError as error:
        refusal = error
    except MemoryError:
        refusal = ImageTooCostly("the image takes too much memory; send a smaller one")
    except Exception:  # noqa: BLE001 - whatever a file does to its reader is about this file
        refusal = damaged()
    text = str(refusal).encode()
    return REPLY.pack(OUTCOMES.index(type(refusal)), len(text), *[0] * 6) + text


@frozen(eq=False)
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
        import numpy as np  # noqa: PLC0415 - the processes that decode have none

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
