"""The items of a match call, and their faces."""

from serving.ingress.match import PROBE, MatchBatch
from serving.wire.fields import Template
from serving.wire.matching import Face, MatchItem

TEMPLATE = Face(template=Template(b"a template"))
IMAGE = Face(image=b"an image")


def test_a_text_that_is_no_template_is_the_item_s_problem_and_not_the_call_s() -> None:
    face = Face(template=Template.read("no template!"))
    assert MatchBatch.of([MatchItem(probe=face, search=True)]).templates == {(0, PROBE): b""}


def test_no_face_shows_in_the_text_form_of_a_batch() -> None:
    shown = repr(MatchBatch.of([MatchItem(probe=IMAGE, reference=TEMPLATE)]))
    assert "image'" not in shown
    assert "a template" not in shown
