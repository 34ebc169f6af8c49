"""A done sweep's report once more, into a file of somebody's own; with faces if they ask."""

from __future__ import annotations

from pathlib import Path

from engine.registry.records import AuditEntry, Changes
from engine.retention.job import Turns
from engine.sweeps.faces import gather_faces
from engine.sweeps.report.page import write_report
from engine.sweeps.report.views import documents_with_cards
from engine.sweeps.rereading import Reread
from serving.compose import Deployment
from serving.sweeping.shelf import SweepShelf


def issue_report(deployment: Deployment, sweep_id: str, target: Path) -> None:
    """Writes the report as it stands now, with what people have decided meanwhile.

    `SweepOver` where the sweep is not done or its files are not kept any more.
    """
    sweep = _reread(deployment, sweep_id)
    write_report(target, sweep.contents(deployment.store, deployment.calibration))


def issue_report_with_faces(
    deployment: Deployment, turns: Turns, sweep_id: str, target: Path, actor: str
) -> int:
    """The same with the faces that are kept of its first groups; how many people it shows.

    The file is nobody's but its owner's: no erasure and no retention reaches it. Audited as a
    read of these people, by `turns`, before anything is written.
    """
    sweep, store = _reread(deployment, sweep_id), deployment.store
    faces = gather_faces(store, list(dict.fromkeys(documents_with_cards(sweep.groups))))
    contents = sweep.contents(store, deployment.calibration, faces)
    entry = AuditEntry(actor, "crops.read", sweep_id, {"documents": sorted(faces)})
    turns.run(lambda writer, _: writer.commit(Changes(sequence=writer.sequence, audit=(entry,))))
    write_report(target, contents)
    return len(faces)


def _reread(deployment: Deployment, sweep_id: str) -> Reread:
    shelf = SweepShelf(deployment.store, deployment.sweep_folder)
    return Reread.of(shelf.status(sweep_id), shelf.folder(sweep_id))
