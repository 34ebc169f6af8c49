"""`sosie import` into a home that a service has open: through it, beside its decisions."""

import csv
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.errors import RegistryError
from engine.imports.import_run import Ending, Summary
from engine.imports.row_parser import ColumnMapping
from engine.imports.sources import CsvForm
from engine.matching.requests import Answer, EnrollmentRequest
from engine.matching.samples import Sample
from engine.registry.database import utc_now
from schema.documents import Document
from serving import imports, operator_client
from serving.deployment.deployment import Deployment
from serving.imports import ImportOrder, run_import
from serving.registrar.protocol import CallContext
from serving.settings.settings import load_settings
from tests.serving.cli.test_imports import make_vectors, number, row, write, write_vectors
from tests.serving.client.test_backups import keys_of

ROWS = 120


@pytest.fixture
def home(service) -> Path:
    return Path(service.log_file.parent)


@pytest.fixture
def port(listen) -> int:
    return int(listen().rpartition(":")[2])


@pytest.fixture
def take_in(home, port) -> Callable[[Path], Summary]:
    """`take_in(path)` imports a file of vectors as the command does."""

    def run(path: Path, report: Path | None = None) -> Summary:
        settings = load_settings(home)
        served = settings.serve.model_copy(update={"port": port})
        with Deployment(home, settings.model_copy(update={"serve": served})) as deployment:
            order = ImportOrder(
                file=path,
                report=report or path.with_suffix(".import.csv"),
                actor="test",
                mapping=ColumnMapping({}, {}),
                form=CsvForm("utf-8", ","),
                country="CN",
                model_digest=deployment.store.model_digest,
            )
            return run_import(deployment, order, lambda _done, _total: None)

    return run


def test_a_base_is_loaded_while_the_service_runs(
    service, home, port, sosie, photographs, tmp_path
) -> None:
    for name in ("stranger.png", "again.png", "none.jpg"):
        (tmp_path / name).write_bytes((photographs.live.parent / name).read_bytes())
    base = write(tmp_path / "base.csv", [row(1, "stranger.png", "again.png"), row(2, "none.jpg")])
    before = {one["key_id"] for one in keys_of(sosie, home)}
    given = ("import", base, "--home", home, "--json")
    done = sosie(*given, env={"SOSIE_SERVE__PORT": str(port)})
    assert (done.code, done.json["admitted"], done.json["failed"]) == (1, 1, 1), done.err
    with (tmp_path / "base.csv.import.csv").open() as file:
        assert [(one["row"], one["code"]) for one in csv.DictReader(file)] == [("2", "NO_FACE")]
    # Decisions see it at once: it is the stranger's document now.
    known = {"type": "cn-ric", "number": number(1)}
    probe = {"image": photographs.stranger_again.read_bytes()}
    lines = service.ask("POST", "/v1/lines/query", body={"document": known, "probe": probe}).json()
    assert (lines["is_holder"], len(lines["lines"])) == (True, 1)
    (key,) = [one for one in keys_of(sosie, home) if one["key_id"] not in before]
    assert (key["role"], key["state"]) == ("operator", "revoked")
    again = sosie(*given, "--no-resume", env={"SOSIE_SERVE__PORT": str(port)}).json
    assert (again["admitted"], again["present"], again["look_alikes"]) == (0, 1, 0)


def test_two_imports_at_once_beside_enrollments_of_the_same_people(
    service, take_in: Callable[..., Summary], tmp_path
) -> None:
    first = 1000
    vectors = make_vectors(2 * ROWS, 1)
    # The last half of the one base is the first half of the other, with other faces for a quarter.
    serials = [range(first, first + ROWS), range(first + ROWS // 2, first + ROWS + ROWS // 2)]
    faces = [vectors[:ROWS], vectors[ROWS // 2 : ROWS + ROWS // 2].copy()]
    faces[1][: ROWS // 4] = make_vectors(ROWS // 4, 2)
    files = [
        write_vectors(tmp_path / f"base-{place}.parquet", *one)
        for place, one in enumerate(zip(serials, faces, strict=True))
    ]
    people = len(set(serials[0]) | set(serials[1]))
    store, rotate = service.parts.store, service.parts.vault.rotate
    before = store.counts()["live_references"]
    context = CallContext("test", "test")
    answers: dict[int, Answer] = {}

    def enroll() -> None:
        # Each of the first base's people, in an order of their own, for another line.
        for serial in np.random.default_rng(3).permutation(serials[0]).tolist():
            face = rotate(vectors[serial - first][None])[0]
            request = EnrollmentRequest(
                idempotency_key=f"import-{serial}",
                carrier="blue",
                outlet="b1",
                document=Document("cn-ric", number(serial), f"Holder {serial}"),
                msisdn=f"+8615{serial:09d}",
                live=Sample(face, serial.to_bytes(32)),
                portrait=Sample(face, (10**6 + serial).to_bytes(32)),
                captured_at=utc_now(),
            )
            answers[serial] = service.run(service.registrar.by(context).enroll(request))

    with ThreadPoolExecutor(3) as pool:
        running = [pool.submit(take_in, path) for path in files]
        pool.submit(enroll).result()
        summaries = [one.result() for one in running]
    assert [one.ending for one in summaries] == [Ending.DONE, Ending.DONE]
    # No holder twice, and nobody lost: one reference for each document, whoever brought it first.
    assert store.counts()["live_references"] == before + people
    documents = {
        one.document_id
        for answer in answers.values()
        for one in [store.enrollment(answer.enrollment_id)]
        if answer.decision == "approved"
    }
    assert all(len(store.document(one).reference_ids) == 1 for one in documents if one)
    assert len(answers) == ROWS
    # Whoever was enrolled first is there for the import, and the other way round.
    for serial, answer in answers.items():
        is_disputed = serial in serials[1] and serial - first - ROWS // 2 < ROWS // 4
        assert answer.decision == "approved" or is_disputed, answer.decided
    # Each holder and each line is counted once, by whoever brought it.
    enrolled_first = [
        one
        for one in answers.values()
        if one.decision == "approved" and one.decided.scores.holder is None
    ]
    assert sum(one.tally.admitted for one in summaries) + len(enrolled_first) == people
    assert sum(one.tally.lines for one in summaries) == people
    for path, one in zip(files, summaries, strict=True):
        with path.with_suffix(".import.csv").open() as file:
            reported = [line for line in csv.DictReader(file) if line["severity"] == "failure"]
        assert len(reported) == one.tally.failed
        assert one.tally.rows == ROWS
        assert one.tally.failed + one.tally.present + one.tally.lines == ROWS


def test_an_answer_that_is_lost_loses_and_doubles_no_row(
    take_in: Callable[..., Summary], tmp_path, monkeypatch
) -> None:
    base = write_vectors(tmp_path / "lost.parquet", range(5000, 5000 + ROWS), make_vectors(ROWS, 4))
    admit, calls = imports._admit, iter(range(100))

    def lose(*given: Any) -> Any:
        answer = admit(*given)
        # The second commit, which was carried out.
        if next(calls) == 3:
            raise RegistryError("lost")
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(imports, "_admit", lose)
        with pytest.raises(RegistryError, match="lost"):
            take_in(base)
    done = take_in(base)
    assert (done.ending, done.tally.rows, done.tally.admitted) == (Ending.DONE, ROWS, ROWS)
    assert 0 < done.resumed_after < ROWS


def test_two_imports_of_one_file_are_not_at_once(
    take_in: Callable[..., Summary], home, sosie, tmp_path, assert_refused
) -> None:
    base = write(tmp_path / "base.csv", [])
    with imports._claim(tmp_path / "base.csv.import.csv"):
        assert_refused(sosie("import", base, "--home", home), "another import")
    # What the import itself cannot wait for is none of another.
    with pytest.raises(BlockingIOError), imports._claim(tmp_path / "base.csv.import.csv"):
        raise BlockingIOError


def test_a_service_that_cannot_be_asked_is_named(service, home, sosie, tmp_path) -> None:
    base = write(tmp_path / "base.csv", [row(9, "none.jpg")])
    (tmp_path / "none.jpg").write_bytes(b"no picture")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(operator_client, "START_S", 0.5)
        asked = sosie("import", base, "--home", home, env={"SOSIE_SERVE__PORT": "9"})
    assert asked.code == 2
    assert "no service that is ready answers" in asked.err
