"""The items of a match call, and their faces."""

from serving.ingress.match import MatchBatch
from serving.wire.fields import Template
from serving.wire.matching import Face, MatchItem

TEMPLATE = Face(template=Template(b"a template"))
IMAGE = Face(image=b"an image")


def test_no_face_shows_in_the_text_form_of_a_batch() -> None:
    shown = repr(MatchBatch.of([MatchItem(probe=IMAGE, reference=TEMPLATE)]))
    assert "image'" not in shown
    assert "a template" not in shown
