"""Judges the items of a match call: 1:1 here, 1:N in one search elsewhere; stores nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import ImageError
from engine.matching.calibration import Comparison
from engine.matching.requests import Sample
from indexes.scoring import exact_score, exact_scores
from serving.errors import TemplateInvalid, describe
from serving.telemetry.metrics import BATCH_SIZE, STAGE_SECONDS

if TYPE_CHECKING:
    from engine.matching.identification import Identification
    from engine.reasons import Reason
    from serving.access.pseudonyms import ShowCandidate
    from serving.ingress.items import MatchBatch
    from serving.parts import Parts
    from serving.registrar.protocol import CallContext

Vector = NDArray[np.float32]
Problem = dict[str, Any]
Result = dict[str, Any]
Faces = Sequence[Vector | Problem]
"""What the images and tokens of a batch turned out to be."""


class Matcher:
    """Judges whole batches. Every item is answered, or the call fails: a search that did not run
    is never a "nobody"."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._verify = parts.thresholds.verify
        self._review = parts.thresholds.review
        # Of one photograph or template against references that are fused of two.
        self._false_match_rate = (
            parts.calibration.fmr_at(self._review, Comparison.FUSED_TO_ONE)
            if parts.calibration is not None
            else None
        )

    async def verify(
        self, batch: MatchBatch, tenant: str, timeout_s: float
    ) -> tuple[list[Result], Faces]:
        """A result for each item with its 1:1 or its problem, and the faces that were taken.

        `tenant` is whose templates are taken. Raises what the queue of photographs does.
        """
        faces = await self._take_faces(batch, tenant, timeout_s)
        started = time.perf_counter()
        with self._parts.tracer.span("match", items=len(batch)):
            results = self._verify_all(batch, faces)
        self._parts.meter.observe(STAGE_SECONDS, time.perf_counter() - started, "match")
        self._parts.meter.observe(BATCH_SIZE, len(batch), "match")
        return results, faces

    async def identify(
        self,
        batch: MatchBatch,
        faces: Faces,
        results: list[Result],
        context: CallContext,
        show: ShowCandidate,
    ) -> None:
        """Adds to the results what one search of all probes finds; raises what the registrar does.

        `show` writes a candidate for the caller."""
        places, probes = [], []
        for place, (slot, search) in enumerate(zip(batch.probes, batch.searches, strict=True)):
            face = faces[slot]
            if search and not isinstance(face, dict):
                places.append(place)
                probes.append(face)
        if not places:
            return
        found = await self._parts.registrar.identify(np.stack(probes), self._review, context)
        assert len(found) == len(places), "a search answers for each of its probes"
        expected: dict[int, Any] = {}
        for place, one in zip(places, found, strict=True):
            if one.searched not in expected:
                expected[one.searched] = self._expect(one.searched)
            results[place]["identification"] = self._describe(one, expected[one.searched], show)

    async def _take_faces(self, batch: MatchBatch, tenant: str, timeout_s: float) -> Faces:
        if not batch.images:
            return [
                describe_problem(one) if isinstance(one, TemplateInvalid) else one
                for one in self._parts.templates.open(batch.faces, tenant)
            ]
        images = set(batch.images)
        tokens = [one for slot, one in enumerate(batch.faces) if slot not in images]
        opened = iter(self._parts.templates.open(tokens, tenant))
        files = [batch.faces[slot] for slot in batch.images]
        with self._parts.tracer.span("extract", items=len(files)):
            samples = iter(await self._parts.faces.sample(files, timeout_s))
        faces: list[Vector | Problem] = []
        for slot in range(len(batch.faces)):
            face = read_sample(next(samples)) if slot in images else next(opened)
            faces.append(describe_problem(face) if isinstance(face, TemplateInvalid) else face)
        return faces

    def _verify_all(self, batch: MatchBatch, faces: Faces) -> list[Result]:
        """The 1:1 of every item that asks for one, and every item's problem."""
        results: list[Result] = []
        compared: list[Result] = []
        pairs: list[Vector] = []
        for item, probe_slot, reference_slot in zip(
            batch.ids, batch.probes, batch.references, strict=True
        ):
            result: Result = {} if item is None else {"id": item}
            results.append(result)
            probe = faces[probe_slot]
            if isinstance(probe, dict):
                result["error"] = {**probe, "part": "probe"}
            elif reference_slot is not None:
                reference = faces[reference_slot]
                if isinstance(reference, dict):
                    result["error"] = {**reference, "part": "reference"}
                else:
                    compared.append(result)
                    pairs += (probe, reference)
        if compared:
            self._add_verifications(compared, pairs)
        return results

    def _add_verifications(self, results: list[Result], pairs: list[Vector]) -> None:
        """`pairs`: the probe and the reference float32[d] of each result, by turns."""
        threshold = self._verify
        for result, score in zip(results, score_pairs(pairs), strict=True):
            result["verification"] = {
                "is_match": score >= threshold,
                "score": score,
                "threshold": threshold,
            }

    def _describe(
        self, found: Identification, expected: dict[str, Any] | None, show: ShowCandidate
    ) -> Result:
        return {
            "candidates": [
                show(one.document_id, one.reference_id, one.score) for one in found.candidates
            ],
            "found": found.found,
            "searched": found.searched,
            "gallery_sequence": found.gallery_sequence,
            "threshold": self._review,
            "expected_false_candidates": expected,
        }

    def _expect(self, searched: int) -> dict[str, Any] | None:
        if self._false_match_rate is None:
            return None
        rate = self._false_match_rate.times(searched)
        return {
            "value": rate.value,
            "low": rate.low,
            "high": rate.high,
            "is_bound": rate.is_bound,
        }


def score_pairs(pairs: Sequence[Vector]) -> list[float]:
    """The scores of vectors float32[d], each with the next: of 2n of them, n."""
    if len(pairs) == 2:
        return [exact_score(*pairs)]
    rows = np.concatenate(pairs).reshape(len(pairs), -1)
    even = np.arange(0, len(rows), 2)
    scores: list[float] = exact_scores(rows, rows, even, even + 1).tolist()
    return scores


def read_sample(sample: Sample | ImageError) -> Vector | Problem:
    """The vector of a photograph that is fit for matching, else what is wrong with it."""
    if isinstance(sample, ImageError):
        return describe_problem(sample)
    if sample.problems:
        return describe_reasons(sample.problems)
    assert sample.vector is not None, "a photograph without a face has a problem"
    return sample.vector


def describe_problem(error: ImageError | TemplateInvalid) -> Problem:
    """An item's error as answers show it."""
    fault = describe(error)
    return {"code": fault.code, "message": fault.message}


def describe_reasons(reasons: Sequence[Reason]) -> Problem:
    """The same for a photograph that cannot be judged; the first reason names it."""
    return {
        "code": f"MATCH.{reasons[0]}",
        "message": "the photograph cannot be judged: take a new one",
        "problems": [str(reason) for reason in reasons],
    }
