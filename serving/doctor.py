"""Checks of `sosie doctor`: the machine, the models, and the deployment if there is one."""

from __future__ import annotations

import asyncio
import os
import platform
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine.errors import CalibrationError, SosieError, advise_extra
from engine.formatting import plural, size
from engine.models.catalog import ModelCard, locate, read_transform_file
from engine.models.session import available_providers, describe_options, runtime_version
from engine.registry.vault import MOST_SEALS
from engine.texts import mixes_scripts
from indexes.errors import IndexFault
from schema.events import WebhookState
from schema.thresholds import Comparison
from serving.deployment.models import (
    describe_calibration,
    detector_card,
    embedder_card,
    judge_terms,
    model_digest,
    open_embedder,
    open_liveness_judge,
    warn_calibration,
)
from serving.settings.settings import find_user_cache, load_settings

if TYPE_CHECKING:
    from engine.registry.store import Store
    from indexes.gallery import Gallery
    from serving.deployment.deployment import Deployment
    from serving.settings.settings import Settings

PACKAGES = ("numpy", "numba", "faiss-cpu", "opencv-python-headless", "onnx", "pillow", "sqlalchemy")
RUNTIMES = ("onnxruntime", "onnxruntime-openvino", "onnxruntime-gpu")
FAST_FLAGS = ("avx2", "avx512f", "avx512_vnni", "amx_int8")
"""CPU instructions that speed up the kernels, common ones first."""

LEAST_MEMORY_BYTES = 2 * 2**30


class State(StrEnum):
    """Result of a check: `broken` prevents something from working, a `warning` may."""

    OK = "ok"
    WARNING = "warning"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one check; `advice` says what to do if it is not ok."""

    subject: str
    state: State
    detail: str
    advice: str = ""


SEALS_TO_ROTATE = MOST_SEALS // 2
"""From so many values sealed with one data key on, `sosie doctor` asks for a new one."""
QUICK_ROWS = 200_000
"""Most rows that are read without being asked to: some ten seconds."""


def examine(home: Path | None, *, is_deep: bool = False) -> list[Finding]:
    """Everything that can be looked at; what is broken hides nothing else that can be.

    Every row of a large registry is read if `is_deep`.
    """
    findings = [*_examine_machine(), *_examine_packages(), _examine_telemetry()]
    findings.append(_examine_machine_code())
    try:
        settings = load_settings(home)
    except SosieError as error:
        return [*findings, _broken("settings", error)]
    findings += _examine_models(settings)
    if home is None:
        advice = "run sosie init DIR, then give --home DIR"
        return [*findings, Finding("deployment", State.WARNING, "no home folder here", advice)]
    return [*findings, *_examine_home(home, settings, is_deep)]


def _examine_machine() -> Iterator[Finding]:
    yield Finding("python", State.OK, f"{platform.python_version()} at {sys.executable}")
    flags = _cpu_flags()
    found = [flag for flag in FAST_FLAGS if flag in flags]
    cores = len(os.sched_getaffinity(0))
    detail = f"{cores} cores, {' '.join(found) or 'none of ' + ' '.join(FAST_FLAGS)}"
    is_fast = "avx512_vnni" in found or "avx_vnni" in flags or platform.machine() == "aarch64"
    if is_fast:
        yield Finding("cpu", State.OK, detail)
    else:
        advice = "int8 searches run at a fraction of the figures stated: choose a newer CPU"
        yield Finding("cpu", State.WARNING, f"{detail}; no VNNI", advice)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if total >= LEAST_MEMORY_BYTES:
        yield Finding("memory", State.OK, size(total))
    else:
        yield Finding("memory", State.WARNING, size(total), "2 GiB are too few")


def _examine_packages() -> Iterator[Finding]:
    versions = [f"{name} {_version(name) or 'missing'}" for name in PACKAGES]
    missing = [name for name in PACKAGES if _version(name) is None]
    if missing:
        advice = f"install Sosie again: {advise_extra('cpu')}"
        yield Finding("packages", State.BROKEN, ", ".join(versions), advice)
    else:
        yield Finding("packages", State.OK, ", ".join(versions))
    installed = [f"{name} {_version(name)}" for name in RUNTIMES if _version(name)]
    providers = ", ".join(available_providers())
    if runtime_version() is None:
        advice = f"{advise_extra('cpu')}, or the extra openvino or gpu"
        yield Finding("runtime", State.BROKEN, "no ONNX Runtime", advice)
    elif len(installed) > 1:
        advice = "they overwrite each other: uninstall all, then install one extra"
        yield Finding("runtime", State.BROKEN, ", ".join(installed), advice)
    else:
        yield Finding("runtime", State.OK, f"{', '.join(installed)} with {providers}")


_TELEMETRY = "Microsoft/DeveloperTools/.onnxruntime"
"""In the user's cache: an id of this machine, and events that wait to be sent."""


def _examine_telemetry() -> Finding:
    """Examines what packages would report to their makers; both are told not to where they are
    started."""
    folder = find_user_cache() / _TELEMETRY
    if folder.exists():
        detail = f"off; other uses of ONNX Runtime, or Sosie before it was, left {folder}"
        advice = "remove the folder, and set ORT_DISABLE_TELEMETRY=1 for other programs"
        return Finding("telemetry", State.WARNING, detail, advice)
    return Finding("telemetry", State.OK, "off: ONNX Runtime and Ray report nothing")


def _examine_machine_code() -> Finding:
    from indexes.exact.intrinsics import is_private, machine_code_folder  # noqa: PLC0415 - takes a while to import

    folder = machine_code_folder()
    if is_private(folder):
        return Finding("machine code", State.OK, f"kept in {folder}")
    detail = f"compiled at each start: others may write to {folder}, or this user may not"
    advice = "set NUMBA_CACHE_DIR to a folder of mode 0700 in folders that only you can write to"
    return Finding("machine code", State.WARNING, detail, advice)


def _examine_models(settings: Settings) -> Iterator[Finding]:
    yield _attempt("detector", lambda: _describe_model(detector_card(settings)))
    yield _attempt("embedder", lambda: _describe_model(embedder_card(settings)))
    yield _examine_accelerator(settings)
    try:
        warnings = warn_calibration(settings)
        if embedder_card(settings).calibration_path is None:
            detail, _, advice = warnings[0].partition("; ")
            yield Finding("calibration", State.WARNING, detail, advice)
            return
        told, advice = describe_calibration(settings)
    except CalibrationError as error:
        yield _broken("calibration", error)
    except SosieError:
        return  # the embedder's own line says why
    else:
        detail = f"fits {model_digest(settings)[:12]}; {told}"
        state = State.WARNING if advice else State.OK
        yield Finding("calibration", state, detail, advice)
        for warning in warnings:
            detail, _, advice = warning.partition("; ")
            yield Finding("thresholds", State.WARNING, detail, advice)


def _examine_accelerator(settings: Settings) -> Finding:
    """Opens the embedder, and embeds a crop: only that shows that a device works."""
    try:
        embedder = open_embedder(settings)
        embedder.embed(np.zeros((1, embedder.side_px, embedder.side_px, 3), np.uint8))
    except SosieError as error:
        return _broken("provider", error)
    session = embedder.session
    detail = f"faces are embedded by {session.provider}, {session.precision}"
    if session.fault:
        fault, _, advice = session.fault.rpartition(": ")
        return Finding("provider", State.WARNING, f"{detail}; {fault}", advice)
    if session.provider == "cuda":
        detail = f"{detail}: {describe_options(session.device_options)}"
    return Finding("provider", State.OK, detail)


def _describe_model(card: ModelCard) -> str:
    locate(card)
    transform = f" with the transform {card.transform_sha256[:12]}…" if card.transform else ""
    if transform:
        read_transform_file(card)
    return f"{card.name}, SHA-256 {card.sha256[:12]}…{transform} verified, {card.licence}"


def _examine_home(home: Path, settings: Settings, is_deep: bool) -> Iterator[Finding]:
    from serving.deployment.deployment import Deployment  # noqa: PLC0415 - only where there is a home

    try:
        deployment = Deployment(home, settings, is_examined=True)
    except SosieError as error:
        yield _broken("deployment", error)
        return
    with deployment:
        yield _examine_folder(home)
        yield _examine_key_ring(deployment)
        yield _attempt("registry", lambda: _describe_registry(deployment))
        yield _examine_crops(deployment)
        yield from _examine_erasures(deployment)
        yield _attempt("liveness", lambda: _describe_liveness(deployment))
        if settings.liveness.judge:
            yield _attempt("liveness judge", lambda: _describe_judge(settings))
        if settings.authority.kind != "form":
            yield _examine_authority(deployment)
        yield from _examine_webhooks(deployment)
        yield from _examine_people(deployment.store)
        if settings.sign_in.issuer:
            yield _examine_sign_in(deployment)
        if settings.models.second:
            yield _attempt_second(deployment)
        yield _examine_database(deployment, is_deep)
        try:
            yield from _examine_gallery(deployment)
            yield from _examine_false_candidates(deployment)
        except (SosieError, IndexFault) as error:
            yield _broken("gallery", error)
        yield _examine_lines(deployment)
        yield _examine_chain(deployment)
        yield _examine_clock(deployment)


def _examine_crops(deployment: Deployment) -> Finding:
    """Examines whose faces are kept, and how many there are."""
    crops = deployment.settings.crops
    try:
        counts = deployment.store.counts()
    except SosieError as error:
        return _broken("faces", error)
    there = f"{counts['crops']:,} are there"
    for_days = f"{crops.days} days"
    if crops.keep == "none":
        return Finding(
            "faces", State.OK, f"none is kept, whoever decides a case sees none; {there}"
        )
    if crops.keep == "all":
        return Finding("faces", State.OK, f"everybody's are kept for {for_days}; {there}")
    detail = f"those of people in cases are kept for {for_days}"
    if crops.hold_days:
        held = f"everybody's are held for {crops.hold_days} days, shown to nobody"
        return Finding("faces", State.OK, f"{detail}; {held}; {there}")
    advice = "set hold_days under [crops] to the days between two sweeps, or tell the fraud team"
    return Finding("faces", State.WARNING, f"{detail}, but for whom they are like; {there}", advice)


def _examine_erasures(deployment: Deployment) -> Iterator[Finding]:
    """Erasures that wait for open cases; nothing where none does."""
    from engine.matching.holders import list_pending  # noqa: PLC0415 - as above
    from engine.registry.database import utc_now  # noqa: PLC0415 - as above

    pending, now = list_pending(deployment.store), utc_now()
    if not pending:
        return
    detail = f"{len(pending)} wait for open cases, the first until {pending[0].due_at:%Y-%m-%d}"
    late = [one for one in pending if not one.cases or one.due_at <= now]
    if late:
        advice = "start the service, or run sosie retention run"
        yield Finding("erasures", State.WARNING, f"{detail}; {len(late)} are due", advice)
    else:
        yield Finding("erasures", State.OK, detail)


EVENTS_LATE = timedelta(hours=1)


def _examine_webhooks(deployment: Deployment) -> Iterator[Finding]:
    """Examines whether events arrive; nothing where there is no webhook."""
    from engine.registry.database import utc_now  # noqa: PLC0415 - as above
    from engine.registry.webhooks import Webhooks  # noqa: PLC0415 - as above

    webhooks = Webhooks(deployment.store.engine, deployment.vault)
    try:
        found = [(one, webhooks.measure(one)) for one in webhooks.find_all()]
    except SosieError as error:
        yield _broken("webhooks", error)
        return
    if not found:
        return
    active = [backlog for one, backlog in found if one.state is WebhookState.ACTIVE]
    waiting, dead = sum(one.waiting for one in active), sum(one.dead for _, one in found)
    gone = sum(one.state is WebhookState.GONE for one, _ in found)
    detail = f"{len(active)} of {len(found)} are active; {waiting:,} events wait; {dead:,} are dead"
    late = utc_now() - EVENTS_LATE
    if dead or gone or any(one.oldest_at is not None and one.oldest_at < late for one in active):
        advice = "see sosie webhooks list, and docs/operations.md#events-wait"
        yield Finding("webhooks", State.WARNING, detail, advice)
    else:
        yield Finding("webhooks", State.OK, detail)


def _describe_liveness(deployment: Deployment) -> str:
    """Describes the evidence of liveness asked for; the keys of every issuer are there."""
    checker, settings = deployment.liveness, deployment.settings.liveness
    asked = [f"{mode} of {use}s" for use, mode in settings.modes().items()]
    asked += [f"{len(settings.carriers)} carriers apart"] if settings.carriers else []
    issuers = ", ".join(settings.issuers) or "no issuer"
    return f"evidence is {', '.join(asked)}; {issuers}; aud {checker.audience}"


def _describe_judge(settings: Settings) -> str:
    """Opens it, and has it judge a black picture."""
    judge, terms = open_liveness_judge(settings), judge_terms(settings)
    assert judge is not None, "a judge is named"
    assert terms is not None, "a judge is named"
    limits = f"live from {terms.live:g}, spoof below {terms.spoof:g}"
    mode = "it decides" if terms.enforces else "it is observed"
    return f"{_describe_model(judge.card)}; {limits}; {mode}"


def _examine_authority(deployment: Deployment) -> Finding:
    """Examines whether the list can be read, or the service takes connections; no document is asked
    for."""
    settings, home = deployment.settings.authority, deployment.home
    terms = f"no answer: {settings.unavailable}, unknown: {settings.unknown}"
    from engine.matching.checks.authority import ListedAuthority  # noqa: PLC0415 - few ask one

    try:
        from serving.ingress.http_authority import reach  # noqa: PLC0415 - an extra
    except ImportError:
        advice = advise_extra("serve")
        return Finding("authority", State.WARNING, "its packages are not installed", advice)
    try:
        if settings.kind == "listed":
            listed = ListedAuthority(home / settings.list_file, deployment.vault).read()
            return Finding("authority", State.OK, f"{len(listed):,} documents are listed; {terms}")
        return Finding("authority", State.OK, f"{reach(settings, home)}; {terms}")
    except SosieError as error:
        detail, _, advice = str(error).rpartition(": ")
        return Finding("authority", State.WARNING, f"{detail}; {terms}", advice)


def _examine_people(store: Store) -> Iterator[Finding]:
    """People whom earlier versions took, by whose names one could be taken for two."""
    from engine.registry.database import utc_now  # noqa: PLC0415 - as above

    people = {one.person for one in store.api_keys() if one.person and one.revoked_at is None}
    people |= {one.person for one in store.accounts.everyone(utc_now())}
    if odd := sum(mixes_scripts(one) for one in people):
        detail = f"{odd} names of people in keys and accounts mix scripts: one could pass as two"
        advice = "see sosie apikey list and sosie account list; give new keys, revoke these"
        yield Finding("people", State.WARNING, detail, advice)


def _examine_sign_in(deployment: Deployment) -> Finding:
    """Examines whether the identity provider answers, and what [sign_in] groups grants is here."""
    try:
        from serving.access.sign_in import SignInFailed, open_sign_in  # noqa: PLC0415 - an extra
    except ImportError:
        advice = advise_extra("serve")
        return Finding("sign-in", State.WARNING, "its packages are not installed", advice)
    try:
        sign_in = open_sign_in(deployment.settings, deployment.vault, deployment.home)
        assert sign_in is not None, "an issuer is named"
        asyncio.run(sign_in.check())
        unknown = sign_in.find_unknown(deployment.store)
    except SignInFailed as failure:
        advice = "keys still work; look at the provider, or mend [sign_in] issuer"
        return Finding("sign-in", State.WARNING, str(failure), advice)
    except SosieError as error:
        return _broken("sign-in", error)
    if unknown:
        detail = f"groups are given what is not here: {', '.join(unknown)}"
        return Finding("sign-in", State.WARNING, detail, "add it, or mend [sign_in] groups")
    return Finding("sign-in", State.OK, f"{sign_in.name} answers")


def _examine_lines(deployment: Deployment) -> Finding:
    """By which rules holders of lines are asked for, and of whom there are none."""
    settings = deployment.settings.lines
    try:
        rules, limit = deployment.line_rules, deployment.person_limit
        known = {one.code for one in deployment.store.carriers()}
    except SosieError as error:
        return _broken("lines", error)
    detail = f"rules of {settings.rules}" if settings.rules else "no rules"
    detail += "".join(f", {code} by {name}" for code, name in settings.carriers.items())
    detail += f"; {limit or 'any number of'} lines a person"
    unknown = sorted({*rules.own, *settings.sim_changes_since} - known)
    if unknown:
        told = f"{detail}; there is no carrier {', '.join(unknown)}"
        return Finding("lines", State.WARNING, told, "add it, or mend [lines]")
    return Finding("lines", State.OK, detail)


def _examine_clock(deployment: Deployment) -> Finding:
    from engine.registry.database import utc_now  # noqa: PLC0415 - as above
    from engine.retention.job import find_clock_fault  # noqa: PLC0415 - as above

    fault = find_clock_fault(deployment.store, utc_now())
    if fault is None:
        return Finding("clock", State.OK, "continues the audit chain")
    detail, _, advice = fault.partition("; ")
    return Finding("clock", State.WARNING, detail, advice)


def _examine_folder(home: Path) -> Finding:
    found = home.stat()
    is_own = found.st_uid in (0, os.getuid())
    if is_own and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return Finding("home", State.OK, str(home))
    detail = f"others may write to {home}, and so change its settings"
    return Finding("home", State.WARNING, detail, f"chown it to yourself, and chmod 700 {home}")


def _examine_key_ring(deployment: Deployment) -> Finding:
    ring = deployment.vault.ring
    marks = ", ".join(f"{name} {mark}" for name, mark in ring.fingerprints.items())
    if len(ring.data) > 1:
        advice = "a rotation has stopped half-way: run sosie keys rotate"
        return Finding("key ring", State.WARNING, f"several data keys; {marks}", advice)
    sealed = deployment.store.seal_counts().get(ring.active_data_key.version, 0)
    detail = f"readable by its owner alone; {sealed:,} values sealed of {MOST_SEALS:,}; {marks}"
    if sealed >= SEALS_TO_ROTATE:
        advice = "run sosie keys rotate, which makes a new data key: beyond that none is safe"
        return Finding("key ring", State.WARNING, detail, advice)
    return Finding("key ring", State.OK, detail)


def _describe_registry(deployment: Deployment) -> str:
    counts = deployment.store.counts()
    shown = ("documents", "live_references", "enrollments", "lines", "cases", "outlets")
    listed = ", ".join(f"{counts[name]:,} {name.replace('_', ' ')}" for name in shown)
    return f"schema up to date; {listed}"


def _attempt_second(deployment: Deployment) -> Finding:
    subject = "second model"
    try:
        second = deployment.second
        assert second is not None
        coverage = deployment.store.coverage(second.digest)
    except SosieError as error:
        return _broken(subject, error)
    detail = f"{deployment.settings.models.second} has {coverage}; it decides nothing"
    if second.thresholds is None:
        return Finding(subject, State.WARNING, f"{detail}, and is not calibrated", CALIBRATE)
    if coverage.is_whole:
        return Finding(subject, State.OK, f"{detail} until sosie model switch")
    return Finding(subject, State.OK, f"{detail}: sosie model fill adds more")


CALIBRATE = "run sosie calibrate DIR --card FILE.toml"


def _examine_database(deployment: Deployment, is_deep: bool) -> Finding:
    from engine.registry.damage import find_damage, is_checked_whole  # noqa: PLC0415 - as above

    store = deployment.store
    try:
        rows = sum(store.counts().values())
        if rows > QUICK_ROWS and not is_deep:
            detail = f"its {rows:,} rows were not read"
            return Finding("database", State.WARNING, detail, "run sosie doctor --deep")
        is_alone = not store.has_writer()
        found = find_damage(store, is_alone=is_alone)
    except SosieError as error:
        return _broken("database", error)
    if found:
        detail = "; ".join(found)
        return Finding("database", State.BROKEN, detail, "put back a backup: sosie restore")
    if not is_checked_whole(store, is_alone=is_alone):
        detail = "every row is sound; its structure is not checked beside a running service"
        return Finding("database", State.WARNING, detail, "run sosie backup, which checks its copy")
    return Finding("database", State.OK, "structure, rows and entries of the audit chain agree")


def _examine_gallery(deployment: Deployment) -> Iterator[Finding]:
    from serving.deployment.deployment import SNAPSHOT_AFTER  # noqa: PLC0415 - as above

    restored = deployment.restored
    gallery = restored.gallery
    is_rounded = deployment.settings.gallery.rows == "float16"
    different = _count_differences(deployment.store, gallery, is_rounded)
    if unopened := deployment.store.unopened:
        detail = f"{plural(unopened, 'reference')} cannot be opened, and no search finds them"
        yield Finding("gallery", State.BROKEN, detail, "sosie audit verify; put back a backup")
    elif not different and gallery.sequence == deployment.store.sequence():
        detail = f"{len(gallery):,} references at sequence {gallery.sequence}, equal to the store"
        yield Finding("gallery", State.OK, detail)
        yield Finding("index", State.OK, _describe_index(gallery))
    else:
        detail = (
            f"{len(gallery):,} references at sequence {gallery.sequence}, {different:,} unlike the "
            f"store's at {deployment.store.sequence()}"
        )
        advice = (
            "a writer may be at work: run sosie doctor again; if it stays, remove "
            f"{deployment.snapshot_folder}"
        )
        yield Finding("gallery", State.BROKEN, detail, advice)
    if restored.fault is not None:
        advice = f"it is rebuilt from the store; remove {deployment.snapshot_folder}"
        yield Finding("snapshot", State.WARNING, restored.fault, advice)
    elif not restored.loaded and restored.replayed > SNAPSHOT_AFTER:
        detail = f"there is none: each start reads {restored.replayed:,} changes from the store"
        advice = "a service saves one when it stops, and again after an erasure: see its log"
        yield Finding("snapshot", State.WARNING, detail, advice)
    else:
        detail = f"{restored.loaded:,} references in it, {restored.replayed:,} changes since"
        yield Finding("snapshot", State.OK, detail)
    if (fault := deployment.upkeep_fault) is not None:
        yield Finding("upkeep", State.WARNING, fault, "start the service, which rewrites it")


def _examine_false_candidates(deployment: Deployment) -> Iterator[Finding]:
    """Examines whether the gallery is too large for what searches may bring, where they are
    bounded."""
    wanted = deployment.settings.thresholds.review_false_candidates
    if not wanted:
        return
    references, score = len(deployment.restored.gallery), deployment.thresholds.review
    fused = deployment.calibration.curve(Comparison.FUSED)
    expected = fused.fmr_at(score).times(references)
    detail = f"review {score:.3f} in {references:,} references: {expected} a search, of {wanted:g}"
    if wanted < references * fused.lowest_fmr:
        advice = (
            "the calibration supports no higher threshold: allow more "
            "([thresholds] review_false_candidates), or calibrate on more people"
        )
        yield Finding("false candidates", State.WARNING, detail, advice)
    else:
        yield Finding("false candidates", State.OK, detail)


def _describe_index(gallery: Gallery) -> str:
    account = gallery.account()
    parts = [gallery.kind, f"{account.bytes_per_reference:,.0f} bytes a reference"]
    segments = gallery.segments
    if segments:
        parts.append(f"searched by {segments[0].scanner.kernel}")
        if account.device:
            parts.append(f"{account.device / 2**20:,.0f} MiB on the GPU")
        removed = sum(segment.removed for segment in segments)
        parts.append(f"{len(segments)} segments with {removed:,} removed references in them")
    return ", ".join(parts)


def _count_differences(store: Store, gallery: Gallery, is_rounded: bool) -> int:
    """The number of references that one side lacks, or that differ; opens all of the store's.

    Ids alone are not enough: a store restored from a backup reuses them. With `is_rounded` the
    gallery has the templates rounded to float16.
    """
    from indexes.segmented.merging import narrowed  # noqa: PLC0415 - it loads the kernels

    matched, different = 0, 0
    held = gallery.ids
    for chunk in store.references():
        is_held = np.isin(chunk.ids, held)
        found = gallery.vectors(chunk.ids[is_held])
        stored = chunk.vectors[is_held]
        is_equal = (found == (narrowed(stored) if is_rounded else stored)).all(axis=1)
        matched += int(is_held.sum())
        different += int((~is_held).sum()) + int((~is_equal).sum())
    return different + len(held) - matched


def _examine_chain(deployment: Deployment) -> Finding:
    from engine.registry.audit import verify_chain  # noqa: PLC0415 - as above

    try:
        report = verify_chain(deployment.store)
    except SosieError as error:
        return _broken("audit chain", error)
    if report.intact:
        sealed = "".join(f", but for what entry {one.number} has mended" for one in report.mends)
        return Finding("audit chain", State.OK, f"{report.entries:,} entries, intact{sealed}")
    advice = "run sosie audit verify: put back a backup, or two people mend it"
    return Finding("audit chain", State.BROKEN, f"entry {report.first_bad} is not in place", advice)


def _attempt(subject: str, describe: Callable[[], str]) -> Finding:
    try:
        return Finding(subject, State.OK, describe())
    except SosieError as error:
        return _broken(subject, error)


def _broken(subject: str, error: SosieError | IndexFault) -> Finding:
    """A failed check without advice: the messages of our errors end in what to do."""
    return Finding(subject, State.BROKEN, str(error))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cpu_flags() -> frozenset[str]:
    """CPU flags on Linux; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return frozenset()
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return frozenset(flags.partition(":")[2].split())
