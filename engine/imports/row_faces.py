"""Faces of rows: photographs read from one folder and extracted, templates, and the row's 1:1."""

import errno
import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from engine.errors import ImageError
from engine.faces.image_files import ImageLimits
from engine.imports.row_parser import Code, Field, Row, RowFault, is_sound
from engine.matching.bulk_enrollment import Subscriber
from engine.matching.comparison import fuse_vectors, score_best
from engine.matching.samples import Sample
from engine.models.catalog import Transform
from engine.registry.vault import Vault
from indexes.base import Closing, Floats
from schema import frozen
from schema.reasons import PhotographKind, Reason

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
_MISSING = (errno.ENOENT, errno.ENOTDIR)


class PhotographFolder:
    """The folder that relative paths start from.

    A path that leads out of it, by `..`, from the root or through a link, is refused unless
    `allows_outside`. At most one byte more than `max_size_bytes` is read of a file.
    """

    def __init__(
        self,
        root: Path,
        *,
        allows_outside: bool = False,
        max_size_bytes: int = ImageLimits().max_size_bytes,
    ) -> None:
        self._root = os.path.realpath(root)
        self._inside = os.path.join(self._root, "")
        self._allows_outside = allows_outside
        self._max_size_bytes = max_size_bytes

    def read(self, text: str) -> bytes | Code:
        """The file's bytes, or the code of the fault; thread-safe."""
        if "\0" in text:
            return Code.PATH_INVALID
        try:
            path = os.path.realpath(os.path.join(self._root, text))
            if not (self._allows_outside or path.startswith(self._inside)):
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
        # The path was resolved, and the file may have been replaced since: follow no link, and do
        # not block on a pipe.
        handle = os.open(path, _FLAGS)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                return Code.FILE_UNREADABLE
            with open(handle, "rb", closefd=False) as file:
                return file.read(self._max_size_bytes + 1)
        finally:
            os.close(handle)


Face = Floats | tuple[RowFault, ...] | None
"""A rotated unit vector float32[d], the faults of what was given, or None: nothing was."""
ExtractSamples = Callable[
    [Sequence[bytes], Sequence[PhotographKind | None]], list[Sample | ImageError]
]
"""Image files and their kinds to rotated samples, in order; called by several threads."""
OpenTemplates = Callable[[Sequence[str], Sequence[str]], list[Floats | None]]
"""Tokens of issued templates and their carriers to rotated unit vectors, None where invalid,
expired or not the carrier's."""

READERS = 8
"""Files read at once: network storage is slow to answer."""
EXTRACTIONS = 2
"""Groups extracted at once: while the last photographs of one are processed, the first of the
next keep the other cores busy."""
PREFETCHED = 2
"""Groups whose files are read in the meantime."""
_MIN_NORM = 1e-6


@frozen(eq=False)
class RowFaces:
    """A row with its faces; a template takes the place of `live`. `samples` has the usable
    photographs."""

    row: Row
    live: Face
    portrait: Face
    photographs: int
    samples: Mapping[str, Sample]


class FaceLoader(Closing):
    """Loads the faces of groups of rows, several groups at once, and keeps their order."""

    def __init__(
        self,
        folder: PhotographFolder,
        extract: ExtractSamples,
        vault: Vault,
        open_templates: OpenTemplates = lambda tokens, _: [None for _ in tokens],
        transform: Transform | None = None,
    ) -> None:
        """`transform` is applied to a file's vectors: those of a model that it was added to."""
        self._folder = folder
        self._extract = extract
        self._vault = vault
        self._open_templates = open_templates
        self._transform = transform
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="import-read")
        self._extractions = ThreadPoolExecutor(EXTRACTIONS, thread_name_prefix="import-extract")

    def close(self) -> None:
        # Running tasks finish, waiting ones are cancelled.
        self._extractions.shutdown(cancel_futures=True)
        self._readers.shutdown(cancel_futures=True)

    def stream(self, groups: Iterable[Sequence[Row]]) -> Iterator[list[RowFaces]]:
        """The faces of each group; a bounded number of groups is in progress."""
        pending: deque[Future[list[RowFaces]]] = deque()
        for group in groups:
            slots = [
                (place, field, path)
                for place, row in enumerate(group)
                for field, path in ((Field.LIVE, row.live), (Field.PORTRAIT, row.portrait))
                if path
            ]
            files = [self._readers.submit(self._folder.read, path) for _, _, path in slots]
            places = [(place, field) for place, field, _ in slots]
            pending.append(self._extractions.submit(self._load_group, group, places, files))
            if len(pending) >= EXTRACTIONS + PREFETCHED:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    def _load_group(
        self,
        group: Sequence[Row],
        places: Sequence[tuple[int, Field]],
        files: Sequence[Future[bytes | Code]],
    ) -> list[RowFaces]:
        faces: dict[tuple[int, Field], Face] = {}
        images: list[bytes] = []
        read: list[tuple[int, Field]] = []
        for slot, file in zip(places, files, strict=True):
            data = file.result()
            if isinstance(data, bytes):
                images.append(data)
                read.append(slot)
            else:
                faces[slot] = (RowFault(slot[1], data),)
        kinds = [
            group[place].portrait_kind if field is Field.PORTRAIT else None for place, field in read
        ]
        samples = self._extract(images, kinds) if images else []
        usable: dict[int, dict[str, Sample]] = {}
        for slot, sample in zip(read, samples, strict=True):
            faces[slot] = face = _face_of(slot[1], sample)
            if isinstance(face, np.ndarray) and isinstance(sample, Sample):
                # The vector goes with the row, and no picture is looked for again.
                kept = replace(sample, vector=None, thumbnail=None)
                usable.setdefault(slot[0], {})[slot[1].value] = kept
        self._add_vectors(group, faces)
        self._add_templates(group, faces)
        counts = np.bincount([place for place, _ in read], minlength=len(group))
        return [
            RowFaces(
                row,
                faces.get((place, Field.LIVE), faces.get((place, Field.TEMPLATE))),
                faces.get((place, Field.PORTRAIT)),
                int(counts[place]),
                usable.get(place, {}),
            )
            for place, row in enumerate(group)
        ]

    def _add_vectors(self, group: Sequence[Row], faces: dict[tuple[int, Field], Face]) -> None:
        sound: dict[int, Floats] = {}
        for place, row in enumerate(group):
            if row.vector is None:
                continue
            unit = _normalise(row.vector, self._vault.dim)
            if unit is None:
                faces[place, Field.TEMPLATE] = (RowFault(Field.TEMPLATE, Code.VECTOR_INVALID),)
            else:
                sound[place] = unit
        if sound:
            units = np.stack(list(sound.values()))
            if self._transform is not None:
                units = self._transform.apply(units)
            rotated = self._vault.rotate(units)
            for place, vector in zip(sound, rotated, strict=True):
                faces[place, Field.TEMPLATE] = vector

    def _add_templates(self, group: Sequence[Row], faces: dict[tuple[int, Field], Face]) -> None:
        issued = [(place, row) for place, row in enumerate(group) if row.template]
        if not issued:
            return
        opened = self._open_templates(
            [row.template for _, row in issued], [row.carrier for _, row in issued]
        )
        for (place, _), vector in zip(issued, opened, strict=True):
            faces[place, Field.TEMPLATE] = (
                (RowFault(Field.TEMPLATE, Code.TEMPLATE_INVALID),) if vector is None else vector
            )


def group_rows(rows: Iterable[Row], photographs_at_once: int, max_rows: int) -> Iterator[list[Row]]:
    """Split rows into groups of about `photographs_at_once` photographs, or `max_rows` rows."""
    group: list[Row] = []
    photographs = 0
    for row in rows:
        group.append(row)
        photographs += bool(row.live) + bool(row.portrait)
        if photographs >= photographs_at_once or len(group) >= max_rows:
            yield group
            group, photographs = [], 0
    if group:
        yield group


def _face_of(field: Field, sample: Sample | ImageError) -> Face:
    if isinstance(sample, ImageError):
        return (RowFault(field, sample.code, text=str(sample)),)
    if sample.vector is None or sample.problems:
        problems = sample.problems or (Reason.NO_FACE,)
        return tuple(RowFault(field, problem) for problem in problems)
    return sample.vector


def _normalise(vector: Floats, dim: int) -> Floats | None:
    """The normalised vector; None where it has another length, or no direction."""
    if vector.shape != (dim,) or not np.isfinite(vector).all():
        return None
    norm = np.linalg.norm(vector.astype(np.float64))
    if norm < _MIN_NORM:
        return None
    unit: Floats = (vector / norm).astype(np.float32)
    return unit


@frozen(eq=False)
class JudgedRow:
    """A row before it is compared with the registry; `subscriber` is None where it has failed.

    `is_fused` says that the reference is of two faces that passed the 1:1.
    """

    number: int
    faults: tuple[RowFault, ...]
    subscriber: Subscriber | None
    photographs: int = 0
    is_fused: bool = False
    is_expired: bool = False


def judge_row(faces: RowFaces, verify: float) -> JudgedRow:
    """Judge a row by its faces.

    If both are usable, their score must reach `verify`. If one is, it is the reference, and the
    faults of the other are warnings. A row without a usable face has failed.
    """
    row = faces.row
    vector, found = _find_reference(faces.live, faces.portrait, verify)
    faults = row.faults + found
    subscriber = None
    if vector is not None and is_sound(faults):
        assert row.checked is not None, "a row without a document has a fault"
        subscriber = Subscriber(
            row.name, row.checked, vector, row.line, row.consent, faces.samples, row.carrier
        )
    return JudgedRow(
        number=row.number,
        faults=faults,
        subscriber=subscriber,
        photographs=faces.photographs,
        is_fused=isinstance(faces.live, np.ndarray) and isinstance(faces.portrait, np.ndarray),
        is_expired=row.checked is not None and Reason.DOCUMENT_EXPIRED in row.checked.findings,
    )


def _find_reference(
    live: Face, portrait: Face, verify: float
) -> tuple[Floats | None, tuple[RowFault, ...]]:
    """The reference float32[d], if there is one, and the faults of the faces."""
    faults = tuple(fault for face in (live, portrait) if isinstance(face, tuple) for fault in face)
    usable = [face for face in (live, portrait) if isinstance(face, np.ndarray)]
    if not usable:
        return None, faults
    if len(usable) == 1:
        # A row with such a path is not trusted at all.
        return usable[0], tuple(
            replace(one, is_failure=one.code is Code.PATH_OUTSIDE) for one in faults
        )
    score = score_best(usable[0], usable[1][None])
    if score is None or not score >= verify:
        return None, (RowFault(Field.PORTRAIT, Reason.FACE_MISMATCH),)
    return fuse_vectors(usable[0], usable[1]), faults
