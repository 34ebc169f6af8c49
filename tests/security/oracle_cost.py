"""What decisions alone give away: attacks on one stored face, in embedding space.

    python -m tests.security.oracle_cost

The attacker makes a photograph of any vector, knows strangers' faces and the threshold, and is
told match or no match. It begins with the strangers; from the first that matches it walks to the
boundary in one direction after another. Each point there is a linear equation of the stored face,
which least squares solve. `bisect` halves the way and spends the fewest questions; `creep` steps
outward until one question fails, and spends the fewest failures.

`run_look_alikes` has a photograph of the face, knows how photographs of one person differ, and
asks by enrollments: each that finds nobody is an activation, and the hits are bounded.

`run_honest` has no attacker: how often newcomers who look like somebody end an honest key.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.accuracy.population import Population
from engine.matching.checks.limits import SEARCHED
from tests.security.test_face_from_decisions import Belief

THRESHOLD = 0.363
"""Of a holder's check at a false match rate of 1e-4."""
STRANGERS, TARGETS = 100_000, 20
REACHED = 0.9
STEPS = 64
"""Into which `creep` divides the way of a direction."""

REVIEW = 0.459
"""Of one photograph that is alike somebody, at a false match rate of 1e-6."""
MOST_HITS, TRIED = 4, (30, 60, 100, 300)
MEMORY_DAYS = 60

Vector = NDArray[np.float64]


class Oracle:
    """Answers match or no match, and counts."""

    def __init__(self, face: Vector) -> None:
        self._face = face
        self.asked = self.failed = 0

    def matches(self, probe: Vector) -> bool:
        self.asked += 1
        is_match = float(probe @ self._face) >= THRESHOLD
        self.failed += not is_match
        return is_match


@dataclass(frozen=True, slots=True)
class Point:
    """After one more point of the boundary: questions and failures so far, and the estimate."""

    asked: int
    failed: int
    cosine: float


def bisect(oracle: Oracle, walk: Callable[[float], Vector], widest: float) -> float:
    """The angle where a way leaves the matches, by halving."""
    inside, outside = 0.0, widest
    for _ in range(12):
        middle = (inside + outside) / 2
        if oracle.matches(walk(middle)):
            inside = middle
        else:
            outside = middle
    return (inside + outside) / 2


def creep(oracle: Oracle, walk: Callable[[float], Vector], widest: float) -> float:
    """The same with one failure, in steps."""
    step = widest / STEPS
    angle = step
    while angle < widest and oracle.matches(walk(angle)):
        angle += step
    return angle - step / 2


def attack(
    face: Vector, start: Vector, find: Callable[..., float], rng: np.random.Generator
) -> Iterator[Point]:
    """The estimates after one, two, ... 256 points, from a probe that matches."""
    oracle, dim = Oracle(face), len(face)
    rows: list[Vector] = []
    for _ in range(2 * dim):
        direction = rng.standard_normal(dim)
        direction -= (direction @ start) * start
        direction /= np.linalg.norm(direction)

        def walk(angle: float, towards: Vector = direction) -> Vector:
            return np.cos(angle) * start + np.sin(angle) * towards

        angle = find(oracle, walk, np.pi / 2)
        rows.append(walk(angle))
        points = np.stack(rows)
        # Of all that fit the equations, the one that deviates least from where it began.
        guess = THRESHOLD * start
        guess = guess + np.linalg.lstsq(points, THRESHOLD - points @ guess, rcond=1e-3)[0]
        cosine = float(guess @ face / np.linalg.norm(guess))
        yield Point(oracle.asked, oracle.failed, cosine)


def run_look_alikes(targets: int = TARGETS) -> dict[str, float]:
    """What up to four hits among so many enrollments add to one photograph: means."""
    population = Population.load("sface")
    faces = population.references(targets, 1).astype(np.float64)
    photographs = population.mates(np.arange(targets), 1, photographs=1)
    figures = {"photograph": float((photographs * faces).sum(axis=1).mean())}
    for tried in (0, *TRIED):
        for surprise in (1.5, 2.0):
            gains = []
            for place, face in enumerate(faces):
                belief = Belief.of(photographs[place], population, np.random.default_rng(place))
                hits = 0
                for _ in range(tried):
                    probe = belief.choose(REVIEW, surprise)
                    is_hit = float(probe @ face) >= REVIEW
                    belief.learn(probe, REVIEW, is_hit=is_hit)
                    hits += is_hit
                    if hits == MOST_HITS:
                        break
                gains.append(belief.cosine(face) - float(photographs[place] @ face))
            figures[f"tried_{tried}_surprise_{surprise}_adds"] = float(np.mean(gains))
    return figures


def measure_look_alikes(references: int = 50_000, newcomers: int = 20_000) -> tuple[float, float]:
    """Of how many of 100,000 references a newcomer is a look-alike, and how unevenly holders have
    them: the mean square of their rates over the square of the mean, from two halves of the
    newcomers, so that chance adds nothing."""
    population = Population.load("sface")
    holders, others = population.references(references, 2), population.references(newcomers, 7)
    halves = np.zeros((2, references))
    for place in range(0, newcomers, 1000):
        found = (holders @ others[place : place + 1000].T >= REVIEW).sum(axis=1)
        halves[place * 2 // newcomers] += found
    rate = halves.sum() / newcomers * 100_000 / references
    return float(rate), float(np.prod(halves, axis=0).mean() / np.prod(halves.mean(axis=1)))


def run_honest(
    days: int = 180, newcomers: int = 1000, references: int = 100_000
) -> dict[str, float]:
    """Keys of one carrier that end a day, by the bound `holder_failures`, after 60 days."""
    rate, unevenness = measure_look_alikes()
    rng = np.random.default_rng(1)
    weights = np.cumsum(rng.gamma(1 / (unevenness - 1), size=references))
    figures = {"look_alikes": rate, "unevenness": unevenness}
    for most in (6, 8, 12):
        levels, ended = np.zeros(references), 0
        for day in range(days):
            levels = np.maximum(0, levels - most / MEMORY_DAYS)
            met = rng.random(rng.poisson(newcomers * rate)) * weights[-1]
            for holder in np.searchsorted(weights, met):
                if levels[holder] + SEARCHED <= most:
                    levels[holder] += SEARCHED
                else:
                    ended += day >= MEMORY_DAYS
        figures[f"ended_a_day_at_{most}"] = ended / (days - MEMORY_DAYS)
    return figures


def run(targets: int = TARGETS, strangers: int = STRANGERS) -> dict[str, float]:
    """Medians over the targets."""
    population = Population.load("sface")
    faces = population.references(targets, 1).astype(np.float64)
    others = population.references(strangers, 2).astype(np.float64)
    scores = others @ faces.T
    matched = float((scores >= THRESHOLD).mean())
    rng = np.random.default_rng(3)
    figures = {"strangers_for_a_match": 1 / matched if matched else float("inf")}
    for find in (bisect, creep):
        # The attacker is given its first match: a stranger's face as like as the best of all.
        ways = []
        for place, face in enumerate(faces):
            start = others[int(scores[:, place].argmax())]
            lift = max(0.0, THRESHOLD + 0.01 - float(start @ face))
            start = start + lift * 1.3 * face
            start /= np.linalg.norm(start)
            ways.append(list(attack(face, start, find, rng)))
        name = find.__name__
        reached = [next((one for one in way if one.cosine >= REACHED), way[-1]) for way in ways]
        figures[f"{name}_asked"] = float(np.median([one.asked for one in reached]))
        figures[f"{name}_failed"] = float(np.median([one.failed for one in reached]))
        figures[f"{name}_reached"] = float(np.mean([one.cosine >= REACHED for one in reached]))
    return figures


if __name__ == "__main__":
    for key, value in (run() | run_look_alikes() | run_honest()).items():
        print(f"{key:24} {value:,.3f}")  # noqa: T201
