"""How long a body says that it is, and how long it may be."""

from __future__ import annotations

from collections.abc import Mapping

from serving.refusals import BodyTooLarge, Malformed, TypeUnsupported


def read_length(headers: Mapping[bytes, bytes], limit_bytes: int) -> int | None:
    """The Content-Length, None where there is none.

    `BodyTooLarge`, `Malformed`, and `TypeUnsupported` for a compressed body.
    """
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise TypeUnsupported("a compressed body is not read: send it without Content-Encoding")
    given = headers.get(b"content-length")
    if given is None:
        return None
    if not given.isdigit():
        raise Malformed("the Content-Length is not one whole number")
    if len(given) > 15 or int(given) > limit_bytes:
        raise too_large(limit_bytes)
    return int(given)


def too_large(limit_bytes: int) -> BodyTooLarge:
    """What a client is told whose body is larger."""
    return BodyTooLarge(f"the body is larger than {limit_bytes / 2**20:g} MiB: send less at once")
