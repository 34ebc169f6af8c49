"""The command: exit codes and messages of `sosie loadtest`."""

import json
import socket
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from loadtest import commands
from serving.errors import ExitCode


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
