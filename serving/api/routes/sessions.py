"""Sign-in of people at the console: to the identity provider, back from it, and out again. Both
ways answer with the console itself: which view to show only it remembers, so that no address leads
elsewhere."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from urllib.parse import parse_qsl

from starlette.requests import Request as PageRequest
from starlette.responses import Response

from engine.errors import RegistryError, SosieError
from serving.access.authorization import Principal
from serving.access.sign_in import CALLBACK, Cause, SignInFailed
from serving.api.body import JSON
from serving.api.request import SCOPE_KEY, Answer, Request, admit
from serving.console.routes import HEADERS
from serving.errors import AccessRefusal, Malformed, ServiceRefusal
from serving.ingress.parts import Parts
from serving.registrar.protocol import CallContext
from serving.wire import oversight as wire
from serving.wire.fields import encode_json, of_record

Page = Callable[[PageRequest], Awaitable[Response]]
HOME = "/console"
BEGIN = "/console/sign-in"
STATE = "/console/session"


async def end_session(parts: Parts, request: Request) -> Answer:
    """Signs out: the session that came with the call is over, on every ingress within the setting
    `serve.key_cache_s`.
    """
    caller = request.caller
    if caller.ends_at is None or parts.sign_in is None:
        raise Malformed("a key is not signed out: sosie apikey revoke ends it")
    await request.registrar.end_session(caller.key_id)
    parts.authenticator.forget(caller)
    gone = parts.sign_in.write_cookie(parts.sign_in.session_cookie, "")
    return Answer(wire.EndedSession(caller.key_id), headers={"Set-Cookie": gone})


def key_holder(caller: Principal) -> wire.KeyHolder:
    """What a key or a session stands for."""
    return of_record(wire.KeyHolder, caller)


def sign_in_pages(parts: Parts) -> Iterator[tuple[str, Page]]:
    """Paths and what they do; without a provider only what says so."""

    async def show_state(page: PageRequest) -> Response:
        """How one may sign in here, and who is signed in by the browser's cookie."""
        request: Request = page.scope[SCOPE_KEY]
        holder = None
        if parts.sign_in is not None and not request.has_key:
            with suppress(AccessRefusal):
                await admit(parts, request)
                holder = key_holder(request.caller)
        name = None if parts.sign_in is None else parts.sign_in.name
        state = wire.SignInState(name, holder, parts.deployment.is_of_sandbox)
        return Response(encode_json(state), media_type=JSON)

    yield STATE, show_state
    if parts.sign_in is not None:
        yield BEGIN, partial(_begin, parts)
        yield CALLBACK, partial(_end, parts)


async def _begin(parts: Parts, page: PageRequest) -> Response:
    """To the provider; what is signed in now ends once somebody comes back from there."""
    request: Request = page.scope[SCOPE_KEY]
    sign_in = parts.sign_in
    assert sign_in is not None
    if not request.is_visit:
        return _go(HOME)  # another site's page sent the browser here
    try:
        former = None
        text = request.cookie(sign_in.session_cookie)
        if text is not None:
            with suppress(AccessRefusal):
                former = (await parts.authenticator.admit_session(text)).key_id
        address, flow = await sign_in.begin(former)
    except SignInFailed as failure:
        return _refuse(parts, request, failure)
    return _go(address, sign_in.write_cookie(sign_in.flow_cookie, flow))


async def _end(parts: Parts, page: PageRequest) -> Response:
    """From the provider: a new session, under an id that nobody has seen before."""
    request: Request = page.scope[SCOPE_KEY]
    sign_in = parts.sign_in
    assert sign_in is not None
    query = dict(parse_qsl(request.scope.get("query_string", b"").decode("latin-1")))
    try:
        who = await sign_in.end(query, request.cookie(sign_in.flow_cookie))
        session, made = sign_in.open_session(who)
        actor, left_s = f"session:{session.id}", request.remaining_s
        registrar = parts.registrar.by(CallContext(actor, request.correlator, timeout_s=left_s))
        if not await registrar.open_session(session, who.subject):
            raise SignInFailed(
                Cause.NO_PERSON, "another account has this name, or it mixes scripts"
            )
        if who.former is not None:
            await registrar.end_session(who.former)
    except SignInFailed as failure:
        return _refuse(parts, request, failure)
    except (ServiceRefusal, SosieError) as error:
        fault = "the registry" if isinstance(error, RegistryError) else "the service"
        text = f"{fault} did not keep the session"
        return _refuse(parts, request, SignInFailed(Cause.NOT_READY, text))
    return _go(
        HOME,
        sign_in.write_cookie(sign_in.session_cookie, made.text),
        sign_in.write_cookie(sign_in.flow_cookie, ""),
    )


def _refuse(parts: Parts, request: Request, failure: SignInFailed) -> Response:
    """Back to the console, which says why; the log has no more of it than a line."""
    parts.log.warning(
        "sign_in_failed",
        reason=str(failure.reason),
        detail=str(failure),
        correlator=request.correlator,
    )
    assert parts.sign_in is not None
    gone = parts.sign_in.write_cookie(parts.sign_in.flow_cookie, "")
    return _go(f"{HOME}#/signin/{failure.reason}", gone)


def _go(address: str, *cookies: str) -> Response:
    answer = Response(status_code=303, headers={**HEADERS, "Location": address})
    for one in cookies:
        answer.headers.append("set-cookie", one)
    return answer
