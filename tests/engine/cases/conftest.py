"""A deployment with enrolled people, and shorthands for the steps on cases."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from engine.cases.opening import CaseBatch, NewCase
from engine.cases.steps import close, propose
from engine.matching.registrar import Registrar
from engine.registry.audit import AuditEntry
from engine.registry.cases import CaseRecord
from engine.registry.store import Store
from engine.registry.sweeps import SweepChange
from schema.actors import Actor
from schema.cases import CaseKind, CaseOrigin, Outcome
from schema.decisions import DecidedEnrollment
from schema.sweeps import SweepState, SweepTerms
from tests.engine.matching.conftest import Lab, busy, lab, make_lab, people
from tests.engine.records import make_sweep

__all__ = ["busy", "lab", "make_lab", "people"]

ANNA, BOB = Actor("key:anna", "anna"), Actor("key:bob", "bob")


@dataclass(frozen=True)
class Service:
    """A running registrar with its store."""

    lab: Lab
    registrar: Registrar

    @property
    def store(self) -> Store:
        return self.lab.store

    @property
    def context(self) -> tuple[Registrar, Store]:
        """The first two arguments of every step."""
        return self.registrar, self.store

    def enroll(self, count: int) -> list[DecidedEnrollment]:
        """Enroll so many strangers; all are approved."""
        answers = self.registrar.enroll([self.lab.request() for _ in range(count)])
        assert {answer.decision.value for answer in answers} == {"approved"}
        return [answer.decided for answer in answers]

    def open(self, *document_ids: str, **values: Any) -> CaseRecord:
        """Open a case that suspects these documents to be one person's."""
        fields: dict[str, Any] = {
            "kind": CaseKind.POSSIBLE_DUPLICATE,
            "origin": CaseOrigin.DECISION,
            "document_ids": document_ids,
            "suspect_ids": document_ids,
        }

        def perform(writer: Any, now: Any) -> CaseRecord:
            batch = CaseBatch(self.store, now)
            case = batch.open(NewCase(**fields | values), "key:opener")
            writer.commit(batch.writes())
            return case

        return self.registrar.run(perform)

    def decide(self, case_id: str, outcome: Outcome, lines: Sequence[str] = ()) -> CaseRecord:
        """Anna proposes it, and Bob closes the case by it; lines that are not named stay."""
        propose(*self.context, case_id, outcome, lines, ANNA, keep_lines=True)
        return close(*self.context, case_id, outcome, lines, BOB, keep_lines=True)

    def store_sweep(self, threshold: float) -> str:
        """Store a sweep and return its id."""
        sweep = make_sweep(state=SweepState.RUNNING, terms=SweepTerms(threshold=threshold))
        entry = AuditEntry("key:anna", "sweep.started", sweep.id)
        self.registrar.run(lambda writer, _: writer.commit([entry, SweepChange(sweep)]))
        return sweep.id

    def entries(self, *actions: str) -> list[AuditEntry]:
        return self.lab.entries(*actions)


@pytest.fixture
def service(lab) -> Iterator[Service]:
    with lab.registrar() as registrar:
        yield Service(lab, registrar)


@pytest.fixture
def make_pair(service) -> Callable[..., tuple[DecidedEnrollment, DecidedEnrollment]]:
    """`make_pair(score)`: two people, enrolled one after the other, with this score exactly.

    It must lie below the threshold of review.
    """

    def make(score: float = 0.55) -> tuple[DecidedEnrollment, DecidedEnrollment]:
        first = service.lab.people.person()
        second = service.lab.people.between(first, score)
        requests = [service.lab.request(face, noise=0.0) for face in (first, second)]
        one, two = service.registrar.enroll(requests)
        assert {one.decision.value, two.decision.value} == {"approved"}
        return one.decided, two.decided

    return make
