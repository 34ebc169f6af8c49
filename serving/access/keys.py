"""API keys as their holders write them: made once, read back, and known by a digest alone.

A key is `sosie_<id>_<secret>`: the id names its row and may be shown, the secret is random.
"""

from __future__ import annotations

import hmac
import re
import secrets
import string
from dataclasses import dataclass, field

from engine.registry.vault import Vault

MAX_LENGTH = 200
"""Longer texts are not looked at."""

_STEM_LENGTH = 8
_CHECK_LENGTH = 4
_SECRET_LENGTH = 43  # of 62 signs: 256 bits

_ID_SIGNS = string.digits + string.ascii_lowercase
_SECRET_SIGNS = string.digits + string.ascii_letters
_KEY = re.compile(
    rf"sosie_([0-9a-z]{{{_STEM_LENGTH + _CHECK_LENGTH}}})_([0-9A-Za-z]{{{_SECRET_LENGTH}}})"
)


@dataclass(frozen=True, slots=True)
class NewKey:
    """A fresh key: `text` is for its holder, once; `digest` for the registry."""

    id: str
    text: str = field(repr=False)
    digest: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class PresentedKey:
    """A text of the form of a key; whether it is one is not yet said."""

    id: str
    secret: str = field(repr=False)


def make_key(vault: Vault) -> NewKey:
    """A key that nobody had before, with 256 random bits."""
    stem = "".join(secrets.choice(_ID_SIGNS) for _ in range(_STEM_LENGTH))
    key_id = stem + _check_signs(vault, stem)
    secret = "".join(secrets.choice(_SECRET_SIGNS) for _ in range(_SECRET_LENGTH))
    return NewKey(key_id, f"sosie_{key_id}_{secret}", digest_key(vault, key_id, secret))


def parse_key(text: str | None) -> PresentedKey | None:
    """The parts of a text of the form of a key; `None` for any other, at the cost of a glance."""
    if text is None or len(text) > MAX_LENGTH:
        return None
    found = _KEY.fullmatch(text)
    return None if found is None else PresentedKey(found[1], found[2])


def digest_key(vault: Vault, key_id: str, secret: str) -> bytes:
    """What the registry keeps of a key: 32 bytes, keyed (HMAC-SHA256).

    A slow hash protects secrets that can be guessed. Nobody guesses 256 random bits, and this one
    is computed for every request.
    """
    return vault.look_up("api_key", f"{key_id}\0{secret}")


def is_issued_id(vault: Vault, key_id: str) -> bool:
    """False for nearly every id that this deployment never gave: one in 1.7 million passes.

    So a flood of made-up keys costs no look-up, and keeps nobody's own from being looked up.
    """
    stem, check = key_id[:_STEM_LENGTH], key_id[_STEM_LENGTH:]
    return hmac.compare_digest(_check_signs(vault, stem), check)


def _check_signs(vault: Vault, stem: str) -> str:
    number = int.from_bytes(vault.look_up("api_key_id", stem)[:8], "big")
    signs = []
    for _ in range(_CHECK_LENGTH):
        number, place = divmod(number, len(_ID_SIGNS))
        signs.append(_ID_SIGNS[place])
    return "".join(signs)
