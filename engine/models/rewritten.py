"""A folder of rewritten graphs, kept by what they were made from.

A file is the SHA-256 of the graph, then the graph: one that was cut short or altered is made anew.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from engine.errors import ModelError
from engine.models.catalog import ModelCard, Step, locate

REWRITING_VERSION = 2
"""Rises when a rewriting changes what it makes, so that graphs kept before are not read."""

_DIGEST_BYTES = 32


def load_rewritten(card: ModelCard, steps: Sequence[Step], folder: Path) -> bytes:
    """The card's graph after the steps, serialised ONNX; kept in `folder`, which is made.

    Raises ModelMissing or ModelDamaged, and ModelError where the folder cannot be written.
    """
    path = locate(card)
    kept = folder / f"{card.name}-{_key(card, steps)[:32]}.graph"
    graph = _read(kept)
    if graph is None:
        # onnx takes a third of a second to import: only when there is something to rewrite.
        from engine.models.graph import rewrite  # noqa: PLC0415

        graph = rewrite(path.read_bytes(), steps)
        _write(kept, graph)
    return graph


def _key(card: ModelCard, steps: Sequence[Step]) -> str:
    made_from = [card.sha256, str(REWRITING_VERSION), *steps]
    return hashlib.sha256("\n".join(made_from).encode()).hexdigest()


def _read(path: Path) -> bytes | None:
    try:
        content = path.read_bytes()
    except OSError:
        return None
    graph = content[_DIGEST_BYTES:]
    whole = hashlib.sha256(graph).digest() == content[:_DIGEST_BYTES]
    return graph if whole else None


def _write(path: Path, graph: bytes) -> None:
    """Rename into place: a reader sees the whole file or none, also among several processes."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(graph).digest())
                file.write(graph)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ModelError(
            f"cannot keep the rewritten graph in {path.parent}: {error.strerror}; "
            "choose another cache folder"
        ) from error
