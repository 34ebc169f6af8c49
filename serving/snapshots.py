"""A deployment's gallery between starts: a snapshot on the disk, or shards and none."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING

from engine.errors import RegistryError
from engine.matching.recovery import (
    GalleryConfig,
    Restored,
    rebuild_gallery,
    restore_gallery,
    save_snapshot,
    withdraw_snapshot,
)
from engine.registry.store import Store
from indexes.gallery import Gallery
from indexes.joining.join import join_gallery
from indexes.segmented.merging import SegmentsConfig
from indexes.sharding.joining import join_shards
from indexes.sharding.shards import ShardedIndex, ShardPlan
from indexes.snapshots import snapshot
from indexes.snapshots.manifest import SegmentEntry
from serving.settings import Settings

if TYPE_CHECKING:
    from engine.sweeps.sweep_run import Join
    from indexes.exact.scanner import Scanner

# A change is in the store a moment before the gallery has it.
_LAG_S = 2.0
_RETRY_EVERY_S = 0.005

OpenIndex = Callable[[ShardPlan], ShardedIndex]
"""Opens an empty gallery on shards; `ShardLost` where they are not available."""


def gallery_config(settings: Settings) -> GalleryConfig:
    """The gallery configuration of the settings."""
    chosen = settings.gallery
    segments = SegmentsConfig(
        head_rows=chosen.head_rows,
        erasure_deadline_s=3600 * chosen.erasure_deadline_h,
        rows=chosen.rows,
        segment_rows=chosen.segment_rows,
    )
    return GalleryConfig(chosen.kind, segments, chosen.mapped)


class SnapshotManager:
    """The snapshot of a deployment; only the holder of the writer's lease may change it.

    `warn` gets one line for each failure.
    """

    def __init__(
        self, store: Store, folder: Path, config: GalleryConfig, warn: Callable[[str], None]
    ) -> None:
        self.folder = folder
        self._store = store
        self._config = config
        self._warn = warn
        self._removals_left_out = 0
        # Files that a withdrawal left, for the next save.
        self._trusted: tuple[SegmentEntry, ...] = ()
        self.is_withdrawn = False

    def restore(self) -> Restored:
        """The gallery, brought to the state of the store."""
        return restore_gallery(self._store, self.folder, self._config)

    def joiner(self, gallery: Gallery, scanner: Scanner) -> Join:
        """The join over all pairs of the gallery; uses these threads if it is in memory."""
        return partial(join_gallery, gallery, scanner=scanner)

    def close(self) -> None:
        """Releases resources of the gallery of `restore` other than memory."""

    def sweep(self) -> None:
        """Removes files of a replaced snapshot that a crash left, which may hold erased people."""
        if self.folder.is_dir():
            snapshot.sweep(self.folder)

    def save(self, gallery: Gallery) -> bool:
        """Replaces the snapshot; decisions go on meanwhile, erasures must not.

        False, with a warning, on failure: the previous snapshot stays.
        """
        try:
            save_snapshot(self._store, gallery, self.folder, self._config, self._trusted)
        except (OSError, RegistryError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            self._warn(f"the gallery's snapshot was not saved: {reason}")
            return False
        # A lease can be lost unnoticed: references erased by another writer must not stay here.
        if not self._is_current(gallery):
            self.remove()
            return False
        self._trusted, self.is_withdrawn = (), False
        return True

    def withdraw(self, gallery: Gallery, ids: Collection[int]) -> None:
        """Removes all files of the snapshot that may contain one of these references.

        There is no snapshot until the next `save` or `renew`, which writes anew what was removed.
        `RegistryError` where they cannot be removed.
        """
        if not self.folder.exists():
            return
        try:
            self._trusted = withdraw_snapshot(
                self._store, gallery, self.folder, ids, self._config, self._trusted
            )
        except OSError as error:
            raise RegistryError(
                f"{self.folder} cannot be removed ({error.strerror}), so nothing was "
                "erased: mend its permissions"
            ) from None
        self.is_withdrawn = True

    def renew(self, gallery: Gallery) -> None:
        """Replaces the snapshot by one without any removed row, or removes it; as `save`."""
        try:
            gallery.compact()
        except MemoryError:
            self._warn("the gallery's snapshot was not saved: too little memory")
            self.remove()
            return
        removals = gallery.removals
        if self.save(gallery):
            self._removals_left_out = removals
        else:
            self.remove()

    def may_hold_removed(self, gallery: Gallery) -> bool:
        """Whether a file of the snapshot may contain a removed reference."""
        # A tombstone from the snapshot, or a removal since, compacted or not.
        has_removed = (
            gallery.deadline_s() is not None or gallery.removals != self._removals_left_out
        )
        return has_removed and self.folder.exists()

    def remove(self) -> None:
        """Removes the snapshot if there is one; the next start rebuilds the gallery."""
        self._trusted, self.is_withdrawn = (), False
        try:
            if self.folder.exists():
                shutil.rmtree(self.folder)
        except OSError as error:
            self._warn(f"remove {self.folder} by hand: {error.strerror}")

    def _is_current(self, gallery: Gallery) -> bool:
        """Whether the gallery has, or soon will have, all that is in the store now."""
        try:
            stored = self._store.sequence()
        except RegistryError:
            return False
        # A batch lies between its commit and its place in the gallery.
        give_up_at = monotonic() + _LAG_S
        while gallery.sequence < stored:
            if monotonic() > give_up_at:
                return False
            sleep(_RETRY_EVERY_S)
        return True


class ShardManager(SnapshotManager):
    """The gallery on shards, with no snapshot: it is built from the store at every start.

    A snapshot left by a start without shards is removed, so that no later start can load a face
    that was erased meanwhile.
    """

    def __init__(
        self,
        store: Store,
        folder: Path,
        config: GalleryConfig,
        warn: Callable[[str], None],
        open_shards: OpenIndex,
    ) -> None:
        super().__init__(store, folder, config, warn)
        self._open = open_shards
        self._index: ShardedIndex | None = None

    def restore(self) -> Restored:
        """The gallery, built on new shards; those of an earlier call are ended first."""
        self.close()
        config = self._config
        plan = ShardPlan(config.kind, self._store.vault.dim, config=config.segments)
        self._index = self._open(plan)
        try:
            return rebuild_gallery(self._store, self._index)
        except BaseException:
            self.close()
            raise

    def joiner(self, gallery: Gallery, scanner: Scanner) -> Join:
        """The join over the shards, each with its own threads."""
        del scanner
        assert self._index is not None, "restored before it is joined"
        return partial(join_shards, gallery, self._index)

    def close(self) -> None:
        """Ends the shards."""
        if self._index is not None:
            self._index.close()
            self._index = None

    def sweep(self) -> None:
        self.remove()

    def save(self, gallery: Gallery) -> bool:
        """Saves nothing, and returns False."""
        del gallery
        return False

    def renew(self, gallery: Gallery) -> None:
        """Frees removed references in the shards' memory, and removes any snapshot."""
        self.remove()
        gallery.compact()

    def may_hold_removed(self, gallery: Gallery) -> bool:
        del gallery
        return False
