"""Photographs by path, from below one folder and from nowhere else."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from engine.faces.images import ImageLimits
from engine.imports.faults import Code

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
_MISSING = (errno.ENOENT, errno.ENOTDIR)


class PhotographFolder:
    """Where relative paths begin.

    A path that leads out of it, by `..`, from the root or through a link, is refused unless
    `may_leave`. At most one byte more than `max_size_bytes` is read of a file.
    """

    def __init__(
        self,
        root: Path,
        *,
        may_leave: bool = False,
        max_size_bytes: int = ImageLimits().max_size_bytes,
    ) -> None:
        self._root = os.path.realpath(root)
        self._inside = os.path.join(self._root, "")
        self._may_leave = may_leave
        self._max_size_bytes = max_size_bytes

    def read(self, text: str) -> bytes | Code:
        """A file's bytes, or why there are none; safe to call from many threads."""
        if "\0" in text:
            return Code.PATH_INVALID
        try:
            path = os.path.realpath(os.path.join(self._root, text))
            if not (self._may_leave or path.startswith(self._inside)):
                return Code.PATH_OUTSIDE
            return self._read(path)
        except OSError as error:
            if error.errno in _MISSING:
                return Code.FILE_MISSING
            is_name = error.errno in (errno.ENAMETOOLONG, errno.EINVAL)
            return Code.PATH_INVALID if is_name else Code.FILE_UNREADABLE
        except UnicodeEncodeError:
            return Code.PATH_INVALID

    def _read(self, path: str) -> bytes | Code:
        # No link is followed any more, and no pipe is waited for: the path was resolved, and may
        # have been exchanged since.
        handle = os.open(path, _FLAGS)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                return Code.FILE_UNREADABLE
            with open(handle, "rb", closefd=False) as file:
                return file.read(self._max_size_bytes + 1)
        finally:
            os.close(handle)
