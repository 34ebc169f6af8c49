"""One Idempotency-Key is one payload: whoever sends another under it is never given a decision."""

from __future__ import annotations

import random
import threading
from collections import defaultdict
from concurrent.futures import CancelledError
from dataclasses import replace
from typing import Any

from engine.errors import DeadlinePassed, IdempotencyInFlight, IdempotencyMismatch, Overloaded
from engine.matching.registrar import Registrar, RegistrarConfig
from engine.matching.requests import Answer, EnrollmentRequest

KEYS, OUTLETS, ROUNDS = 8, 5, 16
SMALL = RegistrarConfig(batch_size=4, queue_size=4, gather_s=0.001)
"""So that batches hold several keys, and some requests find no room."""
REFUSALS = (DeadlinePassed, IdempotencyInFlight, IdempotencyMismatch, Overloaded)


def test_of_two_payloads_under_one_key_one_at_most_is_ever_decided(lab: Any) -> None:
    """However they come: together, given up, out of time, refused, again after an answer."""
    one = [lab.request() for _ in range(KEYS)]
    payloads = [one, [replace(request, msisdn=lab.request().msisdn) for request in one]]
    told: list[tuple[str, int, Any]] = []

    def come(registrar: Registrar, seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(ROUNDS):
            place, payload = chance.randrange(KEYS), chance.randrange(2)
            request = payloads[payload][place]
            told.append((request.idempotency_key, payload, ask(registrar, request, chance)))

    with lab.registrar(SMALL) as registrar:
        outlets = [threading.Thread(target=come, args=(registrar, seed)) for seed in range(OUTLETS)]
        for outlet in outlets:
            outlet.start()
        for outlet in outlets:
            outlet.join()
        sure = [(k, p, registrar.enroll([payloads[p][k]])[0]) for k in range(KEYS) for p in (0, 1)]
    told += [(one[place].idempotency_key, payload, outcome) for place, payload, outcome in sure]

    decided: dict[str, set[tuple[int, str]]] = defaultdict(set)
    for key, payload, outcome in told:
        if isinstance(outcome, Answer):
            decided[key].add((payload, outcome.enrollment_id))
        else:
            assert isinstance(outcome, (*REFUSALS, CancelledError)), outcome
    assert len(decided) == KEYS
    assert all(len(answers) == 1 for answers in decided.values())
    assert sum(isinstance(outcome, IdempotencyMismatch) for *_, outcome in sure) == KEYS
    assert lab.store.counts()["enrollments"] == KEYS


def ask(registrar: Registrar, request: EnrollmentRequest, chance: random.Random) -> Any:
    """What it is told in the end; it may give up, or have little time."""
    timeout_s = chance.choice((None, 0.001, 0.01))
    try:
        future = registrar.submit(request, timeout_s=timeout_s)
        if chance.random() < 0.2:
            future.cancel()
        return future.result(120)
    except (*REFUSALS, CancelledError) as refused:
        return refused
