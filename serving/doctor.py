"""Checks of `sosie doctor`: the machine, the models, and the deployment if there is one."""

import asyncio
import os
import platform
import stat
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from enum import StrEnum
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from engine.errors import CalibrationError, SosieError, advise_extra
from engine.formatting import mixes_scripts, plural, size
from engine.matching.checks.document import ListedAuthority
from engine.matching.holders import list_pending
from engine.models.catalog import ModelCard, locate, read_transform_file
from engine.models.onnx_sessions import available_providers, describe_options, runtime_version
from engine.registry.audit import verify_chain
from engine.registry.damage import find_damage, is_checked_whole
from engine.registry.database import utc_now
from engine.registry.store import Store
from engine.registry.vault import MOST_SEALS
from engine.retention.job import find_clock_fault
from indexes.errors import IndexFault
from indexes.exact.intrinsics import is_private, machine_code_folder
from indexes.gallery import Gallery
from indexes.segmented.merging import narrowed
from schema import frozen
from schema.decisions import Comparison
from schema.events import WebhookState
from schema.people import Channel
from schema.reasons import LivenessUse
from serving.deployment.deployment import SNAPSHOT_AFTER, Deployment
from serving.deployment.models import (
    describe_calibration,
    detector_card,
    embedder_card,
    extractor_config,
    judge_terms,
    model_digest,
    open_embedder,
    open_liveness_judge,
    warn_calibration,
)
from serving.measure import read_cpu
from serving.settings.settings import Settings, find_user_cache, load_settings

PACKAGES = ("numpy", "numba", "opencv-python-headless", "onnx", "pillow", "sqlalchemy")
RUNTIMES = ("onnxruntime", "onnxruntime-openvino", "onnxruntime-gpu")
FAST_FLAGS = ("avx2", "avx512f", "avx512_vnni", "amx_int8")
"""CPU instructions that speed up the kernels, common ones first."""

LEAST_MEMORY_BYTES = 2 * 2**30


class State(StrEnum):
    """Result of a check: `broken` prevents something from working, a `warning` may."""

    OK = "ok"
    WARNING = "warning"
    BROKEN = "broken"


@frozen
class Finding:
    """Result of one check; `advice` says what to do if it is not ok."""

    subject: str
    state: State
    detail: str
    advice: str = ""


def _find(subject: str, detail: str, advice: str = "") -> Finding:
    """What is there: a warning where there is advice."""
    return Finding(subject, State.WARNING if advice else State.OK, detail, advice)


SEALS_TO_ROTATE = MOST_SEALS // 2
"""From so many values sealed with one data key on, `sosie doctor` asks for a new one."""
QUICK_ROWS = 200_000
"""Most rows that are read without being asked to: some ten seconds."""


def examine(home: Path | None, *, is_deep: bool = False) -> list[Finding]:
    """Everything that can be looked at, whatever else is broken; every row of a large registry if
    `is_deep`."""
    findings = [*_examine_machine(), *_examine_packages(), _examine_telemetry()]
    findings.append(_examine_machine_code())
    try:
        settings = load_settings(home)
    except SosieError as error:
        return [*findings, Finding("settings", State.BROKEN, str(error))]
    findings += _examine_models(settings)
    if home is None:
        advice = "run sosie init DIR, then give --home DIR"
        return [*findings, _find("deployment", "no home folder here", advice)]
    return [*findings, *_examine_home(home, settings, is_deep)]


def _examine_machine() -> Iterator[Finding]:
    yield _find("python", f"{platform.python_version()} at {sys.executable}")
    _, flags = read_cpu()
    found = [flag for flag in FAST_FLAGS if flag in flags]
    cores = len(os.sched_getaffinity(0))
    detail = f"{cores} cores, {' '.join(found) or 'none of ' + ' '.join(FAST_FLAGS)}"
    if "avx512_vnni" in found or "avx_vnni" in flags or platform.machine() == "aarch64":
        yield _find("cpu", detail)
    else:
        advice = "int8 searches run at a fraction of the figures stated: choose a newer CPU"
        yield _find("cpu", f"{detail}; no VNNI", advice)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield _find("memory", size(total), "2 GiB are too few" if total < LEAST_MEMORY_BYTES else "")


def _examine_packages() -> Iterator[Finding]:
    versions = [f"{name} {_version(name) or 'missing'}" for name in PACKAGES]
    if None in map(_version, PACKAGES):
        advice = f"install Sosie again: {advise_extra('cpu')}"
        yield Finding("packages", State.BROKEN, ", ".join(versions), advice)
    else:
        yield _find("packages", ", ".join(versions))
    installed = [f"{name} {_version(name)}" for name in RUNTIMES if _version(name)]
    if runtime_version() is None:
        advice = f"{advise_extra('cpu')}, or the extra openvino or gpu"
        yield Finding("runtime", State.BROKEN, "no ONNX Runtime", advice)
    elif len(installed) > 1:
        advice = "they overwrite each other: uninstall all, then install one extra"
        yield Finding("runtime", State.BROKEN, ", ".join(installed), advice)
    else:
        yield _find("runtime", f"{', '.join(installed)} with {', '.join(available_providers())}")


_TELEMETRY = "Microsoft/DeveloperTools/.onnxruntime"
"""In the user's cache: an id of this machine, and events that wait to be sent."""


def _examine_telemetry() -> Finding:
    """Examines what packages would report to their makers; both are told not to where they are
    started."""
    folder = find_user_cache() / _TELEMETRY
    if folder.exists():
        detail = f"off; other uses of ONNX Runtime, or Sosie before it was, left {folder}"
        advice = "remove the folder, and set ORT_DISABLE_TELEMETRY=1 for other programs"
        return _find("telemetry", detail, advice)
    return _find("telemetry", "off: ONNX Runtime and Ray report nothing")


def _examine_machine_code() -> Finding:
    folder = machine_code_folder()
    if is_private(folder):
        return _find("machine code", f"kept in {folder}")
    detail = f"compiled at each start: others may write to {folder}, or this user may not"
    advice = "set NUMBA_CACHE_DIR to a folder of mode 0700 in folders that only you can write to"
    return _find("machine code", detail, advice)


def _examine_models(settings: Settings) -> Iterator[Finding]:
    yield from _attempt("detector", lambda: _examine_model("detector", detector_card(settings)))
    yield from _attempt("embedder", lambda: _examine_model("embedder", embedder_card(settings)))
    yield from _attempt("provider", lambda: _examine_accelerator(settings))
    yield from _attempt("quality", lambda: _examine_measures(settings))
    try:
        warnings = warn_calibration(settings)
        if embedder_card(settings).calibration_path is not None:
            told, advice = describe_calibration(settings)
            detail = f"fits {model_digest(settings)[:12]}; {told}"
            yield _find("calibration", detail, advice)
    except CalibrationError as error:
        yield Finding("calibration", State.BROKEN, str(error))
    except SosieError:
        return  # the embedder's own line says why
    else:
        is_calibrated = embedder_card(settings).calibration_path is not None
        for warning in warnings:
            detail, _, advice = warning.partition("; ")
            yield _find("thresholds" if is_calibrated else "calibration", detail, advice)
        card = embedder_card(settings)
        if not card.usual_length:
            detail = f"model {card.name} has no usual_length, so no face is UNCLEAR"
            yield _find("clarity", detail, "make its card anew: sosie model add --photographs DIR")
        if not card.transform:
            detail = f"of vectors of model {card.name} no mean is subtracted"
            advice = "run sosie calibrate DIR --card FILE.toml --transform FILE.npz"
            yield _find("mean", detail, advice)


def _examine_accelerator(settings: Settings) -> Iterator[Finding]:
    """Opens the embedder, and embeds a crop: only that shows that a device works."""
    embedder = open_embedder(settings)
    embedder.embed(np.zeros((1, embedder.side_px, embedder.side_px, 3), np.uint8))
    session, advice = embedder.session, ""
    detail = f"faces are embedded by {session.provider}, {session.precision}"
    if session.fault:
        fault, _, advice = session.fault.rpartition(": ")
        detail = f"{detail}; {fault}"
    elif session.provider == "cuda":
        detail = f"{detail}: {describe_options(session.device_options)}"
    yield _find("provider", detail, advice)


def _examine_measures(settings: Settings) -> Iterator[Finding]:
    """Opens each, and has it read a black picture."""
    for one in extractor_config(settings).measures:
        detail = f"{one.contract.reason} where {one.name} is below {one.contract.least:g}"
        yield _find("quality", f"{detail}: {_describe_model(one.card)}")


def _examine_model(subject: str, card: ModelCard) -> Iterator[Finding]:
    yield _find(subject, _describe_model(card))


def _describe_model(card: ModelCard) -> str:
    locate(card)
    transform = f" with the transform {card.transform_sha256[:12]}…" if card.transform else ""
    if transform:
        read_transform_file(card)
    return f"{card.name}, SHA-256 {card.sha256[:12]}…{transform} verified, {card.licence}"


def _examine_home(home: Path, settings: Settings, is_deep: bool) -> Iterator[Finding]:
    checks = _HOME_CHECKS.copy()
    checks["database"] = partial(_examine_database, is_deep=is_deep)
    try:
        deployment = Deployment(home, settings, is_examined=True)
    except SosieError as error:
        yield Finding("deployment", State.BROKEN, str(error))
        return
    with deployment:
        for subject, examine in checks.items():
            yield from _attempt(subject, partial(examine, deployment))


def _examine_crops(deployment: Deployment) -> Iterator[Finding]:
    """Examines whose faces are kept, and how many there are."""
    crops, advice = deployment.settings.crops, ""
    if crops.keep == "none":
        detail = "none is kept, whoever decides a case sees none"
    elif crops.keep == "all":
        detail = f"everybody's are kept for {crops.days} days"
    else:
        detail = f"those of people in cases are kept for {crops.days} days"
        held = f"; everybody's are held for {crops.hold_days} days, shown to nobody"
        detail += held if crops.hold_days else ", but for whom they are like"
        if not crops.hold_days:
            advice = "set hold_days under [crops] to the days between two sweeps, or tell the "
            advice += "fraud team"
    yield _find("faces", f"{detail}; {deployment.store.counts()['crops']:,} are there", advice)


def _examine_erasures(deployment: Deployment) -> Iterator[Finding]:
    """Erasures that wait for open cases; nothing where none does."""
    pending, now = list_pending(deployment.store), utc_now()
    if not pending:
        return
    detail = f"{len(pending)} wait for open cases, the first until {pending[0].due_at:%Y-%m-%d}"
    advice = ""
    if late := [one for one in pending if not one.cases or one.due_at <= now]:
        detail += f"; {len(late)} are due"
        advice = "start the service, or run sosie retention run"
    yield _find("erasures", detail, advice)


EVENTS_LATE = timedelta(hours=1)


def _examine_webhooks(deployment: Deployment) -> Iterator[Finding]:
    """Examines whether events arrive; nothing where there is no webhook."""
    webhooks = deployment.store.webhooks
    found = [(one, webhooks.measure(one)) for one in webhooks.find_all()]
    if not found:
        return
    active = [backlog for one, backlog in found if one.state is WebhookState.ACTIVE]
    waiting, dead = sum(one.waiting for one in active), sum(one.dead for _, one in found)
    gone = sum(one.state is WebhookState.GONE for one, _ in found)
    detail = f"{len(active)} of {len(found)} are active; {waiting:,} events wait; {dead:,} are dead"
    late = utc_now() - EVENTS_LATE
    is_late = any(one.oldest_at is not None and one.oldest_at < late for one in active)
    advice = "see sosie webhooks list, and docs/operations.md#events-wait"
    yield _find("webhooks", detail, advice if dead or gone or is_late else "")


def _examine_liveness(deployment: Deployment) -> Iterator[Finding]:
    """Tells the evidence of liveness asked for; the keys of every issuer, of proofs too, are
    there."""
    checker, settings, _ = deployment.liveness, deployment.settings.liveness, deployment.proofs
    asked = [f"{checker.terms.mode(use, None)} of {use}s" for use in LivenessUse]
    asked += [f"{len(settings.carriers)} carriers apart"] if settings.carriers else []
    issuers = ", ".join(settings.issuers) or "no issuer"
    yield _find("liveness", f"evidence is {', '.join(asked)}; {issuers}; aud {checker.audience}")


def _examine_judge(deployment: Deployment) -> Iterator[Finding]:
    """Opens it, and has it judge a black picture."""
    judge, terms = open_liveness_judge(deployment.settings), judge_terms(deployment.settings)
    if judge is not None and terms is not None:
        limits = f"live from {terms.live:g}, spoof below {terms.spoof:g}"
        mode = "it decides" if terms.enforces else "it is observed"
        yield _find("liveness judge", f"{_describe_model(judge.card)}; {limits}; {mode}")


def _examine_authority(deployment: Deployment) -> Iterator[Finding]:
    """Examines whether the list can be read, or the service takes connections; no document is asked
    for."""
    settings, home = deployment.settings.authority, deployment.home
    terms, advice = f"no answer: {settings.unavailable}, unknown: {settings.unknown}", ""
    if settings.kind == "form":
        return
    try:
        from serving.ingress.http_authority import reach  # noqa: PLC0415 - an extra
    except ImportError:
        yield _find("authority", "its packages are not installed", advise_extra("serve"))
        return
    try:
        if settings.kind == "listed":
            listed = ListedAuthority(home / settings.list_file, deployment.vault).read()
            detail = f"{len(listed):,} documents are listed"
        else:
            detail = reach(settings, home)
    except SosieError as error:
        detail, _, advice = str(error).rpartition(": ")
    yield _find("authority", f"{detail}; {terms}", advice)


def _examine_people(deployment: Deployment) -> Iterator[Finding]:
    """People whom earlier versions took, by whose names one could be taken for two."""
    store = deployment.store
    people = {one.person for one in store.api_keys() if one.person and one.revoked_at is None}
    people |= {one.person for one in store.accounts.everyone(utc_now())}
    if odd := sum(mixes_scripts(one) for one in people):
        detail = f"{odd} names of people in keys and accounts mix scripts: one could pass as two"
        advice = "see sosie apikey list and sosie account list; give new keys, revoke these"
        yield _find("people", detail, advice)


def _examine_sign_in(deployment: Deployment) -> Iterator[Finding]:
    """Examines whether the identity provider answers, and what [sign_in] groups grants is here."""
    if not deployment.settings.sign_in.issuer:
        return
    try:
        from serving.access.sign_in import SignInFailed, open_sign_in  # noqa: PLC0415 - an extra
    except ImportError:
        yield _find("sign-in", "its packages are not installed", advise_extra("serve"))
        return
    try:
        sign_in = open_sign_in(deployment.settings, deployment.vault, deployment.home)
        assert sign_in is not None, "an issuer is named"
        asyncio.run(sign_in.check())
        unknown = sign_in.find_unknown(deployment.store)
    except SignInFailed as failure:
        advice = "keys still work; look at the provider, or mend [sign_in] issuer"
        yield _find("sign-in", str(failure), advice)
    else:
        detail = f"groups are given what is not here: {', '.join(unknown)}"
        advice = "add it, or mend [sign_in] groups"
        yield _find("sign-in", *([detail, advice] if unknown else [f"{sign_in.name} answers"]))


def _examine_lines(deployment: Deployment) -> Iterator[Finding]:
    """By which rules holders of lines are asked for, and of whom there are none."""
    settings, advice = deployment.settings.lines, ""
    rules, limits = deployment.line_rules, deployment.line_limits
    known = deployment.store.carrier_names()
    detail = f"rules of {settings.rules}" if settings.rules else "no rules"
    detail += "".join(f", {code} by {name}" for code, name in settings.carriers.items())
    detail += f"; {rules.usual.tell_limits(limits.person_limit)}"
    opened = set().union(*(one.proofs for one in rules.sets))
    if closed := sorted(opened - deployment.settings.proofs.signed):
        detail += f"; nobody signs for {', '.join(closed)}, which the rules open"
    if least := rules.filing_persons:
        stored = deployment.store.counts()["live_references"]
        detail += f"; faces stored: {stored:,}; from {least:,} persons on it is to be filed"
    if unkept := sorted(one for one in known if one in deployment.people.unkept):
        detail += f"; of {', '.join(unkept)} no face is added, and earlier ones stay"
        said = deployment.settings.people
        if unsaid := [one for one in unkept if said.of(one).keep_faces != "none"]:
            detail += f", for {', '.join(unsaid)} by the set of rules alone"
            advice = "say keep_faces under [people.carriers]: none, or all to go on as before"
    if unknown := sorted({*rules.own, *settings.sim_changes_since} - known.keys()):
        detail += f"; there is no carrier {', '.join(unknown)}"
        advice = "add it, or mend [lines]"
    elif stray := _find_strays(deployment):
        named = ", ".join(stray)
        detail += f"; no limit or level of a channel holds for {named}: there is no such outlet"
        advice = "mend [lines] channels"
    elif old := rules.list_old(utc_now().date()):
        detail += f"; nobody has read the source of {', '.join(old)} for six months"
        advice = "read it, and put a set with a checked_on of today into a file: sosie line rules"
    yield _find("lines", detail, advice)


def _find_strays(deployment: Deployment) -> list[str]:
    """Channels without an outlet, and outlets that there are not: no limit or level of liveness
    holds for them."""
    rules, channels = deployment.line_rules, deployment.settings.lines.channels
    limited = {key for one in rules.sets for key in one.channel_limits}
    levels = [key for one in deployment.liveness.terms.rules.values() for key in one.at_least]
    limited |= {key for key in levels if isinstance(key, Channel)}
    unknown = {*channels}.difference(deployment.store.outlets([*channels]))
    return sorted(limited.difference(channels.values()) | unknown)


def _examine_clock(deployment: Deployment) -> Iterator[Finding]:
    fault = find_clock_fault(deployment.store, utc_now())
    detail, _, advice = (fault or "continues the audit chain").partition("; ")
    yield _find("clock", detail, advice)


def _examine_folder(deployment: Deployment) -> Iterator[Finding]:
    home, found = deployment.home, deployment.home.stat()
    detail, advice = str(home), ""
    if found.st_uid not in (0, os.getuid()) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        detail = f"others may write to {home}, and so change its settings"
        advice = f"chown it to yourself, and chmod 700 {home}"
    yield _find("home", detail, advice)


def _examine_key_ring(deployment: Deployment) -> Iterator[Finding]:
    ring, advice = deployment.vault.ring, ""
    marks = ", ".join(f"{name} {mark}" for name, mark in ring.fingerprints.items())
    sealed = deployment.store.seal_counts().get(ring.active_data_key.version, 0)
    detail = f"readable by its owner alone; {sealed:,} values sealed of {MOST_SEALS:,}"
    if len(ring.data) > 1:
        detail = "several data keys"
        advice = "a rotation has stopped half-way: run sosie keys rotate"
    elif sealed >= SEALS_TO_ROTATE:
        advice = "run sosie keys rotate, which makes a new data key: beyond that none is safe"
    yield _find("key ring", f"{detail}; {marks}", advice)


def _examine_registry(deployment: Deployment) -> Iterator[Finding]:
    counts = deployment.store.counts()
    shown = ("documents", "live_references", "enrollments", "lines", "cases", "outlets")
    listed = ", ".join(f"{counts[name]:,} {name.replace('_', ' ')}" for name in shown)
    yield _find("registry", f"schema up to date; {listed}")


def _examine_second(deployment: Deployment) -> Iterator[Finding]:
    second = deployment.second
    if second is None:
        return
    coverage = deployment.store.coverage(second.digest)
    rest = " until sosie model switch" if coverage.is_whole else ": sosie model fill adds more"
    if second.thresholds is None:
        rest = ", and is not calibrated"
    detail = f"{deployment.settings.models.second} has {coverage}; it decides nothing{rest}"
    yield _find("second model", detail, CALIBRATE if second.thresholds is None else "")


CALIBRATE = "run sosie calibrate DIR --card FILE.toml"


def _examine_database(deployment: Deployment, is_deep: bool) -> Iterator[Finding]:
    store = deployment.store
    rows, is_alone = sum(store.counts().values()), not store.has_writer()
    if rows > QUICK_ROWS and not is_deep:
        yield _find("database", f"its {rows:,} rows were not read", "run sosie doctor --deep")
    elif found := find_damage(store, is_alone=is_alone):
        advice = "put back a backup: sosie restore"
        yield Finding("database", State.BROKEN, "; ".join(found), advice)
    elif not is_checked_whole(store, is_alone=is_alone):
        detail = "every row is sound; its structure is not checked beside a running service"
        yield _find("database", detail, "run sosie backup, which checks its copy")
    else:
        yield _find("database", "structure, rows and entries of the audit chain agree")


def _examine_gallery(deployment: Deployment) -> Iterator[Finding]:
    restored = deployment.restored
    gallery = restored.gallery
    is_rounded = deployment.settings.gallery.rows == "float16"
    different = _count_differences(deployment.store, gallery, is_rounded)
    if unopened := deployment.store.unopened:
        detail = f"{plural(unopened, 'reference')} cannot be opened, and no search finds them"
        yield Finding("gallery", State.BROKEN, detail, "sosie audit verify; put back a backup")
    elif not different and gallery.sequence == deployment.store.sequence():
        detail = f"{len(gallery):,} references at sequence {gallery.sequence}, equal to the store"
        yield _find("gallery", detail)
        yield _find("index", _describe_index(gallery))
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
        yield _find("snapshot", restored.fault, advice)
    elif not restored.loaded and restored.replayed > SNAPSHOT_AFTER:
        detail = f"there is none: each start reads {restored.replayed:,} changes from the store"
        advice = "a service saves one when it stops, and again after an erasure: see its log"
        yield _find("snapshot", detail, advice)
    else:
        detail = f"{restored.loaded:,} references in it, {restored.replayed:,} changes since"
        yield _find("snapshot", detail)
    if (fault := deployment.upkeep_fault) is not None:
        yield _find("upkeep", fault, "start the service, which rewrites it")
    yield from _examine_false_candidates(deployment)


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
    advice = (
        "the calibration supports no higher threshold: allow more "
        "([thresholds] review_false_candidates), or calibrate on more people"
    )
    is_met = wanted >= references * fused.lowest_fmr
    yield _find("false candidates", detail, "" if is_met else advice)


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
    """How many references one side lacks or has otherwise; opens all of the store's, as a restored
    store reuses ids. With `is_rounded` the gallery has float16."""
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


def _examine_chain(deployment: Deployment) -> Iterator[Finding]:
    report = verify_chain(deployment.store)
    if report.intact:
        sealed = "".join(f", but for what entry {one.number} has mended" for one in report.mends)
        yield _find("audit chain", f"{report.entries:,} entries, intact{sealed}")
    else:
        detail = f"entry {report.first_bad} is not in place"
        advice = "run sosie audit verify: put back a backup, or two people mend it"
        yield Finding("audit chain", State.BROKEN, detail, advice)


_HOME_CHECKS: dict[str, Callable[[Deployment], Iterator[Finding]]] = {
    "home": _examine_folder,
    "key ring": _examine_key_ring,
    "registry": _examine_registry,
    "faces": _examine_crops,
    "erasures": _examine_erasures,
    "liveness": _examine_liveness,
    "liveness judge": _examine_judge,
    "authority": _examine_authority,
    "webhooks": _examine_webhooks,
    "people": _examine_people,
    "sign-in": _examine_sign_in,
    "second model": _examine_second,
    "database": partial(_examine_database, is_deep=False),
    "gallery": _examine_gallery,
    "lines": _examine_lines,
    "audit chain": _examine_chain,
    "clock": _examine_clock,
}
"""In the order in which they are shown."""


def _attempt(subject: str, examine: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """What is found, up to a failure: the messages of our errors end in what to do."""
    try:
        yield from examine()
    except (SosieError, IndexFault) as error:
        yield Finding(subject, State.BROKEN, str(error))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
