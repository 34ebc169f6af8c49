"""`sosie import`: from an operator's file to the registry, as its command."""

import csv
import json
import re
import shutil
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from pyarrow import parquet

from serving.cli import output
from serving.demo.scenario import make_document
from serving.deployment.deployment import Deployment
from serving.deployment.models import find_conversion
from serving.imports import IssuedTemplates
from serving.ingress.parts import SealedTemplates
from serving.settings.settings import Settings, load_settings
from serving.wire.fields import Template

COLUMNS = (
    "document_type",
    "document_number",
    "name",
    "msisdn",
    "outlet",
    "opened_at",
    "live",
    "portrait",
)


def number(serial: int) -> str:
    return make_document(serial, "").number


def row(serial: int, live: str = "", portrait: str = "", **changes: str) -> dict[str, str]:
    made = {
        "document_type": "cn-ric",
        "document_number": number(serial),
        "name": f"Holder {serial}",
        "msisdn": f"+8613{serial:09d}",
        "outlet": "b1",
        "opened_at": "2020-05-01",
        "live": live,
        "portrait": portrait,
    }
    return made | changes


def write(path: Path, rows: list[dict[str, str]], encoding: str = "utf-8") -> Path:
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return path


def make_vectors(count: int, seed: int = 0) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).standard_normal((count, 128))
    units: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return units.astype(np.float32)


def write_vectors(path: Path, serials: range, vectors: NDArray[np.float32]) -> Path:
    """A base of people whose faces are known as vectors."""
    table = {
        "document_type": ["cn-ric"] * len(serials),
        "document_number": [number(serial) for serial in serials],
        "name": [f"Holder {serial}" for serial in serials],
        "msisdn": [8613_000_000_000 + serial for serial in serials],
        "outlet": ["b1"] * len(serials),
        "opened_at": ["2020-05-01"] * len(serials),
        "template": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 128),
    }
    parquet.write_table(pa.table(table), path)
    return path


def count(home: Path, table: str) -> int:
    with closing(sqlite3.connect(home / "registry.sqlite")) as connection:
        (found,) = connection.execute(f'SELECT COUNT(*) FROM "{table}"').fetchone()
    return int(found)


@pytest.fixture
def base(photographs, tmp_path) -> Path:
    """A folder with the photographs, and a base of two people, one row of each kind of fault."""
    folder = tmp_path / "base"
    shutil.copytree(photographs.live.parent, folder)
    (folder / "broken.jpg").write_bytes((folder / "live.jpg").read_bytes()[:2000])
    rows = [
        row(1, "live.jpg", "portrait.png"),
        row(2, "stranger.png", "again.png"),
        row(3, "live.jpg", "stranger.png"),
        row(4, "none.jpg"),
        row(5, "broken.jpg"),
        row(6, "../base/../secret.jpg"),
        row(7, "later.jpg", document_number="110105199003071238"),
    ]
    return write(folder / "base.csv", rows)


def test_good_rows_are_in_and_bad_ones_in_the_report(home, base, sosie, photographs) -> None:
    outcome = sosie("import", base, "--home", home, "--json")
    assert outcome.code == 1, outcome.err
    answer = outcome.json
    assert (answer["ending"], answer["rows"], answer["admitted"]) == ("done", 7, 2)
    assert (answer["fused"], answer["lines"], answer["failed"]) == (2, 2, 5)
    assert answer["photographs"] == 9
    report = base.with_name("base.csv.import.csv")
    with report.open(newline="") as file:
        faults = [(one["row"], one["column"], one["code"]) for one in csv.DictReader(file)]
    assert faults == [
        ("3", "portrait", "FACE_MISMATCH"),
        ("4", "live", "NO_FACE"),
        ("5", "live", "IMAGE.DAMAGED"),
        ("6", "live", "PATH_OUTSIDE"),
        ("7", "document_number", "DOCUMENT_INVALID"),
    ]
    summary = base.with_name("base.csv.import.summary.json")
    assert json.loads(summary.read_text()) == answer
    for path in (report, summary, base.with_name("base.csv.import.journal")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sosie("search", photographs.later, "--home", home).code == 0
    assert sosie("audit", "verify", "--home", home).code == 0


def test_a_check_stores_nothing_and_needs_no_lease(home, base, sosie, contents, tmp_path) -> None:
    before = contents(home)
    with Deployment(home, load_settings(home)) as deployment:
        writer = deployment.store.writer()
        outcome = sosie("import", base, "--check", "--home", home, "--json")
        writer.close()
    assert outcome.code == 1
    assert (outcome.json["admitted"], outcome.json["failed"]) == (2, 5)
    assert outcome.json["look_alikes"] is None
    assert base.with_name("base.csv.check.csv").exists()
    assert not base.with_name("base.csv.import.journal").exists()
    assert {name for name in contents(home) if before.get(name) != contents(home)[name]} <= {
        "registry.sqlite"
    }
    assert count(home, "documents") == 0


def test_people_are_told_in_a_table_and_of_its_progress_in_lines_where_no_terminal_is(
    home, base, sosie, monkeypatch
) -> None:
    monkeypatch.setattr(output, "TELL_EVERY_S", 0.0)
    outcome = sosie("import", base, "--home", home)
    assert outcome.code == 1
    told = [line for line in outcome.err.splitlines() if line.startswith("import: ")]
    assert all(re.fullmatch(r"import: [\d,]+ of [\d,]+", line) for line in told)
    assert told
    assert "The import is done" in outcome.out
    assert "1 FACE_MISMATCH" in outcome.out
    assert "base.csv.import.csv" in outcome.out
    for value in (number(1), "Holder 1", "+8613000000001"):
        assert value not in outcome.out + outcome.err


def test_a_file_of_another_form_is_read_as_its_options_say(
    home, base, sosie, tmp_path, assert_refused
) -> None:
    data = tmp_path / "data.csv"
    data.write_text(f"id_no;holder;photo\n{number(1)};王小明;live.jpg\n", "gb18030")
    form = ["import", data, "--images", base.parent, "--delimiter", ";", "--home", home]
    for column in ("document_number=id_no", "name=holder", "live=photo"):
        form += ["--map", column]
    form += ["--set", "document_type=cn-ric", "--json"]
    refused = sosie(*form[:-1])
    assert_refused(refused, "line 2", "--encoding")
    assert sosie(*form, "--encoding", "gb18030").json["admitted"] == 1
    outside = write(tmp_path / "out.csv", [row(3, str(base.parent / ".." / "far.png"))])
    shutil.copy(base.parent / "again.png", tmp_path / "far.png")
    command = ("import", outside, "--images", base.parent, "--home", home, "--json")
    assert sosie(*command).json["failures"] == {"PATH_OUTSIDE": 1}
    assert sosie(*command, "--no-resume", "--allow-outside").code == 0


def test_issued_templates_are_taken_from_the_carrier_that_got_them(home, sosie, tmp_path) -> None:
    with Deployment(home, load_settings(home)) as deployment:
        sealed = SealedTemplates(deployment.vault, deployment.store.model_digest, 24)
        faces = np.eye(deployment.vault.dim, dtype=np.float32)[:3]
        blue, red = (sealed.issue(faces, f"carrier:{one}") for one in ("blue", "red"))
        (operator,) = sealed.issue(faces[2:], "role:operator")
        opened = IssuedTemplates(sealed).open(
            [Template(blue[0]).text, Template(red[1]).text, Template(operator).text, "no token"],
            ["blue", "blue", "blue", "blue"],
        )
    assert [one is not None for one in opened] == [True, False, True, False]
    header = ["document_type", "document_number", "name", "msisdn", "outlet", "opened_at"]
    path = tmp_path / "tokens.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*header, "template"])
        for serial, token in enumerate((blue[0], red[1], operator)):
            cells = row(serial)
            writer.writerow([*(cells[name] for name in header), Template(token).text])
    answer = sosie("import", path, "--home", home, "--json").json
    assert (answer["admitted"], answer["failures"]) == (2, {"TEMPLATE_INVALID": 1})


def test_vectors_need_the_name_of_their_model(home, sosie, tmp_path, assert_refused) -> None:
    path = write_vectors(tmp_path / "base.parquet", range(10), make_vectors(10))
    with Deployment(home, load_settings(home)) as deployment:
        digest = deployment.store.model_digest
    assert_refused(sosie("import", path, "--home", home), "--model-digest", digest)
    options = ("--model-digest", digest, "--country", "CN", "--home", home, "--json")
    answer = sosie("import", path, *options).json
    assert answer["failures"] == {}
    assert (answer["admitted"], answer["lines"]) == (10, 10)
    other = ("--model-digest", "0" * 64, "--no-resume", "--home", home)
    assert_refused(sosie("import", path, *other), "bring photographs")


def test_vectors_of_the_model_without_its_transform_are_converted(home, sosie, tmp_path) -> None:
    conversion = find_conversion(Settings())
    path = write_vectors(tmp_path / "base.parquet", range(10), make_vectors(10))
    options = ("--model-digest", conversion.before, "--country", "CN", "--home", home, "--json")
    assert sosie("import", path, *options).json["admitted"] == 10
    with Deployment(home, load_settings(home)) as deployment:
        kept = deployment.restored.gallery.vectors(deployment.restored.gallery.ids)
        expected = deployment.vault.rotate(conversion.transform.apply(make_vectors(10)))
        assert np.allclose(kept, expected, atol=1e-3)


def test_an_interrupt_says_that_it_can_go_on(home, base, sosie, monkeypatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("serving.imports.import_rows", interrupt)
    outcome = sosie("import", base, "--home", home)
    assert outcome.code == 130
    assert "goes on from here" in outcome.err
    summary = base.with_name("base.csv.import.summary.json")
    assert json.loads(summary.read_text())["ending"] == "interrupted"
    monkeypatch.undo()
    assert sosie("import", base, "--home", home, "--json").json["admitted"] == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--map", "document_number"), "--map takes"),
        (("--map", "shoe_size=x"), "--map takes"),
        (("--map", "msisdn=phone"), "no column is named phone"),
        (("--set", "name=Anybody"), "name is each row's own"),
        (("--encoding", "klingon"), "no encoding"),
        (("--delimiter", "::"), "one sign"),
        (("--timezone", "Mars/Olympus"), "no such time zone"),
        (("--country", "XX"), "no such country"),
        (("--images", "/no/such/folder"), "is not a folder"),
        (("--report", "report.txt"), "ends in .csv"),
        (("--report", "/no/such/folder/report.csv"), "cannot be written"),
        (("--stop-after-failures", "0"), "--stop-after-failures"),
    ],
)
def test_bad_options_are_refused_in_one_line(
    options: tuple[str, ...], words: str, home, base, sosie, assert_refused
) -> None:
    assert_refused(sosie("import", base, *options, "--home", home), words)
    assert count(home, "documents") == 0


def test_the_data_itself_is_never_written_over(home, base, sosie, assert_refused) -> None:
    before = base.read_bytes()
    assert_refused(sosie("import", base, "--report", base, "--home", home), "overwrite the data")
    other = base.with_name("other.csv")
    shutil.copy(base, other)
    assert_refused(
        sosie("import", base, "--report", other, "--home", home), "is not an import report"
    )
    assert base.read_bytes() == other.read_bytes() == before


def test_a_writer_elsewhere_keeps_an_import_out(
    home, base, sosie, tmp_path, assert_refused
) -> None:
    with Deployment(home, load_settings(home)) as deployment:
        writer = deployment.store.writer()
        assert_refused(sosie("import", base, "--home", home), "another process")
        writer.close()
    assert not base.with_name("base.csv.import.journal").exists()
