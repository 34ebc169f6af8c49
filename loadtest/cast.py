"""Who plays: people of whom the service's own model has said what they look like."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from loadtest.errors import LoadTestRefused
from loadtest.papers import Paper


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Those of the deployment, as it tells them."""

    verify: float
    same_document: float
    review: float
    certain: float


@dataclass(frozen=True, slots=True)
class Shot:
    """A photograph, and the template that the service has issued of it to the fraud key."""

    photograph: bytes = field(repr=False)
    template: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two photographs of one person for an enrollment; `score` is their cosine."""

    live: Shot
    portrait: Shot
    score: float

    @property
    def shots(self) -> tuple[Shot, Shot]:
        return self.live, self.portrait

    def swap(self) -> Pair:
        """The same photographs the other way round: another request, and exactly the same mean."""
        return Pair(self.portrait, self.live, self.score)


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody whose first two photographs match; `shots` are all that are fit."""

    number: int
    first: Pair
    shots: tuple[Shot, ...]


@dataclass(frozen=True, slots=True)
class Resident:
    """Somebody whom the preparation has enrolled with the first pair.

    `second` is a pair that matches as well; `likeness` is the cosine of both pairs' means: what a
    search for the one finds of the other. `probe` is a photograph that finds its holder. `tokens`
    are templates of the first pair, issued to the tenant that enrolls.
    """

    person: Person
    second: Pair
    likeness: float
    probe: Shot
    paper: Paper
    document_id: str
    tokens: tuple[bytes, bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Theft:
    """Two residents, none of whose photographs the model takes for the other's."""

    owner: Resident
    thief: Resident


@dataclass(frozen=True, slots=True)
class Cast:
    """Newcomers and racers are unknown to the gallery and come once; outsiders never enroll."""

    thresholds: Thresholds
    residents: tuple[Resident, ...]
    thefts: tuple[Theft, ...]
    newcomers: tuple[Person, ...]
    racers: tuple[Person, ...]
    outsiders: tuple[Person, ...]
    had_references: bool
    """Whether somebody was in the gallery before this run."""
    dropped: Mapping[str, int]
    """People who could not play, by the reason."""
    expires_at: datetime
    """When the first of their templates is no longer taken."""

    def require_fresh(self, seconds: float) -> None:
        """`LoadTestRefused` where a template would expire meanwhile: that would be no fault of the
        service."""
        left_s = (self.expires_at - datetime.now(UTC)) / timedelta(seconds=1)
        if left_s < seconds:
            raise LoadTestRefused(
                f"the service takes its templates for {left_s:.0f} s more, and the run needs "
                f"{seconds:.0f}: give fewer --seconds, or raise template_ttl_h"
            )

    def list_people(self) -> Iterator[Person]:
        """Everybody who enrolls."""
        yield from (one.person for one in self.residents)
        yield from self.newcomers
        yield from self.racers
