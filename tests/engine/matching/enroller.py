"""A process that enrolls until it is killed: for each line on stdin it forks a child that does.

usage: enroller.py URL KEYRING SNAPSHOTS, then lines `FIRST_SERIAL RESUME_SERIAL`. The child
re-sends RESUME_SERIAL..FIRST_SERIAL - 1 and goes on from FIRST_SERIAL. It says `ready`, then
acknowledges each answer on stdout: `ack SERIAL ENROLLMENT_ID IS_REPEATED DECISION`. Forking a
process that has everything imported keeps many kills cheap.
"""

import itertools
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from engine.matching.recovery import save_snapshot
from engine.matching.registrar import Registrar
from engine.matching.requests import Answer, EnrollmentRequest
from engine.registry.keyring import KeyRing
from engine.registry.store import Store
from engine.registry.vault import Vault
from schema.documents import Document
from tests.engine.matching.conftest import DIM, MODEL_DIGEST, Lab, People, resident_number


def build_request(serial: int) -> EnrollmentRequest:
    """The same request for the same serial, in any process."""
    return People(serial).request(
        idempotency_key=f"key-{serial}",
        document=Document("cn-ric", resident_number(serial), "A Holder"),
        msisdn=f"+8613{serial:09d}",
    )


def enroll(url: str, ring: Path, folder: Path, first: int, resume: int) -> None:
    """Enrolls batches of random size for ever, keeping a snapshot now and then."""
    vault = Vault(KeyRing.load(ring), DIM)
    store = Store.open(url, vault, model_digest=MODEL_DIGEST)
    with Lab(store, vault, People(), folder).registrar() as registrar:
        serials = itertools.chain(range(resume, first), itertools.count(first))
        _enroll(registrar, store, folder, serials)


def _enroll(registrar: Registrar, store: Store, folder: Path, serials: Iterator[int]) -> None:
    os.write(1, b"ready\n")
    for batch in _batches(serials):
        outcomes = registrar.enroll([build_request(serial) for serial in batch])
        lines = []
        for serial, outcome in zip(batch, outcomes, strict=True):
            assert isinstance(outcome, Answer), outcome
            repeated = int(outcome.is_repeated)
            lines.append(f"ack {serial} {outcome.enrollment_id} {repeated} {outcome.decision}\n")
        os.write(1, "".join(lines).encode())
        if random.random() < 0.1:
            save_snapshot(store, registrar.gallery, folder)


def _batches(serials: Iterator[int]) -> Iterator[list[int]]:
    while True:
        yield list(itertools.islice(serials, random.randint(1, 12)))


def main() -> None:
    url, ring, folder = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    for line in sys.stdin:
        first, resume = (int(word) for word in line.split())
        child = os.fork()
        if child == 0:
            try:
                enroll(url, ring, folder, first, resume)
            finally:
                os._exit(70)
        os.write(1, f"pid {child}\n".encode())
        os.waitpid(child, 0)
        os.write(1, b"gone\n")


if __name__ == "__main__":
    main()
