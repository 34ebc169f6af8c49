from bench.core.reports import load_goals
from bench.suites.imports import ImportConfig, run


def test_a_small_base_is_imported_and_every_figure_is_there(faces, tmp_path) -> None:
    results, measured = run(ImportConfig(faces=faces, people=3, folder=tmp_path))
    assert set(measured) == {goal.name for goal in load_goals() if goal.suite == "import"}
    (photographs,) = results
    assert photographs.setup["count"] == 12
    assert not list(tmp_path.iterdir()), "everything that was made is gone"
