from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.registry.keyring import KeyRing
from engine.registry.vault import Vault
from serving.access.keys import MAX_LENGTH, digest_key, is_issued_id, make_key, parse_key

KEY = "sosie_" + "a" * 12 + "_" + "B" * 43


def test_a_key_is_read_back_and_its_digest_is_made_again(vault: Vault) -> None:
    made = make_key(vault)
    assert re.fullmatch(r"sosie_[0-9a-z]{12}_[0-9A-Za-z]{43}", made.text)
    parsed = parse_key(made.text)
    assert parsed is not None
    assert made.text == f"sosie_{parsed.id}_{parsed.secret}"
    assert parsed.id == made.id
    assert digest_key(vault, parsed.id, parsed.secret) == made.digest
    assert len(made.digest) == 32


def test_keys_differ_in_id_and_secret(vault: Vault) -> None:
    made = [make_key(vault) for _ in range(200)]
    assert len({key.id for key in made}) == 200
    assert len({key.text[19:] for key in made}) == 200
    # 8,600 draws of 62 signs: one that never came would be a mistake of the alphabet.
    assert len(set("".join(key.text[19:] for key in made))) == 62


def test_the_digest_is_of_id_and_secret_and_of_one_deployment(vault: Vault) -> None:
    digest = digest_key(vault, "ab", "cd")
    others = [
        digest_key(vault, "a", "bcd"),
        digest_key(vault, "ab", "ce"),
        digest_key(vault, "ac", "cd"),
        digest_key(Vault(KeyRing.generate(), 8), "ab", "cd"),
    ]
    assert digest not in others
    assert len(set(others)) == 4


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "sosie",
        KEY[:-1],
        KEY + "B",
        KEY + "\n",
        " " + KEY,
        KEY.replace("sosie", "Sosie"),
        KEY.replace("a", "A"),
        KEY.replace("B" * 43, "B" * 42 + "-"),
        KEY.replace("B" * 43, "B" * 42 + "é"),
        KEY.replace("a" * 12, "a" * 11 + "\u0663"),
        KEY.replace("_", "-"),
        "B" * (MAX_LENGTH + 1),
        KEY * 1_000_000,
        "\0",
        "\udcff",
    ],
)
def test_what_is_no_key_is_rejected(text: str | None) -> None:
    assert parse_key(KEY) is not None
    assert parse_key(text) is None


@given(st.text(max_size=300))
def test_no_text_makes_the_parser_fail(text: str) -> None:
    parsed = parse_key(text)
    assert parsed is None or text == f"sosie_{parsed.id}_{parsed.secret}"


def test_ids_of_this_deployment_alone_are_taken_for_issued(vault: Vault) -> None:
    other = Vault(KeyRing.generate(), 8)
    for _ in range(50):
        assert is_issued_id(vault, make_key(vault).id)
    assert sum(is_issued_id(vault, make_key(other).id) for _ in range(50)) == 0


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(st.text("0123456789abcdefghijklmnopqrstuvwxyz", min_size=12, max_size=12))
def test_made_up_ids_are_not_taken_for_issued(vault: Vault, key_id: str) -> None:
    # By chance one of 1.7 million would be.
    assert not is_issued_id(vault, key_id)


def test_no_text_form_shows_a_key(vault: Vault) -> None:
    made = make_key(vault)
    parsed = parse_key(made.text)
    shown = repr((made, parsed))
    assert made.id in shown
    assert made.text[19:] not in shown
    assert str(made.digest)[2:10] not in shown
