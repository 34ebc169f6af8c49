"""Templates of a second model for references that are there: from kept crops, and from a folder."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from engine.errors import ImageError, RequestError
from engine.matching.comparison import fuse_seconds, score_best
from engine.matching.requests import Sample, SecondEmbedder, take_samples
from engine.registry.records import SecondTemplate, is_id
from engine.registry.store import Store

if TYPE_CHECKING:
    from engine.faces.extractor import Extractor

REFERENCES_AT_ONCE = 500
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".jp2", ".j2k"})


@dataclass(slots=True)
class Filled:
    """What a filling came to, in references or, of a folder, in documents."""

    filled: int = 0
    without_photograph: int = 0
    """References of which no crop is kept, or is held for a case alone."""
    unknown: int = 0
    """Documents of the folder that have no reference which lacks a template."""
    unusable: int = 0
    """Documents whose photographs cannot be matched."""
    of_another: int = 0
    """Documents whose photographs show another face than the reference's."""


def fill_from_crops(store: Store, embedder: SecondEmbedder, actor: str) -> Filled:
    """Embeds the kept crops of the enrollments and imports that references came from, but for held
    ones; both photographs are fused, as the reference was."""
    done = Filled()
    for ids in store.missing_second(embedder.digest, REFERENCES_AT_ONCE):
        found: list[tuple[int, SecondTemplate]] = []
        for key, crops in _read_crops(store, ids):
            template = fuse_seconds(embedder.embed(np.stack(crops))) if crops else None
            if template is None:
                done.without_photograph += 1
            else:
                found.append((key, template))
        done.filled += store.fill_references(found, actor=actor)
    return done


def _read_crops(store: Store, ids: Sequence[int]) -> Iterator[tuple[int, list[NDArray[np.uint8]]]]:
    from PIL import Image  # noqa: PLC0415 - takes a while to import

    for key, (document_id, enrollment_id) in store.origins_of(ids).items():
        if enrollment_id is None:
            kept = store.cases.crops_of_import(document_id)
        else:
            kept = store.cases.crops(enrollment_id)
        yield key, [np.asarray(Image.open(io.BytesIO(image)).convert("RGB")) for _, image in kept]


def fill_from_folder(
    folder: Path,
    store: Store,
    extractor: Extractor,
    embedder: SecondEmbedder,
    same_document: float,
    actor: str,
) -> Filled:
    """Embeds photographs that are named by the document's id: DIR/ID.jpg, or several in DIR/ID/.

    Each must show the face of the reference by the model in force, at or above `same_document`, or
    whoever fills the folder would say whose face is whose. Several are fused.
    """
    if not folder.is_dir():
        raise RequestError(f"{folder} is not a folder: name one with photographs, each ID.jpg")
    done = Filled()
    for document_id, paths in _list_documents(folder):
        record = store.documents_by_id([document_id]).get(document_id)
        ids = () if record is None else record.reference_ids
        known = store.second_templates(ids, embedder.digest, embedder.vault.dim)
        missing = [key for key in ids if key not in known]
        if not missing:
            done.unknown += 1
            continue
        images = [path.read_bytes() for path in paths]
        samples = take_samples(images, extractor, store.vault, second=embedder)
        usable = [
            one
            for one in samples
            if not isinstance(one, ImageError) and one.is_usable and one.second is not None
        ]
        references = store.templates(missing)
        fitting = [one for one in usable if _is_face_of(one, references, same_document)]
        template = fuse_seconds([one.second for one in fitting])
        if template is None:
            done.of_another += bool(usable)
            done.unusable += not usable
            continue
        done.filled += store.fill_references([(key, template) for key in missing], actor=actor)
    return done


def _is_face_of(sample: Sample, references: NDArray[np.float32], same_document: float) -> bool:
    assert sample.vector is not None
    score = score_best(sample.vector, references)
    return score is not None and score >= same_document


def _list_documents(folder: Path) -> Iterator[tuple[str, list[Path]]]:
    for place in sorted(folder.iterdir()):
        inside = sorted(place.iterdir()) if place.is_dir() else [place]
        photographs = [one for one in inside if one.suffix.lower() in SUFFIXES]
        name = place.name if place.is_dir() else place.stem
        if photographs and is_id(name):
            yield name, photographs
