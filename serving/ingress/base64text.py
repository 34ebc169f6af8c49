"""Base64 as bodies hold it."""

from __future__ import annotations

import binascii

PIECE_CHARS = 1 << 20
"""Divisible by four; Python's other threads wait while one piece is read, 2 ms or so."""


def read_base64(text: str) -> bytes:
    """The bytes of base64 text (RFC 4648, section 4, padded), strictly; `ValueError`."""
    if len(text) <= PIECE_CHARS:
        return _read(text)
    pieces = []
    for start in range(0, len(text), PIECE_CHARS):
        piece = _read(text[start : start + PIECE_CHARS])
        if start + PIECE_CHARS < len(text) and 4 * len(piece) != 3 * PIECE_CHARS:
            raise ValueError("not base64: padded before its end")
        pieces.append(piece)
    return b"".join(pieces)


def _read(text: str) -> bytes:
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        raise ValueError("not base64 (RFC 4648, section 4, padded)") from None
