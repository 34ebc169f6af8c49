"""What a provider's token must prove, what a browser is told, and when a session ends."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, OctKey
from joserfc.jws import JWSRegistry

from engine.errors import RegistryError, RequestError
from schema.actors import Role, describe_actor, person_of
from serving.access import sign_in as module
from serving.access.authentication import Authenticator
from serving.access.sign_in import Grant, SignedIn, SignIn, SignInFailed
from serving.errors import SessionEnded
from serving.settings.settings import make_settings
from serving.settings.terms import SignInSettings

ISSUER = "https://id.example"
NOW = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
AT = int(NOW.timestamp())
CLAIMS = {
    "iss": ISSUER,
    "aud": "sosie",
    "sub": "u1",
    "exp": AT + 300,
    "iat": AT,
    "nonce": "once",
    "preferred_username": "anna",
    "groups": ["other", "desk"],
}
ANALYST = Grant(Role.FRAUD)
KEY = ECKey.generate_key("P-256", {"kid": "1"})
URL = "https://sosie.example"
SETTINGS = SignInSettings(
    issuer=ISSUER,
    client_id="sosie",
    groups={"shop": "outlet:red/r1", "desk": "fraud", "other": "operator"},
)


@pytest.fixture
def sign_in(vault, tmp_path) -> SignIn:
    """The way to a provider whose key is known."""
    made = SignIn(SETTINGS, URL, vault, tmp_path, clock=lambda: 0.0, now=lambda: NOW)
    metadata = {"issuer": ISSUER, "authorization_endpoint": f"{ISSUER}/authorize"}
    made._kept, made._asked_at = module._Kept(metadata, KeySet([KEY]), 0.0), 0.0
    return made


def sign(claims: dict[str, Any], key: Any = KEY, alg: str = "ES256", **header: str) -> str:
    registry = JWSRegistry(algorithms=[alg])
    given = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode({"alg": alg, "kid": "1", **header}, given, key, registry=registry)


def verify(sign_in: SignIn, text: object, nonce: str = "once") -> dict[str, Any]:
    return asyncio.run(sign_in._verify({"id_token": text}, nonce))


def test_a_sound_token_is_of_its_account(sign_in) -> None:
    for audience in ("sosie", ["sosie"]):
        assert verify(sign_in, sign(CLAIMS | {"aud": audience}))["sub"] == "u1"
    who = sign_in._recognize(CLAIMS, None)
    assert (who.person, who.grant) == ("anna", Grant(Role.FRAUD))


@pytest.mark.parametrize(
    "changed",
    [
        {"iss": "https://evil.example"},
        {"aud": "another"},
        {"aud": ["another"]},
        {"aud": ["sosie", "another"], "azp": "another"},
        {"aud": None},
        {"exp": AT - 61},
        {"exp": None},
        {"iat": None},
        {"sub": None},
        {"nonce": "another"},
        {"nonce": None},
    ],
)
def test_a_token_that_proves_something_else_is_refused(sign_in, changed: dict[str, Any]) -> None:
    with pytest.raises(SignInFailed) as caught:
        verify(sign_in, sign(CLAIMS | changed))
    assert caught.value.reason == "unproven"
    assert "anna" not in str(caught.value)


def test_a_token_that_the_provider_has_not_signed_is_refused(sign_in) -> None:
    other = ECKey.generate_key("P-256", {"kid": "1"})
    shared = OctKey.import_key("x" * 64)
    head, claims, _ = sign(CLAIMS).split(".")
    none = f"eyJhbGciOiJub25lIn0.{claims}."
    for text in (
        sign(CLAIMS, other),
        sign(CLAIMS, shared, "HS256"),
        none,
        f"{head}.{claims}.",
        "no token",
        "",
        None,
    ):
        with pytest.raises(SignInFailed) as caught:
            verify(sign_in, text)
        assert caught.value.reason == "unproven", text


def test_a_new_key_of_the_provider_is_asked_for_and_not_too_often(sign_in, monkeypatch) -> None:
    newer, asked = ECKey.generate_key("P-256", {"kid": "2"}), []
    sign_in._asked_at = -60.0

    async def discover(now: float) -> Any:
        asked.append(now)
        return module._Kept({}, KeySet([KEY, newer]), now)

    monkeypatch.setattr(sign_in, "_discover", discover)
    assert verify(sign_in, sign(CLAIMS, newer, kid="2"))["sub"] == "u1"
    unknown = ECKey.generate_key("P-256", {"kid": "3"})
    for _ in range(3):
        with pytest.raises(SignInFailed):
            verify(sign_in, sign(CLAIMS, unknown, kid="3"))
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"groups": ["another"]}, "norole"),
        ({"groups": None}, "norole"),
        ({"groups": {"desk": 1}}, "norole"),
        ({"groups": [["desk"]]}, "norole"),
        ({"preferred_username": ""}, "noperson"),
        ({"preferred_username": " anna"}, "noperson"),
        ({"preferred_username": "an\u202ena"}, "noperson"),
        ({"preferred_username": "a" * 161}, "noperson"),
        ({"preferred_username": ["anna"]}, "noperson"),
        ({"preferred_username": None}, "noperson"),
        ({"preferred_username": "key:0123456789ab"}, "noperson"),
        ({"preferred_username": "Session\uff1a0123456789ab"}, "noperson"),
        ({"preferred_username": "anna (key:0123456789ab)"}, "noperson"),
        ({"preferred_username": "sosie"}, "noperson"),
        ({"preferred_username": "cli:root"}, "noperson"),
    ],
)
def test_odd_claims_sign_nobody_in(sign_in, changed: dict[str, Any], reason: str) -> None:
    with pytest.raises(SignInFailed) as caught:
        sign_in._recognize(CLAIMS | changed, None)
    assert caught.value.reason == reason


@pytest.mark.anyio
async def test_an_address_names_somebody_where_the_provider_says_of_it_that_it_is_verified(
    sign_in, monkeypatch
) -> None:
    sign_in.settings = SETTINGS.model_copy(update={"person_claim": "email"})
    told = {"sub": "u1", "email": "anna@example.com", "groups": ["desk"]}
    other = {"email": "bo@example.com", "email_verified": True}

    async def come(claims: dict[str, Any], information: dict[str, Any]) -> str:
        async def tell(*_: object, **__: object) -> dict[str, Any]:
            return {"sub": "u1"} | information

        monkeypatch.setattr(module, "_ask", tell)
        provider = module._Kept({"userinfo_endpoint": f"{ISSUER}/user"}, KeySet([KEY]), 0.0)
        found = await sign_in._complete(provider, {"access_token": "a"}, claims)
        return str(sign_in._recognize(found, None).person)

    for said in (True, "true", False, "false", 0):
        verified = told | {"email_verified": said}
        for claims, more in ((verified, {}), (told, verified), ({"sub": "u1"}, verified)):
            if said in (True, "true"):
                assert await come(claims, more) == "anna@example.com"
            else:
                with pytest.raises(SignInFailed, match="not verified"):
                    await come(claims, more)
    for claims, more in ((told, {}), (told, other), ({}, told)):
        with pytest.raises(SignInFailed, match="not verified"):
            await come({"sub": "u1"} | claims, more)


def test_cookies_are_this_hosts_alone_and_unseen_by_scripts(sign_in) -> None:
    session = sign_in.write_cookie(sign_in.session_cookie, "v")
    assert session == "__Host-sosie_session=v; Path=/; HttpOnly; SameSite=Strict; Secure"
    flow = sign_in.write_cookie(sign_in.flow_cookie, "v")
    assert flow == ("__Host-sosie_sign_in=v; Path=/; HttpOnly; SameSite=Lax; Secure; Max-Age=600")


@pytest.mark.anyio
async def test_made_up_codes_wait_for_the_provider_in_bounded_numbers(sign_in, monkeypatch) -> None:
    answers, asked = asyncio.Event(), 0

    async def hang(*_: Any, **__: Any) -> dict[str, Any]:
        nonlocal asked
        asked += 1
        await answers.wait()
        raise SignInFailed(module.Cause.DENIED, "it is no code")

    monkeypatch.setattr(SignIn, "_redeem", hang)
    address, cookie = await sign_in.begin(None)
    [state] = parse_qs(urlsplit(address).query)["state"]
    given = {"state": state, "code": "made up"}
    waiting = [asyncio.ensure_future(sign_in.end(given, cookie)) for _ in range(module.MOST_ENDING)]
    async with asyncio.timeout(60):
        while asked < module.MOST_ENDING:
            await asyncio.sleep(0)
    with pytest.raises(SignInFailed) as caught:
        await sign_in.end(given, cookie)
    assert caught.value.reason == "unavailable"
    answers.set()
    failed = await asyncio.gather(*waiting, return_exceptions=True)
    assert asked == module.MOST_ENDING
    reasons = [one.reason for one in failed if isinstance(one, SignInFailed)]
    assert reasons == ["denied"] * module.MOST_ENDING


def test_a_sign_in_that_took_too_long_is_stale(sign_in) -> None:
    _, cookie = asyncio.run(sign_in.begin(None))
    sign_in._now = lambda: NOW + module.LASTS
    with pytest.raises(SignInFailed) as caught:
        asyncio.run(sign_in.end({"state": "x", "code": "x"}, cookie))
    assert caught.value.reason == "stale"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"issuer": "http://id.example"}, "https"),
        ({"groups": {"x": "admin"}}, "outlet:CARRIER/OUTLET"),
        ({"groups": {}}, "groups"),
        ({"client_id": ""}, "client_id"),
        ({"client_secret": "a", "client_secret_file": "b"}, "not both"),
    ],
)
def test_settings_that_would_be_unsafe_or_useless_are_refused(
    changed: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        SignInSettings(**SETTINGS.model_dump() | changed)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "needs .*public_url"),
        ("http://10.0.0.1:8700", "https"),
        ("https://a@b.example", "https"),
        ("https://sosie.example/console", "no path"),
    ],
)
def test_a_sign_in_without_a_safe_address_of_our_own_is_refused(url: str, said: str) -> None:
    given = {"sign_in": SETTINGS.model_dump(), "serve": {"public_url": url}}
    with pytest.raises(RequestError, match=said):
        make_settings(given)


@pytest.fixture
def opened(store, sign_in, time) -> Callable[..., tuple[Any, str]]:
    """`opened(person, grant)`: an authenticator, and the text of a new session."""

    def make(person: str = "anna", grant: Grant = ANALYST) -> tuple[Any, str]:
        session, made = sign_in.open_session(SignedIn(f"sub of {person}", person, grant, None))
        assert store.accounts.sign_in(session, f"sub of {person}", "c-1")
        idle = timedelta(minutes=30)
        auth = Authenticator(store, cache_s=0, accounts=store.accounts, idle=idle, now=time.now)
        return auth, made.text

    return make


def test_a_session_ends_when_it_is_idle_and_after_its_longest_time_however_busy(
    store, opened, time
) -> None:
    auth, text = opened()

    def ask() -> Any:
        return asyncio.run(auth.admit_session(text))

    caller = ask()
    assert (caller.role, caller.person, caller.name) == (Role.FRAUD, "anna", "anna")
    assert caller.actor == f"anna (session:{caller.key_id})"
    assert not auth.is_to_be_touched(caller)
    while time.now() < NOW + timedelta(hours=9, minutes=30):
        time.passed_s += 29 * 60
        ask()
        assert auth.is_to_be_touched(caller)
        assert not auth.is_to_be_touched(caller)
        store.accounts.touch(caller.key_id, time.now())
    time.passed_s = 1000.0 + 10 * 3600
    with pytest.raises(SessionEnded):
        ask()
    auth, text = opened("bo")
    store.accounts.touch(text.split("_")[1], NOW)
    time.passed_s = 1000.0 + 30 * 60
    with pytest.raises(SessionEnded):
        ask()


def test_a_session_that_was_opened_while_the_clock_was_ahead_is_over(opened, sign_in) -> None:
    sign_in._now = lambda: NOW + timedelta(hours=2)
    auth, text = opened()
    with pytest.raises(SessionEnded):
        asyncio.run(auth.admit_session(text))


def test_closing_an_outlet_ends_the_sessions_of_its_people(store, opened) -> None:
    auth, text = opened("cleo", Grant(Role.OUTLET, "red", "r1"))
    assert asyncio.run(auth.admit_session(text)).outlet == "r1"
    store.close_outlet("r1", actor="test")
    with pytest.raises(SessionEnded):
        asyncio.run(auth.admit_session(text))


def test_a_group_of_a_carrier_that_is_not_here_signs_nobody_in(store, opened) -> None:
    with pytest.raises(RegistryError, match="is not here"):
        opened("cleo", Grant(Role.CARRIER, "green"))
    assert store.accounts.everyone(NOW) == []


def test_what_groups_are_given_but_is_not_here_is_found(store, sign_in) -> None:
    assert sign_in.find_unknown(store) == []
    groups = {"a": "carrier:green", "b": "outlet:blue/r1", "c": "outlet:red/r1", "d": "fraud"}
    sign_in.settings = SETTINGS.model_copy(update={"groups": groups})
    assert sign_in.find_unknown(store) == ["carrier:green", "outlet:blue/r1"]


def test_an_account_that_is_forgotten_leaves_its_name_to_another(store, opened, sign_in) -> None:
    auth, text = opened("anna")
    session, _ = sign_in.open_session(SignedIn("another", "Anna", Grant(Role.FRAUD), None))
    assert not store.accounts.sign_in(session, "another", "c-2")
    assert store.accounts.sign_out_person("anna", actor="test", forgets=True) == 1
    with pytest.raises(SessionEnded):
        asyncio.run(auth.admit_session(text))
    assert store.accounts.sign_in(session, "another", "c-2")
    [account] = store.accounts.everyone(NOW)
    assert (account.person, account.sessions) == ("Anna", 1)


@pytest.mark.parametrize("person", ["anna", "Li Wei (HR)", "a" * 160, "x (key:000000000000)"])
def test_a_person_is_read_back_from_what_the_audit_chain_says(person: str) -> None:
    actor = describe_actor(person, "session:0123456789ab")
    assert (person_of(actor), len(actor) <= 200) == (person, True)
    assert person_of("key:0123456789ab") == "key:0123456789ab"
