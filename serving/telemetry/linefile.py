"""A file to which many processes append whole lines."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable
from pathlib import Path

HOLD_CHARS = 64 * 1024
HOLD_S = 0.2
MODE = 0o640


class LineFile:
    """Appends the lines that gathered with one write, so that no other process tears them.

    The file is opened again where it was moved or removed (logrotate). Lines that cannot be
    written are dropped; `tell_loss` makes the line that says how many, once writing works again.
    """

    def __init__(self, path: Path, tell_loss: Callable[[int], str], hold_s: float = HOLD_S) -> None:
        self._path, self._tell_loss, self._hold_s = path, tell_loss, hold_s
        self._gathering, self._writing = threading.Lock(), threading.Lock()
        self._held: list[str] = []
        self._held_chars = 0
        self._lost, self._is_torn = 0, False
        self._wake, self._closed = threading.Event(), threading.Event()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = _open(path)
        self._thread = threading.Thread(target=self._flush_often, name="sosie-log", daemon=True)
        self._thread.start()
        atexit.register(self.flush)

    def write(self, line: str, *, at_once: bool) -> None:
        """Takes one line with its newline; `at_once` writes it, and all before it, now."""
        with self._gathering:
            is_first = not self._held
            self._held.append(line)
            self._held_chars += len(line)
            is_due = at_once or self._held_chars >= HOLD_CHARS or self._closed.is_set()
        if is_due:
            self.flush()
        elif is_first:
            self._wake.set()

    def flush(self) -> None:
        """Writes what is held, in order; never raises."""
        with self._writing:
            with self._gathering:
                lines, self._held, self._held_chars = self._held, [], 0
            if lines:
                self._append(lines)

    def close(self) -> None:
        """Writes what is held, and from now on every line at once."""
        self._closed.set()
        self._wake.set()
        self._thread.join()
        self.flush()
        atexit.unregister(self.flush)

    def _append(self, lines: list[str]) -> None:
        count = len(lines)
        if self._lost:
            lines = [self._tell_loss(self._lost), *lines]
        data = ("\n" if self._is_torn else "").encode() + "".join(lines).encode()
        written = 0
        try:
            self._reopen_if_moved()
            while written < len(data):
                written += os.write(self._file, data[written:])
            self._lost, self._is_torn = 0, False
        except OSError:
            # A full disk must not stop the service; half a line may stand there now.
            self._lost += count
            self._is_torn = self._is_torn or written > 0

    def _reopen_if_moved(self) -> None:
        ours = os.fstat(self._file)
        try:
            there = self._path.stat()
        except FileNotFoundError:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        else:
            if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino):
                return
        fresh = _open(self._path)
        os.close(self._file)
        self._file = fresh

    def _flush_often(self) -> None:
        while not self._closed.is_set():
            self._wake.wait()
            self._wake.clear()
            # More lines gather meanwhile.
            self._closed.wait(self._hold_s)
            self.flush()


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, MODE)
