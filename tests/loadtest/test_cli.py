"""The command: exit codes and messages of `sosie loadtest`."""

import json
import re
import socket
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from loadtest import commands
from loadtest.commands import report_result, write_page
from loadtest.config import Knee, LoadStep
from loadtest.service_calls import APPROVED, Answer
from serving.errors import ExitCode
from tests.loadtest.making import decided, make_outcome, make_result, make_step, make_visit


def test_the_command_passes_options_output_and_exit_code_on() -> None:
    from serving.cli.main import app

    direct = _run("-m", "loadtest", "steady", "--rate", "0")
    cli = _run("-m", "serving.cli.main", "loadtest", "steady", "--rate", "0")
    assert (direct.returncode, cli.returncode) == (2, 2)
    assert cli.stderr == direct.stderr
    assert "--rate" in direct.stderr
    assert "smoke" in CliRunner().invoke(app, ["loadtest", "--help"]).stdout


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=300, check=False
    )


def test_a_missing_service_is_reported_at_once_and_in_one_line(tmp_path) -> None:
    keys = tmp_path / "keys.json"
    keys.write_text('{"enroll": "a", "fraud": "b"}')
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        done = _run("-m", "loadtest", "smoke", "--url", url, "--keys", str(keys))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"sosie: no service answers at {url}: is it running?\n"


def test_an_internal_error_is_no_failed_load_test(monkeypatch, capsys) -> None:
    monkeypatch.setattr(commands, "read_options", None)
    with pytest.raises(SystemExit, match=str(int(ExitCode.INTERNAL))):
        commands.app(["smoke", "--json", "--debug"])
    out, err = capsys.readouterr()
    assert err.startswith("Traceback")
    assert json.loads(out)["error"]["code"] == "INTERNAL"


def test_a_missing_extra_is_named(monkeypatch, capsys) -> None:
    from loadtest import __main__ as program

    monkeypatch.setattr(program, "NEEDED", ("gevent", "no_such_package"))
    with pytest.raises(SystemExit, match=str(int(ExitCode.BAD_INPUT))):
        program.start(["smoke", "--json"])
    assert "'.[loadtest]'" in json.loads(capsys.readouterr().out)["error"]["message"]


def test_reading_options_patches_no_module_of_the_process() -> None:
    from gevent import monkey

    with pytest.raises(SystemExit):
        commands.app(["steady", "--rate", "0"])
    assert not monkey.is_module_patched("socket")
    assert not monkey.is_module_patched("threading")


GOOD = make_step(10, [make_outcome(make_visit(1), decided(APPROVED))])
REFUSED = make_step(20, [make_outcome(make_visit(2), Answer(429, is_refusal=True))])


@pytest.mark.parametrize("steps", [(REFUSED, GOOD), (GOOD, REFUSED), (REFUSED,)])
def test_a_step_in_which_all_were_refused_has_no_latency_and_a_page(
    steps: tuple[LoadStep, ...], capsys
) -> None:
    knee = Knee(rate=10, failed=20, steps=2, trouble="the service said no answer to /v1/match")
    result = make_result(*steps, knee=knee)
    assert not result.is_passed
    # The last step that held, else the last.
    assert write_page(result) == ("page of 10" if GOOD in steps else "page of 20")
    assert report_result(result) == 1
    out = capsys.readouterr().out
    assert knee.trouble in out
    assert not re.search(r"\bnan\b", out)


@pytest.mark.parametrize("as_json", [False, True])
def test_a_page_that_cannot_be_written_loses_nothing(tmp_path, capsys, as_json: bool) -> None:
    assert report_result(make_result(GOOD, html=tmp_path, as_json=as_json)) == 2
    captured = capsys.readouterr()
    assert captured.err == f"sosie: {tmp_path} cannot be written: Is a directory\n"
    assert json.loads(captured.out)["passed"] if as_json else captured.out.endswith("Passed.\n")
    # That it failed is the graver news.
    assert report_result(make_result(REFUSED, html=tmp_path, as_json=as_json)) == 1


def test_answers_of_a_service_are_printed_as_text_and_no_markup(capsys) -> None:
    step = make_step(10, [make_outcome(make_visit(1), decided("[bold]new[/]"))])
    assert report_result(make_result(step)) == 1
    assert "answered [bold]new[/]" in capsys.readouterr().out
