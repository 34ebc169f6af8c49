"""Views of sweeps as text and JSON, without personal data, and their reports."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from engine.errors import SweepOver
from engine.formatting import duration, plural, size, with_interval
from engine.registry.audit import AuditEntry
from engine.registry.store import Reader
from engine.registry.writer import ChangeRunner
from engine.sweeps.estimate import ExpectedSweep
from engine.sweeps.folder import GroupFile, SweepFolder
from engine.sweeps.report.contents import describe_term
from schema.sweeps import Group, GroupKind, SweepRecord, SweepScope, SweepState
from serving.deployment.deployment import Deployment
from serving.sweeps.sweep_states import ALIVE
from serving.wire import sweeps as wire
from serving.wire.fields import of_record

SWEEP_COLUMNS = ("sweep", "state", "of", "threshold", "begun", "compared", "pairs", "groups")
GROUP_COLUMNS = (
    *("", "kind", "identities", "lines", "fraud in use", "carriers", "outlets"),
    *("weakest", "cut links", "risk"),
)
MOST_IDENTITIES, MOST_LINES, MOST_LINKS, MOST_SEVERED = 500, 2_000, 5_000, 500
"""Of one group in an answer."""
_SCOPES = {SweepScope.ALL: "all", SweepScope.NEW: "what is new"}


def sweep_row(record: SweepRecord) -> list[str]:
    """Under `SWEEP_COLUMNS`."""
    found = record.summary or {}
    return [
        record.id,
        record.state.value,
        _SCOPES[record.terms.scope],
        f"{record.terms.threshold:.4f}",
        "-" if record.started_at is None else record.started_at.isoformat(timespec="seconds"),
        f"{record.progress.share:.0%}" if record.progress.comparisons_total else "-",
        f"{found.get('pairs', record.progress.pairs):,}",
        f"{found['groups']:,}" if "groups" in found else "-",
    ]


def sweep_facts(record: SweepRecord) -> dict[str, str | None]:
    """Facts about a sweep for people, None where there is none; its results once it is done."""
    progress, found, budget = record.progress, record.summary, record.terms.budget
    facts = {
        "state": record.state.value,
        "threshold": f"{record.terms.threshold:.4f}",
        "compares": _SCOPES[record.terms.scope],
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
    lines = [line for one in group.identities for line in one.lines]
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
        lines=sum(len(one.lines) for one in group.identities) - (MOST_LINES - lines_left),
        links=len(group.links) - len(links) + len(group.severed) - len(severed),
    )
    shown = {"identities": identities, "links": links, "severed": severed, "left_out": left_out}
    in_use = tuple(sorted(fraud)[:MOST_LINES])
    return of_record(wire.Group, group, **shown, cases=(), fraud_lines=in_use)


def group_cells(place: int, group: wire.GroupRow) -> list[str]:
    """A group in short, under `GROUP_COLUMNS`."""
    weakest = group.weakest_score
    return [
        str(place),
        group.kind.replace("_", " "),
        str(group.identities),
        str(group.lines),
        str(group.fraud_lines or "-"),
        str(group.carriers),
        str(group.outlets),
        "-" if weakest is None else f"{weakest:.4f}",
        str(group.severed_links),
        f"{group.risk:.0f}",
    ]


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

    def groups(self, sweep_id: str, after: int, limit: int) -> wire.GroupPage:
        """Groups by rank, from the one after `after`; `SweepOver` before the sweep is done."""
        file = self._open(sweep_id)
        if after >= len(file):
            return wire.GroupPage((), len(file), None)
        groups = file.page(limit, after=file.keys[after - 1] if after > 0 else None)
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
    """Writes the current report of a completed sweep, with later decisions of people.

    With `runner` it has the stored faces of its first groups, which erasure and retention do not
    reach there: audited by it as a read of these people, before anything is written. Returns the
    number of people, None without faces. `SweepOver` where the sweep is not done or its files have
    expired.
    """
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
