"""What a long computation in tiles has made so far, on the disk if wished."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from indexes.errors import SearchInvalid

_RESULTS, _STATE, _STATE_BESIDE = "results.bin", "state.json", "state.json.new"
_WRITING = os.O_WRONLY | os.O_CREAT


@dataclass(frozen=True, slots=True)
class _State:
    fingerprint: str
    next_tile: int
    size_bytes: int
    crc32: int


class Checkpoint:
    """Results of tiles, appended one after another; in memory only where no folder is given.

    The state is replaced, as a whole, once the results it speaks of are on the disk: whatever lies
    beyond its size in the file of results is of a tile that never ended, and goes at the next
    start. Folders of another fingerprint, or damaged ones, are refused with `SearchInvalid` and
    left as they are.
    """

    def __init__(self, folder: Path | None, fingerprint: str) -> None:
        self._folder = folder
        self._memory = bytearray()
        self._state = _State(fingerprint, 0, 0, 0)
        if folder is None:
            return
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (folder / _STATE).exists():
            self._state = self._verified(folder, fingerprint)
            os.truncate(folder / _RESULTS, self._state.size_bytes)
        else:
            with _opened(folder / _RESULTS, _WRITING | os.O_TRUNC):
                pass
            self._publish()

    @property
    def next_tile(self) -> int:
        """The first tile whose results are not here."""
        return self._state.next_tile

    @property
    def size_bytes(self) -> int:
        """The size of all results."""
        return self._state.size_bytes

    def append(self, results: bytes) -> None:
        """Adds the results of the next tile; when this returns, they outlive a crash."""
        if self._folder is None:
            self._memory += results
        else:
            with _opened(self._folder / _RESULTS, _WRITING | os.O_APPEND) as handle:
                _write(handle, results)
                os.fsync(handle)
        state = self._state
        self._state = _State(
            state.fingerprint,
            state.next_tile + 1,
            state.size_bytes + len(results),
            zlib.crc32(results, state.crc32),
        )
        if self._folder is not None:
            self._publish()

    def read(self) -> bytes:
        """All results, in the order of their tiles."""
        if self._folder is None:
            return bytes(self._memory)
        return (self._folder / _RESULTS).read_bytes()

    def _publish(self) -> None:
        assert self._folder is not None
        with _opened(self._folder / _STATE_BESIDE, _WRITING | os.O_TRUNC) as handle:
            _write(handle, json.dumps(asdict(self._state)).encode())
            os.fsync(handle)
        (self._folder / _STATE_BESIDE).replace(self._folder / _STATE)
        with _opened(self._folder, os.O_RDONLY) as handle:
            os.fsync(handle)

    @staticmethod
    def _verified(folder: Path, fingerprint: str) -> _State:
        damaged = SearchInvalid("the checkpoint is damaged; remove its folder and start again")
        try:
            state = _State(**json.loads((folder / _STATE).read_bytes()))
            results = (folder / _RESULTS).read_bytes()[: state.size_bytes]
        except (OSError, ValueError, TypeError):
            raise damaged from None
        if state.fingerprint != fingerprint:
            raise SearchInvalid(
                "the checkpoint is of another join; remove its folder, or give another"
            )
        if len(results) != state.size_bytes or zlib.crc32(results) != state.crc32:
            raise damaged
        return state


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    handle = os.open(path, flags, 0o600)
    try:
        yield handle
    finally:
        os.close(handle)


def _write(handle: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(handle, left) :]
