"""A file to which many processes append whole lines."""

from __future__ import annotations

import atexit
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISREG

HOLD_CHARS = 64 * 1024
HOLD_S = 0.2
LONGEST_BYTES, FILES = 64 * 2**20, 5
"""A longer file becomes `.1`, that one `.2`; so many there are at most, with the one in use."""
MODE, FOLDER_MODE = 0o600, 0o700


class LineFile:
    """Appends the lines that gathered with one write, so that no other process tears them.

    Whoever finds it longer than `longest_bytes` moves it away. It is opened again where it was
    moved or removed, by another process or by logrotate. Lines that cannot be written are dropped;
    `tell_loss` makes the line that says how many, once writing works again.
    """

    def __init__(
        self,
        path: Path,
        tell_loss: Callable[[int], str],
        hold_s: float = HOLD_S,
        longest_bytes: int = LONGEST_BYTES,
    ) -> None:
        self._path, self._tell_loss, self._hold_s = path, tell_loss, hold_s
        self._longest_bytes = longest_bytes
        self._gathering, self._writing = threading.Lock(), threading.Lock()
        self._held: list[str] = []
        self._held_chars = 0
        self._lost, self._is_torn = 0, False
        self._wake, self._closed = threading.Event(), threading.Event()
        _make_folder(path)
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
            self._rotate_if_long()
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
            _make_folder(self._path)
        else:
            if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino):
                return
        fresh = _open(self._path)
        os.close(self._file)
        self._file = fresh

    def _rotate_if_long(self) -> None:
        if not self._is_long():
            return
        try:
            with _exclusive(self._path):
                # Another process may have been first.
                self._reopen_if_moved()
                if self._is_long():
                    for number in reversed(range(1, FILES - 1)):
                        with suppress(FileNotFoundError):
                            _numbered(self._path, number).replace(_numbered(self._path, number + 1))
                    self._path.replace(_numbered(self._path, 1))
        except OSError:
            return  # another process is at it, or none may: these lines go where they can
        self._reopen_if_moved()

    def _is_long(self) -> bool:
        there = os.fstat(self._file)
        return S_ISREG(there.st_mode) and there.st_size >= self._longest_bytes

    def _flush_often(self) -> None:
        while not self._closed.is_set():
            self._wake.wait()
            self._wake.clear()
            # More lines gather meanwhile.
            self._closed.wait(self._hold_s)
            self.flush()


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Alone among the processes that rotate this file; `BlockingIOError` where another is at it.

    Locks the folder, since the file itself changes its name.
    """
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(folder)


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def _make_folder(path: Path) -> None:
    path.parent.mkdir(FOLDER_MODE, parents=True, exist_ok=True)


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, MODE)
