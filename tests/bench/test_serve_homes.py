from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from bench.suites.serve.chaos import Acknowledged, AnswerLog, audit_store
from bench.suites.serve.context import check_searches
from bench.suites.serve.load_generator import draw_probes, pair_items
from bench.suites.serve.process import CALLER, Home, Person, draw_people, make_home
from bench.suites.serve.throughput import enroll_here, make_requests
from bench.suites.workload import CARRIER
from engine.registry.accounts import bind_secret
from engine.registry.vault import Vault
from serving.access.authentication import digest_key, parse_key
from serving.access.authorization import tenant_of
from serving.ingress.parts import SealedTemplates

REFERENCES, SEED = 400, 2


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Home:
    return make_home(tmp_path_factory.mktemp("homes") / "home", REFERENCES, SEED)


def open_tokens(home: Home, tokens: list[bytes]) -> np.ndarray:
    with home.open() as deployment:
        templates = SealedTemplates(deployment.vault, deployment.store.model_digest, ttl_h=1)
        return np.stack(list(templates.open(tokens, tenant_of(CALLER))))


def test_a_home_has_its_references_and_a_key_of_its_carrier(home) -> None:
    presented = parse_key(home.key)
    assert presented is not None
    with home.open() as deployment:
        assert deployment.store.counts()["references"] == REFERENCES
        assert len(deployment.restored.gallery) == REFERENCES
        vault: Vault = deployment.vault
        kept = deployment.store.api_key(presented.id)
        digest = digest_key(vault, presented.id, presented.secret)
        assert kept.digest == bind_secret(vault, kept, digest)
    assert (kept.role, kept.carrier) == ("carrier", CARRIER)
    assert home.key not in repr(home)


def test_pairs_are_mates_and_strangers_by_turns(home) -> None:
    items = pair_items(home, 64)
    one = open_tokens(home, [item["probe"]["template"] for item in items])
    other = open_tokens(home, [item["reference"]["template"] for item in items])
    scores = np.einsum("nd,nd->n", one, other)
    assert np.median(scores[0::2]) > 0.5
    assert np.median(scores[1::2]) < 0.2


def answer_by_brute_force(home: Home, count: int) -> tuple[list[dict[str, object]], list[float]]:
    """What a right service would say to the first probes."""
    probes = draw_probes(home, 64, SEED)
    with home.open() as deployment:
        threshold = deployment.thresholds.review
        chunks = list(deployment.store.references())
        ids = [key for chunk in chunks for key in chunk.ids.tolist()]
        owners = deployment.store.documents_of(ids)
        gallery = np.concatenate([chunk.vectors for chunk in chunks])
        turned = deployment.vault.rotate(probes.faces[:count])
        names = [owners[key] for key in ids]
    scores = turned @ gallery.T
    answers: list[dict[str, object]] = []
    for row in scores:
        found = np.flatnonzero(row >= threshold)
        candidates = [{"document_id": names[place], "score": float(row[place])} for place in found]
        answers.append({"identification": {"candidates": candidates, "threshold": threshold}})
    return answers, scores.max(axis=1).tolist()


def test_a_missed_candidate_a_false_one_and_a_wrong_score_are_each_counted(home) -> None:
    probes = draw_probes(home, 64, SEED)

    def candidates(answer: dict[str, object]) -> list[dict[str, object]]:
        return answer["identification"]["candidates"]  # type: ignore[index, no-any-return]

    answers, _ = answer_by_brute_force(home, 64)
    assert check_searches(home, probes, answers) == 0
    assert sum(bool(candidates(one)) for one in answers) > 10
    mated = next(place for place, answer in enumerate(answers) if candidates(answer))
    candidates(answers[mated]).clear()
    assert check_searches(home, probes, answers) == 1

    answers, _ = answer_by_brute_force(home, 64)
    candidates(answers[mated])[0]["score"] = 0.999
    assert check_searches(home, probes, answers) == 1

    answers, best = answer_by_brute_force(home, 64)
    stranger = next(place for place, answer in enumerate(answers) if not candidates(answer))
    candidates(answers[stranger]).append({"document_id": "none", "score": best[stranger]})
    assert check_searches(home, probes, answers) == 1


def test_the_audit_counts_what_is_lost_or_doubled(faces, tmp_path) -> None:
    visitors = draw_people(faces, 4, SEED)
    home = make_home(tmp_path / "home", 300, SEED)
    with home.open() as deployment:
        enrolled, *_ = enroll_here(deployment, visitors.people)
        counts = deployment.store.counts()
    assert len(enrolled) == counts["enrollments"] == len(visitors)

    log = AnswerLog(acknowledged=read_acknowledgements(home, visitors.people))
    assert audit_store(home, log) == (0, 0)

    def audit(*acknowledged: Acknowledged) -> tuple[int, int]:
        return audit_store(home, AnswerLog(acknowledged=[*acknowledged]))

    first, *others = log.acknowledged
    extra = Acknowledged("k-9", "0" * 36, "x", "approved", begun=0, ended=0)
    assert audit(first, *others, extra)[0] == 1
    assert audit(*others)[1] >= 1
    twice = replace(first, enrollment_id=others[0].enrollment_id)
    assert audit(first, *others, twice)[1] == 1


def read_acknowledgements(home: Home, people: Sequence[Person]) -> list[Acknowledged]:
    """What clients would have been told, by sending everything once more with its key."""
    with home.open() as deployment:
        requests = make_requests(deployment, people)
        outcomes = deployment.registrar.enroll(requests)
    return [
        Acknowledged(
            key=request.idempotency_key,
            enrollment_id=outcome.enrollment_id,  # type: ignore[union-attr]
            document_number=request.document.number,
            decision=outcome.decision.value,  # type: ignore[union-attr]
            begun=0,
            ended=0,
        )
        for request, outcome in zip(requests, outcomes, strict=True)
    ]
