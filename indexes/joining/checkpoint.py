"""What a long computation in tiles has made so far, on the disk if wished."""

from __future__ import annotations

import fcntl
import json
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from indexes.base import Ids
from indexes.errors import CheckpointInvalid
from indexes.joining.tiling import References

_RESULTS, _SUBJECT, _STATE, _STATE_BESIDE = "results.bin", "subject.bin", "state.json", "state.new"
_WRITING = os.O_WRONLY | os.O_CREAT
_FRAME_BYTES = 8
_BYTES_AT_ONCE = 1 << 22

_DAMAGED = "the checkpoint is damaged; remove its folder and start again"


@dataclass(frozen=True, slots=True)
class _State:
    fingerprint: str
    subject_crc32: int
    next_tile: int = 0
    runs: int = 0
    size_bytes: int = 0
    crc32: int = 0


class Checkpoint:
    """Results of tiles, one after another; in memory only where no folder is given.

    A tile puts any number of runs of bytes and ends; the state is replaced, as a whole, once the
    runs it speaks of are on the disk. Whatever lies beyond its size in the file of results is of
    a tile that never ended, and goes at the next start. `subject` is what the computation is
    about; a folder keeps that of its first start. Folders of another fingerprint, damaged ones,
    and those in use are refused with `CheckpointInvalid` and left as they are.
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
        self._pending = self._state

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets others use the folder; an unfinished tile is forgotten."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    @property
    def next_tile(self) -> int:
        """The first tile that has not ended."""
        return self._state.next_tile

    @property
    def size_bytes(self) -> int:
        """The size of all runs, those of the unfinished tile too."""
        return self._pending.size_bytes - _FRAME_BYTES * self._pending.runs

    def put(self, run: bytes) -> None:
        """Adds a run of the tile that is being made; an empty one is nothing."""
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

    def end_tile(self) -> None:
        """Ends the tile; when this returns, its runs outlive a crash."""
        self._pending = replace(self._pending, next_tile=self._pending.next_tile + 1)
        if self._folder is not None:
            if self._pending.runs != self._state.runs:
                os.fsync(self._handle)
            _publish(self._folder, self._pending)
        self._state = self._pending

    def runs(self) -> list[NDArray[np.uint8]]:
        """The runs of all tiles that have ended, in the order they were put; views of the file."""
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
            with _opened(folder / _SUBJECT, _WRITING | os.O_TRUNC) as handle:
                _write(handle, self.subject)
                os.fsync(handle)
            _publish(folder, self._state)
        os.truncate(self._handle, self._state.size_bytes)
        os.lseek(self._handle, 0, os.SEEK_END)


def stored_subject(folder: Path) -> bytes | None:
    """The subject of the checkpoint in this folder; None where there is none yet."""
    if not (folder / _STATE).exists():
        return None
    state = _read_state(folder)
    return _read_subject(folder, state)


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
    with _opened(folder / _STATE_BESIDE, _WRITING | os.O_TRUNC) as handle:
        content = json.dumps(asdict(state)).encode()
        _write(handle, b"%b\n%d" % (content, zlib.crc32(content)))
        os.fsync(handle)
    (folder / _STATE_BESIDE).replace(folder / _STATE)
    with _opened(folder, os.O_RDONLY) as handle:
        os.fsync(handle)


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


# Who takes part in a join, as a checkpoint remembers it.

_HEADER = struct.Struct("<Qqq")
_NO_SIDE = -1


@dataclass(frozen=True, slots=True, eq=False)
class Roster:
    """One side: `ids` int64[n] ascending, `digests` uint64[n] of what they were."""

    ids: Ids
    digests: NDArray[np.uint64]

    @classmethod
    def of(cls, references: References) -> Roster:
        return cls(references.ids, references.digests())

    def check(self, now: Roster) -> None:
        """`CheckpointInvalid` where some are there now that were not, or are not what they were."""
        here = np.isin(self.ids, now.ids, assume_unique=True)
        strangers = len(now.ids) - int(here.sum())
        if strangers:
            raise CheckpointInvalid(
                f"the checkpoint is of a join without {strangers} of these references; "
                "join those that it covers, or give another folder"
            )
        if not np.array_equal(self.digests[here], now.digests):
            raise CheckpointInvalid(
                "the checkpoint is of other vectors under these ids; give another folder"
            )


def merge_ids(some: Ids, others: Ids) -> Ids:
    """Two ascending lists as one, each id once: a hundred times faster than `numpy.union1d`."""
    both: Ids = np.sort(np.concatenate([some, others]), kind="stable")
    is_first = np.ones(len(both), np.bool_)
    is_first[1:] = both[1:] != both[:-1]
    return both[is_first]


def part_ids(
    ids: Ids, sequence: int, known: Ids | None, stored: Coverage | None
) -> tuple[Ids, Ids, int]:
    """Which ids of a gallery a join takes for new and which for known, and the change it covers.

    `stored` is what an earlier start covered, None at the first: what has been added since is for
    the next join. Without `known` all are new. `CheckpointInvalid` where the gallery is older.
    """
    if stored is not None:
        if sequence < stored.sequence:
            raise CheckpointInvalid(
                f"the checkpoint is of sequence {stored.sequence}, the gallery is at {sequence}; "
                "replay the store first"
            )
        new = np.intersect1d(ids, stored.left.ids, assume_unique=True)
        right = ids[:0] if stored.right is None else stored.right.ids
        return new, np.intersect1d(ids, right, assume_unique=True), stored.sequence
    if known is None:
        return ids, ids[:0], sequence
    is_known = np.isin(ids, known)
    return ids[~is_known], ids[is_known], sequence


@dataclass(frozen=True, slots=True, eq=False)
class Coverage:
    """Both sides as they were when the join began; `sequence` is the watermark of their gallery."""

    sequence: int
    left: Roster
    right: Roster | None

    def __len__(self) -> int:
        return len(self.left.ids) + (0 if self.right is None else len(self.right.ids))

    @property
    def ids(self) -> Ids:
        """All ids of both sides, ascending."""
        return self.left.ids if self.right is None else merge_ids(self.left.ids, self.right.ids)

    @classmethod
    def of(cls, left: References, right: References | None, sequence: int) -> Coverage:
        return cls(sequence, Roster.of(left), None if right is None else Roster.of(right))

    def check(self, now: Coverage) -> None:
        """`CheckpointInvalid` where what is there now is more or other than what was."""
        for then, side in ((self.left, now.left), (self.right, now.right)):
            assert (then is None) == (side is None)
            if then is not None and side is not None:
                then.check(side)

    def lay_out(
        self, left: References, right: References | None
    ) -> tuple[References, References | None]:
        """Both sides in the order of the rosters: those that are not there any more are gone."""
        right_ids = None if self.right is None else self.right.ids
        return left.laid_out(self.left.ids), (
            right.laid_out(right_ids) if right is not None and right_ids is not None else None
        )

    def remaining(self, now: Coverage, *, mixed: bool) -> tuple[Ids, Ids] | None:
        """The left and right ids that a pair may still have; None where nobody is gone.

        `mixed` says that ids of each side stand on both sides of a pair.
        """
        if len(now) == len(self):
            return None
        if mixed or now.right is None:
            return now.ids, now.ids
        return now.left.ids, now.right.ids

    def to_bytes(self) -> bytes:
        right = _NO_SIDE if self.right is None else len(self.right.ids)
        parts = [_HEADER.pack(self.sequence, len(self.left.ids), right)]
        for side in (self.left, self.right):
            if side is not None:
                parts += [side.ids.astype("<i8").tobytes(), side.digests.astype("<u8").tobytes()]
        return b"".join(parts)

    @classmethod
    def from_bytes(cls, content: bytes) -> Coverage:
        """What `to_bytes` wrote."""
        sequence, left, right = _HEADER.unpack_from(content)
        rosters, place = [], _HEADER.size
        for count in (left, right):
            if count != _NO_SIDE:
                ids = np.frombuffer(content, "<i8", count, place)
                digests = np.frombuffer(content, "<u8", count, place + ids.nbytes)
                rosters.append(Roster(ids.astype(np.int64), digests.astype(np.uint64)))
                place += 2 * ids.nbytes
        return cls(sequence, rosters[0], rosters[1] if right != _NO_SIDE else None)
