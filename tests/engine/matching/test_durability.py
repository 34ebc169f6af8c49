import contextlib
import os
import queue
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from engine.matching.recovery import restore_gallery
from engine.registry import events
from engine.registry.store import Store
from schema.events import EventType

ENROLLER = "tests.engine.matching.enroller"


@dataclass
class Enroller:
    """The enrolling process, and every line that it has printed."""

    process: subprocess.Popen[str]
    lines: queue.Queue[str] = field(default_factory=queue.Queue)

    def __post_init__(self) -> None:
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.put(line)

    def run_and_kill(
        self, first: int, resume: int, *, after_lines: int, after_s: float
    ) -> list[list[str]]:
        """Kills a child some time after it has printed so many lines; returns its acks.

        Counting lines, not only seconds, lets every run make progress on a slow machine too.
        """
        self.process.stdin.write(f"{first} {resume}\n")
        self.process.stdin.flush()
        seen: list[str] = []
        while len(seen) <= after_lines or not any(line.startswith("pid") for line in seen):
            seen.append(self.lines.get(timeout=60))
        time.sleep(after_s)
        pid = next(int(line.split()[1]) for line in seen if line.startswith("pid"))
        os.kill(pid, signal.SIGKILL)
        while not seen[-1].startswith("gone"):
            seen.append(self.lines.get(timeout=60))
        # A child may be killed in the middle of a line: that is no acknowledgement.
        words = [line.split() for line in seen if line.startswith("ack ")]
        return [line[1:] for line in words if len(line) == 5]


@contextlib.contextmanager
def enroller(url: str, ring: Path, folder: Path) -> Iterator[Enroller]:
    process = subprocess.Popen(
        [sys.executable, "-m", ENROLLER, url, str(ring), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Enroller(process)
    finally:
        process.stdin.close()
        process.wait(timeout=120)
        process.stdout.close()


def check_store(store: Store, folder: Path, acknowledged: Iterable[str], at_least: int) -> None:
    """These are there, nothing twice or too few, and the gallery equals the store."""
    for enrollment_id in acknowledged:
        assert store.enrollment(enrollment_id).decision == "approved"
    counts = store.counts()
    assert at_least <= counts["enrollments"] == counts["references"] == counts["lines"]
    assert counts["documents"] == counts["idempotency"] == counts["enrollments"]
    chunks = list(store.references())
    gallery = restore_gallery(store, folder).gallery
    nothing = np.empty(0, dtype=np.int64)
    stored = np.sort(np.concatenate([nothing, *(chunk.ids for chunk in chunks)]))
    np.testing.assert_array_equal(gallery.ids, stored)
    assert gallery.sequence == store.sequence()
    owners = store.documents_of(stored.tolist())
    assert set(Counter(owners.values()).values()) <= {1}
    for chunk in chunks:
        np.testing.assert_array_equal(gallery.vectors(chunk.ids), chunk.vectors)


def check_events(store: Store) -> None:
    """Each decision and each line has its event, once and in this order; no number is missing."""
    found, after = [], 0
    while page := events.read_events(store, after):
        found += page
        after = page[-1].number
    assert [one.number for one in found] == list(range(1, len(found) + 1))
    decided = [one for one in found if one.type is EventType.ENROLLMENT_DECIDED]
    opened = {one.data["enrollment_id"]: one for one in found if one.type is EventType.LINE_OPENED}
    assert len(found) == 2 * len(decided) == 2 * store.counts()["enrollments"]
    assert len({one.subject for one in decided}) == len(decided)
    for one in decided:
        assert opened[one.subject].number > one.number
        assert opened[one.subject].subject == one.data["line_id"]


@pytest.mark.slow
@pytest.mark.parametrize(("database", "kills"), [("sqlite", 20), ("postgres", 8)])
def test_no_acknowledged_enrollment_is_lost_or_doubled_however_often_it_is_killed(
    request, tmp_path, make_lab, database: str, kills: int
) -> None:
    url: str = request.getfixturevalue(f"{database}_url")
    lab = make_lab(url)
    ring, folder, store = tmp_path / "keyring.json", lab.folder, lab.store
    chance = random.Random(7)
    acknowledged: dict[int, str] = {}
    repeated = 0
    first = resume = 1
    with enroller(url, ring, folder) as process:
        for _ in range(kills):
            acks = process.run_and_kill(
                first,
                resume,
                after_lines=chance.choice((0, 1, 8, 20, 40)),
                after_s=chance.uniform(0, 0.1),
            )
            for serial_text, enrollment_id, is_repeated, decision in acks:
                serial = int(serial_text)
                assert decision == "approved"
                # Asked again with its key, an acknowledged request has the answer it had.
                assert acknowledged.setdefault(serial, enrollment_id) == enrollment_id
                repeated += int(is_repeated)
            if acks:
                resume, first = first, max(acknowledged) + 1
            check_store(store, folder, [one[1] for one in acks], len(acknowledged))
    check_store(store, folder, acknowledged.values(), len(acknowledged))
    check_events(store)
    assert len(acknowledged) > kills
    assert repeated > 0
    store.close()
