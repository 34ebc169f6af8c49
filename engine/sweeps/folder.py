"""The folder of a sweep: its files appear whole or not at all, and only their owner reads them.

The file of its groups is one JSON object: a head of fixed size, one group per line in the order of
ranks, and an index of where each line begins. Any JSON reader can read it, and a page takes the
index and its own lines, not the whole file.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import field
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Self

import msgspec
import numpy as np

from engine.errors import NotFound, RegistryError, file_errors
from engine.registry.database import is_id
from indexes.atomic_files import replacing
from indexes.base import Ids
from indexes.joining import RECORD, Records
from schema import frozen
from schema.sweeps import Group, SweepProgress

_CHECKPOINT, _COVERED, _PAIRS, _STATUS = "checkpoint", "covered.bin", "found.bin", "standing.json"
_ID_TYPE = "<i8"
FORMAT = 1
_OFFSET_DIGITS = 15


@frozen(eq=False)
class Covered:
    """Coverage that a done sweep leaves to the next: the references compared, int64[n] ascending,
    and all pairs between documents found among them, by it and by earlier sweeps."""

    ids: Ids
    pairs: Records


@frozen
class SweepStatus:
    """Status of a sweep that is not done, as saved in its folder.

    `spent_s` is the total time of its runs; `starts` counts the runs since it last made progress: a
    sweep that crashes its process again and again must not be started for ever.
    """

    progress: SweepProgress = field(default_factory=SweepProgress)
    spent_s: float = 0.0
    starts: int = 0


@frozen
class SweepFolder:
    """The folder of one sweep; it does not exist before `make`."""

    path: Path

    @classmethod
    def of(cls, root: Path, sweep_id: str) -> SweepFolder:
        assert is_id(sweep_id)
        return cls(root / sweep_id)

    @property
    def checkpoint(self) -> Path:
        return self.path / _CHECKPOINT

    @property
    def groups(self) -> Path:
        return self.path / "groups.json"

    @property
    def pairs(self) -> Path:
        return self.path / "pairs.parquet"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    def make(self) -> None:
        """Creates the folder, and removes half-written files of a crash; `RegistryError`."""
        with file_errors(f"{self.path} cannot be created", RegistryError):
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.drop_half_written()

    def files(self) -> Iterator[Path]:
        """The outputs of a done sweep, by name."""
        inner = {_COVERED, _PAIRS, _STATUS}
        found = sorted(self.path.glob("[!.]*")) if self.path.is_dir() else []
        return (one for one in found if one.is_file() and one.name not in inner)

    def names(self, document_id: str) -> bool:
        """True where the outputs name a document.

        Searches bytes, so that an erasure does not wait for old sweeps to be parsed.
        """
        if next(self.files(), None) is None:
            return False
        for path in (self.groups, self.path / "pairs.csv"):
            try:
                with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as text:
                    if text.find(document_id.encode()) >= 0:
                        return True
            except (OSError, ValueError):
                # Nothing is known of the other files.
                return True
        return False

    @property
    def is_ending(self) -> bool:
        """True where `drop_checkpoint` has not been called, or was interrupted."""
        return (self.path / _STATUS).exists()

    def drop_half_written(self) -> None:
        """Removes files that a crash has left beside those that they were to replace."""
        for leftover in self.path.glob(".*"):
            leftover.unlink(missing_ok=True)

    def drop_outputs(self) -> None:
        """Removes the outputs."""
        for path in self.files():
            path.unlink(missing_ok=True)
        self.drop_half_written()

    def drop_covered(self) -> None:
        """Removes what only the next sweep needs."""
        for name in (_COVERED, _PAIRS):
            (self.path / name).unlink(missing_ok=True)

    def drop_checkpoint(self) -> None:
        """Removes what only a resumed sweep needs."""
        shutil.rmtree(self.checkpoint, ignore_errors=True)
        (self.path / _STATUS).unlink(missing_ok=True)

    def remove(self) -> None:
        """Removes the whole folder."""
        shutil.rmtree(self.path, ignore_errors=True)

    def save_covered(self, covered: Covered) -> None:
        self._save_pairs(covered.pairs)
        with replacing(self.path / _COVERED) as beside:
            covered.ids.astype(_ID_TYPE).tofile(beside)

    def load_covered(self) -> Covered | None:
        """Loads what `save_covered` saved; None if it is missing or incomplete."""
        paths = (self.path / _COVERED, self.path / _PAIRS)
        try:
            sizes = [path.stat().st_size for path in paths]
            ids = np.fromfile(paths[0], _ID_TYPE).astype(np.int64)
            found = np.fromfile(paths[1], RECORD)
        except OSError:
            return None
        if sizes != [ids.nbytes, RECORD.itemsize * len(found)] or not (ids[1:] > ids[:-1]).all():
            return None
        return Covered(ids, found)

    def drop_references(self, references: Collection[int]) -> None:
        """Removes the pairs of these references from what the next sweep needs."""
        try:
            found = np.fromfile(self.path / _PAIRS, RECORD)
        except OSError:
            return
        gone = np.fromiter(references, np.int64, len(references))
        kept = ~(np.isin(found["left"], gone) | np.isin(found["right"], gone))
        if not kept.all():
            self._save_pairs(found[kept])

    def _save_pairs(self, pairs: Records) -> None:
        with replacing(self.path / _PAIRS) as beside:
            pairs.tofile(beside)

    def save_status(self, status: SweepStatus) -> None:
        with replacing(self.path / _STATUS) as beside:
            beside.write_bytes(msgspec.json.encode(status))

    def load_status(self) -> SweepStatus:
        """Loads what `save_status` saved last; an empty status if there is none."""
        try:
            return msgspec.json.decode((self.path / _STATUS).read_bytes(), type=SweepStatus)
        except (OSError, ValueError):
            return SweepStatus()


@frozen
class GroupFile:
    """A file written by `write_groups`; `offsets` are where each group begins, by its key and in
    the order of ranks."""

    _path: Path
    offsets: Mapping[str, int] = field(repr=False)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Reads the index; `RegistryError` if the file is missing or damaged."""
        try:
            with path.open("rb") as file:
                head = json.loads(file.readline() + b"]}")
                if head["format"] != FORMAT:
                    raise ValueError("another format")
                file.seek(head["index_at"])
                index = json.loads(b"{" + file.read())["index"]
                if len(index) != head["count"]:
                    raise ValueError("not all groups")
                return cls(path, {key: int(offset) for key, _kind, offset in index})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _damaged(path) from error

    def __len__(self) -> int:
        return len(self.offsets)

    def group(self, key: str) -> Group:
        """Raises `NotFound`."""
        if key not in self.offsets:
            raise NotFound("this sweep has no such group: list its groups")
        return self._read([self.offsets[key]])[0]

    def page(self, limit: int, start: int = 0) -> list[Group]:
        """At most `limit` groups by rank, after the first `start`."""
        return self._read([*self.offsets.values()][start : start + limit])

    def _read(self, offsets: Sequence[int]) -> list[Group]:
        lines, found = msgspec.json.Decoder(Group), []
        try:
            with self._path.open("rb") as file:
                for offset in offsets:
                    file.seek(offset)
                    found.append(lines.decode(file.readline().rstrip(b"\n,")))
        except (OSError, ValueError) as error:
            raise _damaged(self._path) from error
        return found


def write_groups(path: Path, groups: Sequence[Group]) -> None:
    """Writes ranked groups, each key once, readable by the owner alone."""
    assert len({group.key for group in groups}) == len(groups), "a group is listed twice"
    index = []
    with replacing(path) as beside, beside.open("wb") as file:
        file.write(_head(len(groups), 0))
        for number, group in enumerate(groups, start=1):
            index.append((group.key, group.kind.value, file.tell()))
            file.write(msgspec.json.encode(group) + (b",\n" if number < len(groups) else b"\n"))
        file.write(b"],\n")
        index_at = file.tell()
        file.write(b'"index": ' + json.dumps(index).encode() + b"}\n")
        file.seek(0)
        file.write(_head(len(groups), index_at))


def _head(count: int, index_at: int) -> bytes:
    """The head, of fixed size, since it is written again at the end."""
    return (
        f'{{"format": {FORMAT}, "count": {count:>{_OFFSET_DIGITS}}, '
        f'"index_at": {index_at:>{_OFFSET_DIGITS}}, "groups": [\n'
    ).encode()


def _damaged(path: Path) -> RegistryError:
    return RegistryError(f"the groups in {path.name} cannot be read: sweep again")
