"""Checkpoint of a long computation in tiles, and the references that a join covers."""

from __future__ import annotations

import fcntl
import json
import os
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indexes.atomic_files import flush, replacing
from indexes.base import Closing, Ids, Octets
from indexes.errors import CheckpointInvalid
from schema import frozen

_RESULTS, _SUBJECT, _STATE = "results.bin", "subject.bin", "state.json"
_FRAME_BYTES = 8
_BYTES_AT_ONCE = 1 << 22

_DAMAGED = "the checkpoint is damaged; remove its folder and start again"


@frozen
class _State:
    fingerprint: str
    subject_crc32: int
    next_tile: int = 0
    runs: int = 0
    size_bytes: int = 0
    crc32: int = 0
    bounds: Sequence[str] | None = None


_UNKNOWN = "not recorded"
"""Bound of tiles that an earlier version made."""


class Checkpoint(Closing):
    """Results of tiles in order; in memory only where no folder is given.

    A tile puts runs of bytes and ends; the state is replaced once these are on the disk. What a
    tile that never ended has left is removed at the next start. `subject` describes the input of
    the computation, by its first start. `CheckpointInvalid`, with nothing changed, for a folder
    that has another fingerprint, is damaged or in use.
    """

    def __init__(self, folder: Path | None, fingerprint: str, subject: bytes = b"") -> None:
        self._folder = folder
        self._memory: list[bytes] = []
        self._state = _State(fingerprint, zlib.crc32(subject))
        self.subject = subject
        if folder is None:
            self._handle = -1
        else:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._handle = os.open(folder / _RESULTS, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                self._open(folder, fingerprint)
            except BaseException:
                os.close(self._handle)
                raise
        if self._state.bounds is None:
            earlier = (_UNKNOWN,) if self._state.next_tile else ()
            self._state = replace(self._state, bounds=earlier)
        self._pending = self._state

    def close(self) -> None:
        """Releases the folder; an unfinished tile is dropped."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    @property
    def next_tile(self) -> int:
        """The first tile that has not ended."""
        return self._state.next_tile

    @property
    def bounds(self) -> tuple[str, ...]:
        """The bounds of all ended tiles, as `end_tile` was told."""
        return tuple(self._state.bounds or ())

    @property
    def size_bytes(self) -> int:
        """The size of all runs, those of the unfinished tile too."""
        return self._pending.size_bytes - _FRAME_BYTES * self._pending.runs

    def put(self, run: bytes) -> None:
        """Adds a run to the current tile; an empty one is ignored."""
        if not run:
            return
        frame = len(run).to_bytes(_FRAME_BYTES, "little")
        if self._folder is None:
            self._memory.append(run)
        else:
            _write(self._handle, frame)
            _write(self._handle, run)
        self._pending = replace(
            self._pending,
            runs=self._pending.runs + 1,
            size_bytes=self._pending.size_bytes + len(frame) + len(run),
            crc32=zlib.crc32(run, zlib.crc32(frame, self._pending.crc32)),
        )

    def end_tile(self, bounds: Iterable[str] = ()) -> None:
        """Ends the tile, made by these bounds; when this returns, its runs are durable."""
        self._pending = replace(
            self._pending,
            next_tile=self._pending.next_tile + 1,
            bounds=sorted({*self.bounds, *bounds}),
        )
        if self._folder is not None:
            if self._pending.runs != self._state.runs:
                os.fsync(self._handle)
            _publish(self._folder, self._pending)
        self._state = self._pending

    def runs(self) -> list[Octets]:
        """The runs of all ended tiles in their order; views of the file."""
        if self._folder is None:
            return [np.frombuffer(run, np.uint8) for run in self._memory[: self._state.runs]]
        if not self._state.size_bytes:
            return []
        content = np.memmap(
            self._folder / _RESULTS, np.uint8, mode="r", shape=(self._state.size_bytes,)
        )
        runs, place = [], 0
        while place < len(content):
            start = place + _FRAME_BYTES
            size = int.from_bytes(content[place:start].tobytes(), "little")
            runs.append(np.asarray(content[start : start + size]))
            place = start + size
        assert (len(runs), place) == (self._state.runs, len(content))
        return runs

    def _open(self, folder: Path, fingerprint: str) -> None:
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CheckpointInvalid(
                "the checkpoint is in use; wait for that run, or give another folder"
            ) from None
        if (folder / _STATE).exists():
            self._state, self.subject = _verified(folder, fingerprint)
        else:
            with replacing(folder / _SUBJECT) as subject:
                subject.write_bytes(self.subject)
            _publish(folder, self._state)
        os.truncate(self._handle, self._state.size_bytes)
        os.lseek(self._handle, 0, os.SEEK_END)


def _verified(folder: Path, fingerprint: str) -> tuple[_State, bytes]:
    state = _read_state(folder)
    if state.fingerprint != fingerprint:
        raise CheckpointInvalid(
            "the checkpoint is of another join; remove its folder, or give another"
        )
    subject = _read_subject(folder, state)
    left, crc32 = state.size_bytes, 0
    with (folder / _RESULTS).open("rb") as results:
        while left and (piece := results.read(min(left, _BYTES_AT_ONCE))):
            left, crc32 = left - len(piece), zlib.crc32(piece, crc32)
    if left or crc32 != state.crc32:
        raise CheckpointInvalid(_DAMAGED)
    return state, subject


def _read_state(folder: Path) -> _State:
    try:
        content, check = (folder / _STATE).read_bytes().split(b"\n")
        if zlib.crc32(content) != int(check):
            raise CheckpointInvalid(_DAMAGED)
        return _State(**json.loads(content))
    except (OSError, ValueError, TypeError):
        raise CheckpointInvalid(_DAMAGED) from None


def _read_subject(folder: Path, state: _State) -> bytes:
    try:
        subject = (folder / _SUBJECT).read_bytes()
    except OSError:
        raise CheckpointInvalid(_DAMAGED) from None
    if zlib.crc32(subject) != state.subject_crc32:
        raise CheckpointInvalid(_DAMAGED)
    return subject


def _publish(folder: Path, state: _State) -> None:
    content = json.dumps(asdict(state)).encode()
    with replacing(folder / _STATE) as beside:
        beside.write_bytes(b"%b\n%d" % (content, zlib.crc32(content)))
    flush(folder)


def _write(handle: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(handle, left) :]


_HEADER_WORDS = 3
_NO_SIDE = -1
"""In place of the number of known references: an earlier version wrote them by themselves."""


@frozen(eq=False)
class JoinCoverage:
    """The references at the begin of a join: `ids` int64[n] ascending, and `digests` uint64[n] of
    each; `sequence` is the watermark of their gallery."""

    sequence: int
    ids: Ids
    digests: NDArray[np.uint64]

    def split(self, known: Ids | None) -> tuple[Ids, Ids | None]:
        """The ids that are new, and those that are `known`; without any all are new."""
        if known is None:
            return self.ids, None
        is_known = np.isin(self.ids, known)
        return self.ids[~is_known], self.ids[is_known]

    def remaining(self, now: JoinCoverage) -> Ids | None:
        """The ids that are still there `now`; None where none are gone. What was added since is
        left to the next join. `CheckpointInvalid` where the gallery is older, or has other vectors
        under these ids."""
        if now.sequence < self.sequence:
            raise CheckpointInvalid(
                f"the checkpoint is of sequence {self.sequence}, the gallery is at {now.sequence}; "
                "replay the store first"
            )
        stays = np.isin(self.ids, now.ids, assume_unique=True)
        is_old = np.isin(now.ids, self.ids, assume_unique=True)
        if not np.array_equal(self.digests[stays], now.digests[is_old]):
            raise CheckpointInvalid(
                "the checkpoint is of other vectors under these ids; give another folder"
            )
        return None if stays.all() else self.ids[stays]

    def to_bytes(self) -> bytes:
        head = [self.sequence, len(self.ids), _NO_SIDE]
        words = np.concatenate([head, self.ids, self.digests.view(np.int64)])
        return words.astype("<i8").tobytes()

    @classmethod
    def from_bytes(cls, content: bytes) -> JoinCoverage:
        """The coverage that `to_bytes` wrote."""
        words = np.frombuffer(content, "<i8").astype(np.int64)
        sequence, count, _ = words[:_HEADER_WORDS].tolist()
        sides = np.split(words[_HEADER_WORDS:], [2 * count])
        ids, digests = np.concatenate([one.reshape(2, -1) for one in sides], axis=1)
        order = np.argsort(ids)
        return cls(sequence, ids[order], digests[order].view(np.uint64))
