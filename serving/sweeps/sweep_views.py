"""Sweeps in the registry: their states, each changed in one audited transaction, what one would
cost and find, views of them without personal data, and their reports."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import numpy as np

from engine.errors import RegistryError, SweepBusy, SweepOver
from engine.formatting import duration, plural, size, with_interval
from engine.matching.registrar import Runner
from engine.registry.audit import AuditEntry
from engine.registry.database import new_id
from engine.registry.store import Reader
from engine.registry.sweeps import SweepChange
from engine.registry.writer import ChangeRunner, Writer
from engine.sweeps.estimate import ExpectedSweep, GallerySize, SweepOrder, expect
from engine.sweeps.folder import Covered, GroupFile, SweepFolder
from engine.sweeps.report.contents import describe_term
from indexes.exact.device import open_scanner
from indexes.joining import NO_PAIRS
from indexes.joining.join import measure_pace
from schema.decisions import Comparison
from schema.sweeps import Group, GroupKind, SweepRecord, SweepScope, SweepState, SweepTerms
from serving.deployment.deployment import Deployment
from serving.deployment.models import find_conversion
from serving.settings.settings import Settings
from serving.wire import sweeps as wire
from serving.wire.fields import of_record

ALIVE = frozenset({SweepState.QUEUED, SweepState.RUNNING, SweepState.PAUSED})
"""At most one sweep is in one of these."""
ITSELF = "sweep"
"""The actor of changes that a sweep makes itself."""


class SweepStates:
    """Changes the states of sweeps; `runner` makes the changes where no other is given."""

    def __init__(self, registry: Reader, runner: Runner) -> None:
        self._registry = registry
        self._runner = runner
        found = registry.sweeps.newest(1)
        self.newest = found[0] if found else None
        """As last written: the holder of the lease is the only writer."""

    def find_alive(self) -> SweepRecord | None:
        """The sweep that has not ended: always the newest."""
        newest = self._registry.sweeps.newest(1)
        return newest[0] if newest and newest[0].state in ALIVE else None

    def require_none_alive(self) -> None:
        """`SweepBusy`, naming the sweep that is alive."""
        alive = self.find_alive()
        if alive is not None:
            raise SweepBusy(
                f"sweep {alive.id} is {alive.state.value}, and one runs at a time: "
                "let it end, or cancel it"
            )

    def enter(
        self, terms: SweepTerms, detail: Mapping[str, Any], actor: str, runner: Runner | None = None
    ) -> SweepRecord:
        """Adds a running sweep; `SweepBusy` where another is alive."""

        def perform(writer: Writer, now: datetime) -> SweepRecord:
            # Inside the transaction, where nothing else is written.
            self.require_none_alive()
            record = SweepRecord(
                id=new_id(),
                state=SweepState.RUNNING,
                terms=terms,
                requested_by=actor,
                created_at=now,
                started_at=now,
            )
            entry = AuditEntry(actor, "sweep.started", record.id, detail)
            return self._commit(writer, record, entry)

        return (runner or self._runner).run(perform)

    def move(
        self,
        sweep_id: str,
        source: Collection[SweepState],
        target: SweepState,
        actor: str = ITSELF,
        *,
        runner: Runner | None = None,
        detail: Mapping[str, Any] | None = None,
        change: Callable[[SweepRecord], SweepRecord] = lambda record: record,
    ) -> SweepRecord:
        """Moves a sweep to `target`; `SweepOver` unless its state is in `source`, or `NotFound`."""

        def perform(writer: Writer, now: datetime) -> SweepRecord:
            record = self._registry.sweeps.get(sweep_id)
            if record.state not in source:
                raise SweepOver(
                    f"the sweep is {record.state.value}, and can't become {target.value}: "
                    f"that is for one that is {' or '.join(sorted(source))}"
                )
            ended_at = None if target in ALIVE else now
            fault = None if target is SweepState.RUNNING else record.fault
            moved = change(replace(record, state=target, ended_at=ended_at, fault=fault))
            entry = AuditEntry(actor, _ACTIONS[target], sweep_id, detail or {})
            return self._commit(writer, moved, entry)

        return (runner or self._runner).run(perform)

    def _commit(self, writer: Writer, record: SweepRecord, entry: AuditEntry) -> SweepRecord:
        writer.commit([entry, SweepChange(record)])
        self.newest = record
        return record


_ACTIONS = {
    SweepState.RUNNING: "sweep.resumed",
    SweepState.PAUSED: "sweep.paused",
    SweepState.DONE: "sweep.done",
    SweepState.CANCELLED: "sweep.cancelled",
    SweepState.FAILED: "sweep.failed",
}


REPRESENTATIVE_COMPARISONS = 1_000_000_000
"""The time of a sweep with so many comparisons predicts that of the next."""


def plan_sweep(deployment: Deployment, request: SweepOrder) -> ExpectedSweep:
    """The expectation; measures the machine's pace, for a second, unless a sweep has shown it."""
    chosen = deployment.settings.sweep
    curve, review = deployment.calibration.curve(Comparison.FUSED), deployment.thresholds.review
    if chosen.fmr > 0:
        # What the operator has set may be asked for.
        review = min(review, curve.threshold_at(chosen.fmr))
    if request.is_open and request.budget is None and chosen.fmr > 0:
        request = replace(request, fmr=chosen.fmr)
    gallery = deployment.restored.gallery
    last = deployment.store.sweeps.last_done()
    known = find_known(deployment, request.scope, last, is_whole=request.budget is None)
    ids, sequence = gallery.ids, gallery.sequence
    size = GallerySize(
        references=len(ids),
        new=len(ids) if known is None else int((~np.isin(ids, known.ids)).sum()),
        sequence=sequence,
        dim=gallery.dim,
        held_bytes=gallery.account().total,
    )
    expectation = expect(
        request,
        size,
        curve,
        pace=_find_pace(last, size, deployment.settings),
        budget=chosen.false_pairs,
        at_least=-1.0 if last is None or known is None else last.terms.threshold,
        review=review,
    )
    terms = replace(expectation.terms, model_digest=deployment.store.model_digest)
    return replace(expectation, terms=terms)


def is_converted(deployment: Deployment, sweep: SweepRecord) -> bool:
    """True where references were converted to another model since a sweep began, so that its scores
    and its threshold are of vectors that are there no more."""
    if sweep.terms.model_digest is None:
        # Of a version before transforms.
        return find_conversion(deployment.settings) is not None
    return sweep.terms.model_digest != deployment.store.model_digest


def find_known(
    deployment: Deployment, scope: SweepScope, last: SweepRecord | None, *, is_whole: bool
) -> Covered | None:
    """References and pairs that a sweep of this scope need not compare again; None for all.
    `RegistryError` where the last sweep's folder is gone, references were converted since, or it
    kept only its budget's pairs and this one needs the `is_whole`."""
    if scope is SweepScope.ALL:
        return None
    if last is None:
        none = np.empty(0, np.int64)
        return Covered(none, NO_PAIRS)
    if is_whole and last.terms.budget is not None:
        raise RegistryError(
            f"sweep {last.id} kept only what its budget had room for: give a budget again, or "
            "sweep all once"
        )
    if is_converted(deployment, last):
        raise RegistryError(
            f"references were converted to another model since sweep {last.id}: sweep all once"
        )
    covered = SweepFolder.of(deployment.sweep_folder, last.id).load_covered()
    if covered is None:
        raise RegistryError(
            f"what sweep {last.id} has covered is gone from its folder: sweep all once"
        )
    return covered


def _find_pace(last: SweepRecord | None, size: GallerySize, settings: Settings) -> float:
    """Comparisons a second."""
    if last is not None and last.summary is not None:
        pace = last.summary.get("comparisons_per_s")
        if pace and last.summary["comparisons"] >= REPRESENTATIVE_COMPARISONS:
            return float(pace)
    scanner = open_scanner(settings.gallery.device, settings.sweep.threads or None)
    with closing(scanner):
        return measure_pace(size.dim, scanner, size.references * (size.references - 1) // 2)


MOST_IDENTITIES, MOST_LINES, MOST_LINKS, MOST_SEVERED = 500, 2_000, 5_000, 500
"""Of one group in an answer."""
SCOPES = {SweepScope.ALL: "all", SweepScope.NEW: "what is new"}


def sweep_facts(record: SweepRecord) -> dict[str, str | None]:
    """Facts about a sweep for people, None where there is none; its results once it is done."""
    progress, found, budget = record.progress, record.summary, record.terms.budget
    facts = {
        "state": record.state.value,
        "threshold": f"{record.terms.threshold:.4f}",
        "compares": SCOPES[record.terms.scope],
        "compared": f"{progress.comparisons:,} of {progress.comparisons_total:,}",
        "budget": f"{budget:,} groups, by likelihood ratio" if budget else None,
        "remaining": f"about {duration(progress.remaining_s)}" if progress.remaining_s else None,
        "fault": record.fault,
    }
    if found is None:
        return facts
    if ranking := found.get("ranking"):
        facts["considered"] = f"{ranking['considered']:,} groups"
        facts["true"] = _tell_share(ranking["true"])
        facts["looked at"] = f"names and numbers of {ranking['documents_opened']:,} documents"
    fraud = found.get("fraud_in_use")
    return facts | {
        "compared by": ", ".join(found.get("bounds") or ()) or None,
        "covers": f"{found['references']:,} references at sequence {record.sequence}",
        "took": duration(found["seconds"]),
        "pairs": f"{found['pairs']:,} between two documents; besides {found['excepted_pairs']:,} "
        f"judged before, {found['same_document_pairs']:,} of one document",
        "false pairs": f"{with_interval(**found['expected_false_pairs'])} expected",
        "groups": f"{found['groups']:,} with {found['identities']:,} identities, "
        f"{found['lines']:,} lines",
        "cases": f"{found['cases']:,}",
        # What earlier decisions have left in use: a sweep asks nobody about it again.
        "decided fraud": f"{plural(fraud, 'case')} with lines in use: "
        "sosie cases --state fraud_in_use"
        if fraud
        else None,
    }


def _tell_share(true: Mapping[str, Any]) -> str:
    if true["share"] is None:
        return f"not known: {true['decided']:,} groups with a budget were decided"
    share = f"{true['share']:.0%} ({true['low']:.0%} to {true['high']:.0%})"
    return f"{share} expected, by {true['decided']:,} decided groups"


def describe_terms(group: wire.Group) -> list[str]:
    """Why a group has its rank, in words, with the points."""
    kind = GroupKind(group.kind)
    reasons = (describe_term(one, kind) for one in group.terms)
    return [f"{one.text} ({one.points:+g})" for one in reasons]


def expectation_facts(expectation: ExpectedSweep) -> dict[str, str | None]:
    """Facts about an expected sweep, as the command line shows them."""
    proposal, terms = expectation.proposal, expectation.terms
    fewer = "" if proposal.is_within_budget else ", the highest that is calibrated"
    not_supported = None
    if not expectation.is_supported:
        not_supported = (
            f"the calibration ends at {expectation.highest_supported:.4f}; above it nothing was "
            "measured, and the number of false pairs is a bound"
        )
    proposed = (
        f"{proposal.threshold:.4f}{fewer}, for {proposal.false_pairs} false pairs "
        f"where {proposal.budget:,.3g} are allowed"
    )
    is_new = terms.scope is SweepScope.NEW
    return {
        "references": f"{expectation.references:,} at sequence {expectation.sequence}",
        "new of them": f"{expectation.new_references:,}" if is_new else None,
        "comparisons": f"{expectation.comparisons:,}",
        "time": f"about {duration(expectation.duration_s)}",
        "memory": f"about {size(expectation.memory_bytes)}",
        "threshold": f"{terms.threshold:.4f}",
        "false pairs": f"{expectation.false_pairs} expected",
        "proposed": None if terms.budget else proposed,
        "budget": f"the {terms.budget:,} groups with the highest likelihood ratio"
        if terms.budget
        else None,
        "NOT SUPPORTED": not_supported,
    }


def count_group(group: Group, fraud: Collection[str] = ()) -> wire.GroupRow:
    """A group as counts, without names; `fraud` are lines in use of decided fraud."""
    lines = group.lines
    return of_record(
        wire.GroupRow,
        group,
        identities=len(group.identities),
        lines=len(lines),
        carriers=len({line.carrier for line in lines}),
        outlets=len({(line.carrier, line.outlet) for line in lines}),
        weakest_score=None if group.weakest is None else group.weakest.score,
        severed_links=len(group.severed),
        fraud_lines=len(fraud),
        disputes=sum(one.disputes for one in group.identities),
    )


def bound_group(group: Group, fraud: Collection[str] = ()) -> wire.Group:
    """A group with as much of it as an answer carries; what is left out is counted. `fraud` as
    above."""
    identities, lines_left = [], MOST_LINES
    for one in group.identities[:MOST_IDENTITIES]:
        lines = one.lines[:lines_left]
        lines_left -= len(lines)
        identities.append(replace(one, lines=lines))
    kept = {one.document_id for one in identities}
    links = [one for one in group.links if one.left in kept and one.right in kept]
    links = sorted(links, key=lambda one: -one.score)[:MOST_LINKS]
    severed = [one for one in group.severed if one.left in kept or one.right in kept]
    severed = severed[:MOST_SEVERED]
    left_out = wire.LeftOut(
        identities=len(group.identities) - len(identities),
        lines=len(group.lines) - (MOST_LINES - lines_left),
        links=len(group.links) - len(links) + len(group.severed) - len(severed),
    )
    shown = {"identities": identities, "links": links, "severed": severed, "left_out": left_out}
    in_use = tuple(sorted(fraud)[:MOST_LINES])
    return of_record(wire.Group, group, **shown, cases=(), fraud_lines=in_use)


class SweepViews:
    """Reads sweeps from the registry and their folders, in any process; `NotFound` if unknown."""

    def __init__(self, registry: Reader, root: Path) -> None:
        self._registry = registry
        self._root = root
        # Kept open: its index alone is large for many groups, and pages are read in sequence.
        self._opened: tuple[tuple[int, int], GroupFile] | None = None

    @classmethod
    def of(cls, deployment: Deployment) -> Self:
        return cls(deployment.store, deployment.sweep_folder)

    def status(self, sweep_id: str) -> SweepRecord:
        """The sweep with its last saved progress."""
        return self._with_progress(self._registry.sweeps.get(sweep_id))

    def list(self, limit: int = 100) -> Sequence[SweepRecord]:
        """The newest sweeps, the newest first."""
        return [self._with_progress(record) for record in self._registry.sweeps.newest(limit)]

    def groups(self, sweep_id: str, after: int = 0, limit: int = 100) -> wire.GroupPage:
        """Groups by rank, from the one after `after`; `SweepOver` before the sweep is done."""
        file = self._open(sweep_id)
        if after >= len(file):
            return wire.GroupPage((), len(file), None)
        groups = file.page(limit, after)
        end = after + len(groups)
        rows = tuple(map(count_group, groups, self._find_fraud(groups)))
        return wire.GroupPage(rows, len(file), end if end < len(file) else None)

    def group(self, sweep_id: str, key: str) -> wire.Group:
        """One group with its members and links; `SweepOver` before the sweep is done."""
        group = self._open(sweep_id).group(key)
        (lines,) = self._find_fraud([group])
        return bound_group(group, lines)

    def folder(self, sweep_id: str) -> SweepFolder:
        """The sweep's folder."""
        return SweepFolder.of(self._root, self._registry.sweeps.get(sweep_id).id)

    def _find_fraud(self, groups: Sequence[Group]) -> Sequence[set[str]]:
        """The lines in use of decided fraud, of each group: no later sweep asks about it again."""
        named = [[one.document_id for one in group.identities] for group in groups]
        found = self._registry.cases.fraud_under(sorted({key for keys in named for key in keys}))
        return [set().union(*(found[key] for key in keys)) for keys in named]

    def _with_progress(self, record: SweepRecord) -> SweepRecord:
        if record.state not in ALIVE:
            return record
        standing = SweepFolder.of(self._root, record.id).load_status()
        return replace(record, progress=standing.progress)

    def _open(self, sweep_id: str) -> GroupFile:
        record = self._registry.sweeps.get(sweep_id)
        if record.state is not SweepState.DONE:
            raise SweepOver(f"the sweep is {record.state.value}: it has groups when it is done")
        path, opened = SweepFolder.of(self._root, record.id).groups, self._opened
        try:
            found = path.stat()
        except FileNotFoundError:
            raise SweepOver("what this sweep found is not kept any more: sweep again") from None
        # An erasure rewrites the file.
        version = (found.st_ino, found.st_mtime_ns)
        if opened is not None and opened[0] == version:
            return opened[1]
        file = GroupFile.open(path)
        self._opened = (version, file)
        return file


def issue_report(
    deployment: Deployment,
    sweep_id: str,
    target: Path,
    actor: str,
    runner: ChangeRunner | None = None,
) -> int | None:
    """Writes the current report of a completed sweep, with later decisions of people. With `runner`
    it has the stored faces of its first groups, out of reach of erasure and retention, and audits
    that first; returns the number of people, None without faces. `SweepOver` where it is not done
    or its files have expired."""
    # Not above: a service runs without pyarrow and Jinja2.
    from engine.sweeps.outputs import DoneSweep, gather_faces  # noqa: PLC0415
    from engine.sweeps.report.page import write_report  # noqa: PLC0415
    from engine.sweeps.report.views import documents_with_cards  # noqa: PLC0415

    store, console = deployment.store, deployment.settings.serve.console_url
    reader = SweepViews.of(deployment)
    sweep = DoneSweep.of(reader.status(sweep_id), reader.folder(sweep_id))
    if runner is None:
        write_report(target, sweep.contents(store, deployment.calibration, console=console))
        return None
    faces = gather_faces(store, list(dict.fromkeys(documents_with_cards(sweep.groups))))
    contents = sweep.contents(store, deployment.calibration, faces, console)
    entry = AuditEntry(actor, "crops.read", sweep_id, {"documents": sorted(faces)})
    runner.run(lambda writer, _: writer.commit([entry]))
    write_report(target, contents)
    return len(faces)
