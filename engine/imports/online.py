"""A chunk of an import, sealed for its way to a running service, and how much it takes at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from engine.errors import RequestError, SealBroken
from engine.imports.chunks import Chunk
from engine.matching.bulk_enrollment import OpenedLine, Subscriber
from engine.matching.documents import CheckedDocument
from engine.matching.samples import Sample
from engine.registry.references import SecondTemplate
from engine.registry.vault import Vault
from schema.reasons import PhotographKind

ONLINE_ROWS = 32
"""Rows in a transaction: about ten milliseconds of the registrar, for which decisions wait."""
MOST_ROWS = 256
REST = 1.0
"""How long the sender rests after a commit, as a multiple of what that took: so an import takes at
most half of the registrar's time."""
_CONTEXT = "import.chunk"


def seal_chunk(vault: Vault, chunk: Chunk) -> bytes:
    """The chunk as only a holder of the deployment's key ring can make and read it."""
    written = {name: getattr(chunk, name) for name in Chunk.__slots__ if name != "subscribers"} | {
        "subscribers": [_write_subscriber(one) for one in chunk.subscribers]
    }
    return vault.seal_token(_CONTEXT, vault.deployment_id, msgspec.msgpack.encode(written))


def open_chunk(vault: Vault, sealed: bytes) -> Chunk:
    """`RequestError` for what this deployment's key ring has not sealed."""
    try:
        written = msgspec.msgpack.decode(vault.open_token(_CONTEXT, vault.deployment_id, sealed))
    except (SealBroken, msgspec.DecodeError):
        raise RequestError("no part of an import that this deployment has made") from None
    subscribers = tuple(_read_subscriber(one) for one in written.pop("subscribers"))
    if len(subscribers) > MOST_ROWS:
        raise RequestError(f"a part of an import has at most {MOST_ROWS} rows")
    return Chunk(**written, subscribers=subscribers)


def _write_subscriber(one: Subscriber) -> dict[str, Any]:
    fields = {name: getattr(one, name) for name in Subscriber.__slots__} | {
        "vector": one.vector.astype(np.float32).tobytes(),
        "samples": {name: _write_sample(sample) for name, sample in one.samples.items()},
    }
    written: dict[str, Any] = msgspec.to_builtins(fields, builtin_types=(bytes,))
    return written


def _read_subscriber(written: Mapping[str, Any]) -> Subscriber:
    fields = dict(written)
    fields["vector"] = np.frombuffer(written["vector"], np.float32)
    fields["samples"] = {name: _read_sample(one) for name, one in written["samples"].items()}
    fields["document"] = msgspec.convert(written["document"], CheckedDocument)
    fields["line"] = msgspec.convert(written["line"], OpenedLine | None)
    return Subscriber(**fields)


def _write_sample(sample: Sample) -> dict[str, Any]:
    """Writes the kept part of a photograph: the crop, if any, and a second model's template."""
    second = sample.second
    return {
        "digest": sample.digest,
        "quality": dict(sample.quality),
        "crop": sample.crop,
        "kind": None if sample.kind is None else sample.kind.value,
        "second": None if second is None else [second.digest, second.vector.tobytes()],
    }


def _read_sample(written: Mapping[str, Any]) -> Sample:
    second, kind = written["second"], written["kind"]
    return Sample(
        vector=None,
        digest=written["digest"],
        quality=written["quality"],
        crop=written["crop"],
        kind=None if kind is None else PhotographKind(kind),
        second=None
        if second is None
        else SecondTemplate(second[0], np.frombuffer(second[1], np.float32)),
    )
