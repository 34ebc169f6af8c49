"""Making a home, and everything that may not belong together in one."""

import copy
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.errors import CalibrationError
from engine.faces.extractor import digest_embedding
from engine.models.catalog import CARDS_FOLDER, load_card
from engine.registry.database import REVISIONS
from serving.deployment.deployment import Deployment
from serving.settings.settings import load_settings
from tests.row_codes import alter

OTHER_NUMBER, OTHER_MSISDN = "110105198503071257", "+8613800138001"


def test_init_makes_a_home_that_only_its_owner_reads(sosie, tmp_path, request_of) -> None:
    home = tmp_path / "new" / "home"
    outcome = sosie("init", home, "--carrier", "blue", "--outlet", "b1", "--json")
    assert outcome.code == 0
    assert outcome.json["key_ring"] == str(home / "keyring.json")
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert stat.S_IMODE((home / "keyring.json").stat().st_mode) == 0o600
    assert stat.S_IMODE((home / "registry.sqlite").stat().st_mode) == 0o600
    # Its URL may hold a password.
    assert stat.S_IMODE((home / "sosie.toml").stat().st_mode) == 0o600
    assert sosie(*request_of(home)).code == 0


def test_an_empty_folder_becomes_its_owners_alone_who_is_told_what_to_do_next(
    sosie, tmp_path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o755)
    made = sosie("init", home)
    assert (made.code, stat.S_IMODE(home.stat().st_mode)) == (0, 0o700)
    # What losing the key ring means, too.
    for words in ("keyring.json", "loses", "carrier add", "outlet add"):
        assert words in made.out


CROPS = {
    "nothing said": ((), None, ("none", 0), "ok"),
    "none": (("--crops", "none"), None, ("none", 0), "ok"),
    "cases": (("--crops", "cases"), None, ("cases", 7), "ok"),
    "days": (("--crops", "cases", "--hold-days", "31"), None, ("cases", 31), "ok"),
    "none held": (("--crops", "cases", "--hold-days", "0"), None, ("cases", 0), "warning"),
    "asked, Enter": ((), "\n", ("none", 0), "ok"),
    "asked, cases": ((), "cases\n14\n", ("cases", 14), "ok"),
    "asked, all": ((), "what\nall\n", ("all", 0), "ok"),
}


@pytest.mark.parametrize("case", CROPS)
def test_init_keeps_no_face_unless_somebody_says_whose(
    case: str, sosie, tmp_path, monkeypatch
) -> None:
    options, typed, wanted, state = CROPS[case]
    monkeypatch.setattr("serving.cli.deployment._is_terminal", lambda: typed is not None)
    made = sosie("init", tmp_path / "home", *options, given=typed or "")
    assert made.code == 0
    crops = load_settings(tmp_path / "home").crops
    assert (crops.keep, crops.hold_days) == wanted
    # The consequences are told before the answer.
    assert ("biometric" in made.out) == (typed is not None)
    if case in ("nothing said", "asked, cases", "none held"):
        told = sosie("doctor", "--home", tmp_path / "home", "--json").check("faces")
        assert told["state"] == state
        assert ("14 days" in told["detail"]) == (case == "asked, cases")


def test_days_are_held_of_no_setting_but_the_one_that_holds(
    sosie, assert_refused, tmp_path
) -> None:
    for options in (("--crops", "all", "--hold-days", "3"), ("--hold-days", "3")):
        assert_refused(sosie("init", tmp_path / "home", *options), "--crops cases")
    assert_refused(sosie("init", tmp_path / "home", "--crops", "some"), "'none', 'cases', 'all'")
    assert not (tmp_path / "home").exists()


def test_a_home_is_never_made_twice_nor_where_a_file_is(
    home, sosie, assert_refused, contents, tmp_path
) -> None:
    before = contents(home)
    assert_refused(sosie("init", home), "is a Sosie home already")
    assert contents(home) == before
    place = tmp_path / "file"
    place.write_text("mine")
    assert_refused(sosie("init", place), "cannot be a folder")
    assert place.read_text() == "mine"


@pytest.mark.parametrize(
    "url",
    ["mysql://host/base", "sqlite:////missing/folder/r.db", "postgresql+psycopg:///no?host=/x"],
)
def test_init_that_fails_leaves_no_home(url: str, sosie, tmp_path, assert_refused) -> None:
    home = tmp_path / "home"
    assert_refused(sosie("init", home, "--registry-url", url))
    assert not home.exists()


def test_a_password_on_the_command_line_is_refused_and_not_repeated(
    sosie, tmp_path, assert_refused
) -> None:
    url = "postgresql+psycopg://me:s3cret@host/base"
    outcome = sosie("init", tmp_path / "home", "--registry-url", url)
    assert_refused(outcome, "SOSIE_REGISTRY__URL")
    assert "s3cret" not in outcome.err
    assert not (tmp_path / "home").exists()


def test_a_chosen_registry_is_found_again(sosie, tmp_path) -> None:
    home = tmp_path / "home"
    url = f"sqlite:///{tmp_path}/elsewhere.db"
    assert sosie("init", home, "--registry-url", url).code == 0
    assert (tmp_path / "elsewhere.db").is_file()
    assert not (home / "registry.sqlite").exists()
    assert sosie("audit", "verify", "--home", home).code == 0


def test_the_home_is_taken_from_option_environment_or_current_folder(
    home, sosie, monkeypatch, tmp_path, assert_refused
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ("audit", "verify")
    assert_refused(sosie(*command), "sosie init DIR", "SOSIE_HOME")
    assert sosie("--home", home, *command).code == 0
    assert sosie(*command, "--home", home).code == 0
    assert sosie(*command, env={"SOSIE_HOME": str(home)}).code == 0
    assert_refused(sosie(*command, "--home", tmp_path), "not a Sosie home")
    monkeypatch.chdir(home)
    assert sosie(*command).code == 0


def test_a_carrier_or_outlet_that_is_there_already_is_refused(
    home, sosie, assert_refused, contents
) -> None:
    before = contents(home)
    assert_refused(sosie("carrier", "add", "blue", "--name", "B", "--home", home), "already")
    assert_refused(sosie("outlet", "add", "b1", "--carrier", "blue", "--home", home), "already")
    assert_refused(sosie("outlet", "add", "x1", "--carrier", "none", "--home", home), "carrier")
    assert_refused(sosie("outlet", "close", "x1", "--home", home), "x1")
    assert_refused(sosie("carrier", "add", " ", "--name", "B", "--home", home), "printable")
    assert contents(home) == before


@pytest.mark.parametrize(
    ("lost", "advice"),
    [
        (["keyring.json"], "restore keyring.json"),
        (["keyring.json", "sosie.toml"], "choose another"),
    ],
)
def test_init_changes_nothing_of_a_home_without_its_key_ring_and_says_what_to_do(
    lost: list[str], advice: str, home, sosie, assert_refused, contents
) -> None:
    for name in lost:
        (home / name).unlink()
    before = contents(home)
    assert_refused(sosie("init", home), advice)
    assert contents(home) == before


@pytest.mark.parametrize("option", ["--carrier", "--outlet"])
@pytest.mark.parametrize("code", [" ", "c" * 65, "two\nlines"])
def test_a_code_that_is_none_is_refused_before_a_home_is_made(
    option: str, code: str, sosie, tmp_path, assert_refused
) -> None:
    given = {"--carrier": "blue", option: code}
    options = [word for pair in given.items() for word in pair]
    assert_refused(sosie("init", tmp_path / "home", *options), "64 printable")
    assert not (tmp_path / "home").exists()


def take_from_other(name: str) -> Callable[[Path, Path], object]:
    return lambda home, other: shutil.copy(other / name, home / name)


def write(name: str, text: str) -> Callable[[Path, Path], object]:
    return lambda home, _: (home / name).write_text(text)


def remove(name: str) -> Callable[[Path, Path], object]:
    return lambda home, _: (home / name).unlink()


FOREIGN = ("KEYRING.FOREIGN", "point both at the same deployment")
# What makes a home, beside another one, one that must not be opened.
SPOILT: dict[str, tuple[Callable[[Path, Path], object], str, str]] = {
    "foreign-ring": (take_from_other("keyring.json"), *FOREIGN),
    "foreign-database": (take_from_other("registry.sqlite"), *FOREIGN),
    "no-ring": (remove("keyring.json"), "KEYRING.MISSING", "put back"),
    "open-ring": (lambda home, _: (home / "keyring.json").chmod(0o644), "KEYRING.INVALID", "chmod"),
    "damaged-ring": (write("keyring.json", '{"secret": "0"}'), "KEYRING.INVALID", "your backup"),
    "no-database": (remove("registry.sqlite"), "REGISTRY.MISSING", "sosie init"),
    "not-a-database": (write("registry.sqlite", "no" * 6000), "REGISTRY.UNUSABLE", "be opened"),
    "newer-schema": (
        lambda home, _: alter(home, "UPDATE alembic_version SET version_num = '9999'"),
        *("REGISTRY.SCHEMA", "newer than this version"),
    ),
    "other-model": (
        write("sosie.toml", "[models]\nflip = true\n"),
        *("REGISTRY.MODEL", "use that model"),
    ),
    "bad-settings": (
        write("sosie.toml", "[models]\nembeder = 'sface'\n"),
        *("REQUEST.INVALID", "models.embeder"),
    ),
    "no-toml": (write("sosie.toml", "models = ["), "REQUEST.INVALID", "not TOML"),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_what_does_not_belong_together_is_not_opened_and_not_changed(
    kind: str, home, sosie, request_of, assert_refused, contents, tmp_path
) -> None:
    spoil, code, advice = SPOILT[kind]
    if code == FOREIGN[0]:
        sosie("init", tmp_path / "other")
    spoil(home, tmp_path / "other")
    before = contents(home)
    request = request_of(home)
    assert_refused(sosie(*request), advice)
    outcome = sosie(*request, "--json")
    assert (outcome.code, outcome.err) == (2, "")
    assert outcome.json["error"]["code"] == code
    if kind == "newer-schema":
        assert_refused(sosie("upgrade", "--home", home), "install the version that made it")
    assert contents(home) == before


def test_upgrade_of_a_registry_of_this_version_changes_nothing(home, sosie, contents) -> None:
    before = contents(home)
    newest = REVISIONS[-1]
    upgraded = sosie("upgrade", "--home", home, "--json")
    assert (upgraded.json["before"], upgraded.json["after"]) == (newest, newest)
    assert upgraded.json["calibration"].startswith("version 3; verify 0.")
    assert upgraded.json["advice"] == ""
    assert contents(home) == before


@pytest.fixture
def two_calibrations(tmp_path) -> Path:
    """A card of one's own whose first calibration has higher thresholds than its second."""
    (folder := tmp_path / "models").mkdir()
    newest = json.loads((CARDS_FOLDER / "sface.calibration.json").read_text())
    earlier = copy.deepcopy(newest)
    for curve in earlier["curves"].values():
        curve["highest_nonmated"] += 0.03
        for point in curve["points"]:
            point["threshold"] += 0.03
    for name, calibration, version in (("1", earlier, 1), ("2", newest, 2)):
        text = json.dumps(calibration | {"version": version})
        (folder / f"{name}.json").write_text(text)
    shutil.copy(CARDS_FOLDER / "sface.transform.npz", folder)
    text = (CARDS_FOLDER / "sface.toml").read_text()
    named = 'calibration = "2.json"\nearlier_calibrations = ["1.json"]'
    (folder / "own.toml").write_text(text.replace('calibration = "sface.calibration.json"', named))
    return folder / "own.toml"


def test_a_home_keeps_its_thresholds_and_is_told_how_to_take_newer_ones(
    home, two_calibrations, sosie, tmp_path
) -> None:
    settings = home / "sosie.toml"
    own = f'[models]\nembedder = "{two_calibrations}"\n'
    text = settings.read_text().replace("[models]\n", own)
    settings.write_text(text.replace("calibration = 3\n", "calibration = 1\n"))
    with Deployment(home, load_settings(home), tmp_path / "cache") as deployment:
        earlier = deployment.thresholds.verify
        assert deployment.judge.calibration_version == 1
    told = sosie("upgrade", "--home", home, "--json").json
    assert told["calibration"].startswith(f"version 1; verify {earlier:.3f}")
    assert f"verify {earlier - 0.03:.3f}" in told["advice"]
    assert "set calibration = 2 under [models]" in told["advice"]
    found = sosie("doctor", "--home", home, "--json").check("calibration")
    assert (found["state"], found["advice"]) == ("warning", told["advice"])
    settings.write_text(settings.read_text().replace("calibration = 1\n", "calibration = 2\n"))
    assert sosie("upgrade", "--home", home, "--json").json["advice"] == ""
    settings.write_text(settings.read_text().replace("calibration = 2\n", "calibration = 9\n"))
    with (
        Deployment(home, load_settings(home), tmp_path / "cache") as deployment,
        pytest.raises(CalibrationError, match=r"version 9: set .* to 1 or 2"),
    ):
        _ = deployment.thresholds


@pytest.fixture
def plain_card(tmp_path) -> Path:
    """The built-in embedder as it was before its transform."""
    (folder := tmp_path / "plain").mkdir()
    lines = (CARDS_FOLDER / "sface.toml").read_text().splitlines(keepends=True)
    text = "".join(line for line in lines if not line.startswith("transform"))
    (folder / "plain.toml").write_text(text)
    calibration = json.loads((CARDS_FOLDER / "sface.calibration.json").read_text())
    digest = digest_embedding(load_card(folder / "plain.toml"), flip=False)
    calibration |= {"model_digest": digest, "version": 2}
    (folder / "sface.calibration.json").write_text(json.dumps(calibration))
    return folder / "plain.toml"


@pytest.mark.parametrize("pinned", ["", "calibration = 2\n"])
def test_a_home_of_the_embedder_before_its_transform_goes_on_after_an_upgrade(
    pinned: str, plain_card, sosie, tmp_path, request_of
) -> None:
    home = tmp_path / "home"
    tenant = ("--carrier", "blue", "--outlet", "b1")
    assert sosie("init", home, *tenant, "--embedder", plain_card).code == 0
    before = sosie(*request_of(home), "--json").json
    with Deployment(home, load_settings(home)) as deployment:
        _ = deployment.registrar
        deployment.save_snapshot()
    backup = tmp_path / "backup"
    assert sosie("backup", backup, "--home", home).code == 0
    settings = home / "sosie.toml"
    named = f'embedder = "{plain_card}"\n'
    settings.write_text(settings.read_text().replace(named, pinned))
    caught = request_of(home, document_number=OTHER_NUMBER, msisdn=OTHER_MSISDN)
    for prepare in (("upgrade",), ("restore", backup, "--replace")):
        refused = sosie(*caught, "--json")
        if prepare == ("upgrade",):
            assert refused.json["error"]["code"] == "REGISTRY.MODEL"
            assert "run sosie upgrade" in refused.json["error"]["message"]
        made = sosie(*prepare, "--home", home, "--json")
        assert (made.code, made.json.get("is_converted", True)) == (0, True)
        with Deployment(home, load_settings(home)) as deployment:
            assert deployment.judge.calibration_version == 3
            # The snapshot is of the vectors before.
            assert deployment.restored.loaded == 0
        outcome = sosie(*caught, "--json").json
        assert [one["reason"] for one in outcome["reasons"]] == ["DUPLICATE_IDENTITY"]
        shown = sosie("show", before["enrollment_id"], "--replay", "--home", home, "--json")
        assert shown.code == 0
        assert shown.json["model_digest"] != outcome["model_digest"]
        assert sosie("audit", "verify", "--home", home).code == 0


WITHOUT_SERVICE = """
import sys


class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("ray", "starlette", "structlog", "prometheus_client"):
            raise ModuleNotFoundError(name)


sys.meta_path.insert(0, Missing())
from serving.cli.main import main

for words in {commands}:
    sys.argv = ["sosie", *words]
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, words
"""


def test_the_commands_of_a_deployment_need_no_package_of_the_service(home, tmp_path) -> None:
    commands = [
        ["audit", "verify"],
        ["retention", "show"],
        ["retention", "run"],
        ["backup", str(tmp_path / "backup")],
        ["cases"],
        ["doctor"],
    ]
    code = WITHOUT_SERVICE.replace("{commands}", repr(commands))
    environment = os.environ | {"SOSIE_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
