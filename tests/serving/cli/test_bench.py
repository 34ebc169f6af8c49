"""`sosie bench` runs the suites in a process of their own and passes on what they say."""

from typer.testing import CliRunner


def test_options_and_output_of_a_suite_pass_through(start) -> None:
    direct = start("extract", "--help", module="bench").communicate()
    process = start("bench", "extract", "--", "--help")
    assert process.communicate() == direct
    assert process.returncode == 0
    assert "--quick" in direct[0]


def test_nothing_tunes_the_blas_of_a_benchmark(start, tmp_path, monkeypatch) -> None:
    shown = "print(sorted({'OPENBLAS_CORETYPE', 'OPENBLAS_L2_SIZE', 'OTHER'} & set(os.environ)))"
    (tmp_path / "bench.py").write_text(f"import os, sys\n{shown}\nsys.exit(7)\n")
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "OTHER"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    process = start("bench", "extract")
    assert process.communicate() == ("['OTHER']\n", "")
    assert process.returncode == 7


def test_the_help_names_the_options_of_the_suites(sosie) -> None:
    from bench.__main__ import app

    shown = CliRunner().invoke(app, ["extract", "--help"], env={"COLUMNS": "200"}).stdout
    options = {word for word in shown.split() if word == "--quick" or word.endswith("-python")}
    assert options == {"--quick", "--deepface-python"}
    told = sosie("bench", "--help").out
    assert all(option in told for option in options)
