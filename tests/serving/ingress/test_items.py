"""Reading the items of a call by hand, held against the models that describe it."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from serving.api.schemas.matching import MatchRequest, TemplatesRequest
from serving.errors import Malformed, TooManyItems
from serving.ingress.items import MAX_ITEMS, read_match, read_photographs
from serving.ingress.templates import write_token

TOKEN = b"\x01\x00\x01 a token"
ODD = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=4)
    | st.binary(max_size=4)
    | st.lists(st.integers(), max_size=2)
    | st.dictionaries(st.text(max_size=2), st.integers(), max_size=2)
)
BASE64 = st.binary(max_size=6).map(lambda data: base64.b64encode(data).decode())
IMAGES = st.binary(max_size=6) | BASE64
FACES = (
    st.fixed_dictionaries({"image": IMAGES})
    | st.fixed_dictionaries({"template": st.binary(max_size=6) | st.just(write_token(TOKEN))})
    | st.fixed_dictionaries({}, optional={"image": ODD | IMAGES, "template": ODD, "extra": ODD})
    | ODD
)
IDS = st.text(max_size=3) | st.sampled_from(["x" * 128, "x" * 129]) | ODD
MATCH_ITEMS = (
    st.fixed_dictionaries(
        {"probe": FACES, "reference": FACES}, optional={"id": st.text(max_size=3)}
    )
    | st.fixed_dictionaries({"probe": FACES, "search": st.just(True)})
    | st.fixed_dictionaries(
        {}, optional={"probe": FACES, "reference": FACES, "search": ODD, "id": IDS, "extra": ODD}
    )
    | ODD
)
TEMPLATE_ITEMS = (
    st.fixed_dictionaries({"image": IMAGES}, optional={"id": IDS})
    | st.fixed_dictionaries({}, optional={"image": ODD | IMAGES, "id": IDS, "extra": ODD})
    | ODD
)


def bodies(items: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    lists = st.lists(items, max_size=3)
    return (
        st.fixed_dictionaries({"items": lists})
        | st.fixed_dictionaries({}, optional={"items": lists | ODD, "extra": ODD})
        | ODD
    )


def parse(model: type[BaseModel], body: object) -> Any:
    """What the model makes of a decoded body; None where it refuses."""
    try:
        return model.model_validate(body)
    except ValidationError:
        return None


@given(body=bodies(MATCH_ITEMS))
def test_a_match_body_is_accepted_exactly_where_its_model_accepts_it(body: Any) -> None:
    model = parse(MatchRequest, body)
    if model is None:
        with pytest.raises(Malformed):
            read_match(body)
        return
    batch = read_match(body)
    assert batch.ids == [item.id for item in model.items]
    assert batch.searches == [item.search for item in model.items]
    for place, item in enumerate(model.items):
        for slot, face in (
            (batch.probes[place], item.probe),
            (batch.references[place], item.reference),
        ):
            assert (slot is None) is (face is None)
            if slot is not None:
                is_image = face.image is not None
                assert batch.faces[slot] == (face.image if is_image else face.template)
                assert (slot in batch.images) is is_image


@given(body=bodies(TEMPLATE_ITEMS))
def test_a_template_body_is_accepted_exactly_where_its_model_accepts_it(body: Any) -> None:
    model = parse(TemplatesRequest, body)
    if model is None:
        with pytest.raises(Malformed):
            read_photographs(body)
        return
    batch = read_photographs(body)
    assert batch.ids == [item.id for item in model.items]
    assert batch.images == [item.image for item in model.items]


PAIR = {"probe": {"template": TOKEN}, "reference": {"template": TOKEN}}


def test_256_items_are_read_and_257_are_too_many() -> None:
    assert len(read_match({"items": [PAIR] * MAX_ITEMS})) == MAX_ITEMS
    too_many = {"items": [PAIR] * (MAX_ITEMS + 1)}
    with pytest.raises(TooManyItems):
        read_match(too_many)
    with pytest.raises(TooManyItems):
        read_photographs(too_many)
    assert parse(MatchRequest, too_many) is None


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ([], "not an object"),
        ({"item": []}, "unknown field"),
        ({"items": []}, "items"),
        ({"items": [PAIR, {}]}, "items.1.probe"),
        ({"items": [PAIR, {**PAIR, "person": "Aileen"}]}, "items.1: unknown field"),
        ({"items": [{"probe": {"template": TOKEN}}]}, "items.0: nothing to do"),
        ({"items": [{**PAIR, "search": "yes"}]}, "items.0.search"),
        ({"items": [{**PAIR, "id": "x" * 129}]}, "items.0.id"),
        ({"items": [{**PAIR, "reference": {}}]}, "items.0.reference"),
        ({"items": [{**PAIR, "reference": {"image": "="}}]}, "items.0.reference.image"),
        ({"items": [{**PAIR, "probe": {"template": 1}}]}, "items.0.probe.template"),
    ],
)
def test_a_fault_is_named_by_its_place_and_never_by_its_value(body: Any, words: str) -> None:
    with pytest.raises(Malformed) as refused:
        read_match(body)
    assert words in str(refused.value)
    assert "Aileen" not in str(refused.value)


def test_a_text_that_is_no_token_is_the_item_s_problem_and_not_the_call_s() -> None:
    batch = read_match({"items": [{**PAIR, "probe": {"template": "no token!"}}]})
    assert batch.faces == [b"", TOKEN]


def test_no_face_shows_in_the_text_form_of_a_batch() -> None:
    assert "token" not in repr(read_match({"items": [PAIR]}))
    assert "secret" not in repr(read_photographs({"items": [{"image": b"secret"}]}))
