"""Match requests on templates: 1:1 pairs, 1:N probes with planted mates, and the right answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from bench.serving.homes import TENANT, Home
from bench.serving.wire import Caller, Request
from engine.accuracy.population import Population
from serving.access.pseudonyms import name_holder

PATH = "/v1/match"
BATCH = 256
MATED_SHARE = 0.5
STRANGERS_SEED = 1_000_003
TOLERANCE = 1e-4
"""Templates are float32; a score nearer than this to the threshold may fall on either side."""


def pair_items(home: Home, count: int) -> list[dict[str, Any]]:
    """1:1 items: half of them two photographs of one person, half of two people."""
    population = Population.load("sface")
    people = population.people(count, home.seed)
    one = population.samples(people, home.seed, 2)
    other = population.samples(people, home.seed, 3)
    other[1::2] = np.roll(other[1::2], 1, axis=0)
    tokens = home.issue(np.concatenate([one, other]))
    return [
        {"probe": {"template": a}, "reference": {"template": b}}
        for a, b in zip(tokens[:count], tokens[count:], strict=True)
    ]


def pack(caller: Caller, items: Sequence[dict[str, Any]], size: int) -> tuple[Request, ...]:
    """Requests of `size` items each."""
    return tuple(
        caller.post(PATH, {"items": list(items[start : start + size])})
        for start in range(0, len(items) - size + 1, size)
    )


@dataclass(frozen=True, slots=True, eq=False)
class Probes:
    """1:N items; `rows` are the planted mates' rows of the references, -1 for strangers."""

    items: tuple[dict[str, Any], ...]
    rows: NDArray[np.int64]
    faces: NDArray[np.float32] = field(repr=False)


def draw_probes(home: Home, count: int, seed: int) -> Probes:
    """Half of them mates of references, by two fresh photographs, and half strangers."""
    population = Population.load("sface")
    rng = np.random.default_rng([seed, 7])
    rows = np.where(
        rng.random(count) < MATED_SHARE, rng.integers(0, home.references, count), -1
    ).astype(np.int64)
    faces = population.references(count, STRANGERS_SEED + seed)
    mated = rows >= 0
    faces[mated] = population.mates(rows[mated], home.seed)
    items = tuple({"probe": {"template": token}, "search": True} for token in home.issue(faces))
    return Probes(items, rows, faces)


@dataclass(frozen=True, slots=True)
class Searched:
    """How answers compare with brute force over the store's own vectors.

    `missed` and `ghosts`: candidates that brute force has and the service has not, and the other
    way round; `mates` planted ones at or above the threshold, of which `mates_found`.
    """

    probes: int
    missed: int
    ghosts: int
    wrong_scores: int
    mates: int
    mates_found: int

    @property
    def recall(self) -> float:
        return self.mates_found / self.mates if self.mates else float("nan")

    @property
    def wrong(self) -> int:
        return self.missed + self.ghosts + self.wrong_scores


def check_searches(home: Home, probes: Probes, results: Sequence[dict[str, Any]]) -> Searched:
    """Holds the answers to the first of the probes against float32 brute force."""
    holders, gallery = _read_gallery(home)
    threshold = float(results[0]["identification"]["threshold"])
    with home.open() as deployment:
        vectors = deployment.vault.rotate(probes.faces[: len(results)])
    missed = ghosts = wrong = mates = found = 0
    for place, result in enumerate(results):
        scores = gallery @ vectors[place]
        answered = {one["holder"]: one["score"] for one in result["identification"]["candidates"]}
        above = {holders[row] for row in np.flatnonzero(scores >= threshold + TOLERANCE)}
        near = {holders[row] for row in np.flatnonzero(scores >= threshold - TOLERANCE)}
        missed += len(above - answered.keys())
        ghosts += len(answered.keys() - near)
        best = float(scores.max())
        if answered and abs(max(answered.values()) - best) > TOLERANCE:
            wrong += 1
        row = int(probes.rows[place])
        if row >= 0 and scores[row] >= threshold + TOLERANCE:
            mates += 1
            found += holders[row] in answered
    return Searched(len(results), missed, ghosts, wrong, mates, found)


def read_results(bodies: Sequence[bytes]) -> list[dict[str, Any]]:
    """The items of MessagePack answers of matches, one after another; others have none."""
    return [item for body in bodies for item in msgpack.unpackb(body).get("items", ())]


def _read_gallery(home: Home) -> tuple[list[str], NDArray[np.float32]]:
    """What answers call each reference's holder, and its rotated vector, in order of admission."""
    with home.open() as deployment:
        chunks = list(deployment.store.references())
        ids = np.concatenate([chunk.ids for chunk in chunks])
        vectors = np.concatenate([chunk.vectors for chunk in chunks])
        order = np.argsort(ids)
        owners: dict[int, str] = {}
        for start in range(0, len(ids), 10_000):
            owners |= deployment.store.documents_of(ids[order][start : start + 10_000].tolist())
        vault, carrier = deployment.vault, TENANT[0]
        names = [name_holder(vault, carrier, owners[key]) for key in ids[order].tolist()]
    return names, vectors[order]
