"""A stored face computed from answers: the attacker makes a photograph of any vector.

The extraction is replaced by one that finds in a picture the vector that the attacker put there:
no attacker has more. Every route of every role of a tenant is asked; each score about the victim is
an equation, and least squares solve them. With scores 160 answers gave the face at cosine 1.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import select, update

from engine.matching.checks.limits import MISSED, SEARCHED
from engine.matching.samples import Sample
from engine.registry.database import changing
from engine.registry.rows import changing_rows
from schema.options import Limits
from serving.api.app import build_app
from serving.settings.sections import ServeSettings
from tests.serving.api.driver import Service
from tests.tables import tables

Vector = NDArray[np.float32]
MOST_COSINE = 0.5
MOST_FAILURES = 500
SECOND = timedelta(seconds=1)
DOCUMENT = {"type": "cn-ric", "number": "110105199003071239"}
MSISDN = "+8613800138000"
FRESH = [f"+86139001{place:05d}" for place in range(3_000)]
TENANTS = ("b2", "blue", "r1", "red")
QUERY, VERIFY, MATCH = "/v1/lines/query", "/v1/verifications", "/v1/match"


class CraftedPhotographs:
    """An extraction that finds what was put into a picture."""

    def __init__(self, dim: int) -> None:
        self._dim = dim

    async def sample(self, images: Sequence[bytes], *_: Any, **__: Any) -> Any:
        return [
            Sample(np.frombuffer(one, np.float32, self._dim), hashlib.sha256(one).digest())
            for one in images
        ]


@dataclass
class Attacker:
    """Asks about one holder, and keeps every equation that an answer shows."""

    service: Service
    victim: Vector = field(repr=False)
    document_id: str
    line_id: str
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(5))
    probes: list[Vector] = field(default_factory=list, repr=False)
    scores: list[float] = field(default_factory=list, repr=False)
    refused: list[Vector] = field(default_factory=list, repr=False)

    def stranger(self) -> Vector:
        face = self.rng.standard_normal(len(self.victim)).astype(np.float32)
        return np.asarray(face / np.linalg.norm(face), np.float32)

    def alike(self, face: Vector) -> Vector:
        """Another photograph of a face."""
        other = face + 0.4 * self.stranger()
        return np.asarray(other / np.linalg.norm(other), np.float32)

    def sleep(self) -> None:
        """A day passes: all that was counted is a day older."""
        store = self.service.parts.store
        tallies = tables.tallies
        with changing(store.engine) as connection:
            rows = connection.execute(select(tallies.c.name, tallies.c.at)).all()
            with changing_rows(connection, store.vault, tallies, [row.name for row in rows]):
                for row in rows:
                    earlier = update(tallies).where(tallies.c.name == row.name)
                    connection.execute(earlier.values(at=row.at - timedelta(days=1)))

    def note(self, probe: Vector, answer: Any) -> None:
        """Keeps what an answer says of the victim: each number under a name of a score."""
        shown = list(find_scores(answer))
        self.probes += [probe] * len(shown)
        self.scores += shown
        if not shown:
            self.refused.append(probe)

    def cosine(self) -> float:
        """Of the best estimate: by equations, away from what was refused, or a lucky probe."""
        guesses = [-np.mean(self.refused, axis=0)] if self.refused else []
        if self.scores:
            known = np.stack(self.probes).astype(np.float64)
            guesses.append(np.linalg.lstsq(known, np.array(self.scores), rcond=None)[0])
        tried = [*guesses, *self.refused, *self.probes]
        return max(float(one @ self.victim / np.linalg.norm(one)) for one in tried)


def find_scores(answer: Any, name: str = "") -> Iterator[float]:
    """Numbers about comparisons with stored references, anywhere in an answer."""
    if isinstance(answer, dict):
        for key, value in answer.items():
            # The two photographs of an enrollment are the caller's own.
            if key not in {"live_portrait", "threshold", "thresholds", "quality"}:
                is_of_score = "score" in key or name == "scores"
                yield from find_scores(value, "scores" if is_of_score else key)
    elif isinstance(answer, list):
        for value in answer:
            yield from find_scores(value, name)
    elif isinstance(answer, float) and name == "scores":
        yield answer


@pytest.fixture
def attacker(start_service, enrolled) -> Attacker:
    """In reach of a service with the bounds that it has by default."""
    service = start_service(limits=Limits())
    parts = service.parts
    [chunk] = parts.store.references()
    crafted = CraftedPhotographs(chunk.vectors.shape[1])
    service = replace(service, app=build_app(replace(parts, faces=crafted)))  # type: ignore[arg-type]
    victim = np.array(chunk.vectors[0])
    return Attacker(service, victim, enrolled["document_id"], enrolled["line_id"])


def enrollment(attacker: Attacker, probe: Vector, place: int, **document: Any) -> dict[str, Any]:
    shown = {**DOCUMENT, "name": "Aileen Probe", **document}
    return {
        "document": shown,
        "msisdn": FRESH[place],
        "live": probe.tobytes(),
        "portrait": attacker.alike(probe).tobytes(),
        "consent_ref": "C-1",
        "captured_at": datetime.now(UTC).isoformat(),
    }


def ask_by_every_route(attacker: Attacker, key: str, place: int) -> list[int]:
    """One probe by each route of a role; the statuses."""
    probe, service = attacker.stranger(), attacker.service
    image = {"image": probe.tobytes()}
    outlet = {"blue": {"outlet": "b1"}, "red": {"outlet": "r1"}}.get(key, {})
    claimed = enrollment(attacker, probe, place) | outlet
    asked = [
        ("POST", VERIFY, {"probe": image, "document": DOCUMENT}),
        ("POST", VERIFY, {"probe": image, "document_id": attacker.document_id}),
        ("POST", VERIFY, {"probe": image, "line": attacker.line_id}),
        ("POST", QUERY, {"probe": image, "document": DOCUMENT}),
        ("POST", f"/v1/lines/{MSISDN}/dispute", {"probe": image, "document": DOCUMENT}),
        ("POST", "/v1/enrollments", claimed),
    ]
    statuses = []
    for serial, (method, path, body) in enumerate(asked):
        headers = {"idempotency-key": f"{key}-{place}-{serial}"}
        answer = service.ask(method, path, key=key, body=body, headers=headers)
        statuses.append(answer.status_code)
        attacker.note(probe, service.read(answer))
        if path == "/v1/enrollments" and answer.status_code == 201:
            made = service.read(answer)["enrollment_id"]
            for again in (f"{path}/{made}", f"{path}?idempotency_key={key}-{place}-{serial}"):
                attacker.note(probe, service.read(service.ask("GET", again, key=key)))
    return statuses


def search_by_match(attacker: Attacker, key: str, probes: Sequence[Vector]) -> int:
    items = [{"probe": {"image": one.tobytes()}, "search": True} for one in probes]
    answer = attacker.service.ask("POST", MATCH, key=key, body={"items": items})
    shown = attacker.service.read(answer)
    for probe, one in zip(probes, shown.get("items", [shown] * len(probes)), strict=True):
        attacker.note(probe, one)
    return answer.status_code


def test_no_route_of_a_tenant_gives_a_face_in_ten_thousand_answers(attacker) -> None:
    for key in ("blue", "red"):
        for _ in range(20):
            attacker.sleep()
            assert search_by_match(attacker, key, [attacker.stranger() for _ in range(256)]) == 200
    for place in range(8):
        for number, key in enumerate(TENANTS):
            ask_by_every_route(attacker, key, 100 * number + place)
    assert len(attacker.refused) + len(attacker.scores) >= 10_000
    assert attacker.scores == []
    assert attacker.cosine() <= MOST_COSINE


@pytest.mark.parametrize("key", ["b2", "blue"])
def test_a_candidate_and_a_match_are_shown_without_a_score(attacker, key: str) -> None:
    alike = attacker.alike(attacker.victim)
    image = {"image": alike.tobytes()}
    for path, body in (
        (VERIFY, {"probe": image, "document": DOCUMENT}),
        (QUERY, {"probe": image, "document": DOCUMENT}),
    ):
        answer = attacker.service.read(attacker.service.ask("POST", path, key=key, body=body))
        assert answer.get("is_match", answer.get("is_holder")) is True
        assert answer["score"] is None
    if key == "blue":
        items = [{"probe": image, "search": True}]
        found = attacker.service.ask("POST", MATCH, key=key, body={"items": items})
        [item] = attacker.service.read(found)["items"]
        [candidate] = item["identification"]["candidates"]
        assert candidate["score"] is None
    outlet = {} if key == "b2" else {"outlet": "b1"}
    other = enrollment(attacker, alike, 7, number="110105198503071257") | outlet
    made = attacker.service.read(attacker.service.enroll(other, "again", key=key))
    assert [one["reason"] for one in made["reasons"]] == ["DUPLICATE_IDENTITY"]
    attacker.note(alike, made)
    path = f"/v1/enrollments/{made['enrollment_id']}"
    attacker.note(alike, attacker.service.read(attacker.service.ask("GET", path, key=key)))
    assert attacker.scores == []


def probing_cases(attacker: Attacker) -> list[dict[str, Any]]:
    answer = attacker.service.ask("GET", "/v1/cases?kind=probing", key="fraud")
    cases: list[dict[str, Any]] = attacker.service.read(answer)["cases"]
    return cases


@pytest.mark.parametrize("path", [VERIFY, QUERY, f"/v1/lines/{MSISDN}/dispute"])
def test_a_holder_that_others_fail_with_is_blocked_and_people_have_a_case(
    attacker, path: str
) -> None:
    service = attacker.service
    failures = 0
    while failures < MOST_FAILURES:
        body = {"probe": {"image": attacker.stranger().tobytes()}, "document": DOCUMENT}
        # Another key each time: what is bounded is the holder's.
        key = ("b1", "b2", "blue")[failures % 3]
        answer = service.ask("POST", path, key=key, body=body)
        if answer.status_code == 429:
            break
        failures += 1
    service.assert_refused(answer, 429, "REQUEST.TOO_MANY_FAILURES")
    assert failures == Limits().holder_failures
    assert int(answer.headers["retry-after"]) > 3_600
    [case] = probing_cases(attacker)
    assert case["document_ids"] == [attacker.document_id]
    # Every other route is closed too, to the holder's own face as well, for this carrier.
    mine = {"image": attacker.alike(attacker.victim).tobytes()}
    for other, body in (
        (VERIFY, {"probe": mine, "line": MSISDN}),
        (QUERY, {"probe": mine, "document": DOCUMENT}),
    ):
        refused = service.ask("POST", other, key="b2", body=body)
        service.assert_refused(refused, 429, "REQUEST.TOO_MANY_FAILURES")
    claimed = enrollment(attacker, attacker.stranger(), 9)
    refused = service.enroll(claimed, "k", key="b1")
    service.assert_refused(refused, 429, "REQUEST.TOO_MANY_FAILURES")
    # No other carrier is barred from its customer, nor are those who work on the case.
    mine = {"probe": mine}
    for key, other, of_whom in (
        ("r1", QUERY, {"document": DOCUMENT}),
        ("fraud", VERIFY, {"document_id": attacker.document_id}),
    ):
        assert service.ask("POST", other, key=key, body=mine | of_whom).status_code == 200
    assert len(probing_cases(attacker)) == 1


def test_a_document_that_nobody_holds_is_blocked_alike(attacker) -> None:
    unheld = {"type": "cn-ric", "number": "110105198503071257"}
    for place in range(Limits().holder_failures + 1):
        body = {"probe": {"image": attacker.stranger().tobytes()}, "document": unheld}
        answer = attacker.service.ask("POST", QUERY, key="r1", body=body)
        assert answer.status_code == (429 if place == Limits().holder_failures else 200)


def near(attacker: Attacker, score: float) -> Vector:
    """A face with this score to the victim's."""
    aside = attacker.stranger()
    aside = aside - (aside @ attacker.victim) * attacker.victim
    aside /= np.linalg.norm(aside)
    return np.asarray(score * attacker.victim + np.sqrt(1 - score**2) * aside, np.float32)


def test_a_search_that_meets_a_full_holder_was_its_keys_last_hit_or_miss(attacker) -> None:
    review = attacker.service.parts.thresholds.review
    bound, told = Limits().holder_failures, 0
    while search_by_match(attacker, "blue", [near(attacker, review + 0.02)]) == 200:
        told += SEARCHED
        assert told <= bound
    assert told == bound
    assert attacker.scores == []
    documents = sorted(case["document_ids"] for case in probing_cases(attacker))
    assert documents == [[], [attacker.document_id]]
    for probe in (attacker.stranger(), near(attacker, review + 0.02), attacker.victim):
        assert search_by_match(attacker, "blue", [probe]) == 429
    assert search_by_match(attacker, "red", [attacker.stranger()]) == 200


def test_misses_of_a_search_that_are_nearly_hits_are_as_few(attacker) -> None:
    review = attacker.service.parts.thresholds.review
    bound, asked = Limits().holder_failures, 0
    probe = near(attacker, review - MISSED / 2)
    while search_by_match(attacker, "blue", [probe]) == 200:
        asked += 1
        assert asked <= bound
    assert asked == bound
    assert search_by_match(attacker, "red", [probe] * (bound + 1)) == 200


def test_one_search_of_many_faces_tells_no_more_than_many_of_one(attacker) -> None:
    review = attacker.service.parts.thresholds.review
    probes = [near(attacker, review + (-1) ** place * 0.02) for place in range(256)]
    assert search_by_match(attacker, "blue", probes) == 429
    assert search_by_match(attacker, "blue", [attacker.stranger()]) == 429


def test_strangers_faces_are_searched_for_so_many_a_day_hit_or_miss(attacker) -> None:
    """One that hits is as good as a photograph, and a clear miss counts nothing of a holder. Whole
    calls count before anything is looked up."""
    most, asked, service = Limits().searched_faces, 0, attacker.service
    while search_by_match(attacker, "blue", [attacker.stranger() for _ in range(100)]) == 200:
        asked += 100
        assert asked <= most
    assert search_by_match(attacker, "blue", [attacker.stranger()] * (most - asked)) == 200
    for probe in (attacker.stranger(), attacker.victim):
        items = [{"probe": {"image": probe.tobytes()}, "search": True}]
        refused = service.ask("POST", MATCH, key="blue", body={"items": items})
        service.assert_refused(refused, 429, "REQUEST.TOO_MANY_SEARCHES")
        assert int(refused.headers["retry-after"]) <= timedelta(days=1) / most / SECOND + 1
    assert [case["document_ids"] for case in probing_cases(attacker)] == [[]]
    # No other carrier waits, nor do those who work on cases, nor a comparison with one holder.
    for key in ("red", "fraud"):
        assert search_by_match(attacker, key, [attacker.stranger()]) == 200
    body = {"probe": {"image": attacker.victim.tobytes()}, "document": DOCUMENT}
    assert service.ask("POST", QUERY, key="blue", body=body).status_code == 200
    attacker.sleep()
    assert search_by_match(attacker, "blue", [attacker.stranger()]) == 200


def test_an_expired_document_tells_nothing_of_the_face_beside_it(attacker) -> None:
    """Such an attempt costs nothing and stores nothing: whoever has no document has many."""
    shown = []
    for place, probe in enumerate((attacker.alike(attacker.victim), attacker.stranger())):
        expired = {"number": "110105198503071257", "expires_on": "2020-01-01"}
        claimed = enrollment(attacker, probe, place, **expired)
        answer = attacker.service.enroll(claimed, f"k{place}", key="r1")
        shown.append(attacker.service.read(answer))
    assert [[one["reason"] for one in each["reasons"]] for each in shown] == [
        ["DOCUMENT_EXPIRED"]
    ] * 2
    assert [each["cases"] for each in shown] == [[], []]
    assert {each["duplicate_search"]["ran"] for each in shown} == {False}


@pytest.mark.parametrize("path", [VERIFY, QUERY, "/v1/identifications", "/v1/people/search"])
def test_scores_that_the_fraud_team_is_shown_of_one_holder_are_bounded(attacker, path: str) -> None:
    bound, told = Limits().holder_shown, 0
    while True:
        probe = {"image": attacker.alike(attacker.victim).tobytes()}
        body = {"probe": probe} | ({"document": DOCUMENT} if path in (VERIFY, QUERY) else {})
        answer = attacker.service.ask("POST", path, key="fraud", body=body)
        if answer.status_code == 429:
            break
        assert list(find_scores(attacker.service.read(answer)))
        told += 1
        assert told <= bound
    # Fewer than the dimensions: the equations leave most of the face open.
    assert told == bound < len(attacker.victim) // 2
    cases = [case["document_ids"] for case in probing_cases(attacker)]
    assert [attacker.document_id] in cases
    if path not in (VERIFY, QUERY):
        # Nor is a face that nobody has: a refusal is no answer.
        assert [] in cases
        body = {"probe": {"image": attacker.stranger().tobytes()}}
        assert attacker.service.ask("POST", path, key="fraud", body=body).status_code == 429


def test_failures_of_one_key_are_bounded_over_all_holders(attacker) -> None:
    service = attacker.service
    bound = Limits().outlet_key_failures
    answered = 0
    for place in range(bound + 1):
        number = f"+8613700{place:06d}"
        probe = {"image": attacker.stranger().tobytes()}
        answer = service.ask("POST", VERIFY, key="b2", body={"probe": probe, "line": number})
        if answer.status_code == 429:
            break
        service.assert_refused(answer, 404, "REQUEST.NOT_FOUND")
        answered += 1
    service.assert_refused(answer, 429, "REQUEST.TOO_MANY_FAILURES")
    assert bound <= answered + 1 <= bound + 1
    [case] = probing_cases(attacker)
    assert case["document_ids"] == []
    shown = service.read(service.ask("GET", f"/v1/cases/{case['case_id']}", key="fraud"))
    assert shown["notes"][0]["actor"].startswith("key:")
    # Its sister goes on.
    body = {"probe": {"image": attacker.stranger().tobytes()}, "line": "+8613700999999"}
    assert service.ask("POST", VERIFY, key="b1", body=body).status_code == 404


def test_a_key_has_a_rate_unless_the_operator_takes_it_away() -> None:
    assert ServeSettings().rate_limit > 0
