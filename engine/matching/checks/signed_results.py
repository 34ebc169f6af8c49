"""Signed results: what others have found of a person, as compact JWS (RFC 7515; ES256, Ed25519) of
issuers whose keys the operator has named."""

import base64
import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from joserfc.jws import JWSRegistry, deserialize_compact
from msgspec import Meta

from engine.errors import RequestError, file_errors
from schema.decoding import Value, prepare

MAX_TOKEN_LENGTH = 4096
CLOCK_SKEW = timedelta(seconds=60)
"""How far the clocks of a capture system and of this machine may lie apart."""

# What is kept of a result goes into a database: not every one takes every character.
Short = Annotated[str, Meta(max_length=64, pattern=r"^[ -~]*\Z")]
_Name = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[ -~]+\Z")]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-fA-F]{64}$")]
_Seconds = Annotated[float, Meta(ge=0, le=253_402_300_799)]


class SignedClaims(Value, kw_only=True):
    """What every signed result says; other claims are ignored, as RFC 7519 has it."""

    iss: _Name
    jti: _Name
    iat: _Seconds
    exp: _Seconds
    aud: _Name | list[_Name]

    def is_for(self, audience: str) -> bool:
        return audience in ([self.aud] if isinstance(self.aud, str) else self.aud)

    def is_stale(self, now: datetime, max_age: timedelta) -> bool:
        """True for one that is over, too old, or from the future."""
        issued, ends = (datetime.fromtimestamp(at, UTC) for at in (self.iat, self.exp))
        oldest, newest = now - max_age - CLOCK_SKEW, now + CLOCK_SKEW
        # The end may be the last moment that there is, to which nothing can be added.
        return not oldest <= issued <= newest or ends < now - CLOCK_SKEW


_REGISTRY = JWSRegistry(algorithms=["ES256", "Ed25519", "EdDSA"])
# EdDSA is the older name of Ed25519 (RFC 9864), and what most send.
_REGISTRY.algorithms = {
    **{name: JWSRegistry.algorithms[name] for name in ("ES256", "Ed25519")},
    "EdDSA": JWSRegistry.algorithms["Ed25519"],
}


# What the libraries raise for text that is no result: a header may hold any JSON.
_UNREADABLE = (
    *(JoseError, msgspec.MsgspecError, ValueError),
    *(AttributeError, TypeError, KeyError, RecursionError),
)


S = TypeVar("S", bound=SignedClaims)


def read_signed(token: str, issuers: Mapping[str, KeySet], kind: type[S]) -> S | None:
    """The claims of a result that one of the issuers has signed, with its own key."""
    if len(token) > MAX_TOKEN_LENGTH or not token.isascii():
        return None
    try:
        # Whose keys to try, and that one is named, is all that is taken from it unchecked.
        header, payload, _ = token.split(".")
        issuer = json.loads(_decode(payload)).get("iss")
        keys = issuers.get(issuer) if isinstance(issuer, str) else None
        if keys is None or "kid" not in json.loads(_decode(header)):
            return None
        signed = deserialize_compact(token, keys, registry=_REGISTRY)
        claims = msgspec.json.decode(signed.payload, type=prepare(kind))
        # A text that names two issuers could be signed by one in the other's name.
        return claims if claims.iss == issuer else None
    except _UNREADABLE:
        return None


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def read_token(path: Path) -> str:
    """The result in a file; `RequestError` where there is none."""
    with file_errors(str(path), then=": name the file with the result"), path.open("rb") as file:
        token = file.read(MAX_TOKEN_LENGTH + 2).strip()
    if not token or len(token) > MAX_TOKEN_LENGTH or not token.isascii():
        raise RequestError(f"{path}: give the file with the signed result, a compact JWS")
    return token.decode("ascii")


def load_issuer(path: Path) -> KeySet:
    """The public keys of an issuer, from a file with its JWK Set (RFC 7517); `RequestError`.

    Each has a `kid` of its own, and is for ES256 or Ed25519.
    """
    try:
        given = json.loads(path.read_bytes())
        keys = given["keys"] if isinstance(given, dict) else None
        if not isinstance(keys, list) or not keys:
            raise ValueError("has no keys")
        names = [_require_public(key) for key in keys]
        if len(set(names)) < len(names):
            raise ValueError("has two keys of one kid")
        return KeySet.import_key_set({"keys": keys})
    except OSError as error:
        raise RequestError(f"{path}: {error.strerror}: give the issuer's JWK Set") from None
    except (ValueError, KeyError, TypeError, JoseError) as error:
        fault = str(error) if isinstance(error, ValueError) else "no JWK Set"
        raise RequestError(
            f"{path}: {fault}: give the issuer's public keys (ES256, Ed25519), each with its kid"
        ) from None


_CURVES = {("EC", "P-256"), ("OKP", "Ed25519")}


def _require_public(key: object) -> str:
    if not isinstance(key, dict) or (key.get("kty"), key.get("crv")) not in _CURVES:
        raise ValueError("has a key of another kind")
    if "d" in key:
        raise ValueError("has a private key")
    kid = key.get("kid")
    if not isinstance(kid, str) or not kid:
        raise ValueError("has a key without kid")
    return kid
