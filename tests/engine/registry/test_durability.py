"""Reads and administration beside commits."""

from concurrent.futures import ThreadPoolExecutor
from threading import Event

from engine.registry.audit import verify_chain


def test_reads_beside_commits_see_whole_batches_and_neither_fails(store, writer, enroll) -> None:
    finished = Event()

    def read() -> int:
        reads = 0
        while not finished.is_set():
            counts = store.counts()
            assert counts["documents"] % 4 == 0
            assert counts["documents"] == counts["references"] == counts["lines"]
            for chunk in store.references():
                known = store.documents_of(chunk.ids.tolist())
                assert known.keys() == set(chunk.ids.tolist())
            assert verify_chain(store).intact
            reads += 1
        return reads

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        try:
            for number in range(40):
                writer.commit(enroll(writer, 4, first=4 * number))
        finally:
            finished.set()
        assert all(reader.result(timeout=120) > 0 for reader in readers)
    assert store.counts()["live_references"] == 160


def test_administration_at_the_same_time_as_commits_keeps_one_chain(store, writer, enroll) -> None:
    def administrate(name: str) -> None:
        for number in range(20):
            store.add_outlet(f"{name}{number}", "red", actor=name)

    with ThreadPoolExecutor(2) as pool:
        clerks = [pool.submit(administrate, name) for name in ("ann", "ben")]
        for number in range(20):
            writer.commit(enroll(writer, 1, first=number))
        for clerk in clerks:
            clerk.result(timeout=120)
    counts = store.counts()
    assert (counts["outlets"], counts["live_references"]) == (3 + 40, 20)
    report = verify_chain(store)
    assert report.intact
    assert report.entries == counts["audit"] == 6 + 40 + 20
