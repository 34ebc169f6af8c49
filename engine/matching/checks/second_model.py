"""A second model beside the one in force: its templates, and how often it would say otherwise."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from msgspec import structs

from engine.accuracy.photographs import SUFFIXES
from engine.errors import CalibrationError, ImageError, RequestError
from engine.matching.calibration import Thresholds
from engine.matching.checks.face import FacePart
from engine.matching.comparison import Faces, compare_faces, fuse_seconds, fuse_vectors, score_best
from engine.matching.judge import AttemptBatch, DecidedAttempt, DecisionCheck
from engine.matching.policy import Candidate, Evidence, decide
from engine.matching.samples import Sample, SecondEmbedder, take_samples
from engine.registry.audit import AuditEntry
from engine.registry.database import is_id
from engine.registry.references import FilledReference, SecondTemplate
from engine.registry.rows import choose
from engine.registry.store import Reader, Store
from indexes.base import Floats, Octets
from schema import frozen
from schema.decisions import SecondScores

if TYPE_CHECKING:
    from engine.faces.extractor import Extractor

FILLED = "references.filled"
"""The action of the audit entry about templates of a second model that were added."""


@frozen
class SecondModel:
    """A model that decides nothing yet; without a calibration it has no thresholds."""

    digest: str
    dim: int
    thresholds: Thresholds | None = None

    def read_templates(self, registry: Reader, reference_ids: Sequence[int]) -> dict[int, Floats]:
        """Its templates of these references, of those that have one."""
        return registry.second_templates(reference_ids, self.digest, self.dim)

    def fuse(self, live: Sample, portrait: Sample) -> SecondTemplate | None:
        """Its template of both photographs; None where one was not embedded by it."""
        first, other = (self._vector_of(one) for one in (live, portrait))
        if first is None or other is None:
            return None
        return SecondTemplate(self.digest, fuse_vectors(first, other))

    def describe(
        self,
        live: Sample,
        portrait: Sample,
        evidence: Evidence,
        held: Sequence[int],
        known: Mapping[int, Floats],
        *,
        is_match: bool,
    ) -> SecondScores | None:
        """What evidence keeps of its scores and of what they would have decided; None where it saw
        no face.

        `held` are the references of the document's holder, `known` its templates. There is no
        decision where it lacks one that was compared. Candidates are those that the model in force
        found: `compare_references` tells of others.
        """
        first, other = (self._vector_of(one) for one in (live, portrait))
        if first is None or other is None:
            return None
        face = evidence.of(FacePart)
        faces = Faces.of(first, other if is_match else None, is_fused=live.length < 1)
        references = [known[key] for key in held if key in known]
        holder = compare_faces(faces, np.stack(references), self.thresholds) if references else None
        candidates = self._compare(faces, face.candidates, known)
        seen = SecondScores(
            model_digest=self.digest,
            live_portrait=score_best(first, other[None]),
            holder=None if holder is None else holder.least,
            best_candidate=max((one.score for one in candidates), default=None),
            thresholds=self.thresholds,
        )
        knows_holder = face.holder_score is None or len(references) == len(held)
        if self.thresholds is None or not knows_holder or len(candidates) < len(face.candidates):
            return seen
        review = self.thresholds.review
        again = replace(
            face,
            live_portrait_score=seen.live_portrait,
            holder_score=seen.holder,
            holder_each=None if holder is None else holder.each,
            candidates=tuple(one for one in candidates if one.score >= review),
        )
        judged = Evidence(self.thresholds, evidence.parts).having(again)
        seen.decision = decide(judged).decision
        return seen

    def _compare(
        self, faces: Faces, candidates: Sequence[Candidate], known: Mapping[int, Floats]
    ) -> list[Candidate]:
        """The candidates by its own scores, of those of which it has a template."""
        return [
            structs.replace(one, score=alike.most, each=alike.each)
            for one in candidates
            if one.reference_id in known
            for alike in (compare_faces(faces, known[one.reference_id][None], self.thresholds),)
            if alike is not None
        ]

    def _vector_of(self, sample: Sample) -> Floats | None:
        second = sample.second
        is_its_own = second is not None and second.digest == self.digest and sample.is_usable
        return second.vector if second is not None and is_its_own else None


class SecondModelCheck(DecisionCheck):
    """Describes the attempts of a batch by a second model, and adds its templates."""

    def __init__(self, batch: AttemptBatch, terms: SecondModel) -> None:
        super().__init__(batch, terms)
        self._known = terms.read_templates(batch.registry, batch.compared)
        """Its templates, of the references that have one."""

    def describe(self, made: DecidedAttempt) -> None:
        comparisons, request = self._batch.comparisons, made.attempt.request
        if not comparisons.has_probe(made.place):
            return
        record = self._batch.held(made.attempt.document_lookup)
        made.recorded.second = self._terms.describe(
            request.live,
            request.portrait,
            made.evidence,
            () if record is None else record.reference_ids,
            self._known,
            is_match="mean" in comparisons.faces(made.place).names,
        )

    def write(self, made: DecidedAttempt) -> None:
        """A returning holder's face is that of the references that it lacks; a replaced document's
        template goes along with its reference."""
        for attempt in made.bound:
            record, batch = self._batch.document(attempt.document_lookup), self._batch
            shown = self._terms.fuse(attempt.request.live, attempt.request.portrait)
            for key in () if record is None else record.reference_ids:
                like, second = batch.inherited.get(key), shown
                if like is not None:
                    kept = self._known.get(like)
                    second = None if kept is None else SecondTemplate(self._terms.digest, kept)
                if key in self._known or second is None:
                    continue
                self._known[key] = second.vector
                if key in batch.references:
                    batch.references[key] = replace(batch.references[key], second=second)
                else:
                    batch.writes.append(FilledReference(key, second))

    def close(self) -> None:
        if filled := choose(self._batch.writes, FilledReference):
            detail = {"references": len(filled)}
            self._batch.writes.append(AuditEntry("sosie", FILLED, self._terms.digest, detail))


MOST_COMPARED = 20_000
"""References whose pairs are compared at most, spread over all that have both templates."""
_BLOCK = 1_024


@frozen
class Agreement:
    """The agreement of two models on one question, in comparisons: each at its own threshold."""

    compared: int = 0
    both: int = 0
    only_first: int = 0
    only_second: int = 0

    @property
    def differ(self) -> int:
        """Comparisons that the second model would answer otherwise."""
        return self.only_first + self.only_second

    def __add__(self, other: Agreement) -> Agreement:
        pairs = zip(astuple(self), astuple(other), strict=True)
        return Agreement(*(one + another for one, another in pairs))


def compare_recorded(
    registry: Reader, model: SecondModel
) -> tuple[dict[str, Agreement], dict[str, int]]:
    """How the model would have answered in the enrollments that recorded its scores: `verify` (live
    against portrait) and `same_document` (against the holder), and how many decisions of one
    kind it would have made another, as "approved, review"."""
    thresholds = _require_thresholds(model)
    found = {"verify": Agreement(), "same_document": Agreement()}
    keys = {"verify": "live_portrait", "same_document": "holder"}
    decisions: Counter[str] = Counter()
    for decision, evidence in registry.decisions():
        second, inputs = evidence.second, evidence.inputs
        if second is None or second.model_digest != model.digest:
            continue
        for name, key in keys.items():
            first, other = inputs[f"{key}_score"], getattr(second, key)
            if first is not None and other is not None:
                is_first = first >= inputs["thresholds"][name]
                is_second = other >= getattr(thresholds, name)
                alone = is_first and not is_second, is_second and not is_first
                found[name] += Agreement(1, is_first and is_second, *alone)
        if second.decision is not None:
            decisions[f"{decision}, {second.decision}"] += 1
    return found, dict(decisions)


def compare_references(
    registry: Reader, model: SecondModel, thresholds: Thresholds
) -> dict[str, Agreement]:
    """How often two references look like one person, to `review` and to `certain`, by the model in
    force at its `thresholds` and by this one: every pair of those that have both templates."""
    other = _require_thresholds(model)
    firsts, seconds = [], []
    for chunk in registry.references():
        known = model.read_templates(registry, chunk.ids.tolist())
        held = [place for place, key in enumerate(chunk.ids.tolist()) if key in known]
        firsts.append(chunk.vectors[held])
        seconds += [known[int(chunk.ids[place])] for place in held]
    found = {"review": Agreement(), "certain": Agreement()}
    if not seconds:
        return found
    chosen = np.linspace(0, len(seconds) - 1, min(len(seconds), MOST_COMPARED)).astype(np.int64)
    first, second = np.concatenate(firsts)[chosen], np.stack(seconds)[chosen]
    pairs = len(chosen) * (len(chosen) - 1) // 2
    found = dict.fromkeys(found, Agreement(compared=pairs))
    for start in range(0, len(chosen), _BLOCK):
        rows = slice(start, start + _BLOCK)
        scores = first[rows] @ first[start:].T, second[rows] @ second[start:].T
        # Few are so alike, and `certain` is above `review`.
        near = (scores[0] >= thresholds.review) | (scores[1] >= other.review)
        left, right = np.nonzero(np.triu(near, 1))
        for name in found:
            is_first = scores[0][left, right] >= getattr(thresholds, name)
            is_second = scores[1][left, right] >= getattr(other, name)
            found[name] += Agreement(
                0,
                int((is_first & is_second).sum()),
                int((is_first & ~is_second).sum()),
                int((is_second & ~is_first).sum()),
            )
    return found


def _require_thresholds(model: SecondModel) -> Thresholds:
    if model.thresholds is None:
        raise CalibrationError(
            "the second model is not calibrated: run sosie calibrate DIR --card FILE.toml"
        )
    return model.thresholds


REFERENCES_AT_ONCE = 500


@dataclass(slots=True)
class Filled:
    """The result of a filling, in references or, of a folder, in documents."""

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


def _read_crops(store: Store, ids: Sequence[int]) -> Iterator[tuple[int, list[Octets]]]:
    from PIL import Image  # noqa: PLC0415 - takes a while to import

    for key, (document_id, enrollment_id) in store.origins_of(ids).items():
        if enrollment_id is None:
            kept = store.cases.crops_of_import(document_id)
        else:
            kept = store.cases.crops(enrollment_id)
        yield key, [np.asarray(Image.open(io.BytesIO(one.image)).convert("RGB")) for one in kept]


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


def _is_face_of(sample: Sample, references: Floats, same_document: float) -> bool:
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
