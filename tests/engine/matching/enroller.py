"""A process that enrolls until it is killed: for each line on stdin it forks a child that does.

usage: enroller.py URL KEYRING SNAPSHOTS, then lines `FIRST_SERIAL RESUME_SERIAL`. The child
re-sends RESUME_SERIAL..FIRST_SERIAL - 1 and goes on from FIRST_SERIAL. It says `ready`, then
acknowledges each answer on stdout: `ack SERIAL ENROLLMENT_ID IS_REPEATED DECISION`. Forking a
process that has everything imported keeps many kills cheap.
"""

import hashlib
import itertools
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from stdnum.cn import ric

from engine.matching.calibration import Rate, Thresholds
from engine.matching.checks.order import CHECKS
from engine.matching.comparison import WatchList
from engine.matching.judge import Judge
from engine.matching.recovery import restore_gallery, save_snapshot
from engine.matching.registrar import Registrar
from engine.matching.requests import Answer, EnrollmentRequest
from engine.matching.samples import Sample
from engine.registry.keyring import KeyRing
from engine.registry.store import Store
from engine.registry.vault import Vault
from schema.documents import Document

DIM = 64
MODEL_DIGEST = "d" * 64


def build_request(serial: int) -> EnrollmentRequest:
    """The same request for the same serial, in any process."""
    draw = np.random.default_rng(serial).standard_normal((3, DIM))
    person = draw[0] / np.linalg.norm(draw[0])
    samples = []
    for noise in draw[1:]:
        vector = person + 0.3 * noise / np.linalg.norm(noise)
        vector = (vector / np.linalg.norm(vector)).astype(np.float32)
        samples.append(Sample(vector, hashlib.sha256(vector.tobytes()).digest()))
    body = (
        f"1101051950{serial // 28000 % 12 + 1:02d}{serial // 1000 % 28 + 1:02d}{serial % 1000:03d}"
    )
    return EnrollmentRequest(
        idempotency_key=f"key-{serial}",
        carrier="blue",
        outlet="blue-1",
        document=Document("cn-ric", body + str(ric.calc_check_digit(body + "0")), "A Holder"),
        msisdn=f"+8613{serial:09d}",
        live=samples[0],
        portrait=samples[1],
    )


def enroll(url: str, ring: Path, folder: Path, first: int, resume: int) -> None:
    """Enrolls batches of random size for ever, keeping a snapshot now and then."""
    vault = Vault(KeyRing.load(ring), DIM)
    store = Store.open(url, vault, model_digest=MODEL_DIGEST)
    writer = store.writer()
    gallery = restore_gallery(store, folder).gallery
    judge = Judge(
        store=store,
        vault=vault,
        gallery=gallery,
        watch=WatchList(DIM),
        thresholds=Thresholds(verify=0.40, same_document=0.42, review=0.60, certain=0.70),
        model_digest=MODEL_DIGEST,
        false_candidates=lambda size, _: Rate(size * 0.0, 0.0, 1.0),
        checks=CHECKS,
    )
    registrar = Registrar(writer, judge)
    os.write(1, b"ready\n")
    serials = itertools.chain(range(resume, first), itertools.count(first))
    for batch in _batches(serials):
        outcomes = registrar.enroll([build_request(serial) for serial in batch])
        lines = []
        for serial, outcome in zip(batch, outcomes, strict=True):
            assert isinstance(outcome, Answer), outcome
            repeated = int(outcome.is_repeated)
            lines.append(f"ack {serial} {outcome.enrollment_id} {repeated} {outcome.decision}\n")
        os.write(1, "".join(lines).encode())
        if random.random() < 0.1:
            save_snapshot(store, gallery, folder)


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
