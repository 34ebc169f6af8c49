"""A stored face computed from decisions, by all keys of a carrier over 30 days.

The attacker has one photograph of the victim, makes a picture of any vector, knows how photographs
of one person differ, and asks where the answer is least foreseen: each halves what the face can
still be. What it believes is a Gaussian; each answer cuts it by a plane. Of the answers of a day it
takes all that it is given, by every route that tells of a holder, until it is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm
from sqlalchemy import select, update

from engine.accuracy.population import Population
from engine.matching.limits import is_near
from engine.registry import tables
from engine.registry.database import changing
from engine.registry.row_macs import changing_rows
from serving.deployment.deployment import read_limits
from serving.deployment.models import build_thresholds, load_calibration
from serving.settings.sections import LimitSettings
from serving.settings.settings import Settings
from tests.engine.matching.conftest import resident_number
from tests.security.test_face_from_scores import (
    DOCUMENT,
    MATCH,
    MSISDN,
    QUERY,
    VERIFY,
    Attacker,
    Vector,
    attacker,  # noqa: F401 - fixture
    enrollment,
    near,
    probing_cases,
)

PHOTOGRAPH = 0.7
"""How like the victim's reference the attacker's photograph is."""
MOST_GAIN = 0.05
DAYS = 30
TRIES = 12
"""Enrollments a day and key: each is a failure of its key, or an activation."""


@dataclass
class Belief:
    """What the face may be: a Gaussian, which halfspaces cut."""

    mean: Any = field(repr=False)
    spread: Any = field(repr=False)
    rng: np.random.Generator

    @classmethod
    def of(cls, photograph: Vector, alike: float, rng: np.random.Generator) -> Belief:
        dim = len(photograph)
        mean = alike * photograph.astype(np.float64)
        return cls(mean, np.eye(dim) * (1 - alike**2) / (dim - 1), rng)

    def choose(self, threshold: float, surprise: float) -> Vector:
        """A unit vector whose score is believed `surprise` deviations below the threshold."""
        towards = self.mean / np.linalg.norm(self.mean)
        root = np.linalg.cholesky(self.spread + 1e-9 * np.eye(len(towards)))
        aside = root @ self.rng.standard_normal(len(towards))
        aside -= (aside @ towards) * towards
        aside /= np.linalg.norm(aside)
        angles = np.linspace(0.05, 1.5, 100)
        ways = np.cos(angles)[:, None] * towards + np.sin(angles)[:, None] * aside
        deviations = np.sqrt(((ways @ self.spread) * ways).sum(axis=1))
        surprises = (threshold - ways @ self.mean) / deviations
        return np.asarray(ways[np.abs(surprises - surprise).argmin()], np.float32)

    def learn(self, probe: Vector, threshold: float, *, is_hit: bool) -> None:
        shared = self.spread @ probe.astype(np.float64)
        variance = float(probe @ shared)
        deviation = np.sqrt(variance)
        at = (threshold - float(probe @ self.mean)) / deviation
        sign = 1 if is_hit else -1
        moved = sign * float(norm.pdf(at) / max(norm.cdf(-sign * at), 1e-12))
        self.mean = self.mean + shared / deviation * moved
        shrunk = min(moved * (moved - at), 0.999)
        self.spread = self.spread - np.outer(shared, shared) / variance * shrunk

    def cosine(self, face: Vector) -> float:
        return float(self.mean @ face / np.linalg.norm(self.mean))


@dataclass
class Campaign:
    """An attack by all keys of one carrier, day by day."""

    attacker: Attacker
    belief: Belief
    told: int = 0
    """Answers that said whether a probe was like the victim."""
    serials: Any = field(default_factory=lambda: count(1))

    def ask_holder(self, key: str, path: str, whom: dict[str, Any]) -> None:
        """Whether a probe is the holder's face, until that is told no more."""
        threshold = self.attacker.service.parts.thresholds.same_document
        while True:
            probe = self.belief.choose(threshold, 0.0)
            body = {"probe": {"image": probe.tobytes()}, **whom}
            answer = self.attacker.service.ask("POST", path, key=key, body=body)
            if answer.status_code != 200:
                return
            shown = self.attacker.service.read(answer)
            self.learn(probe, threshold, is_hit=shown.get("is_match", shown.get("is_holder")))

    def search(self, key: str) -> None:
        """Who looks like a probe, until that is told no more."""
        threshold = self.attacker.service.parts.thresholds.review
        for _ in range(TRIES):
            probe = self.belief.choose(threshold, 0.0)
            items = [{"probe": {"image": probe.tobytes()}, "search": True}]
            answer = self.attacker.service.ask("POST", MATCH, key=key, body={"items": items})
            if answer.status_code != 200:
                return
            [item] = self.attacker.service.read(answer)["items"]
            found = item["identification"]["found"]
            if key == "blue" or found:
                self.learn(probe, threshold, is_hit=found > 0)

    def enroll(self, key: str) -> None:
        """Whether a probe is somebody's under another document; rejected whether or not it is."""
        threshold = self.attacker.service.parts.thresholds.review
        outlet = {"blue": "b1", "red": "r1"}.get(key, key)
        for _ in range(TRIES):
            serial = next(self.serials)
            probe = self.belief.choose(threshold, 1.5)
            document = {"type": "cn-ric", "number": resident_number(serial)}
            claimed = enrollment(self.attacker, probe, 0) | {
                "document": document | {"name": "Some Body"},
                # A number in use: nothing is stored.
                "msisdn": MSISDN,
                "portrait": (probe * np.float32(0.999999)).tobytes(),
                "outlet": outlet,
            }
            headers = {"idempotency-key": f"{key}-{serial}"}
            answer = self.attacker.service.ask(
                "POST", "/v1/enrollments", key=key, body=claimed, headers=headers
            )
            if answer.status_code != 201:
                assert answer.status_code == 429, answer.text
                return
            reasons = {one["reason"] for one in self.attacker.service.read(answer)["reasons"]}
            is_hit = not reasons.isdisjoint({"DUPLICATE_IDENTITY", "POSSIBLE_DUPLICATE"})
            assert is_hit or reasons == {"LINE_IN_USE"}, reasons
            self.learn(probe, threshold, is_hit=is_hit)

    def learn(self, probe: Vector, threshold: float, *, is_hit: bool) -> None:
        self.told += 1
        self.belief.learn(probe, threshold, is_hit=is_hit)

    def sleep(self) -> None:
        """A day passes: all that was counted is a day older."""
        store = self.attacker.service.parts.store
        tallies = tables.tallies
        with changing(store.engine) as connection:
            rows = connection.execute(select(tallies.c.name, tallies.c.at)).all()
            with changing_rows(connection, store.vault, {tallies: [row.name for row in rows]}):
                for row in rows:
                    earlier = update(tallies).where(tallies.c.name == row.name)
                    connection.execute(earlier.values(at=row.at - timedelta(days=1)))


@pytest.mark.parametrize("carrier", ["red", "blue"])
def test_a_month_of_all_keys_of_a_carrier_adds_little_to_a_photograph(
    attacker: Attacker,  # noqa: F811 - the fixture
    carrier: str,
) -> None:
    """`red` has no line of the victim, `blue` has."""
    photograph = near(attacker, PHOTOGRAPH)
    campaign = Campaign(attacker, Belief.of(photograph, PHOTOGRAPH, np.random.default_rng(3)))
    keys = ("r1", "red") if carrier == "red" else ("b1", "b2", "blue")
    for _ in range(DAYS):
        for key in keys:
            campaign.ask_holder(key, QUERY, {"document": DOCUMENT})
            campaign.ask_holder(key, VERIFY, {"document": DOCUMENT})
            campaign.enroll(key)
        campaign.search(keys[-1])
        campaign.sleep()
    assert campaign.told > 0
    gain = campaign.belief.cosine(attacker.victim) - float(photograph @ attacker.victim)
    assert gain <= MOST_GAIN
    assert [attacker.document_id] in [one["document_ids"] for one in probing_cases(attacker)]


def test_honest_visits_meet_no_bound() -> None:
    """By one photograph each, a visit a week for two months: those of the synthetic population,
    hard ones among them, against the most that one carrier is told of a holder."""
    people, bound = 4_096, read_limits(LimitSettings()).holder
    population, settings = Population.load("sface"), Settings()
    least = build_thresholds(settings, load_calibration(settings)).same_document
    references, latent = population.references(people, 7), population.people(people, 7)
    counted = np.zeros(people)
    for visit in range(bound.period // timedelta(weeks=1)):
        scores = (references * population.samples(latent, 7, 2 + visit)).sum(axis=1)
        counted += [not score >= least or is_near(score, least) for score in scores.tolist()]
    assert (counted > bound.most).mean() <= 0.0005
    assert counted.mean() < 1
