"""A disk under SQLite that fails at a chosen operation, and loses what was not flushed.

A VFS between SQLite and the system's own passes everything on and notes it, so that the files that
a power cut would leave can be written elsewhere. A flush that fails leaves its writes in doubt: as
on Linux, they are visible, may never reach the disk, and no later flush brings them there.
"""

import _sqlite3
import ctypes
import errno
import os
import random
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

SECTOR_BYTES = 512
READ, WRITE, FSYNC, TRUNCATE, DELETE, FOLDER = 266, 778, 1034, 1546, 2570, 1290
"""SQLite's codes of I/O errors."""

_Pointer, _Int, _Long, _Text = (ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong, ctypes.c_char_p)
# The name as a pointer: SQLite keeps it for as long as the file is open.
_Open = ctypes.CFUNCTYPE(_Int, _Pointer, _Pointer, _Pointer, _Int, _Pointer)
_Delete = ctypes.CFUNCTYPE(_Int, _Pointer, _Text, _Int)
_Transfer = ctypes.CFUNCTYPE(_Int, _Pointer, _Pointer, _Int, _Long)
_Truncate = ctypes.CFUNCTYPE(_Int, _Pointer, _Long)
_Sync = ctypes.CFUNCTYPE(_Int, _Pointer, _Int)


class _Methods(ctypes.Structure):
    _fields_ = (
        ("version", _Int),
        *((name, _Pointer) for name in ("close", "read", "write", "truncate", "sync")),
        *((f"other{place}", _Pointer) for place in range(13)),
    )


class _Vfs(ctypes.Structure):
    _fields_ = (
        *((name, _Int) for name in ("version", "file_bytes", "path_bytes")),
        ("next", _Pointer),
        ("name", _Text),
        ("data", _Pointer),
        ("open", _Pointer),
        ("delete", _Pointer),
        *((f"other{place}", _Pointer) for place in range(14)),
    )


@dataclass
class _Operation:
    """A change of a file: bytes at a place, or its length where there are none."""

    start: int
    data: bytes | None
    is_durable: bool = False
    is_in_doubt: bool = False


@dataclass
class _File:
    content: bytes = b""
    operations: list[_Operation] = field(default_factory=list)

    def settle(self, *, is_durable: bool) -> None:
        for one in self.operations:
            if not one.is_in_doubt:
                one.is_durable |= is_durable
                one.is_in_doubt = not one.is_durable

    def blocks(self) -> bytes:
        content = bytearray(self.content)
        for one in self.operations:
            if one.data is not None:
                content.extend(bytes(max(0, one.start + len(one.data) - len(content))))
                content[one.start : one.start + len(one.data)] = one.data
        return bytes(content)

    def image(self, chance: random.Random) -> bytes:
        content = bytearray(self.content)
        for one in self.operations:
            if one.data is None:
                if one.is_durable or chance.random() < 0.5:
                    del content[one.start :]
                    content.extend(bytes(one.start - len(content)))
                continue
            # Sectors reach the disk one by one.
            place = one.start
            while place < one.start + len(one.data):
                end = min((place // SECTOR_BYTES + 1) * SECTOR_BYTES, one.start + len(one.data))
                if one.is_durable or chance.random() < 0.5:
                    content.extend(bytes(max(0, end - len(content))))
                    content[place:end] = one.data[place - one.start : end - one.start]
                place = end
        return bytes(content)


class FaultyDisk:
    """The files of one folder. The operation `fails_at`, counted from `begin`, fails, and with
    `stays_broken` all after it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.operations: list[str] = []
        self.fails_at: int | None = None
        self.stays_broken = False
        self.names = {
            str(path): _File(path.read_bytes()) for path in folder.iterdir() if path.is_file()
        }
        self.durable_names = dict(self.names)
        self._ever = list(self.names.values())

    def begin(self, fails_at: int | None, *, stays_broken: bool = False) -> None:
        self.operations.clear()
        self.fails_at, self.stays_broken = fails_at, stays_broken

    def fails(self, operation: str) -> bool:
        self.operations.append(operation)
        if self.fails_at is None:
            return False
        done = len(self.operations)
        return done == self.fails_at or (self.stays_broken and done > self.fails_at)

    def holds(self, path: str) -> bool:
        return Path(path).parent == self.folder

    def create(self, path: str) -> None:
        if path not in self.names:
            self.names[path] = _File()
            self._ever.append(self.names[path])

    def note(self, path: str, start: int, data: bytes | None) -> None:
        self.names[path].operations.append(_Operation(start, data))

    def sync(self, path: str) -> bool:
        """Whether a file's flush passes."""
        passes = not self.fails(f"sync {Path(path).name}")
        self.names[path].settle(is_durable=passes)
        return passes

    def sync_folder(self) -> bool:
        passes = not self.fails("sync folder")
        if passes:
            self.durable_names = dict(self.names)
        return passes

    def raw_image(self) -> bytes:
        """The blocks of every file that there was: what was deleted or cut off is still in them."""
        return b"".join(one.blocks() for one in self._ever)

    def cut_power(self, target: Path, seed: int) -> Path:
        """Writes the files as they may be found after a power cut."""
        chance = random.Random(seed)
        target.mkdir()
        for path in sorted({*self.names, *self.durable_names}):
            before, after = self.durable_names.get(path), self.names.get(path)
            kept = chance.choice((before, after))
            if kept is not None:
                (target / Path(path).name).write_bytes(kept.image(chance))
        return target


class _Shim:
    """The VFS; its callbacks live as long as it does."""

    def __init__(self, library: Any, disk: FaultyDisk) -> None:
        self._disk = disk
        self._files: dict[int, str] = {}
        self._base = library.sqlite3_vfs_find(None)
        original = _Vfs.from_address(self._base)
        self._open_base, self._delete_base = _Open(original.open), _Delete(original.delete)
        self.vfs = _Vfs()
        ctypes.memmove(ctypes.byref(self.vfs), self._base, ctypes.sizeof(_Vfs))
        self.vfs.name = b"faulty"
        self.vfs.next = None
        self._kept: list[Any] = []
        self.vfs.open = self._keep(_Open(self._open))
        self.vfs.delete = self._keep(_Delete(self._delete))
        self._methods: dict[int, _Methods] = {}

    def _keep(self, callback: Any) -> int:
        self._kept.append(callback)
        address = ctypes.cast(callback, _Pointer).value
        assert address is not None
        return address

    def _wrap(self, original: _Methods) -> _Methods:
        wrapped = _Methods()
        ctypes.memmove(ctypes.byref(wrapped), ctypes.byref(original), ctypes.sizeof(_Methods))
        read, write = _Transfer(original.read), _Transfer(original.write)
        truncate = _Truncate(original.truncate)
        disk, files = self._disk, self._files

        def read_file(file: int, buffer: int, size: int, start: int) -> int:
            return READ if disk.fails("read") else read(file, buffer, size, start)

        def write_file(file: int, buffer: int, size: int, start: int) -> int:
            if disk.fails(f"write {Path(files[file]).name}"):
                return WRITE
            disk.note(files[file], start, ctypes.string_at(buffer, size))
            return write(file, buffer, size, start)

        def truncate_file(file: int, size: int) -> int:
            if disk.fails("truncate"):
                return TRUNCATE
            disk.note(files[file], size, None)
            return truncate(file, size)

        def sync_file(file: int, flags: int) -> int:
            path = files[file]
            if not disk.sync(path):
                return FSYNC
            if path not in disk.durable_names:
                # SQLite flushes the folder of a new journal, and does not look whether it could.
                disk.sync_folder()
            return 0

        wrapped.read = self._keep(_Transfer(read_file))
        wrapped.write = self._keep(_Transfer(write_file))
        wrapped.truncate = self._keep(_Truncate(truncate_file))
        wrapped.sync = self._keep(_Sync(sync_file))
        return wrapped

    def _open(self, _vfs: int, name: int | None, file: int, flags: int, out: int) -> int:
        result = self._open_base(self._base, name, file, flags, out)
        path = "" if name is None else ctypes.string_at(name).decode()
        if result or not self._disk.holds(path):
            return int(result)
        self._disk.create(path)
        self._files[file] = path
        slot = _Pointer.from_address(file)
        assert slot.value is not None
        if slot.value not in self._methods:
            self._methods[slot.value] = self._wrap(_Methods.from_address(slot.value))
        slot.value = ctypes.addressof(self._methods[slot.value])
        return 0

    def _delete(self, _vfs: int, name: bytes, sync: int) -> int:
        path = name.decode()
        if not self._disk.holds(path):
            return int(self._delete_base(self._base, name, sync))
        if self._disk.fails("delete"):
            return DELETE
        result = int(self._delete_base(self._base, name, 0))
        if result == 0:
            self._disk.names.pop(path, None)
            if sync and not self._disk.sync_folder():
                return FOLDER
        return result


class _System:
    """`os` for our own code, on the same disk."""

    def __init__(self, disk: FaultyDisk) -> None:
        self._disk = disk

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: Any, flags: int, mode: int = 0o777) -> int:
        handle = os.open(path, flags, mode)
        if self._disk.holds(str(path)):
            self._disk.create(str(path))
        return handle

    def pwrite(self, handle: int, data: bytes, start: int) -> int:
        path = os.readlink(f"/proc/self/fd/{handle}")
        if self._disk.holds(path):
            if self._disk.fails("write by us"):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            self._disk.note(path, start, bytes(data))
        return os.pwrite(handle, data, start)

    def fsync(self, handle: int) -> None:
        path = os.readlink(f"/proc/self/fd/{handle}")
        is_folder = path == str(self._disk.folder)
        if is_folder or self._disk.holds(path):
            passes = self._disk.sync_folder() if is_folder else self._disk.sync(path)
            if not passes:
                raise OSError(errno.EIO, os.strerror(errno.EIO))


@contextmanager
def mounted(folder: Path, monkeypatch: Any) -> Iterator[FaultyDisk]:
    """Meanwhile every new SQLite connection to a file in the folder is on the disk."""
    from engine.registry import database
    from indexes import atomic_files

    library = ctypes.CDLL(getattr(_sqlite3, "__file__", None))
    if not hasattr(library, "sqlite3_vfs_register"):
        pytest.skip("this Python hides its SQLite")
    library.sqlite3_vfs_find.restype = _Pointer
    library.sqlite3_vfs_find.argtypes = (_Text,)
    library.sqlite3_vfs_register.argtypes = (_Pointer, _Int)
    library.sqlite3_vfs_unregister.argtypes = (_Pointer,)
    sqlite3.connect(":memory:").close()  # initialises the library
    base = library.sqlite3_vfs_find(None)
    disk = FaultyDisk(folder.resolve())
    shim = _Shim(library, disk)
    address = ctypes.addressof(shim.vfs)
    assert library.sqlite3_vfs_register(address, 1) == 0
    with monkeypatch.context() as patch:
        for module in (database, atomic_files):
            patch.setattr(module, "os", _System(disk))
        # What another disk has flushed, on which a file may have had the same place and number.
        patch.setattr(database, "_flushed_journals", {})
        try:
            yield disk
        finally:
            library.sqlite3_vfs_unregister(address)
            library.sqlite3_vfs_register(base, 1)
