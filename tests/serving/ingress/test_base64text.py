"""Base64 is read strictly, in pieces as in one."""

from __future__ import annotations

import base64
import os

import pytest

from serving.ingress.base64text import PIECE_CHARS, read_base64


@pytest.mark.parametrize("size", [0, 1, 2, 3, 3 * PIECE_CHARS // 4, 2 * PIECE_CHARS + 1])
def test_bytes_of_any_length_come_back(size: int) -> None:
    blob = os.urandom(size)
    assert read_base64(base64.b64encode(blob).decode()) == blob


PIECE = "A" * PIECE_CHARS


@pytest.mark.parametrize(
    "text",
    [
        "A",
        "AA",
        "A===",
        "AA==AA==",
        "A A=",
        "AAé=",
        "-_AA",
        PIECE[:-2] + "==" + "AAAA",
        PIECE[:-4] + "A=AA" + PIECE,
        PIECE + "A",
        PIECE + "====",
        PIECE + "AA\n=",
    ],
)
def test_what_is_no_base64_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not base64"):
        read_base64(text)
