"""A vector longer than 1 scores higher with everybody: one of length 1000 passed every 1:1, with a
score of 1,000,000. It is refused wherever vectors come in, and nothing of it is kept."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from engine.errors import RowRefused, VectorUnusable
from engine.matching.bulk_enrollment import AdmissionPlan, admit_planned, admit_references
from engine.matching.holders import score_holder, watch_face
from engine.matching.recovery import restore_gallery
from engine.registry.references import NewReference
from indexes.errors import VectorInvalid
from indexes.gallery import Gallery
from indexes.segmented.segments import SegmentedIndex
from indexes.sharding.shards import ShardPlan
from schema.documents import Document
from schema.reasons import Decision
from serving.errors import TemplateInvalid, describe
from serving.ingress.parts import PLACE, SealedTemplates
from serving.registrar.open_registry import SearchQueue
from tests.engine.matching.conftest import DIM
from tests.engine.matching.test_lines import dispute
from tests.engine.records import ENTRY
from tests.indexes.sharding.local_shards import open_local

LENGTHS = (1000.0, 1.01, 0.5, 0.0, np.nan, np.inf)


@pytest.fixture(params=LENGTHS, ids=str)
def length(request) -> float:
    return float(request.param)


def stretch(vector: Any, length: float) -> Any:
    with np.errstate(invalid="ignore"):
        return (vector * np.float32(length)).astype(np.float32)


@pytest.mark.parametrize("which", ["live", "portrait"])
def test_an_enrollment_is_refused_and_its_neighbours_are_not(lab, length, which: str) -> None:
    honest = lab.request()
    # A stranger's face that is weakly like the portrait: stretched, it passed.
    request = lab.request()
    sample = getattr(request, which)
    forged = replace(request, **{which: replace(sample, vector=stretch(sample.vector, length))})
    with lab.registrar() as registrar:
        refused, approved = registrar.enroll([forged, honest])
        assert isinstance(refused, VectorUnusable)
        assert describe(refused).status == 500
        assert approved.decision is Decision.APPROVED
        assert len(registrar.gallery) == 1
    assert len(restore_gallery(lab.store, lab.folder).gallery) == 1


def test_no_comparison_with_a_holder_takes_one(lab, length) -> None:
    with lab.registrar() as registrar:
        _, request, held = lab.holder(registrar)
        probe = stretch(lab.people.person(), length)
        record = lab.store.document(held.document_id)
        before = lab.store.audit_head()
        with pytest.raises(VectorInvalid):
            score_holder(lambda: record, registrar.gallery, probe)
        with pytest.raises(VectorInvalid):
            dispute(lab, registrar, held.line_id, request.document, probe)
        assert lab.store.audit_head() == before


def test_none_is_watched_stored_or_imported(lab, length) -> None:
    forged = stretch(lab.people.person(), length)
    document = Document("cn-ric", "110105199003071239", "Somebody")
    with lab.registrar() as registrar:
        before = lab.store.audit_head()
        with pytest.raises(VectorInvalid):
            watch_face(registrar, forged, "forged", "test")
        with pytest.raises(RowRefused):
            admit_references(registrar, [document], forged[None], "test")
        plan = AdmissionPlan(referenced=["document"], vectors=forged[None])
        with pytest.raises(RowRefused):
            registrar.run(
                lambda writer, _: admit_planned(
                    writer, registrar.gallery, plan, actor="test", subject="import", detail={}
                )
            )
        reference = NewReference(999, "document", None, forged, 1)
        with pytest.raises(RowRefused):
            registrar.run(lambda writer, _: writer.commit([ENTRY, reference]))
        assert lab.store.audit_head() == before
    with lab.registrar() as reopened:
        assert len(reopened.gallery) == 0


def test_no_template_of_one_is_issued_or_taken(lab, length) -> None:
    """By the seal of an older version that issued such tokens."""
    templates = SealedTemplates(lab.vault, "d" * 64, 24)
    person = lab.people.person()
    forged = stretch(person, length)
    with pytest.raises(VectorInvalid):
        templates.issue(forged[None], "blue")
    (token,) = templates.issue(person[None], "blue")
    row = templates._row("blue")
    issued_at = lab.vault.open_token(PLACE, row, token)[:8]
    old = lab.vault.seal(PLACE, row, issued_at + forged.astype("<f4").tobytes())
    sound, refused = templates.open([token, old], "blue")
    assert np.array_equal(sound, person)
    assert isinstance(refused, TemplateInvalid)


def test_no_search_and_no_index_takes_one(lab, length) -> None:
    person = lab.people.person()
    forged = stretch(person, length)
    ids = np.arange(2, dtype=np.int64)
    mixed = np.stack([person, forged])
    whole = Gallery(SegmentedIndex(DIM))
    sharded = open_local(ShardPlan(DIM), 2)
    for gallery in (whole, Gallery(sharded)):
        with pytest.raises(VectorInvalid):
            gallery.add(ids, mixed, 1)
        assert (len(gallery), gallery.sequence) == (0, 0)
        gallery.add(ids[:1], person[None], 1)
        with pytest.raises(VectorInvalid):
            gallery.search(mixed, 1)
        with pytest.raises(VectorInvalid):
            gallery.range_search(mixed, 0.5)
    queue = SearchQueue(whole, lab.store, 8)
    try:
        with pytest.raises(VectorInvalid):
            queue.submit(mixed, 0.5)
    finally:
        queue.close()
        sharded.close()
