"""Builds a deployment's parts from its settings, for the command line and the service."""

from __future__ import annotations

import stat
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from datetime import timedelta
from functools import cached_property, partial
from pathlib import Path
from threading import Event, Lock
from typing import TYPE_CHECKING, TypeVar

from engine.capacity import ERASURES_GATHER_S
from engine.errors import (
    KeyRingMissing,
    NotFound,
    RegistryError,
    RegistryExists,
    RequestError,
    SosieError,
    file_errors,
)
from engine.lifecycle.reverification import SimChangeTerms
from engine.lifecycle.rules import LineRules, load_rules
from engine.matching.calibration import Calibration, Thresholds
from engine.matching.checks.document import AuthorityCheck, AuthorityTerms
from engine.matching.checks.limits import LimitsCheck
from engine.matching.checks.lines import LineCheck
from engine.matching.checks.liveness import LivenessCheck, LivenessChecker, LivenessTerms
from engine.matching.checks.order import CHECKS
from engine.matching.checks.people import PeopleCheck
from engine.matching.checks.proofs import ProofChecker, ProofTerms
from engine.matching.checks.second_model import SecondModelCheck
from engine.matching.checks.signed_results import load_issuer
from engine.matching.comparison import WatchList
from engine.matching.holders import (
    ErasureState,
    PendingErasure,
    ask_erasure,
    erase_holder,
    find_erasable,
    list_pending,
)
from engine.matching.judge import Judge
from engine.matching.lines import withdraw_consent
from engine.matching.registrar import Observer, Registrar, RegistrarConfig, Runner
from engine.registry.database import utc_now
from engine.registry.documents import DocumentRecord
from engine.registry.keyring import KeyRing
from engine.registry.store import Store
from engine.registry.vault import Vault
from engine.registry.writer import Writer
from engine.retention.job import check_clock
from engine.sweeps.folder_retention import SweepRetention
from indexes.base import Closing
from indexes.errors import ShardLost
from indexes.upkeep import Upkeep
from schema.documents import Document, ErasureCertificate, ErasureScope
from schema.options import CarrierPeople, LineLimits, PeopleRules
from schema.reasons import Decision
from serving.deployment.models import (
    build_extractor,
    build_thresholds,
    embedder_card,
    judge_terms,
    load_calibration,
    model_digest,
    open_liveness_judge,
    open_second_embedder,
    second_model,
    threshold_rates,
)
from serving.settings.settings import (
    KEY_RING_FILE,
    SETTINGS_FILE,
    Chosen,
    Settings,
    is_card_file,
    require_no_sandbox,
    write_settings,
)
from serving.settings.terms import AuthoritySettings

if TYPE_CHECKING:
    from engine.faces.extractor import Extractor
    from engine.matching.checks.second_model import SecondModel
    from engine.matching.recovery import Restored, Tell
    from engine.matching.samples import SecondEmbedder
    from serving.deployment.snapshots import OpenIndex, SnapshotManager


def create_home(home: Path, settings: Settings, chosen: Chosen | None = None) -> None:
    """Makes a home folder: settings, key ring (0600), an empty registry. `chosen` settings are
    written, with the version of a built-in card's calibration, the others as comments. On failure
    the folder is as before: no existing file is overwritten or removed."""
    _require_free(home)
    written = dict(chosen or {})
    if not is_card_file(settings.models.embedder):
        version = {"calibration": load_calibration(settings).version}
        written["models"] = version | dict(written.get("models", {}))
    dimension, digest = embedder_card(settings).dimension, model_digest(settings)
    with ExitStack() as undo:
        if not home.exists():
            # rmdir removes it only if empty: another process may be making a home here too.
            undo.callback(_ignoring_errors(home.rmdir))
        with file_errors(f"{home} cannot be a folder"):
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
        _close_to_others(home)
        vault = Vault(KeyRing.create(home / KEY_RING_FILE), dimension)
        undo.callback((home / KEY_RING_FILE).unlink)
        write_settings(home, written)
        undo.callback((home / SETTINGS_FILE).unlink)
        Store.create(registry_url(home, settings), vault, model_digest=digest).close()
        undo.pop_all()


def _require_free(home: Path) -> None:
    if not any((home / name).exists() for name in (SETTINGS_FILE, KEY_RING_FILE)):
        return
    if not (home / KEY_RING_FILE).exists():
        raise RegistryExists(
            f"{home} is a Sosie home that has lost its key ring: restore {KEY_RING_FILE} from your "
            "backup, or choose another folder"
        )
    raise RegistryExists(f"{home} is a Sosie home already: choose another folder")


def _close_to_others(home: Path) -> None:
    """Gives an empty existing folder mode 0700, as a new one has."""
    if stat.S_IMODE(home.stat().st_mode) == 0o700 or any(home.iterdir()):
        return
    try:
        home.chmod(0o700)
    except OSError as error:
        raise RequestError(
            f"others may look into {home} and it cannot be closed ({error.strerror}): "
            "choose a folder of your own"
        ) from None


def _ignoring_errors(undo: Callable[[], None]) -> Callable[[], None]:
    def attempt() -> None:
        with suppress(OSError):
            undo()

    return attempt


def registry_url(home: Path, settings: Settings) -> str:
    """The database URL; a relative SQLite file lies in the home folder."""
    url = settings.registry.url.get_secret_value()
    prefix = "sqlite:///"
    if url.startswith(prefix) and not url.startswith(prefix + "/"):
        return f"{prefix}{(home / url.removeprefix(prefix)).resolve()}"
    return url


def load_vault(home: Path, settings: Settings) -> Vault:
    """The vault of a home; `KeyRingMissing` where its key ring is not there."""
    path = home / KEY_RING_FILE
    if not path.exists():
        raise KeyRingMissing(f"no key ring at {path}: put back the one of this deployment")
    return Vault(KeyRing.load(path), embedder_card(settings).dimension)


def read_authority(settings: AuthoritySettings) -> AuthorityTerms | None:
    """The settings' rules for look-ups of documents; None where there are none."""
    if settings.kind == "form":
        return None
    unavailable, unknown = (
        None if given == "proceed" else Decision(given)
        for given in (settings.unavailable, settings.unknown)
    )
    least = settings.min_face_score or None
    return AuthorityTerms(unavailable, unknown, Decision(settings.contradicts), least)


T = TypeVar("T")
SNAPSHOT_FOLDER = "gallery"
SNAPSHOT_AFTER = 1_000
"""A deployment that replayed or added more references saves a snapshot when it closes."""
RESEAL_AGAIN_S, LONGEST_PAUSE_S = 10.0, 300.0
"""Where that fails it is tried again after this pause, then after pauses twice as long each."""
OVERDUE_S = 600.0
"""So long after the erasure deadline, at which it begins, the gallery is rewritten."""


def warn_on_stderr(message: str) -> None:
    """Writes one line to standard error."""
    sys.stderr.write(f"sosie: warning: {message}\n")


class Deployment(Closing):
    """An open home folder; each part is built on first use. Close it after use. `warn` gets a line
    for each failure that does not fail the command. With `open_index` the gallery is on shards,
    which takes the writer's lease. Set `observer` (metrics) and `tell` (of shards that are rebuilt)
    before the first use of the registrar. With `is_examined` an altered registry opens.
    `RequestError` for a sandbox's home, which its own command alone opens."""

    is_of_sandbox = False
    judge_class: type[Judge] = Judge
    observer: Observer | None = None
    tell: Tell | None = None

    def __init__(
        self,
        home: Path,
        settings: Settings,
        warn: Callable[[str], None] = warn_on_stderr,
        open_index: OpenIndex | None = None,
        *,
        is_examined: bool = False,
    ) -> None:
        if not self.is_of_sandbox:
            require_no_sandbox(home)
        self.home = home
        self.settings = settings
        self._open_index = open_index
        self._upkeep: Upkeep | None = None
        # Held by an erasure from the first file to the last, by what saves a snapshot, and by a
        # sweep that ends: a snapshot must not hold, nor a sweep name, who is being erased.
        self.erasing = Lock()
        self._resealing = ThreadPoolExecutor(1, "reseal")
        self._is_reseal_due = self._had_snapshot = False
        self._reseal_fault: str | None = None
        self._closing = Event()
        self.vault = load_vault(home, settings)
        self.store = Store.open(
            registry_url(home, settings),
            self.vault,
            model_digest=model_digest(settings),
            is_examined=is_examined,
        )
        self.warn = warn

    @cached_property
    def extractor(self) -> Extractor:
        made = build_extractor(self.settings)
        made.liveness_judge = open_liveness_judge(self.settings)
        return made

    @cached_property
    def second(self) -> SecondModel | None:
        """The second model, which decides nothing; None where the settings name none."""
        return second_model(self.settings)

    @cached_property
    def second_embedder(self) -> SecondEmbedder | None:
        """The embedder of the second model."""
        return open_second_embedder(self.settings, self.vault)

    @cached_property
    def calibration(self) -> Calibration:
        return load_calibration(self.settings)

    @property
    def thresholds(self) -> Thresholds:
        """For the gallery as it is now."""
        if self.thresholds_for is None:
            return self._thresholds
        is_open = "restored" in vars(self)
        size = len(self.restored.gallery) if is_open else self.store.counts()["live_references"]
        return self.thresholds_for(size)

    @cached_property
    def _thresholds(self) -> Thresholds:
        return build_thresholds(self.settings, self.calibration)

    @cached_property
    def thresholds_for(self) -> Callable[[int], Thresholds] | None:
        """For searches of so many references; None where they are the same at any size."""
        rates = threshold_rates(self.settings)
        if not rates.review_false_candidates:
            return None
        find = partial(Thresholds.from_calibration, self.calibration, rates)
        find(sys.maxsize)  # the highest must stay below `certain` too
        return find

    @cached_property
    def snapshots(self) -> SnapshotManager:
        """What is kept of the gallery between starts."""
        # An ingress searches no gallery, and loads no kernels.
        from serving.deployment.snapshots import ShardManager, SnapshotManager, gallery_config  # noqa: PLC0415

        config = gallery_config(self.settings)
        parts = (self.store, self.snapshot_folder, config, self.warn)
        if self._open_index is None:
            return SnapshotManager(*parts)
        folder = self.settings.gallery.shard_folder
        return ShardManager(*parts, self._open_index, lambda: self.writer.epoch, folder)

    @cached_property
    def restored(self) -> Restored:
        """The gallery, brought to the state of the store on first use."""
        return self.snapshots.restore(self.tell)

    @cached_property
    def watchlist(self) -> WatchList:
        return WatchList(self.vault.dim, self.store.watchlist())

    @cached_property
    def liveness(self) -> LivenessChecker:
        """The check of evidence of liveness; `RequestError` where an issuer's keys are no such."""
        settings = self.settings.liveness
        issuers = {
            name: load_issuer(self.home / one.keys) for name, one in settings.issuers.items()
        }
        terms = LivenessTerms(
            settings.rules,
            Decision(settings.missing),
            timedelta(seconds=settings.max_age_s),
            frozenset(settings.must_name),
            judge_terms(self.settings),
            self.settings.lines.channels,
        )
        return LivenessChecker(terms, issuers, self._audience)

    @cached_property
    def proofs(self) -> ProofChecker:
        """The check of proofs in place of a face; `RequestError` where an issuer's keys are no
        such, or a way is open for which nobody signs."""
        settings, people = self.settings.proofs, self.settings.people
        each: list[PeopleRules | CarrierPeople] = [people, *people.carriers.values()]
        opened = {
            way for one in each for ways in (one.proofs, one.verified_by) for way in ways or ()
        }
        if unsigned := opened - settings.signed:
            raise RequestError(
                f"[people] opens {min(unsigned)}, for which nobody signs: name an issuer of it "
                "under [proofs.issuers]"
            )
        issuers = {
            name: load_issuer(self.home / one.keys) for name, one in settings.issuers.items()
        }
        terms = ProofTerms(
            {name: frozenset(one.ways) for name, one in settings.issuers.items()},
            settings.at_least,
            timedelta(seconds=settings.max_age_s),
        )
        return ProofChecker(terms, issuers, self._audience)

    @property
    def _audience(self) -> str:
        return self.settings.liveness.audience or self.vault.deployment_id

    @cached_property
    def line_rules(self) -> LineRules:
        """By which holders of lines are asked for; `RequestError` where that cannot be done."""
        settings = self.settings.lines
        own = {code: load_rules(name, self.home) for code, name in settings.carriers.items()}
        return LineRules(load_rules(settings.rules, self.home), own)

    @property
    def sim_changes(self) -> SimChangeTerms:
        """Which carriers report changes of SIM, and how long they stay known."""
        days = self.settings.retention.line_events_days
        kept = timedelta(days=days) if days else None
        return SimChangeTerms(self.settings.lines.sim_changes_since, kept)

    @cached_property
    def people(self) -> PeopleRules:
        """The settings' rules, with what the sets of rules of lines say of faces and of ways;
        `RequestError` for a law by which nobody would be searched for."""
        rules = self.line_rules.complete(self.settings.people, self.settings.proofs.signed)
        if rules.has_idle_law:
            raise RequestError(
                "[people] names a search_law of faces that are kept, which are searched for "
                'anyway: say keep_faces = "none", too, or leave it out'
            )
        return rules

    @property
    def line_limits(self) -> LineLimits:
        """Limits on the lines of a person; `RequestError` as `LineRules.limit`."""
        settings = self.settings.lines
        return self.line_rules.limit(settings.person_limit, settings.channels)

    @cached_property
    def judge(self) -> Judge:
        return self.judge_class(
            store=self.store,
            gallery=self.restored.gallery,
            watch=self.watchlist,
            thresholds=self.thresholds,
            model_digest=self.store.model_digest,
            false_candidates=self.calibration.expect_together,
            calibration_version=self.calibration.version,
            crops=self.settings.crops,
            time_zone=self.settings.registrar.time_zone,
            thresholds_for=self.thresholds_for,
            unkept=self.people.unkept,
            unsearched=self.people.unsearched,
            checks={
                **CHECKS,
                AuthorityCheck: read_authority(self.settings.authority),
                LivenessCheck: self.liveness.terms,
                LineCheck: self.line_limits,
                PeopleCheck: self.people,
                LimitsCheck: self.settings.limits,
                SecondModelCheck: self.second,
            },
        )

    @cached_property
    def writer(self) -> Writer:
        """Acquires the writer's lease; `WriterBusy` where another process holds it."""
        return self.store.writer()

    @cached_property
    def registrar(self) -> Registrar:
        """Acquires the writer's lease, and owns it."""
        writer = self.writer
        try:
            # Parts built before the lease was acquired: another writer may have changed them.
            built = self.__dict__
            if "restored" in built and self.restored.gallery.sequence != writer.sequence:
                del built["restored"]
            # A change of the watch-list does not change the sequence.
            for part in ("watchlist", "judge"):
                built.pop(part, None)
            self.snapshots.sweep()
            if self.restored.fault is not None:
                # A later store might accept what this one refuses.
                self.snapshots.remove()
            sizes = self.settings.registrar
            config = RegistrarConfig(sizes.batch_size, sizes.queue_size)
            registrar = Registrar(writer, self.judge, config, observer=self.observer)
        except BaseException:
            writer.close()
            del self.writer
            raise
        # Only a writer needs upkeep.
        self._upkeep = Upkeep(self.restored.gallery).start()
        self.snapshots.tend(registrar, self._ask_save)
        if self._open_index is not None and self.restored.replayed > SNAPSHOT_AFTER:
            self._ask_save()
        return registrar

    @property
    def overdue_s(self) -> float:
        """For how long references that were removed should have been out of memory altogether."""
        left_s = self.restored.gallery.deadline_s()
        return 0.0 if left_s is None else max(0.0, -left_s)

    @property
    def upkeep_fault(self) -> str | None:
        """The upkeep left undone since references were removed, tried again and again."""
        faults = [] if self._reseal_fault is None else [self._reseal_fault]
        if self._upkeep is not None and (fault := self._upkeep.fault) is not None:
            faults.append(fault)
        if self.overdue_s > OVERDUE_S:
            late_h = self.overdue_s / 3600
            faults.append(f"removed references take space {late_h:.1f} h beyond erasure_deadline_h")
        return "; ".join(faults) or None

    @property
    def sweep_folder(self) -> Path:
        return self.home / self.settings.sweep.folder

    @cached_property
    def sweeps(self) -> SweepRetention:
        """The files of sweeps; only the holder of the writer's lease may change them."""
        days = self.settings.sweep.keep_days
        stay = timedelta(days=days) if days else None
        return SweepRetention(
            self.sweep_folder,
            self.store,
            lambda: self.calibration,
            stay,
            self.settings.serve.console_url,
        )

    @property
    def snapshot_folder(self) -> Path:
        return self.home / SNAPSHOT_FOLDER

    def save_snapshot(self) -> bool:
        """Saves the gallery for the next start, under the writer's lease; False, with a warning,
        where the previous snapshot stays."""
        return self.snapshots.save(self.restored.gallery)

    def erase(
        self,
        target: Document | str,
        actor: str,
        carrier: str | None = None,
        runner: Runner | None = None,
        scope: ErasureScope = ErasureScope.HOLDER,
    ) -> ErasureCertificate | ErasureState:
        """Erases the holder of a document, or the face whose consent is withdrawn, also from
        snapshot and sweeps' files; where open cases need it, it is acknowledged, and
        `finish_erasures` does it later. For a tenant see `find_erasable`, and `withdraw_consent`;
        `runner` makes the change instead of the registrar. `NotFound` where nobody holds it;
        `RegistryError`, with nothing erased, where a file cannot be removed."""
        runner = runner or self.registrar
        # One at a time: the snapshot after one must not contain the face of the next.
        with self.erasing:
            if scope is ErasureScope.FACE:
                hold = self.settings.retention.hold
                asked = withdraw_consent(runner, self.store, target, actor, carrier, hold)
                if asked.is_shared:
                    return asked
                target, carrier, scope = asked.document_id, None, asked.scope
            return self._erase(runner, target, actor, carrier, scope)

    def finish_erasures(
        self, actor: str, check: Callable[[], object] | None = None
    ) -> list[ErasureCertificate]:
        """Does the acknowledged erasures that no open case holds, or whose time has come; call it
        when a case was closed, at a start, and again and again. One that fails stays acknowledged,
        and its error is raised once the others are done. A clock that cannot be right is not
        believed: `ClockImplausible`, by the `check` of a service that has watched it, or by the
        audit chain."""
        now = utc_now()
        faults: list[SosieError] = []
        pending = list_pending(self.store)
        wanted = [one for one in pending if not one.cases]
        late = [one for one in pending if one.cases and one.due_at <= now]
        try:
            if late and check is not None:
                check()
            elif late:
                check_clock(self.store, now)
            wanted += late
        except SosieError as error:
            faults.append(error)
        # The registrar loads the gallery: not where nothing is wanted.
        erasures = (
            partial(self._erase, self.registrar, one.document_id, actor, None, one.scope)
            for one in wanted
        )
        return self.erase_each(erasures, faults)

    def erase_each(
        self, erasures: Iterable[Callable[[], object]], faults: Iterable[SosieError] = ()
    ) -> list[ErasureCertificate]:
        """Does each of these; the first error, of before or of one that fails, is raised then."""
        done, faults = [], [*faults]
        for erase in erasures:
            try:
                with self.erasing:
                    made = erase()
            except NotFound:
                # Erased by retention meanwhile.
                continue
            except SosieError as error:
                faults.append(error)
                continue
            if isinstance(made, ErasureCertificate):
                done.append(made)
        if faults:
            raise faults[0]
        return done

    def _erase(
        self,
        runner: Runner,
        target: Document | str,
        actor: str,
        carrier: str | None,
        scope: ErasureScope = ErasureScope.HOLDER,
    ) -> ErasureCertificate | PendingErasure:
        hold, of_face = self.settings.retention.hold, scope is ErasureScope.FACE
        pending = ask_erasure(runner, self.store, target, actor, carrier, hold, scope)
        if pending is not None:
            return pending
        holder = find_erasable(self.store, target, utc_now().date(), carrier)
        # The same person's earlier documents go first: whoever asks again finds what is left.
        for earlier in self.store.people.replaced_by(holder.id):
            kept = self.store.documents_by_id([earlier]).get(earlier)
            if kept is None or kept.is_erased or (of_face and not kept.reference_ids):
                continue
            if of_face:
                given = (runner, self.store, earlier, actor, None, hold)
                withdraw_consent(*given, is_earlier=True)
            self._erase(runner, earlier, actor, None, scope)
        erase = partial(erase_holder, runner, self.store, target, actor, carrier, hold, scope)
        return self.remove_face(holder, erase)

    def remove_face(self, holder: DocumentRecord, erase: Callable[[], T]) -> T:
        """Erases a face from sweeps' files and snapshots, then from the store; call it while
        erasing."""
        self.sweeps.erase(holder.id, holder.reference_ids)
        # The snapshot is removed first, except files that cannot contain the face: a crash before
        # it is saved again costs a rebuild, and leaves no erased face.
        had_snapshot = self.snapshots.has_any
        self.snapshots.withdraw(self.restored.gallery, holder.reference_ids)
        try:
            return erase()
        finally:
            # Where nothing was erased the next start needs a snapshot all the same.
            self._ask_reseal(had_snapshot=had_snapshot)

    def _ask_reseal(self, *, had_snapshot: bool) -> None:
        """Has the snapshot saved again, once for all erasures until then; call it while erasing."""
        self._had_snapshot = self._had_snapshot or had_snapshot
        if not self._is_reseal_due:
            self._is_reseal_due = True
            with suppress(RuntimeError):  # it is being closed: the next start builds it again
                self._resealing.submit(self._reseal)

    def _reseal(self) -> None:
        """Saves the snapshot again after a while, while the registrar decides; the next erasure
        waits, as it must not be saved from what that removes. Failures are tried again until the
        deployment closes, and then once more."""
        is_closing, pause_s = self._closing.wait(ERASURES_GATHER_S), RESEAL_AGAIN_S
        while not self._attempt_reseal(pause_s) and not is_closing:
            is_closing = self._closing.wait(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _attempt_reseal(self, pause_s: float) -> bool:
        """Tries to seal anew; True where it is done, else erasures count on the next attempt."""
        what = "the gallery has no snapshot" if self._had_snapshot else "it is not compacted"
        with self.erasing:
            self._is_reseal_due = False
            try:
                gallery = self.restored.gallery
                if not self._had_snapshot:
                    # A process that lost the lease may have saved its own.
                    self.snapshots.remove()
                    gallery.compact()
                    is_done = True
                elif self._reseal_fault is not None and not self.snapshots.has_room(gallery):
                    # An attempt would fill the disk that decisions are written to.
                    is_done = False
                else:
                    is_done = not self.snapshots.is_withdrawn or self.snapshots.renew(gallery)
            except Exception as error:  # noqa: BLE001 - told, and tried again
                # The type alone: a message may hold something of a reference.
                self.warn(f"after an erasure {what} for now ({type(error).__name__})")
                is_done = False
            self._is_reseal_due = not is_done
            self._had_snapshot = self._had_snapshot and not is_done
            again = f"since an erasure {what}: tried again after {pause_s:g} s"
            self._reseal_fault = None if is_done else again
        return is_done

    def _ask_save(self) -> None:
        """So that the next loss of a shard costs only what has changed since."""
        with suppress(RuntimeError):  # it is being closed
            self._resealing.submit(self._save_shards)

    def _save_shards(self) -> None:
        with self.erasing:
            try:
                self.save_snapshot()
            except Exception as error:  # noqa: BLE001 - told; the next erasure or move saves again
                self.warn(f"the shards' snapshots were not saved ({type(error).__name__})")

    def close(self, *, keep_shards: bool = False) -> None:
        """Saves a snapshot if much has changed, releases the lease, closes the store; `keep_shards`
        leaves them to the next writer."""
        built = self.__dict__
        if "snapshots" in built:
            self.snapshots.stop_tending()
            if keep_shards:
                # First, for nothing waits for what a shard is doing.
                self.snapshots.release()
        # While there is a lease: it ends with what was erased sealed anew.
        self._closing.set()
        self._resealing.shutdown()
        with ExitStack() as closing:
            closing.callback(self.store.close)
            if "extractor" in built:
                closing.callback(self.extractor.close)
            if "writer" in built:
                closing.callback(self.writer.close)
            if "snapshots" in built:
                # Under the lease, or the next writer would find shards that are ended here.
                closing.callback(self.snapshots.close)
            if self._upkeep is not None:
                self._upkeep.close()
            if "registrar" in built:
                closing.callback(self.registrar.close)
                # Under the lease, or an erasure in between would find no snapshot to remove; not
                # while one is made, or it would save what that removes. A failed registrar saves
                # none, and its callers know why.
                with self.erasing, suppress(RegistryError, ShardLost):
                    self.registrar.run(lambda _writer, _now: self._save_grown())

    def _save_grown(self) -> None:
        gallery = self.restored.gallery
        grown = abs(len(gallery) - self.restored.loaded)
        if self.snapshots.may_hold_removed(gallery):
            self.snapshots.renew(gallery)
        elif grown + self.restored.replayed > SNAPSHOT_AFTER:
            self.save_snapshot()
