"""A deployment's gallery between starts: a snapshot on the disk, or shards and none."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Collection
from concurrent.futures import Future, wait
from dataclasses import replace
from datetime import datetime
from functools import partial
from importlib.metadata import version
from math import inf
from pathlib import Path
from threading import Event, Lock, Thread
from time import monotonic, sleep
from typing import TYPE_CHECKING

import numpy as np

from engine.errors import RegistryError, SealBroken
from engine.matching.recovery import (
    Restored,
    Tell,
    fill_copy,
    finish_move,
    origin_of,
    restore_gallery,
    restore_shards,
    save_snapshot,
    withdraw_snapshot,
)
from engine.matching.registrar import Registrar
from engine.registry.file_ciphers import ShardSealer
from engine.registry.keyring import Key
from engine.registry.store import Store
from engine.registry.writer import Writer
from indexes.atomic_files import created, flush
from indexes.errors import ShardFenced, ShardLost, SnapshotMissing
from indexes.gallery import Gallery
from indexes.joining.join import join_gallery
from indexes.segmented.merging import SegmentsConfig
from indexes.sharding.host import ReplicatedShard, Shard
from indexes.sharding.joining import join_shards
from indexes.sharding.sharded_index import ShardedIndex
from indexes.sharding.shards import ShardPlan
from indexes.snapshots import snapshot
from indexes.snapshots.manifest import SegmentEntry
from indexes.snapshots.snapshot import Opening
from serving.errors import Interrupted
from serving.settings.settings import Settings

if TYPE_CHECKING:
    from engine.sweeps.sweep_run import Join
    from indexes.exact.scanner import Scanner

_log = logging.getLogger(__name__)
# A change is in the store a moment before the gallery has it.
_LAG_S = 2.0
_RETRY_EVERY_S = 0.005
_FORGOTTEN_WITHIN_S = 10.0

OpenIndex = Callable[[ShardPlan], ShardedIndex]
"""Opens a gallery on shards: those that an earlier writer left, and new ones, which are empty.
`ShardLost` where they are not available, `ShardFenced` where a later writer has them."""


def gallery_config(settings: Settings) -> Opening:
    """The gallery configuration of the settings."""
    chosen = settings.gallery
    segments = SegmentsConfig(
        head_rows=chosen.head_rows,
        erasure_deadline_s=3600 * chosen.erasure_deadline_h,
        rows=chosen.rows,
        segment_rows=chosen.segment_rows,
        device=chosen.device,
    )
    return Opening(segments, mapped=chosen.mapped)


SHARD_KEYS_FOLDER = "shards"


class ShardKeys:
    """The sealed key of each shard's snapshots, in a folder beside the gallery's. Snapshots of a
    destroyed key open no more, even on a node that is away."""

    def __init__(self, store: Store, folder: Path) -> None:
        self._store, self._folder = store, folder

    def find(self, name: str) -> ShardSealer | None:
        """The sealer of a shard's snapshots, where there may be any."""
        try:
            sealed = (self._folder / name).read_bytes()
            secret = self._store.vault.sealer().open(sealed, self._context(name))
        except (OSError, SealBroken):
            return None
        return self._sealer(Key(1, secret))

    def find_or_make(self, name: str) -> ShardSealer:
        """The same, or that of a new key."""
        if (found := self.find(name)) is not None:
            return found
        made = Key.generate(1)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self._folder / name).unlink(missing_ok=True)
        with created(self._folder / name) as file:
            file.write(self._store.vault.sealer().seal(made.secret, self._context(name)))
        flush(self._folder)
        return self._sealer(made)

    def destroy(self, names: Collection[str]) -> None:
        """Durably, before it returns."""
        if not self._folder.is_dir():
            return
        for name in names:
            (self._folder / name).unlink(missing_ok=True)
        flush(self._folder)

    def destroy_all_but(self, kept: Collection[str]) -> int:
        """Destroys the keys that no erasure would find: of another number of shards, or of none;
        returns how many."""
        if not self._folder.is_dir():
            return 0
        doomed = [path.name for path in self._folder.iterdir() if path.name not in kept]
        self.destroy(doomed)
        return len(doomed)

    def _sealer(self, key: Key) -> ShardSealer:
        return ShardSealer(key, self._store.vault.deployment_id.encode())

    @staticmethod
    def _context(name: str) -> bytes:
        return b"key of shard " + name.encode()


class SnapshotManager:
    """The snapshot of a deployment, for the holder of the writer's lease; `warn` gets a line for
    each failure."""

    def __init__(
        self, store: Store, folder: Path, config: Opening, warn: Callable[[str], None]
    ) -> None:
        self.folder = folder
        self._store = store
        self._config = config
        self._warn = warn
        self._removals_left_out = 0
        # Files that a withdrawal left, for the next save.
        self._trusted: tuple[SegmentEntry, ...] = ()
        self.is_withdrawn = False

    def restore(self, tell: Tell | None = None) -> Restored:
        """The gallery, brought to the state of the store; `tell` says what is rebuilt for it."""
        del tell
        return restore_gallery(self._store, self.folder, self._config)

    def joiner(self, gallery: Gallery, scanner: Scanner) -> Join:
        """The join over all pairs of the gallery; uses these threads if it is in memory."""
        return partial(join_gallery, gallery, scanner=scanner)

    @property
    def has_any(self) -> bool:
        """True where there is a snapshot, or one is to be saved again after an erasure."""
        return self.is_withdrawn or self.folder.exists()

    @property
    def copies_wanting(self) -> int:
        """The number of shards that have fewer copies than they are to have."""
        return 0

    @property
    def moves_wanting(self) -> int:
        """The number of virtual shards to be moved to another shard."""
        return 0

    def tend(self, registrar: Registrar, save: Callable[[], None]) -> None:
        """Keeps up what the gallery of `restore` needs beside its own upkeep; `save` has it saved
        when that is worth it."""

    def stop_tending(self) -> None:
        """Ends that; before the registrar is closed."""

    def close(self) -> None:
        """Releases resources of the gallery of `restore` other than memory."""

    def release(self) -> None:
        """The same, but leaves to the next writer what can outlive this process."""

    def sweep(self) -> None:
        """Removes files of a replaced snapshot that a crash left, which may hold erased people, and
        the keys of shards that there are no more."""
        ShardKeys(self._store, self.folder.with_name(SHARD_KEYS_FOLDER)).destroy_all_but(())
        if self.folder.is_dir():
            snapshot.sweep(self.folder)

    def save(self, gallery: Gallery) -> bool:
        """Replaces the snapshot; decisions go on meanwhile, erasures must not. False, with a
        warning, where the previous one stays."""
        try:
            save_snapshot(self._store, gallery, self.folder, self._config, self._trusted)
        except (OSError, RegistryError, MemoryError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            if isinstance(error, MemoryError):
                reason = "too little memory"
            self._warn(f"the gallery's snapshot was not saved: {reason}")
            return False
        # A lease can be lost unnoticed: references erased by another writer must not stay here.
        if not self._is_current(gallery):
            self.remove()
            return False
        self._trusted, self.is_withdrawn = (), False
        return True

    def withdraw(self, gallery: Gallery, ids: Collection[int]) -> None:
        """Removes all files of the snapshot that may contain one of these references; there is none
        until the next `save` or `renew`. `RegistryError` where they cannot be removed."""
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

    def renew(self, gallery: Gallery) -> bool:
        """Replaces the snapshot by one without any removed row; on failure there is none, and it
        counts as withdrawn."""
        is_saved = False
        try:
            gallery.compact()
            removals = gallery.removals
            is_saved = self.save(gallery)
        except MemoryError:
            self._warn("the gallery's snapshot was not saved: too little memory")
        finally:
            if not is_saved:
                self.remove()
                self.is_withdrawn = True
        if is_saved:
            self._removals_left_out = removals
        return is_saved

    def has_room(self, gallery: Gallery) -> bool:
        """True where its disk has the least room that a snapshot of the whole gallery takes."""
        account = gallery.account()
        needed = account.rows + account.codes + account.head
        return shutil.disk_usage(self.folder.parent).free > needed

    def may_hold_removed(self, gallery: Gallery) -> bool:
        """True where a file of the snapshot may contain a removed reference."""
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
        """True where the gallery has, or soon will have, all that is in the store now."""
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
    """The gallery on shards, each brought to the store at every start from what it holds; those of
    the writer before are adopted (`read_epoch`: which writer this is). With a `shard_folder` each
    has a snapshot on its node, under a key that is destroyed before a reference of it is erased. A
    snapshot of a start without shards is removed: no later start can load a face erased
    meanwhile."""

    def __init__(
        self,
        store: Store,
        folder: Path,
        config: Opening,
        warn: Callable[[str], None],
        open_shards: OpenIndex,
        read_epoch: Callable[[], int],
        shard_folder: str = "",
    ) -> None:
        super().__init__(store, folder, config, warn)
        self._keys = ShardKeys(store, folder.with_name(SHARD_KEYS_FOLDER))
        self._shard_folder = shard_folder
        self._open, self._read_epoch = open_shards, read_epoch
        self._index: ShardedIndex | None = None
        self._forgetting: list[Future[None]] = []
        # No snapshot is made of a shard that gives something away meanwhile.
        self._saving = Lock()
        self._upkeep: ShardUpkeep | None = None

    def restore(self, tell: Tell | None = None) -> Restored:
        """The gallery on its shards; those of an earlier call are adopted too."""
        self.release()
        config = self._config
        origin = origin_of(self._store, config)
        names = (origin.deployment_id, origin.key_id, origin.model_digest, version("sosie"))
        plan = ShardPlan(
            origin.dim, config=config.segments, content=":".join(names), epoch=self._read_epoch()
        )
        try:
            self._index = self._open(plan)
        except ShardFenced:
            # After a restore the writers before have greater numbers, and none of them comes again.
            if self._store.writer_epoch() != plan.epoch:
                raise
            self._index = self._open(replace(plan, by_force=True))
        try:
            kept = range(len(self._index.shards) if self._shard_folder else 0)
            useless = self._keys.destroy_all_but([self._name(number) for number in kept])
            if useless:
                self._warn(f"{useless} snapshots of shards are not used: the store is read instead")
            load = self._load if self._shard_folder else None
            return restore_shards(self._store, self._index, tell or _log.info, load, self._destroy)
        except BaseException:
            self.release()
            raise

    @property
    def has_any(self) -> bool:
        return bool(self._shard_folder) or super().has_any

    @property
    def copies_wanting(self) -> int:
        return 0 if self._index is None else len(self._index.wanting)

    @property
    def moves_wanting(self) -> int:
        return 0 if self._upkeep is None else self._upkeep.moves_wanting

    def tend(self, registrar: Registrar, save: Callable[[], None]) -> None:
        """Makes lost copies of shards again, and moves virtual shards, from now on."""
        assert self._index is not None, "restored before it is tended"
        store = self._store
        self._upkeep = ShardUpkeep(store, self._index, registrar, self._warn, self._give, save)

    def stop_tending(self) -> None:
        if self._upkeep is not None:
            self._upkeep.close()
            self._upkeep = None

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

    def release(self) -> None:
        """Leaves the shards to the next writer."""
        if self._index is not None:
            self._index.release()
            self._index = None

    def sweep(self) -> None:
        super().remove()

    def save(self, _gallery: Gallery) -> bool:
        """Has every copy of every shard save its snapshot; False where one did not."""
        index = self._index
        if not self._shard_folder or index is None:
            return False
        with self._saving:
            return self._save(index)

    def _save(self, index: ShardedIndex) -> bool:
        # Or one that is late would remove what is saved now.
        wait(self._forgetting)
        self._forgetting = []
        saving = []
        try:
            for number, shard in enumerate(index.shards):
                sealer = self._keys.find_or_make(self._name(number))
                place = (self._place(number), origin_of(self._store, self._config), sealer)
                saving += [copy.save(*place) for copy in shard.copies]
        except OSError as error:
            self._warn(f"the shards' snapshots were not saved: {error.strerror}")
        failures = [one for future in saving if (one := future.exception()) is not None]
        if failures:
            self._warn(f"a shard's snapshot was not saved ({type(failures[0]).__name__})")
        is_saved = bool(saving) and not failures
        self.is_withdrawn = self.is_withdrawn and not is_saved
        return is_saved

    def withdraw(self, gallery: Gallery, ids: Collection[int]) -> None:
        """Destroys the keys of the snapshots that may contain one of these references, and removes
        those that can be reached; `RegistryError` where a key cannot be."""
        super().withdraw(gallery, ids)
        index = self._index
        if index is None or not ids:
            return
        owners = index.placement.shard_of(np.array(sorted(ids), np.int64))
        self._withdraw(index, np.unique(owners).tolist())
        self.is_withdrawn = True

    def renew(self, gallery: Gallery) -> bool:
        """Frees removed references in the shards' memory, and saves their snapshots without, where
        they have any."""
        super().remove()
        self.is_withdrawn = bool(self._shard_folder)
        gallery.compact()
        return self.save(gallery) or not self._shard_folder

    def has_room(self, _gallery: Gallery) -> bool:
        """Their nodes have to know."""
        return True

    def remove(self) -> None:
        """Removes the snapshots; the next start builds what is lost by then from the store."""
        super().remove()
        self._destroy(None)

    def may_hold_removed(self, _gallery: Gallery) -> bool:
        """Never: they are saved compacted, and without their keys from an erasure on."""
        return False

    def _give(self, number: int, perform: Callable[[], None]) -> None:
        """Performs what takes references from a shard. No snapshot of it may hold them after that:
        when they are erased, only the shard that they are in then is asked."""
        with self._saving:
            if self._index is not None and self._keys.find(self._name(number)) is not None:
                self._withdraw(self._index, [number])
                wait(self._forgetting, _FORGOTTEN_WITHIN_S)
            perform()

    def _withdraw(self, index: ShardedIndex, numbers: Collection[int]) -> None:
        """Destroys the keys of the snapshots of these shards, and removes those in reach."""
        self._destroy(numbers)
        for number in numbers if self._shard_folder else ():
            for copy in index.shards[number].copies:
                # Without its key it is of no use, whether it is removed or not.
                self._forgetting.append(copy.forget(self._place(number)))

    def _destroy(self, numbers: Collection[int] | None) -> None:
        """The keys of these shards' snapshots, or of all."""
        try:
            if numbers is None:
                self._keys.destroy_all_but(())
            else:
                self._keys.destroy([self._name(number) for number in numbers])
        except OSError as error:
            raise RegistryError(
                f"the keys of the shards' snapshots cannot be removed ({error.strerror}): mend the "
                "permissions of the home folder, then try again"
            ) from None

    def _load(self, number: int, copy: Shard) -> Future[None]:
        sealer = self._keys.find(self._name(number))
        if sealer is None:
            missing: Future[None] = Future()
            missing.set_exception(SnapshotMissing("the shard has no snapshot"))
            return missing
        return copy.load(self._place(number), origin_of(self._store, self._config), sealer)

    @staticmethod
    def _name(number: int) -> str:
        return f"shard-{number}"

    def _place(self, number: int) -> str:
        """The folder of a shard's snapshot, on whatever node the shard is."""
        deployment = self._store.vault.deployment_id
        return str(Path(self._shard_folder) / deployment / self._name(number))


LOOK_AT_SHARDS_S = 1.0
LOOK_AT_SETTINGS_S = LOG_MOVES_S = 10.0
_AGAIN_S = 10.0
_NEARLY_WHOLE = 256
"""Changes of the store that a new copy may lack before the writer waits for it."""


class ShardUpkeep:
    """Thread that makes lost copies of shards again, and moves virtual shards one by one when the
    number of shards has changed, while searches and decisions go on. The writer waits for a copy's
    last few changes, and for the step that moves a virtual shard: `give` makes it, by the number of
    the shard that gives; `save` follows the last."""

    def __init__(
        self,
        store: Store,
        index: ShardedIndex,
        registrar: Registrar,
        warn: Callable[[str], None],
        give: Callable[[int, Callable[[], None]], None],
        save: Callable[[], None],
    ) -> None:
        self._store, self._index, self._registrar = store, index, registrar
        self._warn, self._give, self._save = warn, give, save
        self.moves_wanting = 0
        self._has_moved = False
        self._told_at = self._read_at = -inf
        self._wanted = 0
        # Of a copy that is filled and joins, or is ended: only one of these.
        self._joining = Lock()
        self._filling: Shard | None = None
        self._closing = Event()
        self._thread = Thread(target=self._run, name="shards", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread, and a copy that has not joined yet."""
        self._closing.set()
        self._drop_filling()
        self._thread.join()

    def _run(self) -> None:
        pause_s = LOOK_AT_SHARDS_S
        while not self._closing.wait(pause_s):
            pause_s = LOOK_AT_SHARDS_S
            for shard in self._index.wanting:
                try:
                    self._add_copy(shard)
                except Exception as error:  # noqa: BLE001 - the other copy works, so it can wait
                    if self._closing.is_set():
                        return
                    number = self._index.shards.index(shard)
                    self._warn(f"shard {number} has one copy only ({type(error).__name__})")
                    pause_s = _AGAIN_S
            try:
                while not self._closing.is_set() and not self._index.wanting and self._step():
                    pass
            except Exception as error:  # noqa: BLE001 - all is where it was, and can wait
                if not self._closing.is_set():
                    self._warn(f"no virtual shard is moved for now ({type(error).__name__})")
                pause_s = _AGAIN_S

    def _add_copy(self, shard: ReplicatedShard) -> None:
        assert self._index.open_copy is not None
        self._check()
        number = self._index.shards.index(shard)
        copy = self._index.open_copy(number)
        fill = partial(fill_copy, self._store, self._index, number, copy)
        with self._joining:
            self._filling = copy
        try:
            self._check()
            reached = fill(last=False)
            while self._store.sequence() - reached > _NEARLY_WHOLE:
                self._check()
                reached = fill(reached, last=False)

            def attach(_writer: Writer, _now: datetime) -> ShardLost | None:
                try:
                    fill(reached, last=True)
                except ShardLost as lost:
                    # Not of a part of the gallery: raised here, it would stop the registrar.
                    return lost
                self._join(shard, copy)
                return None

            lost = self._registrar.run(attach)
            if lost is not None:
                raise lost
        finally:
            self._drop_filling()

    def _join(self, shard: ReplicatedShard, copy: Shard) -> None:
        """Makes a copy that is whole a part of the gallery, unless the thread is to end."""
        with self._joining:
            self._check()
            shard.attach(copy)
            self._filling = None

    def _drop_filling(self) -> None:
        """Ends the copy that is being filled, if there is one; one that has joined stays."""
        with self._joining:
            copy, self._filling = self._filling, None
        if copy is not None:
            copy.close()

    def _step(self) -> bool:
        """Opens, fills or ends a shard, as far as the number that is wanted asks for it; False
        where there is nothing to do, or a sweep needs everything where it is."""
        if monotonic() - self._read_at >= LOOK_AT_SETTINGS_S:
            self._read_at, self._wanted = monotonic(), self._index.read_wanted()
        index, wanted = self._index, self._wanted
        owners = index.placement.owners
        aims = index.placement.balanced(wanted).owners
        moving = np.flatnonzero(aims != owners)
        self.moves_wanting = len(moving)
        if len(index.shards) < wanted and index.open_copy is not None:
            index.append(index.open_copy(len(index.shards)))
            return True
        if len(moving):
            self._tell(f"{len(moving)} of {len(owners)} virtual shards are to be moved")
            first = int(moving[0])
            return self._move(first, int(owners[first]), int(aims[first]))
        if wanted < len(index.shards):
            number = len(index.shards) - 1
            self._give(number, lambda: self._registrar.gallery.rearrange(index.remove_last).close())
            return True
        if self._has_moved:
            self._has_moved, self._told_at = False, -inf
            _log.info("the gallery is on %d shards", len(index.shards))
            self._save()
        return False

    def _move(self, virtual_shard: int, source: int, target: int) -> bool:
        index, gallery = self._index, self._registrar.gallery
        begin = partial(index.begin_move, virtual_shard, target)
        if not gallery.rearrange(begin, beside_searches=True):
            self._tell("virtual shards stay where they are until the sweep has ended")
            return False
        try:
            index.copy_moving(self._check)

            def finish(_writer: Writer, _now: datetime) -> None:
                finish_move(self._store, gallery, index)

            self._give(source, lambda: self._registrar.run(finish))
        except BaseException:
            gallery.rearrange(index.abandon_move, beside_searches=True)
            raise
        self._has_moved = True
        return True

    def _check(self) -> None:
        if self._closing.is_set():
            raise Interrupted("the service stops: this goes on after the next start")

    def _tell(self, line: str) -> None:
        if monotonic() - self._told_at >= LOG_MOVES_S:
            self._told_at = monotonic()
            _log.info("%s", line)
