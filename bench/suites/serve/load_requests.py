"""A load, its requests as bytes, and the record of their answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from bench.suites.serve.fixtures import SEARCHER, Home, Person
from bench.suites.workload import OUTLET
from engine.accuracy.population import Population
from engine.registry.database import utc_now

SERIAL_PLACE = "#SERIAL##"
"""Stands in a text or a header for the serial number of the request, which is as long."""
MSGPACK = "application/msgpack"
_PLACE = SERIAL_PLACE.encode()


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """The bytes of one HTTP/1.1 request; the serial number goes between its pieces."""

    pieces: tuple[bytes, ...]

    def fill(self, serial: int) -> bytes:
        """The whole request; serial numbers from 0 to 999,999,999."""
        pieces = self.pieces
        return pieces[0] if len(pieces) == 1 else (b"%09d" % serial).join(pieces)


@dataclass(frozen=True, slots=True)
class RequestWriter:
    """Address of the service that requests go to, and the API key they carry."""

    host: str
    port: int
    key: str | None = None

    def post(
        self, path: str, value: Any, headers: Mapping[str, str] | None = None
    ) -> PreparedRequest:
        """A POST of MessagePack, which asks for MessagePack."""
        body: bytes = msgpack.packb(value)
        given = {"Content-Type": MSGPACK, "Content-Length": str(len(body)), **(headers or {})}
        key = {} if self.key is None else {"Authorization": f"Bearer {self.key}"}
        fields = {"Host": f"{self.host}:{self.port}", "Accept": MSGPACK, **key, **given}
        lines = [f"POST {path} HTTP/1.1", *(f"{name}: {text}" for name, text in fields.items())]
        head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
        return PreparedRequest(tuple((head + body).split(_PLACE)))


LOST, OVERDUE = 0, -1
"""Instead of a status: the connection was lost, or there was no answer in time."""
Seconds = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Requests in a cycle, for `seconds` or until `count` are sent, whichever is first.

    Closed loop where `rate` is None: each connection sends again when it is answered. Else open
    loop: `rate` arrivals a second, evenly spaced, whatever the server does; one that finds no free
    connection waits for one, and its latency counts from its arrival.
    `serial` numbers the requests, from there on.
    """

    host: str
    port: int
    requests: tuple[PreparedRequest, ...]
    connections: int
    seconds: float = float("inf")
    count: int | None = None
    rate: float | None = None
    serial: int = 0
    timeout_s: float = 30.0
    keeps_bodies: bool = False

    def schedule(self) -> Seconds:
        """Arrivals in seconds after the start; of an open loop only."""
        assert self.rate is not None
        return np.arange(int(min(self.seconds * self.rate, self.count or np.inf))) / self.rate


ROW = np.dtype(
    [
        ("intended_s", "f8"),
        ("sent_s", "f8"),
        ("done_s", "f8"),
        ("status", "i2"),
        ("retry_after_s", "f8"),
        ("request", "i8"),
        ("serial", "i8"),
    ]
)


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """`rows` like `ROW`, one a request, in order of their ends, in seconds after the start of the
    load.

    `retry_after_s` is NaN where the answer named none; `request` is the place in the load's
    requests; `sent_s` is NaN where no connection became free in time; `bodies` is empty unless they
    were kept. `seconds` from the first arrival to the last answer.
    """

    rows: np.recarray[Any, Any]
    bodies: tuple[bytes, ...]
    seconds: float

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def latency_s(self) -> Seconds:
        """From the intended start to the end of the answer."""
        latency_s: Seconds = self.rows.done_s - self.rows.intended_s
        return latency_s

    @property
    def is_fine(self) -> NDArray[np.bool_]:
        fine: NDArray[np.bool_] = (self.rows.status >= 200) & (self.rows.status < 300)
        return fine

    @property
    def is_refused(self) -> NDArray[np.bool_]:
        """429 that says when to come again."""
        waits = ~np.isnan(self.rows.retry_after_s)
        refused: NDArray[np.bool_] = (self.rows.status == 429) & waits
        return refused

    @property
    def rate(self) -> float:
        """Requests answered well, a second."""
        return float(self.is_fine.sum()) / self.seconds

    @property
    def sent_share(self) -> float:
        """Of the requests that were due, those sent before `seconds` were over."""
        end_s = self.rows.intended_s.min(initial=np.inf) + self.seconds
        return float((self.rows.sent_s < end_s).sum()) / len(self)

    @property
    def good_bodies(self) -> list[bytes]:
        """Those of requests answered well; of a load that keeps bodies."""
        return list(compress(self.bodies, self.is_fine.tolist()))

    def within(self, start_s: float, end_s: float) -> Record:
        """Only what was meant to start in this span."""
        kept = (self.rows.intended_s >= start_s) & (self.rows.intended_s < end_s)
        bodies = tuple(compress(self.bodies, kept.tolist()))
        return Record(self.rows[kept], bodies, end_s - start_s)

    def quantile_ms(self, share: float, among: NDArray[np.bool_] | None = None) -> float:
        """Of the latencies of those well answered, or of these rows; NaN of none."""
        values_s = self.latency_s[self.is_fine if among is None else among]
        return float(np.quantile(values_s, share)) * 1e3 if len(values_s) else float("nan")

    def count_statuses(self) -> dict[int, int]:
        """How often each status came, the commonest first."""
        return dict(Counter(self.rows.status.tolist()).most_common())


ENROLLMENTS_PATH = "/v1/enrollments"
KEY_HEADER = "Idempotency-Key"
CONSENT = "bench"


def write_visit(person: Person, msisdn: str) -> dict[str, Any]:
    """The body of an enrollment."""
    document = person.document
    return {
        "outlet": OUTLET,
        "document": {"type": document.type, "number": document.number, "name": document.name},
        "msisdn": msisdn,
        "live": person.live,
        "portrait": person.portrait,
        "consent_ref": CONSENT,
        "captured_at": utc_now().isoformat(),
    }


def write_visits(
    caller: RequestWriter, people: Sequence[Person], name: str
) -> tuple[PreparedRequest, ...]:
    """One enrollment request for each person; each time it is sent, for another phone number.

    `name` keeps the keys of two loads apart.
    """
    headers = {KEY_HEADER: f"{name}-{SERIAL_PLACE}"}
    return tuple(
        caller.post(ENROLLMENTS_PATH, write_visit(person, f"+8613{SERIAL_PLACE}"), headers)
        for person in people
    )


MATCH_PATH = "/v1/match"
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


def pack(
    caller: RequestWriter, items: Sequence[dict[str, Any]], size: int
) -> tuple[PreparedRequest, ...]:
    """Requests of `size` items each."""
    return tuple(
        caller.post(MATCH_PATH, {"items": list(items[start : start + size])})
        for start in range(0, len(items) - size + 1, size)
    )


@dataclass(frozen=True, slots=True, eq=False)
class Probes:
    """1:N items, and the faces that they show."""

    items: tuple[dict[str, Any], ...]
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
    tokens = home.issue(faces, SEARCHER)
    items = tuple({"probe": {"template": token}, "search": True} for token in tokens)
    return Probes(items, faces)


def check_searches(home: Home, probes: Probes, results: Sequence[dict[str, Any]]) -> int:
    """Holds the answers to the first of the probes against float32 brute force over the store's own
    vectors: candidates that one has and the other lacks, and scores that differ."""
    threshold = float(results[0]["identification"]["threshold"])
    with home.open() as deployment:
        vectors = deployment.vault.rotate(probes.faces[: len(results)])
        chunks = list(deployment.store.references())
        ids = [key for chunk in chunks for key in chunk.ids.tolist()]
        gallery = np.concatenate([chunk.vectors for chunk in chunks])
        owners: dict[int, str] = {}
        for start in range(0, len(ids), 10_000):
            owners |= deployment.store.documents_of(ids[start : start + 10_000])
    holders = [owners[key] for key in ids]
    wrong = 0
    for place, result in enumerate(results):
        scores = gallery @ vectors[place]
        candidates = result["identification"]["candidates"]
        answered = {one["document_id"]: one["score"] for one in candidates}
        above = {holders[row] for row in np.flatnonzero(scores >= threshold + TOLERANCE)}
        near = {holders[row] for row in np.flatnonzero(scores >= threshold - TOLERANCE)}
        wrong += len(above - answered.keys()) + len(answered.keys() - near)
        best = float(scores.max())
        wrong += bool(answered) and abs(max(answered.values()) - best) > TOLERANCE
    return wrong


def read_results(bodies: Sequence[bytes]) -> list[dict[str, Any]]:
    """The items of MessagePack answers of matches, one after another; others have none."""
    return [item for body in bodies for item in msgpack.unpackb(body).get("items", ())]
