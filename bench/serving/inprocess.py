"""The library without a service: extractor and registrar in one process, on all cores."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from bench.counter import make_msisdn
from bench.serving.people import Person
from engine.errors import ImageError
from engine.matching.arrivals import Outcome
from engine.matching.requests import Answer, EnrollmentRequest
from engine.matching.sampling import take_samples
from serving.compose import Deployment

CHUNK = 32
"""People whose photographs are extracted together: both cores have full batches."""
MOST_UNDECIDED = 512


@dataclass(frozen=True, slots=True)
class Visit:
    """A person who comes for a line; `serial` makes number and key their own."""

    person: Person
    serial: int


@dataclass(frozen=True, slots=True)
class Enrolled:
    """Decisions of visits in their order, and the seconds of all."""

    decisions: tuple[str, ...]
    seconds: float

    @property
    def rate(self) -> float:
        return len(self.decisions) / self.seconds

    def count_decisions(self) -> dict[str, int]:
        return dict(Counter(self.decisions).most_common())


def enroll_here(
    deployment: Deployment, visits: Sequence[Visit], tenant: tuple[str, str]
) -> Enrolled:
    """Extracts on all cores while the registrar's thread decides what was extracted before.

    Every decision is durable at the end, as over HTTP. `tenant`: carrier and outlet.
    """
    registrar = deployment.registrar
    futures: deque[Future[Outcome]] = deque()
    outcomes: list[Outcome] = []
    start = time.perf_counter()
    for first in range(0, len(visits), CHUNK):
        for request in make_requests(deployment, visits[first : first + CHUNK], tenant):
            futures.append(registrar.submit(request))
        while len(futures) > MOST_UNDECIDED:
            outcomes.append(futures.popleft().result())
    outcomes += [future.result() for future in futures]
    seconds = time.perf_counter() - start
    return Enrolled(tuple(_name(outcome) for outcome in outcomes), seconds)


def make_requests(
    deployment: Deployment, visits: Sequence[Visit], tenant: tuple[str, str]
) -> list[EnrollmentRequest]:
    """The requests of these visits, extracted together."""
    images = [photo for visit in visits for photo in (visit.person.live, visit.person.portrait)]
    samples = iter(take_samples(images, deployment.extractor, deployment.vault))
    requests = []
    for visit in visits:
        live, portrait = next(samples), next(samples)
        assert not isinstance(live, ImageError), "a photograph of the benchmark cannot be read"
        assert not isinstance(portrait, ImageError), "a photograph of the benchmark cannot be read"
        requests.append(
            EnrollmentRequest(
                idempotency_key=f"here-{visit.serial:09d}",
                carrier=tenant[0],
                outlet=tenant[1],
                document=visit.person.document,
                msisdn=make_msisdn(visit.serial),
                live=live,
                portrait=portrait,
                consent_ref="bench",
            )
        )
    return requests


def _name(outcome: Outcome) -> str:
    return outcome.decision.value if isinstance(outcome, Answer) else outcome.code
