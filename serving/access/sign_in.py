"""Sign-in to the console at an OpenID Connect provider: the code flow with PKCE, state and nonce
(RFC 9700). What a sign-in must remember travels in a sealed cookie of the browser that began it, so
that no other can end it; the provider is asked at no other time."""

import asyncio
import base64
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cache
from pathlib import Path
from ssl import SSLContext
from typing import Any, cast
from urllib.parse import quote_plus, urlsplit

import httpx
from authlib.common.security import generate_token
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from engine.errors import RequestError, SealBroken
from engine.formatting import is_visible
from engine.registry.accounts import Session
from engine.registry.database import utc_now
from engine.registry.store import Reader
from engine.registry.vault import Vault
from schema import frozen
from schema.actors import LONGEST_PERSON, Role, is_credential
from serving.access.authentication import Credential, NewKey, make_key
from serving.settings.sections import is_private_address
from serving.settings.settings import Settings
from serving.settings.terms import SignInSettings

CALLBACK = "/console/signed-in"
LASTS = timedelta(minutes=10)
"""Between the click and the return from the provider."""
TIMEOUT_S = 5.0
WHOLE_TIMEOUT_S = 8.0
"""Of all that a sign-in asks of the provider at once: nobody waits longer."""
KEPT_S = 3600.0
"""Metadata and keys of the provider are read anew after that, or for a key that is not among them,
but no more often than every `RETRY_S`."""
RETRY_S = 5.0
MOST_ENDING = 16
"""So many ask the provider at once: anybody may come back with a made-up code, and while a provider
hangs they must not hold every slot that the proxy has for pages."""
LEEWAY_S = 60
"""Between the provider's clock and ours."""
ALGORITHMS = [f"{kind}{bits}" for kind in ("RS", "PS", "ES") for bits in (256, 384, 512)]
"""Signatures alone: with a shared secret whoever verifies could also sign."""
_PLACE = "sign_in.flow"
_VERIFIED = "email_verified"
_YES = (True, "true")
"""Some providers say it as a text."""


class Cause(StrEnum):
    """Why nobody was signed in; the console has a sentence for each."""

    UNAVAILABLE = "unavailable"
    """The provider does not answer, or not as one."""
    DENIED = "denied"
    """The provider says no."""
    STALE = "stale"
    """Begun in another browser, too long ago, or ended before."""
    UNPROVEN = "unproven"
    """The token does not prove who it is."""
    NO_ROLE = "norole"
    """No group of theirs may do anything here."""
    NO_PERSON = "noperson"
    """The token names no person, or another account has that name."""
    NOT_READY = "notready"
    """The session could not be kept."""


class SignInFailed(Exception):
    """Nobody was signed in; the text is for the log, and names nobody."""

    def __init__(self, reason: Cause, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@frozen
class Grant:
    """The rights of a group."""

    role: Role
    carrier: str | None = None
    outlet: str | None = None


@frozen
class SignedIn:
    """Whom the provider vouches for: `subject` is its own name of the account. `former` is the
    session that the browser had when the sign-in began."""

    subject: str
    person: str
    grant: Grant
    former: str | None


@dataclass(slots=True)
class _Kept:
    """The provider's description of itself, and its keys."""

    metadata: Mapping[str, Any]
    keys: KeySet
    at: float


class SignIn:
    """The way to one provider; for one event loop. It starts nothing and asks nobody before it is
    used."""

    def __init__(
        self,
        settings: SignInSettings,
        public_url: str,
        vault: Vault,
        home: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self.settings = settings
        parts = urlsplit(public_url)
        self.origin = f"{parts.scheme}://{parts.netloc}".lower()
        """Of our own pages, as browsers say it."""
        self.is_secure = parts.scheme == "https"
        self.name = settings.name or urlsplit(settings.issuer).hostname or ""
        self._vault = vault
        self._secret = _read_secret(settings, home)
        self._clock = clock
        self._now = now
        self._kept: _Kept | None = None
        self._asked_at = -RETRY_S
        self._lock = asyncio.Lock()
        self._ending = 0

    @property
    def session_cookie(self) -> str:
        """Its name. With the prefix a browser takes it from this host alone, over TLS: neighbours
        under the same domain cannot plant theirs."""
        return "__Host-sosie_session" if self.is_secure else "sosie_session"

    @property
    def flow_cookie(self) -> str:
        return "__Host-sosie_sign_in" if self.is_secure else "sosie_sign_in"

    def write_cookie(self, name: str, value: str) -> str:
        """A Set-Cookie header; an empty value takes the cookie away. Our own pages alone send the
        session's; the flow's comes with the way back from the provider, a visit from another
        site."""
        site = "Strict" if name == self.session_cookie else "Lax"
        parts = [f"{name}={value}", "Path=/", "HttpOnly", f"SameSite={site}"]
        if self.is_secure:
            parts.append("Secure")
        if not value:
            parts.append("Max-Age=0")
        elif name == self.flow_cookie:
            parts.append(f"Max-Age={int(LASTS.total_seconds())}")
        return "; ".join(parts)

    async def check(self) -> None:
        """Asks the provider for what a sign-in needs; `SignInFailed`."""
        await self._provider()

    def find_unknown(self, store: Reader) -> list[str]:
        """The grants of groups that name no carrier and no open outlet here."""
        carriers = store.carrier_names()
        outlets = {(one.carrier, one.code) for one in store.all_outlets() if one.is_open}
        unknown = []
        for text in sorted(set(self.settings.groups.values())):
            grant = read_grant(text)
            is_known = grant.carrier in carriers or grant.carrier is None
            if grant.outlet is not None:
                is_known = (grant.carrier, grant.outlet) in outlets
            if not is_known:
                unknown.append(text)
        return unknown

    async def begin(self, former: str | None) -> tuple[str, str]:
        """Begins a sign-in: the address to send the browser to, which may have a session by this
        id, and the content of its flow cookie; `SignInFailed`."""
        metadata = (await self._provider()).metadata
        state, nonce, verifier = generate_token(43), generate_token(43), generate_token(64)
        given = {"state": state, "nonce": nonce, "verifier": verifier, "former": former}
        now = self._now()
        content = json.dumps(given | {"until": (now + LASTS).timestamp()}).encode()
        sealed = self._vault.seal_token(_PLACE, "flow", content, now.timestamp())
        address = prepare_grant_uri(
            metadata["authorization_endpoint"],
            self.settings.client_id,
            "code",
            redirect_uri=self._redirect,
            scope=" ".join(dict.fromkeys(["openid", *self.settings.scopes.split()])),
            state=state,
            nonce=nonce,
            code_challenge=create_s256_code_challenge(verifier),
            code_challenge_method="S256",
        )
        return str(address), base64.urlsafe_b64encode(sealed).decode()

    async def end(self, given: Mapping[str, str], cookie: str | None) -> SignedIn:
        """The person who came back from the provider with this query; `SignInFailed`."""
        flow = self._open_flow(cookie)
        if not hmac.compare_digest(given.get("state", "").encode(), flow["state"].encode()):
            raise SignInFailed(Cause.STALE, "the state is not the one that this browser began with")
        if given.get("iss", self.settings.issuer) != self.settings.issuer:
            raise SignInFailed(Cause.UNPROVEN, "another issuer answered")
        if "error" in given or "code" not in given:
            raise SignInFailed(Cause.DENIED, "the provider gave no code")
        if self._ending >= MOST_ENDING:
            raise SignInFailed(Cause.UNAVAILABLE, "too many sign-ins wait for the provider at once")
        self._ending += 1
        try:
            async with _patience():
                provider = await self._provider()
                tokens = await self._redeem(provider, given["code"], flow["verifier"])
                claims = await self._verify(tokens, flow["nonce"])
                claims = await self._complete(provider, tokens, claims)
        finally:
            self._ending -= 1
        return self._recognize(claims, flow["former"])

    def open_session(self, who: SignedIn) -> tuple[Session, NewKey]:
        """A new session of that person, whose text is for the cookie."""
        made, now = make_key(self._vault, Credential.SESSION), self._now()
        ends = now + timedelta(hours=self.settings.longest_h)
        grant = who.grant
        fields = (made.id, made.digest, grant.role.value, grant.carrier, grant.outlet, now)
        session = Session(*fields, person=who.person, expires_at=ends, seen_at=now)
        return session, made

    @property
    def _redirect(self) -> str:
        return self.origin + CALLBACK

    def _open_flow(self, cookie: str | None) -> dict[str, Any]:
        stale = SignInFailed(Cause.STALE, "no sign-in was begun in this browser, or it took long")
        try:
            sealed = base64.urlsafe_b64decode((cookie or "").encode())
            flow = json.loads(self._vault.open_token(_PLACE, "flow", sealed))
        except (ValueError, SealBroken):
            raise stale from None
        if self._now().timestamp() >= flow["until"]:
            raise stale
        return cast("dict[str, Any]", flow)

    async def _provider(self, is_new_key: bool = False) -> _Kept:
        """Metadata and keys; read again where they are old, or a key is not among them."""
        async with self._lock:
            now, kept = self._clock(), self._kept
            is_wanted = kept is None or now >= kept.at + KEPT_S or is_new_key
            if is_wanted and now >= self._asked_at + RETRY_S:
                self._asked_at = now
                async with _patience():
                    self._kept = kept = await self._discover(now)
        if kept is None:
            raise SignInFailed(Cause.UNAVAILABLE, "the provider did not answer a moment ago")
        return kept

    async def _discover(self, now: float) -> _Kept:
        issuer = self.settings.issuer
        metadata = await _ask("GET", issuer.rstrip("/") + "/.well-known/openid-configuration")
        if metadata.get("issuer") != issuer:
            raise SignInFailed(Cause.UNAVAILABLE, "the provider's metadata name another issuer")
        needed = ("authorization_endpoint", "token_endpoint", "jwks_uri")
        if not all(is_private_address(str(metadata.get(name))) for name in needed):
            raise SignInFailed(Cause.UNAVAILABLE, "the provider's metadata lack an https address")
        try:
            keys = KeySet.import_key_set(cast("Any", await _ask("GET", metadata["jwks_uri"])))
        except (JoseError, ValueError, TypeError, KeyError):
            raise SignInFailed(Cause.UNAVAILABLE, "the provider's keys cannot be read") from None
        return _Kept(metadata, keys, now)

    async def _redeem(self, provider: _Kept, code: str, verifier: str) -> Mapping[str, Any]:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._redirect,
            "code_verifier": verifier,
            "client_id": self.settings.client_id,
        }
        methods = provider.metadata.get("token_endpoint_auth_methods_supported")
        auth = None
        if self._secret and methods and "client_secret_basic" not in methods:
            form["client_secret"] = self._secret
        elif self._secret:
            # Both are encoded first (RFC 6749, 2.3.1).
            auth = httpx.BasicAuth(quote_plus(self.settings.client_id), quote_plus(self._secret))
        return await _ask("POST", provider.metadata["token_endpoint"], data=form, auth=auth)

    async def _verify(self, tokens: Mapping[str, Any], nonce: str) -> dict[str, Any]:
        """The claims of the ID token, once its signature, issuer, audience, time and nonce hold."""
        text, settings = tokens.get("id_token"), self.settings
        if not isinstance(text, str):
            raise SignInFailed(Cause.UNPROVEN, "the provider gave no ID token")
        try:
            token = await self._decode(text)
            claims = CodeIDToken(
                token.claims,
                token.header,
                options={
                    "iss": {"essential": True, "value": settings.issuer},
                    "aud": {"essential": True, "value": settings.client_id},
                },
                params={
                    "nonce": nonce,
                    "client_id": settings.client_id,
                    "access_token": tokens.get("access_token"),
                },
            )
            claims.validate(now=int(self._now().timestamp()), leeway=LEEWAY_S)
        except (JoseError, ValueError, TypeError, KeyError) as error:
            kind = type(error).__name__
            raise SignInFailed(Cause.UNPROVEN, f"the ID token does not hold ({kind})") from None
        return dict(claims)

    async def _decode(self, text: str) -> jwt.Token:
        provider = await self._provider()
        try:
            return jwt.decode(text, provider.keys, algorithms=ALGORITHMS)
        except (JoseError, ValueError):
            # Signed with a key that is newer than those we have, it may be.
            newer = await self._provider(is_new_key=True)
            return jwt.decode(text, newer.keys, algorithms=ALGORITHMS)

    async def _complete(
        self, provider: _Kept, tokens: Mapping[str, Any], claims: dict[str, Any]
    ) -> dict[str, Any]:
        """Some providers tell groups and names at their user info alone."""
        named = self.settings.person_claim
        wanted = {named, self.settings.groups_claim}
        if named == "email":
            wanted.add(_VERIFIED)
        place, access = provider.metadata.get("userinfo_endpoint"), tokens.get("access_token")
        if wanted <= claims.keys() or not access or not is_private_address(str(place)):
            return claims
        headers = {"Authorization": f"Bearer {access}"}
        told = await _ask("GET", cast("str", place), headers=headers)
        if told.get("sub") != claims["sub"]:
            raise SignInFailed(Cause.UNPROVEN, "the user info is of another account")
        found = {name: told[name] for name in wanted if name in told} | claims
        # Whichever of the two names another address speaks of that one.
        spoken = [
            one[_VERIFIED]
            for one in (claims, told)
            if _VERIFIED in one and one.get(named) == found.get(named)
        ]
        return found | {_VERIFIED: bool(spoken) and all(said in _YES for said in spoken)}

    def _recognize(self, claims: Mapping[str, Any], former: str | None) -> SignedIn:
        person = claims.get(self.settings.person_claim)
        is_name = isinstance(person, str) and person == person.strip() and is_visible(person)
        if not is_name or not 1 <= len(str(person)) <= LONGEST_PERSON or is_credential(str(person)):
            raise SignInFailed(Cause.NO_PERSON, "the claim that names people is not there, or odd")
        if self.settings.person_claim == "email" and claims.get(_VERIFIED) not in _YES:
            raise SignInFailed(Cause.NO_PERSON, "the provider has not verified the address")
        groups = claims.get(self.settings.groups_claim)
        listed = groups if isinstance(groups, list) else [groups]
        held = {one for one in listed if isinstance(one, str)}
        for group, grant in self.settings.groups.items():
            if group in held:
                subject = json.dumps([self.settings.issuer, claims["sub"]])
                return SignedIn(subject, str(person), read_grant(grant), former)
        raise SignInFailed(Cause.NO_ROLE, "no group of the account is in [sign_in] groups")


def open_sign_in(settings: Settings, vault: Vault, home: Path) -> SignIn | None:
    """The way to the provider that the settings name; None where they name none."""
    if not settings.sign_in.issuer:
        return None
    return SignIn(settings.sign_in, settings.serve.public_url, vault, home)


def read_grant(text: str) -> Grant:
    """Reads one grant of [sign_in] groups: `fraud`, `carrier:blue`, `outlet:blue/b1`."""
    role, _, bounds = text.partition(":")
    carrier, _, outlet = bounds.partition("/")
    return Grant(Role(role), carrier or None, outlet or None)


def _read_secret(settings: SignInSettings, home: Path) -> str:
    if not settings.client_secret_file:
        return settings.client_secret.get_secret_value()
    path = home / settings.client_secret_file
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise RequestError(
            f"{path} cannot be read: mend [sign_in] client_secret_file or the file"
        ) from None


@asynccontextmanager
async def _patience() -> AsyncIterator[None]:
    """Ends what takes longer than anybody waits."""
    try:
        async with asyncio.timeout(WHOLE_TIMEOUT_S):
            yield
    except TimeoutError:
        raise SignInFailed(Cause.UNAVAILABLE, "the provider takes too long") from None


@cache
def _read_authorities() -> SSLContext:
    """Once: it takes milliseconds, and anybody may come back with a code that is none."""
    return httpx.create_ssl_context()


async def _ask(method: str, address: str, **more: Any) -> dict[str, Any]:
    """A JSON object of the provider's; `SignInFailed` where it does not answer so."""
    try:
        async with httpx.AsyncClient(timeout=TIMEOUT_S, verify=_read_authorities()) as client:
            answer = await client.request(method, address, **more)
        body = answer.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        kind = type(error).__name__
        raise SignInFailed(Cause.UNAVAILABLE, f"the provider does not answer ({kind})") from None
    if not isinstance(body, dict):
        raise SignInFailed(Cause.UNAVAILABLE, "the provider answers with no object of JSON")
    if answer.status_code != httpx.codes.OK:
        is_ours = answer.is_client_error and method == "POST"
        reason = Cause.DENIED if is_ours else Cause.UNAVAILABLE
        raise SignInFailed(reason, f"the provider answered with {answer.status_code}")
    return body
