"""A deployment that is open for calls: the lease held, the gallery at the watermark."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from time import monotonic, sleep

import numpy as np

from engine.errors import GalleryBehind, RegistryError, SosieError
from engine.matching import disputes, holders, operations, verification
from engine.matching.disputes import Dispute
from engine.matching.documents import Document
from engine.matching.holders import ErasureCertificate, HolderLines
from engine.matching.scribe import Audit, Scribe
from engine.matching.verification import HolderCheck, HolderProbe
from indexes.validation import check_vectors
from serving.compose import Deployment
from serving.service.desk import LineTarget, Probes
from serving.service.fraud import FraudClerk
from serving.service.searches import SearchQueue
from serving.service.turn import Turn
from serving.sweeping.desk import SweepDesk

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
        self.sweeps = SweepDesk(deployment)
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
        return disputes.dispute_line(
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
        return operations.close_line(
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
