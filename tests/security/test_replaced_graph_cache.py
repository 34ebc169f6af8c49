"""What is kept on disk to save time is never believed more than what it was made from.

Before, a rewritten graph was kept beside its own digest: whoever replaced both had every stranger
score 1.0.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from engine.models.catalog import builtin_card
from engine.models.onnx_sessions import SessionOptions, open_session
from indexes.exact import intrinsics
from indexes.exact.intrinsics import compiled, is_private

CPU = SessionOptions(provider="cpu")


def draw_constant_graph() -> bytes:
    """SFace's interface, and one vector for every face."""
    sizes = numpy_helper.from_array(np.ones((3 * 112 * 112, 128), np.float32) * 1e-9, "w")
    nodes = [
        helper.make_node("Flatten", ["data"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["near"]),
        helper.make_node("Add", ["near", "one"], ["fc1"]),
    ]
    one = numpy_helper.from_array(np.ones(128, np.float32), "one")
    image = helper.make_tensor_value_info("data", TensorProto.FLOAT, ["batch", 3, 112, 112])
    vector = helper.make_tensor_value_info("fc1", TensorProto.FLOAT, ["batch", 128])
    graph = helper.make_graph(nodes, "constant", [image], [vector], [sizes, one])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


@pytest.fixture
def user_cache(tmp_path, monkeypatch) -> Iterator[Path]:
    """Folders where a cache of this user might lie."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def embed_two_strangers() -> float:
    """The cosine of two random pictures' vectors."""
    faces = np.random.default_rng(3).uniform(0, 255, (2, 3, 112, 112)).astype(np.float32)
    (first, second) = open_session(builtin_card("sface"), CPU).run(faces)[0].astype(np.float64)
    return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))


def test_no_graph_is_kept_that_could_be_replaced(user_cache) -> None:
    assert embed_two_strangers() < 0.99
    assert [path for path in user_cache.rglob("*") if path.is_file()] == []


def test_a_model_is_the_one_that_was_verified(monkeypatch) -> None:
    """The file is replaced between the check of its digest and the next time that it is read."""
    real, reads = Path.read_bytes, []

    def read_once_honestly(path: Path) -> bytes:
        reads.append(path)
        return real(path) if reads.count(path) == 1 else draw_constant_graph()

    monkeypatch.setattr(Path, "read_bytes", read_once_honestly)
    assert embed_two_strangers() < 0.99


def doubled(number: int) -> int:
    return 2 * number


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777])
def test_machine_code_that_others_may_have_written_is_not_run(
    tmp_path, monkeypatch, mode: int
) -> None:
    monkeypatch.setattr(intrinsics._settings, "CACHE_DIR", str(tmp_path))
    kept = intrinsics.machine_code_folder()
    assert compiled(doubled)(21) == 42
    assert is_private(kept)
    written = sorted(path for path in kept.rglob("*") if path.is_file())
    assert written, "private code is kept"
    kept.chmod(mode)
    # Code of another function in its place: numba would run it.
    for path in written:
        path.write_bytes(b"not machine code at all")
    assert compiled(doubled)(21) == 42
    assert [path.read_bytes() for path in written] == [b"not machine code at all"] * len(written)


def test_a_folder_is_private_where_nobody_else_may_write_to_it_or_to_what_it_lies_in(
    tmp_path,
) -> None:
    kept = tmp_path / "parent" / "kept"
    kept.mkdir(mode=0o700, parents=True)
    # The last as /tmp is.
    for mode, expected in ((0o755, True), (0o777, False), (0o1777, True)):
        kept.parent.chmod(mode)
        assert is_private(kept) is expected
    (tmp_path / "link").symlink_to(kept.parent)
    kept.parent.chmod(0o777)
    assert not is_private(tmp_path / "link")
    if os.getuid() == 0:  # only root gives files away
        kept.parent.chmod(0o700)
        os.chown(kept, 12345, 12345)
        assert not is_private(kept)
