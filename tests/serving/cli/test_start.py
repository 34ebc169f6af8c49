"""How the command begins and ends: light, quiet, with the right exit code."""

import os
import shlex
import signal
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from serving.cli import main
from serving.cli.output import EXAMPLES, print_json

# What stands on numpy is not there without it: numba, OpenCV, both runtimes of ONNX, matplotlib.
HEAVY = ["numpy", "sqlalchemy", "msgspec", "pydantic", "authlib", "joserfc"]


@pytest.mark.parametrize(
    ("arguments", "absent"),
    [
        (["--help"], HEAVY),
        (["--version"], HEAVY),
        (["verify", "live", "portrait"], ["sqlalchemy", "numba", "authlib"]),
    ],
)
def test_a_command_imports_no_more_than_it_needs(
    arguments: list[str], absent: list[str], photographs, tmp_path
) -> None:
    words = [str(getattr(photographs, one, one)) for one in arguments]
    script = f"""
import sys
from serving.cli.main import app
try:
    app({words!r})
except SystemExit:
    print([name for name in {absent!r} if name in sys.modules])
    raise
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.endswith("[]\n")


@pytest.mark.parametrize(
    "arguments",
    [["bogus"], ["verify", "a.jpg"], ["search", "--top", "none", "a"], ["verify", "-z"]],
)
def test_wrong_usage_is_one_line_that_names_the_help(
    arguments: list[str], sosie, assert_refused
) -> None:
    assert_refused(sosie(*arguments), "--help`")


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        (["enroll", "--name", "Ail\udcff"], "after --name"),
        (["enroll", "--outlet=b\udcff"], "value of --outlet"),
        (["enroll", "--consent-ref", "\udcff"], "after --consent-ref"),
        (["verify", "a.jpg", "\udcff.jpg"], "an argument"),
        (["\udcff"], "an argument"),
    ],
)
def test_an_argument_of_bytes_that_are_no_text_is_refused(
    arguments: list[str], place: str, sosie, assert_refused
) -> None:
    outcome = sosie(*arguments)
    assert_refused(outcome, place, "UTF-8")
    assert "Ail" not in outcome.err
    assert sosie(*arguments, "--json").json["error"]["code"] == "USAGE"


def test_bytes_that_are_no_text_are_refused_in_another_process() -> None:
    command = [sys.executable, "-m", "serving.cli.main", "show", b"\xff"]
    done = subprocess.run(command, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1)


def test_a_group_without_a_command_shows_its_help(sosie) -> None:
    outcome = sosie("carrier")
    assert outcome.code == 2
    assert "add" in outcome.out
    assert outcome.err.count("\n") == 1


def test_the_example_of_each_help_is_a_call_that_is_taken(sosie) -> None:
    for path, arguments in EXAMPLES.items():
        name, *rest = path.split()
        found, words = main._load(name), [*rest, *shlex.split(arguments)]
        with found.make_context(name, list(words)) as context:
            if rest:
                _, step, given = found.resolve_command(context, words)
                step.make_context(path, given, parent=context)
    assert f"Example: sosie cases {EXAMPLES['cases']}" in sosie("cases", "--help").out


def test_an_unforeseen_error_shows_its_type_alone(sosie, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("Aileen Probe, 110105199003071239")

    monkeypatch.setattr("serving.settings.settings.find_home", fail)
    outcome = sosie("doctor")
    assert outcome.code == 3
    assert outcome.err.count("\n") == 1
    assert "ZeroDivisionError" in outcome.err
    assert "Aileen" not in outcome.err + outcome.out
    debugged = sosie("--debug", "doctor")
    assert debugged.code == 3
    assert "Traceback" in debugged.err


@pytest.mark.parametrize("arguments", [["--help"], ["doctor"], ["verify", "--json"]])
def test_a_reader_that_has_seen_enough_ends_it_quietly(arguments: list[str], start) -> None:
    process = start(*arguments)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() in (1, 2)
    process.stdout = None  # there is nothing left to collect


def test_an_interrupt_ends_it_quietly_with_130(start, tmp_path) -> None:
    waiting = tmp_path / "document.json"
    os.mkfifo(waiting)
    process = start(
        "enroll", "--live", "a", "--portrait", "b", "--outlet", "c", "--document", waiting
    )
    # Opens only once the command has opened its side, and so is inside its own code.
    with waiting.open("w"):
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert (process.returncode, out, err) == (130, "", "")


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_what_is_no_json_is_not_begun(value: float, capsys) -> None:
    with pytest.raises(ValueError, match="JSON"):
        print_json({"known": 1.0, "unknown": [value]})
    assert capsys.readouterr().out == ""


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
