"""Retention of sweep folders: cleaning, expiry, and erasure of people from their files."""

import logging
from collections.abc import Callable, Collection, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from threading import Lock

from engine.errors import NotFound, RegistryError, SweepOver
from engine.matching.calibration import Calibration
from engine.registry.database import is_id
from engine.registry.store import Reader
from engine.sweeps.folder import SweepFolder
from schema.sweeps import SweepRecord, SweepState

_log = logging.getLogger(__name__)


class SweepRetention:
    """Cleans, expires and erases the folders below `root`; safe to use from several threads.

    Needs the writer's lease. `stay` is how long the files of a done sweep are kept; None: for ever.
    `console` is where reports link their cases.
    """

    def __init__(
        self,
        root: Path,
        reader: Reader,
        calibration: Callable[[], Calibration],
        stay: timedelta | None,
        console: str = "",
    ) -> None:
        self._root = root
        self._reader = reader
        self._calibration = calibration
        self._stay = stay
        self._console = console
        # Two threads that rewrite one folder would bring back what the other has erased.
        self._lock = Lock()

    def clean(self, busy: str | None = None) -> None:
        """Removes the folders of cancelled and failed sweeps, the outputs of paused ones, and files
        that a crash has left, except of the sweep `busy`, which does so itself.

        A sweep that was killed before it had finished is finished; where its files can neither be
        rewritten nor removed, it is told in the log, and the next call tries again.
        """
        ending: list[SweepRecord] = []
        with self._lock:
            last = self._reader.sweeps.last_done()
            for record, folder in self._kept():
                if record.id == busy:
                    continue
                if record.state in {SweepState.CANCELLED, SweepState.FAILED}:
                    folder.remove()
                elif record.state is SweepState.PAUSED:
                    folder.drop_outputs()
                elif record.state is SweepState.DONE:
                    folder.drop_half_written()
                    if last and record.id != last.id:
                        folder.drop_covered()
                    if folder.is_ending:
                        ending.append(record)
        for record in ending:
            try:
                self.finish(record)
            except RegistryError as error:
                _log.warning("sweep %s may still name who was erased: %s", record.id, error)

    def expire(self, now: datetime) -> list[str]:
        """Removes the files of sweeps done longer ago than `stay`; returns the sweeps' ids.

        Of the last sweep the references and pairs stay, which the next one needs.
        """
        expired: list[str] = []
        if self._stay is None:
            return expired
        with self._lock:
            last = self._reader.sweeps.last_done()
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

    def erase(self, document_id: str, reference_ids: Collection[int]) -> None:
        """Erases a document and its references from the files of done sweeps.

        `RegistryError` if a file can be neither rewritten nor removed.
        """
        for record, folder in self._kept():
            if record.state is SweepState.DONE:
                self._erase(record, folder, reference_ids, document_id)

    def finish(self, record: SweepRecord) -> None:
        """Erases from a sweep that has just ended everybody who was erased while it ran, and then
        removes what only a resumed sweep needs. No erasure may be under way that did not find it
        done."""
        assert record.sequence is not None, "it has ended"
        folder, gone = SweepFolder.of(self._root, record.id), self._reader.removals(record.sequence)
        if len(gone):
            self._erase(record, folder, gone.tolist(), None)
        # Last, for it is the sign that the rest is done.
        folder.drop_checkpoint()

    def _erase(
        self,
        record: SweepRecord,
        folder: SweepFolder,
        reference_ids: Collection[int],
        document_id: str | None,
    ) -> None:
        with self._lock:
            try:
                folder.drop_references(reference_ids)
                if document_id is None or folder.names(document_id):
                    self._rewrite(record, folder, document_id)
            except (OSError, ImportError) as error:
                self._drop(folder, error)

    def _rewrite(self, record: SweepRecord, folder: SweepFolder, document_id: str | None) -> None:
        # Slow to import, and optional for a service.
        from engine.sweeps.outputs import DoneSweep, erase_from_files  # noqa: PLC0415

        try:
            sweep = DoneSweep.of(record, folder)
        except (RegistryError, SweepOver) as error:
            self._drop(folder, error)
        else:
            erase_from_files(sweep, self._reader, self._calibration(), document_id, self._console)

    def _drop(self, folder: SweepFolder, error: Exception) -> None:
        """Removes files that cannot be rewritten."""
        try:
            folder.drop_outputs()
            folder.drop_covered()
        except OSError as second:
            raise RegistryError(
                f"{folder.path} cannot be removed ({second.strerror}): fix its permissions"
            ) from None
        _log.warning(
            "sweep %s: its files are removed, since they could not be rewritten (%s)",
            folder.path.name,
            type(error).__name__,
        )

    def _kept(self) -> Iterator[tuple[SweepRecord, SweepFolder]]:
        """Every folder with its sweep; folders of another registry are skipped."""
        if not self._root.is_dir():
            return
        for path in sorted(self._root.iterdir()):
            if is_id(path.name) and path.is_dir():
                try:
                    yield self._reader.sweeps.get(path.name), SweepFolder(path)
                except NotFound:
                    continue


def _has_stayed(record: SweepRecord, until: datetime) -> bool:
    return record.ended_at is not None and record.ended_at <= until
