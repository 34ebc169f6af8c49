"""A deployment that is open for calls: the lease held, the gallery at the watermark."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from time import monotonic, sleep
from typing import Any

import numpy as np

from engine.cases import steps
from engine.errors import GalleryBehind, RegistryError, SosieError
from engine.matching import holders, lines, verification
from engine.matching.audit_writer import Audit, Scribe
from engine.matching.documents import Document
from engine.matching.holders import ErasureCertificate, HolderLines
from engine.matching.lines import Dispute
from engine.matching.verification import HolderCheck, HolderProbe
from engine.registry.reader import Reader
from engine.registry.records import AuditEntry, CaseRecord
from engine.sweeps.estimate import Expectation, SweepRequest
from engine.sweeps.sweep_model import SweepRecord
from indexes.base import check_vectors
from serving.compose import Deployment
from serving.registrar.protocol import (
    Assign,
    CaseStep,
    Close,
    GroupList,
    LineTarget,
    Probes,
    Propose,
    Remark,
    Steering,
    Turn,
    Withdraw,
)
from serving.registrar.search_queue import SearchQueue
from serving.sweeps.manager import SweepManager
from serving.sweeps.sweep_views import group_in_short

# The calls of fraud teams that the registrar carries out: steps of cases, and sweeps.
#
# Whatever is answered fits into one message between processes, however large a group is.

MOST_IDENTITIES, MOST_LINES, MOST_LINKS, MOST_SEVERED = 500, 2_000, 5_000, 500
"""Of one group in an answer."""


class FraudClerk:
    """Carries out the calls of a `FraudDesk`, each for one thread.

    What shows people is audited before it is told.
    """

    def __init__(self, store: Reader, sweeps: SweepManager, audit: Callable[[Turn], Audit]) -> None:
        self._store = store
        self._sweeps = sweeps
        self._audit = audit

    def step_case(self, case_id: str, step: CaseStep, turn: Turn) -> CaseRecord:
        given = (turn.runner, self._store, case_id)
        actor = turn.context.actor
        match step:
            case Assign(assignee):
                return steps.assign(*given, assignee, actor)
            case Remark(text):
                return steps.note(*given, text, actor)
            case Propose(outcome, lines, seen_at):
                return steps.propose(*given, outcome, lines, actor, seen_at)
            case Withdraw():
                return steps.withdraw(*given, actor)
            case Close(outcome, lines, seen_at):
                return steps.close(*given, outcome, lines, actor, seen_at)

    def expect_sweep(self, request: SweepRequest, turn: Turn) -> Expectation:
        del turn
        return self._sweeps.plan(request)

    def start_sweep(self, request: SweepRequest, turn: Turn) -> SweepRecord:
        return self._sweeps.start(request, turn.context.actor, turn.runner)

    def steer_sweep(self, sweep_id: str, steering: Steering, turn: Turn) -> SweepRecord:
        steer = {
            Steering.PAUSE: self._sweeps.pause,
            Steering.RESUME: self._sweeps.resume,
            Steering.CANCEL: self._sweeps.cancel,
        }[steering]
        return steer(sweep_id, turn.context.actor, turn.runner)

    def read_sweep(self, sweep_id: str, turn: Turn) -> SweepRecord:
        del turn
        return self._sweeps.status(sweep_id)

    def list_sweeps(self, limit: int, turn: Turn) -> list[SweepRecord]:
        del turn
        # A summary may have a row for each outlet of a country.
        return [replace(record, summary=None) for record in self._sweeps.list(limit)]

    def list_groups(self, sweep_id: str, after: int, limit: int, turn: Turn) -> GroupList:
        page = self._sweeps.groups(sweep_id, after, limit)
        detail = {"after": after, "groups": [group["key"] for group in page.groups]}
        self._audit(turn)(AuditEntry(turn.context.actor, "groups.read", sweep_id, detail))
        return GroupList(tuple(map(_shorten, page.groups)), page.total, page.next_after)

    def read_group(self, sweep_id: str, key: str, turn: Turn) -> Mapping[str, Any]:
        shown = _bound(self._sweeps.group(sweep_id, key))
        documents = [one["document_id"] for one in shown["identities"]]
        outside = {one[side] for one in shown["severed"] for side in ("left", "right")}
        documents += sorted(outside.difference(documents))
        detail = {"group": key, "documents": documents}
        self._audit(turn)(AuditEntry(turn.context.actor, "group.read", sweep_id, detail))
        return shown


def _shorten(group: Mapping[str, Any]) -> dict[str, Any]:
    """A group without its members: counted, not named."""
    return {
        **group_in_short(group),
        "terms": group["terms"],
        "disputes": sum(one["disputes"] for one in group["identities"]),
    }


def _bound(group: Mapping[str, Any]) -> dict[str, Any]:
    """A group with as much of it as an answer carries; what is left out is counted."""
    counts = _shorten(group)
    identities, lines_left = [], MOST_LINES
    for one in group["identities"][:MOST_IDENTITIES]:
        lines = one["lines"][:lines_left]
        lines_left -= len(lines)
        # The references are the gallery's own affair, and may be many.
        identities.append(
            {"document_id": one["document_id"], "lines": lines, "disputes": one["disputes"]}
        )
    kept = {one["document_id"] for one in identities}
    links = [one for one in group["links"] if one["left"] in kept and one["right"] in kept]
    links = sorted(links, key=lambda one: -one["score"])[:MOST_LINKS]
    severed = [one for one in group["severed"] if one["left"] in kept or one["right"] in kept]
    severed = severed[:MOST_SEVERED]
    return {
        **counts,
        "identities": identities,
        "links": links,
        "severed": severed,
        "weakest": group["weakest"],
        "left_out": {
            "identities": len(group["identities"]) - len(identities),
            "lines": counts["lines"] - (MOST_LINES - lines_left),
            "links": len(group["links"]) - len(links) + len(group["severed"]) - len(severed),
        },
    }


WARM_ROWS = (1, 64)
"""One probe and a batch of them are searched by different code."""
CATCH_UP_S, LOOK_EVERY_S = 0.5, 0.01

Observe = Callable[[int, float], None]


@dataclass(frozen=True, slots=True)
class Watermark:
    """How far store and gallery were at one moment; equal where nothing is missing.

    `store_sequence` is None where the store could not be read.
    """

    size: int
    sequence: int
    store_sequence: int | None
    read_at: float

    @property
    def is_behind(self) -> bool:
        return self.store_sequence is not None and self.store_sequence != self.sequence


class OpenRegistry:
    """The parts behind the calls, and the calls that block, each for one thread."""

    def __init__(
        self,
        deployment: Deployment,
        probes_waiting: int,
        observe_search: Observe,
        observe_audit: Observe,
    ) -> None:
        self.deployment = deployment
        self.store = deployment.store
        self.thresholds = deployment.thresholds
        self.registrar = deployment.registrar
        self.gallery = self.registrar.gallery
        self.scribe = Scribe(self.registrar, observe=observe_audit)
        self.searches = SearchQueue(self.gallery, self.store, probes_waiting, observe_search)
        self.sweeps = SweepManager(deployment)
        self.fraud = FraudClerk(self.store, self.sweeps, self._audit)

    def warm(self) -> None:
        """One search of each kind, so that no caller waits for code that is compiled."""
        for rows in WARM_ROWS:
            probes = np.zeros((rows, self.gallery.dim), np.float32)
            probes[:, 0] = 1
            self.searches.submit(probes, self.thresholds.review).result()

    def read_watermark(self) -> Watermark:
        """Where both stand; waits a little for a change that is committed and not yet visible."""
        before = self.gallery.sequence
        size = len(self.gallery)
        try:
            stored = self.store.sequence()
        except RegistryError:
            return Watermark(size, before, None, monotonic())
        # A batch lies between its commit and its place in the gallery.
        give_up_at = monotonic() + CATCH_UP_S
        while (after := self.gallery.sequence) < stored and monotonic() < give_up_at:
            sleep(LOOK_EVERY_S)
        # It has moved meanwhile: at some moment it stood where the store was.
        sequence = stored if before <= stored <= after else after
        return Watermark(size, sequence, stored, monotonic())

    def check_line(self, target: LineTarget, probe: Probes, turn: Turn) -> HolderCheck:
        return verification.check_line(
            turn.runner, self.store, target.text, self._probe(probe, turn), self._audit(turn)
        )

    def check_document(self, document: Document | str, probe: Probes, turn: Turn) -> HolderCheck:
        return verification.check_document(
            turn.runner, self.store, document, self._probe(probe, turn), self._audit(turn)
        )

    def read_lines(self, document: Document, probe: Probes, turn: Turn) -> HolderLines:
        return holders.show_lines(
            self.store,
            self.gallery,
            document,
            probe,
            self.thresholds.same_document,
            actor=turn.context.actor,
            audit=self._audit(turn),
        )

    def dispute_line(
        self, target: LineTarget, document: Document, probe: Probes, turn: Turn
    ) -> Dispute:
        return lines.dispute_line(
            turn.runner,
            self.store,
            line_text=target.text,
            document=document,
            probe=check_vectors(probe[None], self.gallery.dim)[0],
            threshold=self.thresholds.same_document,
            actor=turn.context.actor,
        )

    def close_line(self, target: LineTarget, turn: Turn) -> str:
        context = turn.context
        return lines.close_line(
            turn.runner, self.store, target.text, context.actor, carrier=context.carrier
        )

    def erase(self, document_id: str, turn: Turn) -> ErasureCertificate:
        context = turn.context
        return self.deployment.erase(document_id, context.actor, context.carrier, turn.runner)

    def stop(self) -> None:
        """Nothing is decided any more, on a gallery that may be a part of what it was."""
        if self.registrar.failure is None:
            self.registrar.stop(GalleryBehind("the gallery was lost: it is opened again"))

    def close(self) -> None:
        """Answers who waits, keeps a snapshot where much has changed, gives back the lease."""
        with ExitStack() as closing:
            closing.callback(self.deployment.close)
            closing.callback(self.searches.close)
            closing.callback(self.sweeps.close)

    @property
    def failure(self) -> SosieError | None:
        """Why nothing is decided, or nothing searched, any more."""
        if self.registrar.failure is not None:
            return self.registrar.failure
        if not (self.registrar.is_alive and self.searches.is_alive):
            return RegistryError("a thread of the registry has ended: it is opened again")
        return None

    def _probe(self, probe: Probes, turn: Turn) -> HolderProbe:
        return HolderProbe(
            vector=probe,
            threshold=self.thresholds.same_document,
            actor=turn.context.actor,
            carrier=turn.context.carrier,
        )

    def _audit(self, turn: Turn) -> Audit:
        return lambda entry: self.scribe.keep(entry, turn.left_s)
