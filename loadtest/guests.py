"""Whom a load test may have enrolled: those it knows of, and those of whom no answer told."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from loadtest.exchange import NOT_STARTED
from loadtest.truth import APPROVED, Answer

TIMED_OUT = 408


@dataclass(slots=True)
class Guests:
    """`documents` have a holder now; `open` are Idempotency-Keys, each with the number of its
    requests of which nobody knows what became."""

    documents: dict[str, None] = field(default_factory=dict)
    open: Counter[str] = field(default_factory=Counter)

    @property
    def count(self) -> int:
        """At most so many people are enrolled."""
        return len(self.documents) + len(self.open)

    def expect(self, key: str) -> None:
        """Before each request with that key: an interrupt may come before its answer."""
        self.open[key] += 1

    def settle(self, key: str, answer: Answer) -> None:
        """When a request has ended, with an answer or without."""
        if answer.is_good:
            # A key is decided once.
            self.open.pop(key, None)
            self.admit(answer.decision, answer.document_id)
        elif _is_undecided(answer):
            self.forget(key)

    def admit(self, decision: str | None, document_id: str | None) -> None:
        """A decision that has become known."""
        if decision == APPROVED and document_id is not None:
            self.documents[document_id] = None

    def forget(self, key: str) -> None:
        """One request of that key has enrolled nobody."""
        self.open[key] -= 1
        if self.open[key] <= 0:
            del self.open[key]


def _is_undecided(answer: Answer) -> bool:
    """The service says that it has not decided; a lost or late answer says nothing, nor does a
    fault of the service's own."""
    is_refused = 400 <= answer.status < 500 and answer.status != TIMED_OUT
    return is_refused or answer.status == NOT_STARTED
