"""Options that are refused, in one line each; and where API keys come from."""

import io
import json

import pytest

from engine.errors import RequestError
from loadtest import commands
from loadtest.config import DEFAULT_PROFILES, LoadTestOptions, Shape
from loadtest.exchange import VARIABLES, read_keys, read_target, service_environment
from loadtest.schedule import Traffic, read_mix


@pytest.fixture(autouse=True)
def _keys(monkeypatch) -> None:
    for name in VARIABLES.values():
        monkeypatch.delenv(name, raising=False)


def run(*arguments: str) -> object:
    with pytest.raises(SystemExit) as ended:
        commands.app(arguments)
    return ended.value.code


@pytest.mark.parametrize("shape", Shape)
def test_every_shape_has_defaults(shape: Shape, monkeypatch) -> None:
    asked: list[LoadTestOptions] = []
    monkeypatch.setattr(commands, "_run", asked.append)
    assert run(shape) == 0
    [options] = asked
    assert (options.shape, options.profile) == (shape, DEFAULT_PROFILES[shape])
    assert options.target is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["calm"], "calm"),
        (["steady", "--rate", "0"], "number"),
        (["steady", "--seconds", "nan"], "number"),
        (["steady", "--peak", "9"], "shape spike"),
        (["steady", "--mix", "enrol=1"], "enroll=40,match=60"),
        (["steady", "--mix", "enroll=0"], "share above 0"),
        (["steady", "--class", "match", "--mix", "match=1"], "give it or --mix"),
        (["knee", "--rate", "50", "--most-rate", "40"], "not be above --most-rate"),
        (["knee", "--most-rate", "4000", "--seconds", "100"], "visits"),
        (["knee", "--resolution", "0"], "share above 0"),
        (["steady", "--in-flight", "0"], "greater than or equal to 1"),
        (["steady", "--folder", "/nowhere"], "is not a folder"),
        (["steady", "--keys", "-"], "give its --url"),
        (["steady", "--keep"], "give its --url"),
        (["steady", "--url", "http://127.0.0.1:1", "--folder", "/tmp"], "leave out --url"),
        (["steady", "--html", "/nowhere/report.html"], "cannot be written"),
        (["steady", "--url", "http://127.0.0.1:1"], "SOSIE_LOADTEST_KEY"),
        (["steady", "--url", "http://192.0.2.1:8700"], "--allow-remote"),
        (["steady", "--url", "http://sosie.example"], "not this machine"),
        (["steady", "--url", "http://localhost:8700/v1"], "without a path"),
        (["steady", "--url", "http://localhost:123456"], "cannot be read"),
        (["steady", "--rate", "100000", "--seconds", "60"], "visits"),
    ],
)
def test_bad_options_are_refused_in_one_line(arguments: list[str], words: str, capsys) -> None:
    assert run(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("sosie: ")
    assert words in err
    assert err.count("\n") == 1

    assert run(*arguments, "--json") == 2
    assert words in json.loads(capsys.readouterr().out)["error"]["message"]


def test_another_machine_needs_permission_and_this_one_none() -> None:
    for host in ("127.0.0.1", "127.9.9.9", "localhost", "[::1]"):
        assert read_target(f"http://{host}:8700", allows_remote=False).url == f"http://{host}:8700"
    target = read_target("https://192.0.2.1", allows_remote=True)
    assert (target.host, target.port, target.is_tls) == ("192.0.2.1", 443, True)


def test_shares_of_a_mix_are_normalised() -> None:
    assert read_mix("enroll=3, match=1") == {Traffic.ENROLL: 0.75, Traffic.MATCH: 0.25}


def test_keys_come_from_a_file_standard_input_or_the_environment(tmp_path, monkeypatch) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"enroll": "a", "fraud": "b"}))
    assert (read_keys(str(file)).enroll, read_keys(str(file)).erase) == ("a", None)
    monkeypatch.setattr("sys.stdin", io.StringIO('{"enroll": "c", "fraud": "d", "erase": "e"}'))
    assert read_keys("-").erase == "e"
    monkeypatch.setenv(VARIABLES["enroll"], "f")
    monkeypatch.setenv(VARIABLES["fraud"], "g")
    keys = read_keys(None)
    assert (keys.enroll, keys.fraud) == ("f", "g")
    assert "f" not in repr(keys).replace("fraud", "")


@pytest.mark.parametrize("text", ["[]", "{", '{"enroll": 1, "fraud": "b"}', '{"key": "a"}', "{}"])
def test_a_file_without_keys_is_refused_without_showing_it(tmp_path, text: str) -> None:
    file = tmp_path / "keys.json"
    file.write_text(text)
    with pytest.raises(RequestError) as refused:
        read_keys(str(file))
    assert "\n" not in str(refused.value)


THEIRS = (
    *("SOSIE_HOME", "SOSIE_REGISTRY__URL", "SOSIE_LOADTEST_KEY", "RAY_ADDRESS", "SOSIE_SERVE"),
    *("SOSIE_SERVE__RAY_ADDRESS", "sosie_serve__ray_address", "SOSIE_SERVE__HOST"),
    *("SOSIE_SERVE__TRACE_ENDPOINT", "SOSIE_SERVE__LOG_FILE"),
)


def test_a_local_service_never_sees_another_deployment_and_uses_the_models_of_the_machine(
    monkeypatch,
) -> None:
    for name in THEIRS:
        monkeypatch.setenv(name, "theirs")
    monkeypatch.setenv("SOSIE_MODELS__PROVIDER", "x")
    environment = service_environment({"SOSIE_SERVE__PORT": "1"})
    assert environment["SOSIE_MODELS__PROVIDER"] == "x"
    assert "theirs" not in environment.values()
    # An empty address stands for a new cluster.
    serve = {name: text for name, text in environment.items() if "_SERVE__" in name}
    assert serve == {
        "SOSIE_SERVE__HOST": "127.0.0.1",
        "SOSIE_SERVE__PORT": "1",
        "SOSIE_SERVE__RAY_ADDRESS": "",
        "SOSIE_SERVE__TRACE_ENDPOINT": "",
    }
