import csv

from bench.core.reports import load_goals
from bench.suites.imports import COLUMNS, ImportConfig, run, write_base
from engine.accuracy.dataset import LabelledFolder


def test_every_person_has_a_document_and_every_two_photographs_a_row(faces, tmp_path) -> None:
    folder = LabelledFolder.open(faces)
    written = write_base(tmp_path / "base.csv", folder, people=3)
    with (tmp_path / "base.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert len(written) == len(set(written)) == 12
    assert len(rows) == len({row["msisdn"] for row in rows}) == 6
    assert len({row["document_number"] for row in rows}) == 3


def test_a_small_base_is_imported_and_every_figure_is_there(faces, tmp_path) -> None:
    results, measured = run(ImportConfig(faces=faces, people=3, folder=tmp_path))
    assert set(measured) == {goal.name for goal in load_goals() if goal.suite == "import"}
    (photographs,) = results
    assert photographs.setup["count"] == 12
    assert not list(tmp_path.iterdir()), "everything that was made is gone"
