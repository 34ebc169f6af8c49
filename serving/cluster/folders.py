"""Folders and files that only their owner may read, and who owns them."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from engine.errors import RequestError

FOLDER_PREFIX, OWNER_FILE = "sosie-", "owner"
LONGEST_FOLDER = 25
"""The path of a socket has 107 characters at most, and those below the folder need 82 of them."""


def open_private(path: str, flags: int) -> int:
    """An opener for `open`: what is made has mode 0600, and what was there has it after."""
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    with suppress(PermissionError):
        os.fchmod(descriptor, 0o600)
    return descriptor


class NodeFolder:
    """A new folder that nobody else may read, with a path short enough for sockets below it.

    It belongs to whoever has `owner` open: a lock that ends with its last process, wherever that
    runs. A process id would mean somebody else in another container that shares the folder.
    """

    def __init__(self) -> None:
        shared = Path(tempfile.gettempdir())
        if len(str(shared)) + len("/sosie-12345678") > LONGEST_FOLDER:
            shared = Path("/tmp")  # noqa: S108 - mkdtemp makes a folder of its own there
        _remove_ownerless(shared)
        self.path = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=shared))
        # Under its name only once it is locked: whoever finds it free removes the folder.
        made = self.path / "owner.new"
        self.owner = os.open(made, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self.owner, fcntl.LOCK_EX)
        made.rename(self.path / OWNER_FILE)

    def close(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self.owner)


def _remove_ownerless(shared: Path) -> None:
    """Removes the folders of those that were killed."""
    for left in shared.glob(f"{FOLDER_PREFIX}*/{OWNER_FILE}"):
        with suppress(OSError):
            descriptor = os.open(left, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left.parent, ignore_errors=True)
            finally:
                os.close(descriptor)


def claim_folder(folder: Path) -> Path:
    """`folder`, made where it is missing. `RequestError` where its path is too long for sockets
    below it, or where anybody else could change what is in it."""
    place = folder.resolve()
    if len(str(place)) > LONGEST_FOLDER:
        raise RequestError(f"{place} is too long a path for sockets below it: choose a shorter one")
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = place.stat()
    except OSError as error:
        raise RequestError(f"{place} cannot be a folder: {error.strerror}") from None
    if found.st_uid != os.geteuid():
        raise RequestError(f"{place} is another user's: choose a folder of your own")
    if stat.S_IMODE(found.st_mode) != 0o700:
        raise RequestError(f"others may look into {place}: chmod 700 it, or choose another folder")
    return place
