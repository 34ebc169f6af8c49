"""Templates in clients' hands."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.registry.keyring import Key, KeyRing
from engine.registry.vault import Vault
from serving.errors import TemplateInvalid
from serving.ingress.match import MatchBatch
from serving.ingress.parts import MAX_AHEAD_S, PLACE, SealedTemplates
from serving.wire.fields import Template
from serving.wire.matching import Face, MatchItem

MODEL = "d" * 64
TTL_H = 2.0


class Clock:
    """Stands still until it is set."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def templates(vault, clock) -> SealedTemplates:
    return SealedTemplates(vault, MODEL, TTL_H, clock)


@pytest.fixture
def token(templates, units: Callable[..., Any]) -> bytes:
    return templates.issue(units(1), "blue")[0]


def assert_refused(opened: object) -> None:
    assert isinstance(opened, TemplateInvalid)


def test_a_batch_opens_to_the_vectors_that_it_was_issued_for(
    templates, units: Callable[..., Any]
) -> None:
    rows = units(7)
    tokens = templates.issue(rows, "blue")
    assert len(set(tokens)) == 7
    opened = templates.open(tokens, "blue")
    assert all(np.array_equal(one, row) for one, row in zip(opened, rows, strict=True))
    assert all(one.dtype == np.float32 for one in opened if isinstance(one, np.ndarray))
    assert templates.open([], "blue") == []


def test_the_same_face_twice_gives_tokens_that_cannot_be_linked(
    templates, units: Callable[..., Any]
) -> None:
    first, second = templates.issue(np.repeat(units(1), 2, axis=0), "blue")
    assert first[3:] != second[3:]


def test_a_token_opens_for_its_tenant_under_its_model_in_its_deployment_alone(
    templates, vault, ring, clock, token
) -> None:
    for tenant in ("red", "", "blue\0", "b", "4:blue"):
        assert_refused(templates.open([token], tenant)[0])
    assert_refused(SealedTemplates(vault, "e" * 64, TTL_H, clock).open([token], "blue")[0])
    for foreign in (KeyRing.generate(), replace(ring, deployment_id="another")):
        there = SealedTemplates(Vault(foreign, 32), MODEL, TTL_H, clock)
        assert_refused(there.open([token], "blue")[0])


def test_a_value_sealed_for_another_place_is_no_token(
    templates, vault, units: Callable[..., Any], token
) -> None:
    plain = vault.open_token(PLACE, f"4:blue:{MODEL}", token)
    for seal in (vault.seal, vault.seal_token):
        elsewhere = seal("references.template", f"4:blue:{MODEL}", plain)
        assert_refused(templates.open([elsewhere], "blue")[0])


@given(place=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_a_token_with_any_byte_altered_is_refused(vault_for_tokens, place: int, flip: int) -> None:
    templates, token = vault_for_tokens
    altered = bytearray(token)
    altered[place % len(token)] ^= flip
    assert_refused(templates.open([bytes(altered)], "blue")[0])


@pytest.fixture(scope="module")
def vault_for_tokens() -> tuple[SealedTemplates, bytes]:
    templates = SealedTemplates(Vault(KeyRing.generate(), 32), MODEL, TTL_H)
    return templates, templates.issue(np.full((1, 32), 32**-0.5, np.float32), "blue")[0]


@given(data=st.binary(max_size=300))
def test_any_other_bytes_are_refused(vault_for_tokens, data: bytes) -> None:
    templates, token = vault_for_tokens
    for made in (data, token + data[:1] + b"x", token[: len(data)]):
        if made != token:
            assert_refused(templates.open([made], "blue")[0])


def test_a_sealed_value_of_another_length_is_no_token(templates, vault) -> None:
    for size in (0, 7, 8, 135, 137):
        sealed = vault.seal_token(PLACE, f"4:blue:{MODEL}", bytes(size))
        assert_refused(templates.open([sealed], "blue")[0])


@pytest.mark.parametrize(("step_s", "way"), [(TTL_H * 3600, 1), (-MAX_AHEAD_S, -1)])
def test_a_token_opens_until_its_time_and_from_the_future_within_the_allowance_for_clocks(
    templates, clock, token, step_s: float, way: int
) -> None:
    clock.now += step_s
    assert isinstance(templates.open([token], "blue")[0], np.ndarray)
    clock.now += way
    assert_refused(templates.open([token], "blue")[0])


def test_every_refusal_says_the_same(templates, clock, token) -> None:
    foreign = templates.open([token], "red")[0]
    wrong = templates.open([b"", token[:-1]], "blue")
    clock.now += 1e6
    expired = templates.open([token], "blue")[0]
    assert len({str(one) for one in (foreign, expired, *wrong)}) == 1


def test_tokens_of_an_older_data_key_open_as_long_as_the_ring_has_it(ring, clock, token) -> None:
    newer = Key(2, bytes(range(32)))
    rotating = replace(ring, data=(*ring.data, newer))
    retired = replace(ring, data=(newer,))
    after = SealedTemplates(Vault(rotating, 32), MODEL, TTL_H, clock)
    assert isinstance(after.open([token], "blue")[0], np.ndarray)
    assert_refused(
        SealedTemplates(Vault(retired, 32), MODEL, TTL_H, clock).open([token], "blue")[0]
    )


@given(data=st.binary(min_size=1, max_size=64))
def test_the_text_of_a_token_reads_back(data: bytes) -> None:
    text = Template(data).text
    assert Template.read(text) == data
    assert text.replace("-", "").replace("_", "").isalnum()


@given(data=st.binary(min_size=1, max_size=64), place=st.integers(0, 99), other=st.characters())
def test_a_token_has_one_text_and_no_other(data: bytes, place: int, other: str) -> None:
    text = Template(data).text
    place %= len(text)
    altered = text[:place] + other + text[place + 1 :]
    assert altered == text or Template.read(altered) != data
    assert Template.read(text + "=") == b""
    assert Template.read(" " + text) == b""


TEMPLATE = Face(template=Template(b"a template"))
IMAGE = Face(image=b"an image")


def test_no_face_shows_in_the_text_form_of_a_batch() -> None:
    shown = repr(MatchBatch.of([MatchItem(probe=IMAGE, reference=TEMPLATE)]))
    assert "image'" not in shown
    assert "a template" not in shown
