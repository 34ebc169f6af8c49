"""Photographs decoded by the process that the service decodes in, by format and by size."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.conftest import Clock
from bench.decode_costs import LIFTED, list_files
from engine.faces.images import Decoder


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    one = Decoder(LIFTED)
    yield one
    one.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    megapixels = 0.25 if metafunc.config.getoption("--quick") else 2.0
    files = [(" ".join(name.split()), data) for name, data in list_files(megapixels)]
    kept = [one for one in files if one[0].startswith("photograph")]
    metafunc.parametrize(("name", "data"), kept, ids=[name for name, _ in kept])


def test_decode(
    name: str, data: bytes, decoder: Decoder, clock: Clock, pytestconfig: pytest.Config
) -> None:
    def decode() -> tuple[int, int]:
        with decoder.decode(data) as image:
            return image.size_px

    width, height = decode()
    setup = {"megapixels": round(width * height / 1e6, 2), "seed": 0, "threads": 1}
    rounds = 3 if pytestconfig.getoption("--quick") else 10
    clock("Decoding", name.removeprefix("photograph "), decode, setup, rounds=rounds)
