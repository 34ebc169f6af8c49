"""The folders of all sweeps: what of them stays, how long, and without whom."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from engine.errors import NotFound, RegistryError, SweepOver
from engine.matching.calibration import Calibration
from engine.registry.reader import Reader
from engine.registry.records import is_id
from engine.sweeps.folder import SweepFolder
from engine.sweeps.groups import make_group
from engine.sweeps.risk import rank
from engine.sweeps.sweep_model import Group, GroupKind, SweepRecord, SweepState

if TYPE_CHECKING:
    import pyarrow as pa

    from engine.sweeps.reload import Reread

_log = logging.getLogger(__name__)

_ENDED_WITHOUT = frozenset({SweepState.CANCELLED, SweepState.FAILED})


class SweepKeeper:
    """Looks after the folders below `root`; safe to use from many threads of one process.

    To be used with the writer's lease in hand. `stay` is how long files of a done sweep are kept,
    None for good.
    """

    def __init__(
        self,
        root: Path,
        reader: Reader,
        calibration: Callable[[], Calibration],
        stay: timedelta | None,
    ) -> None:
        self._root = root
        self._reader = reader
        self._calibration = calibration
        self._stay = stay
        # Two that write one folder anew at once would bring back what the other left out.
        self._lock = Lock()

    def clean(self, busy: str | None = None) -> None:
        """Removes what sweeps that ended otherwise had found, and what paused ones had written;
        not of the sweep `busy`, which does so itself."""
        with self._lock:
            last = self._reader.last_done_sweep()
            for record, folder in self._kept():
                if record.id == busy:
                    continue
                if record.state in _ENDED_WITHOUT:
                    folder.remove()
                elif record.state is SweepState.PAUSED:
                    folder.drop_outputs()
                elif record.state is SweepState.DONE and last and record.id != last.id:
                    folder.drop_covered()

    def expire(self, now: datetime) -> list[str]:
        """Removes the files of sweeps that were done so long ago; the sweeps' ids.

        Of the last one stays what the next needs: numbers of references.
        """
        expired: list[str] = []
        if self._stay is None:
            return expired
        with self._lock:
            last = self._reader.last_done_sweep()
            for record, folder in self._kept():
                if record.state is not SweepState.DONE or not _has_stayed(record, now - self._stay):
                    continue
                if last is None or record.id != last.id:
                    folder.remove()
                elif folder.groups.exists():
                    folder.drop_outputs()
                else:
                    continue
                expired.append(record.id)
        return expired

    def forget(self, document_id: str, reference_ids: Collection[int]) -> None:
        """Takes a document and its references out of what done sweeps have found.

        `RegistryError` where that can neither be written anew nor removed.
        """
        for record, folder in self._kept():
            if record.state is SweepState.DONE:
                self._forget(record, folder, reference_ids, document_id)

    def forget_since(self, record: SweepRecord) -> None:
        """Takes out of a sweep that has just ended whoever was erased while it ran."""
        assert record.sequence is not None, "it has ended"
        folder, gone = SweepFolder.of(self._root, record.id), self._reader.removals(record.sequence)
        if len(gone):
            self._forget(record, folder, gone.tolist(), None)

    def _forget(
        self,
        record: SweepRecord,
        folder: SweepFolder,
        reference_ids: Collection[int],
        document_id: str | None,
    ) -> None:
        with self._lock:
            try:
                folder.forget(reference_ids)
                if document_id is None or folder.names(document_id):
                    self._write_anew(record, folder, document_id)
            except OSError as error:
                self._drop(folder, error)

    def _write_anew(
        self, record: SweepRecord, folder: SweepFolder, document_id: str | None
    ) -> None:
        try:
            # Heavy, and a service may run without.
            from engine.sweeps.reload import Reread  # noqa: PLC0415

            sweep = Reread.of(record, folder)
        except (ImportError, RegistryError, SweepOver) as error:
            self._drop(folder, error)
        else:
            forget_erased(sweep, self._reader, self._calibration(), document_id)

    def _drop(self, folder: SweepFolder, error: Exception) -> None:
        """What cannot be written anew must not stay as it is."""
        try:
            folder.drop_outputs()
            folder.drop_covered()
        except OSError as second:
            raise RegistryError(
                f"{folder.path} cannot be removed ({second.strerror}): mend its permissions"
            ) from None
        _log.warning(
            "sweep %s: what it found is removed, for it could not be written anew (%s)",
            folder.path.name,
            type(error).__name__,
        )

    def _kept(self) -> Iterator[tuple[SweepRecord, SweepFolder]]:
        """Every folder with its sweep; those that another registry has made are not touched."""
        if not self._root.is_dir():
            return
        for path in sorted(self._root.iterdir()):
            if is_id(path.name) and path.is_dir():
                try:
                    yield self._reader.sweep(path.name), SweepFolder(path)
                except NotFound:
                    continue


def _has_stayed(record: SweepRecord, until: datetime) -> bool:
    return record.ended_at is not None and record.ended_at <= until


# Whoever was erased leaves what a sweep has found as well.

_SIDES = ("left_document", "right_document")


def forget_erased(
    sweep: Reread,
    reader: Reader,
    calibration: Calibration,
    document_id: str | None = None,
) -> bool:
    """Writes a sweep's files anew without a document, or without whichever are erased; False
    where they name none.

    A group of one face goes on with whom is left, under its key, by which its case is known; with
    less than two it goes, and so does any other that has nobody left. Counts in the registry's
    row of the sweep stay: they name nobody.
    """
    named = set(_name_all(sweep))
    gone = _find_erased(named, reader) if document_id is None else named & {document_id}
    if not gone:
        return False
    # Not above: a service runs without pyarrow and Jinja2.
    from engine.sweeps.outputs import write_findings  # noqa: PLC0415

    threshold = sweep.record.terms.threshold
    left = replace(
        sweep,
        pairs=_without(sweep.pairs, gone),
        groups=rank(leave_out(sweep.groups, gone, threshold)),
    )
    write_findings(sweep.folder, sweep.about, left.pairs, left.contents(reader, calibration))
    return True


def leave_out(groups: Iterable[Group], gone: Collection[str], threshold: float) -> Iterable[Group]:
    """The groups without these documents, those that were nothing else left out."""
    for group in groups:
        links, severed = (
            [one for one in some if one.left not in gone and one.right not in gone]
            for some in (group.links, group.severed)
        )
        members = [one for one in group.identities if one.document_id not in gone]
        if group.kind is GroupKind.ONE_FACE:
            if links:
                yield make_group(group.key, members, links, severed, threshold)
        elif members:
            yield replace(group, identities=tuple(members))


def _find_erased(named: Collection[str], reader: Reader) -> set[str]:
    asked = sorted(named)
    known = reader.documents_by_id(asked)
    return {key for key in asked if key not in known or known[key].is_erased}


def _name_all(sweep: Reread) -> Iterable[str]:
    for side in _SIDES:
        yield from sweep.pairs[side].unique().to_pylist()
    for group in sweep.groups:
        yield from (one.document_id for one in group.identities)
        for link in (*group.links, *group.severed):
            yield from (link.left, link.right)


def _without(pairs: pa.Table, gone: Collection[str]) -> pa.Table:
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.compute as pc  # noqa: PLC0415

    erased = pa.array(sorted(gone), pa.string())
    for side in _SIDES:
        pairs = pairs.filter(pc.invert(pc.is_in(pairs[side], value_set=erased)))
    return pairs
