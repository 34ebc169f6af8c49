"""Wrapper of HAProxy that Serve starts: amends the generated configuration, for which Serve has no
setting, then runs HAProxy by `exec`, as Serve knows its proxy by process id. Started with `-I -S`:
the standard library only."""

import argparse
import csv
import json
import math
import os
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from string import Template

CHECK_TIMEOUT_S = 20.0
"""On a busy machine it takes seconds, and without it the proxy would run unamended."""
CORRELATOR = r"^[a-zA-Z0-9-_:;.\/<>{}]{0,256}$"
_SECTION = r"(?=^(?:global|defaults|frontend|backend|listen)\b|\Z)"
STOPPING = "proc.sosie_stops"
"""A variable of the running proxy; while it is 1, new requests are refused."""

OWN = "http-sosie"
"""The backend of our application: Serve names it after the application."""

UNWATCHED = "x-request-disconnect-disabled"
SESSION_COOKIES = ("sosie_session", "__Host-sosie_session")
"""As `serving.access.sign_in` names them: here neither is known to be the one that counts."""
ARRIVED = "x-arrived-ms"
"""A header for ingresses: when the request came here. Clients cannot set it."""
ADMITTED, UNREAD, SAMPLED = "x-key-admitted", "x-body-unread", "x-sampled-ms"
"""Headers of an ingress's answer (`serving.api.request`): a number for the carrier of its key, if
that is in force; the body of the request is not read; how long its photographs waited and took.
Clients do not see them."""

_PATH = "var(txn.path)"  # as the ingress reads it: decoded once
HEALTH = f"{{ {_PATH} -m beg /health/ /version /metrics }}"
VERSIONED = f"{{ {_PATH} -m beg /v1/ /camara/ }}"
MATCHES = f"{{ {_PATH} -m str /v1/match }}"
LONG = "{ req.hdr_val(content-length) gt 16384 } || { req.hdr(transfer-encoding) -m found }"
"""A match with such a body, or with one whose length is not told, is a batch or has photographs."""
ENROLLMENTS = f"{{ {_PATH} -m str /v1/enrollments }} {{ method POST }}"
OTHER_PHOTOGRAPHS = (
    f"{{ {_PATH} -m beg /v1/verifications /v1/templates /v1/identifications /v1/people/search "
    "/v1/lines/ } { method POST }"
)
"""Calls besides matches and enrollments that may bring photographs."""

_KEY = r"^sosie_(live_|sandbox_)?[0-9a-z]{12}_[0-9A-Za-z]{43}$"
_ADDRESS = "ipmask(32,64)"
"""One customer of an IPv6 network has a /64 at least."""

ONGOING_OF_ADDRESS = 64
"""Concurrent requests of one address that bring no key known to be in force."""
UNKNOWN_ONGOING, PAGE_ONGOING, HEALTH_ONGOING = 8, 2 * ONGOING_OF_ADDRESS, 24
"""Of questions whose a key is, of pages and of health checks an ingress is sent so many at once;
the others wait in the proxy. The last is below what an ingress allows itself."""
ASKED_MS = 5000
"""So long an ingress has to say whose a key is."""

COUNTED = ("own", "match", "enroll")
TABLES = {
    "places": "string len 8",
    **dict.fromkeys(("connections", "clients"), "ipv6"),
    "keys": "binary len 32",
    **dict.fromkeys(COUNTED, "binary len 32"),
    **{f"{name}-carrier": "integer" for name in COUNTED},
}
"""Tables of what is open by address, and of the requests that are counted: in all, by key's digest,
by carrier; of the `keys` that an ingress has admitted, with the numbers of their carriers."""
KEPT_MIN = 10
"""How long a key stays known after its last answer, and an address after its last request."""
STANDING_SHARE, LATE_MS, SAMPLED_MS = 0.25, 200, "proc.sosie_sampled_ms"
"""So much of a bound, one at least, holds after a refusal by it, until a second has passed without
one: a burst waits for its turn, and a queue that stands would make all answers late (as CoDel has
it, RFC 8289). Enrollments may be coming still, which costs no core: of these only while the last
photographs took so long."""


class TemplateChanged(Exception):
    """The generated configuration lacks a line that should be amended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyConfig:
    """Values of the amendments. Above so many concurrent matches, enrollments or other requests for
    each ingress of its node the proxy itself answers 429, in microseconds, as a busy ingress
    cannot. 0: no bound."""

    ongoing: int
    match_ongoing: int
    enroll_ongoing: int
    batch_ongoing: int = 2
    batch_wait_ms: int = 2000
    """So many batches of matches each ingress is sent at once: single ones pass those that wait,
    and no batch waits for longer."""
    enrolling: int = 0
    """So many ingresses of a node are sent enrollments, the others while none of these answers; 0:
    all are."""
    key_share: float = 1.0
    """The share of each bound that one key may take; those of a carrier leave half of the rest."""
    connections_per_address: int = 0
    """0: no bound."""
    trusted: tuple[str, ...] = ()
    """Networks of load balancers, whose last X-Forwarded-For is the client's address."""
    header_timeout_s: int = 10
    client_timeout_s: int = 15
    server_timeout_s: int = 65
    hard_stop_s: int = 35
    """When a worker that a reload replaced ends, whatever it still does."""
    address: str | None = None
    """Where it listens instead of the address that Serve's replicas share with it."""


CONFIG_FILE = "proxy.json"
"""The `ProxyConfig` of a node, in its folder: it holds from the next reload on."""

LOCAL = frozenset({"127.0.0.1", "localhost", "::1", "[::1]"})
"""How Serve writes the addresses of ingresses on the proxy's own node."""


def write_config(folder: Path, config: ProxyConfig) -> bool:
    """Writes the node's `ProxyConfig`; False where it stands there already."""
    path, text = folder / CONFIG_FILE, json.dumps(asdict(config))
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return False
    # Ingresses of one node start at the same time.
    made = path.with_name(f"{CONFIG_FILE}.{os.getpid()}")
    made.write_text(text, encoding="utf-8")
    made.replace(path)
    return True


def read_config(folder: Path) -> ProxyConfig:
    """The node's `ProxyConfig`; `OSError`, `ValueError` or `TypeError` where there is none."""
    written = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    # An ingress of a later version may write what this one does not know yet.
    known = {field.name for field in fields(ProxyConfig)}
    return ProxyConfig(**{name: value for name, value in written.items() if name in known})


WRAPPER = Path(__file__).with_suffix(".sh")
"""The executable that Serve runs as HAProxy."""


def wrapper_variables(folder: Path, config: ProxyConfig, binary: Path, log: Path) -> dict[str, str]:
    """The variables that `WRAPPER` reads; writes the node's `ProxyConfig` into `folder`. Faults go
    to `log`."""
    write_config(folder, config)
    return {
        "SOSIE_PROXY_PYTHON": sys.executable,
        "SOSIE_PROXY_FOLDER": str(folder),
        "SOSIE_PROXY_BINARY": str(binary),
        "SOSIE_PROXY_LOG": str(log),
    }


def amend(text: str, config: ProxyConfig, folder: Path) -> str:
    """The configuration amended for the service, with error files in `folder` (`write_answers`);
    `TemplateChanged` where it is not as expected."""
    for pattern, new, least in _edits(config, folder):
        text = _replace(pattern, new, text, least=least)
    return _refuse_when_full(text, config, folder) + "".join(map(_make_table, TABLES))


def _replace(pattern: str, new: str, text: str, *, least: int = 1) -> str:
    # A function, so that backslashes in `new` are kept.
    text, count = re.subn(pattern, lambda found: found.expand(new), text, flags=re.M | re.S)
    if count < least:
        raise TemplateChanged(pattern)
    return text


def _edits(config: ProxyConfig, folder: Path) -> Iterator[tuple[str, str, int]]:
    """Patterns, what replaces each, and how often it has to be there at least."""
    # Ports for metrics and statistics listen on every interface, and are not used.
    yield rf"^frontend prometheus\n.*?{_SECTION}", "", 1
    yield rf"^listen stats\n.*?{_SECTION}", "", 1
    # The access log shows paths, and a path may contain a number.
    yield r"^ +log \S+ local0 info\n", "", 1
    # Without ingresses, Serve's own proxy, the fallback, would queue without bound.
    yield r"^ +server \S+ \S+ check backup\n", "", 0
    yield r"^ *timeout server \S+\n", "", 0
    more = f"    timeout http-request {config.header_timeout_s}s\n"
    more += f"    timeout server {config.server_timeout_s}s\n"
    yield r"^(defaults\n)", rf"\1{more}", 1
    yield r"^( *timeout client) \S+$", rf"\1 {config.client_timeout_s}s", 1
    yield r"^( *hard-stop-after) \S+$", rf"\1 {config.hard_stop_s}s", 1
    # Serve's own pages for its operators tell what runs here; an ingress has its health check.
    yield r"^ +http-request return [^\n]* if (?:healthcheck|routes)\b[^\n]*\n", "", 2
    more = f"    tune.stick-counters 6\n    lua-load {folder / ACTIONS}\n"
    yield r"^(global\n)", rf"\1{more}", 1
    if config.address is not None:
        host = f"[{config.address}]" if ":" in config.address else config.address
        yield r"^(frontend http_frontend\n +bind )\S+:(\d+)$", rf"\g<1>{host}:\2", 1
    yield r"^(frontend http_frontend\n +bind [^\n]+\n)", rf"\1{_bound_connections(config)}", 1
    # HAProxy's own answers have our format, so that clients know they may retry.
    for status in (502, 503, 504):
        yield rf"^ +errorfile {status} \S+$", f"    errorfile {status} {folder / INTERRUPTED}", 1
    more = rf"    errorfile 408 {folder / TIMED_OUT}\n    errorfile 400 {folder / MALFORMED}\n"
    yield r"^( +errorfile 502)", rf"{more}\1", 1
    # Without an application it is 503: Serve's 404 would mislead clients.
    unknown = r"^(backend default_backend\n) +http-request return status 404 [^\n]*$"
    yield unknown, rf"\1    {_not_ready()}", 1


def _refuse_when_full(text: str, config: ProxyConfig, folder: Path) -> str:
    choices = list(re.finditer(r"^ +use_backend (\S+) if is_\1$", text, flags=re.M))
    names = [choice[1] for choice in choices]
    if OWN not in names:
        # While our application is not deployed, nothing can be full.
        _replace(r"^ +default_backend default_backend$", "", text)
        return text
    place = names.index(OWN)
    # A cluster may serve other applications too: the first that matches gets the request.
    mine = " ".join([f"is_{OWN}", *(f"!is_{other}" for other in names[:place])])
    # The ingresses that this proxy's bounds are for: its own node's, so that all nodes' bounds add
    # up, or all on a node without one. Serve rewrites the configuration whenever an ingress comes
    # or goes.
    server = r"^ +server \S+ (\S+):\d+ (?![^\n]*\bbackup\b)"
    hosts = re.findall(server, _find_own(text)[1], flags=re.M)
    ingresses = sum(host in LOCAL for host in hosts) or max(1, len(hosts))
    rules = "".join(f"    {rule}\n" for rule in _list_rules(mine, config, ingresses))
    before = text.index(choices[place][0])
    text = text[:before] + rules + text[before:]
    for lane in LANES:
        text = _split_backend(text, lane, config)
    # Here the proxy itself asks an ingress whose a key is.
    bind = f"bind unix@{folder / QUESTIONS} mode 600"
    return f"{text}frontend sosie-questions\n    {bind}\n    default_backend {OWN}-unknown\n"


def _find_own(text: str) -> re.Match[str]:
    """The backend of the ingresses."""
    section = re.search(rf"^backend {re.escape(OWN)}\n(.*?){_SECTION}", text, flags=re.M | re.S)
    if section is None:
        raise TemplateChanged(f"backend {OWN}")
    return section


def _name(table: str) -> str:
    return f"sosie-{table}"


@dataclass(frozen=True, slots=True)
class ProxyLane:
    """Requests with a backend, and so a count, of their own. Those above a bound wait in the proxy,
    the carrier's first that has the fewest; they count to the bounds `of` another lane where one is
    named."""

    name: str
    which: str
    waiting_above: int = 0
    of: str = ""


LANES = (
    # The last that fits a request has it.
    ProxyLane("match", MATCHES),
    ProxyLane("batch", f"{MATCHES} {{ var(txn.is_long) -m bool }}", of="match"),
    ProxyLane("enroll", ENROLLMENTS),
    ProxyLane("unknown", "!{ var(txn.carrier) -m found }", UNKNOWN_ONGOING),
    ProxyLane("page", f"!{VERSIONED}", PAGE_ONGOING),
    ProxyLane("health", HEALTH, HEALTH_ONGOING),
)


def _make_table(name: str) -> str:
    kept = f"expire {KEPT_MIN}m store gpt0,conn_cur,gpc0,gpc0_rate(1s)"
    return f"backend {_name(name)}\n    stick-table type {TABLES[name]} size 100k {kept}\n"


def _bound_connections(config: ProxyConfig) -> str:
    """Rules for connections, before any request."""
    if not config.connections_per_address:
        return ""
    unless = f" unless {{ src {' '.join(config.trusted)} }}" if config.trusted else ""
    track = f"track-sc0 src,{_ADDRESS} table {_name('connections')}{unless}"
    reject = f"reject if {{ sc0_conn_cur gt {config.connections_per_address} }}"
    return "".join(f"    tcp-request connection {rule}\n" for rule in (track, reject))


def _list_rules(mine: str, config: ProxyConfig, ingresses: int) -> Iterator[str]:
    """Rules for requests to our application."""
    yield (
        f"http-request set-var(txn.correlator) req.hdr(x-correlator) "
        f"if {{ req.hdr(x-correlator) -m reg '{CORRELATOR}' }}"
    )
    yield (
        "http-after-response set-header x-correlator %[var(txn.correlator)] "
        "if !{ res.hdr(x-correlator) -m found } { var(txn.correlator) -m found }"
    )
    yield f"http-request set-var(txn.sosie) bool(1) if {mine}"
    ours = "{ var(txn.sosie) -m bool }"
    yield f"http-request set-header {ARRIVED} %[date(0,ms)] if {ours}"
    for header in ("server", ADMITTED, UNREAD, SAMPLED):
        yield f"http-after-response del-header {header} if {ours}"
    yield "http-request set-var(txn.path) path,url_dec"
    missing = _answer(404, "REQUEST.ROUTE_UNKNOWN", "no such route: see /openapi.json")
    yield f"{missing} if {ours} {{ {_PATH} -m beg /-/ }}"
    yield f"{_not_ready()} if {ours} {{ var({STOPPING}) -m int 1 }}"
    yield from _authenticate(ours, config.trusted)
    yield from _find_carrier(ours)
    yield from _bound_lanes(ours, config, ingresses)
    # Serve would watch each client's connection in two tasks of its own: the application does so
    # itself, where a request takes long enough (`Request.guard`).
    yield f"http-request set-header {UNWATCHED} ?1 if {ours}"
    admitted = f"{ours} {{ res.hdr({ADMITTED}) -m found }}"
    yield f"http-response track-sc3 var(txn.key) table {_name('keys')} if {admitted}"
    yield f"http-response sc-set-gpt0(3) res.hdr({ADMITTED}) if {admitted}"
    sampled = f"{ours} {{ res.hdr({SAMPLED}) -m found }}"
    yield f"http-response set-var({SAMPLED_MS}) res.hdr({SAMPLED}) if {sampled}"
    # Otherwise it would wait for the rest of the body, and the request would count as running.
    unread = f"{ours} {{ res.hdr({UNREAD}) -m found }} {{ res.hdr_val(content-length) lt 8192 }}"
    yield f"http-response wait-for-body time 1s if {unread}"
    yield f"http-response lua.{CLOSE} if {unread}"
    yield from (
        f"use_backend {OWN}-{lane.name} if {ours} {{ var(txn.lane) -m str {lane.name} }}"
        for lane in LANES
    )


def _authenticate(ours: str, trusted: tuple[str, ...]) -> Iterator[str]:
    """Rules that name the client's address and its key, and refuse what can have none in force."""
    yield f"http-request set-var(txn.client) src,{_ADDRESS}"
    if trusted:
        yield (
            f"http-request set-var(txn.client) req.hdr_ip(x-forwarded-for,-1),{_ADDRESS} "
            f"if {{ src {' '.join(trusted)} }} {{ req.hdr_ip(x-forwarded-for,-1) -m found }}"
        )
    yield "http-request set-var(txn.given) req.fhdr(x-api-key,1)"
    authorized = "{ req.hdr(authorization) -m found }"
    yield f"http-request unset-var(txn.given) if {authorized}"
    yield f"http-request set-var(txn.given) http_auth_bearer if {authorized}"
    sound = f"{{ var(txn.given) -m reg '{_KEY}' }}"
    yield f"http-request set-var(txn.key) var(txn.given),sha2(256) if {sound}"
    # A session's cookie has the form of a key; whether it is one, and may be, the ingress says.
    alone = f"!{authorized} !{{ req.hdr(x-api-key) -m found }}"
    for cookie in SESSION_COOKIES:
        is_there = f"{{ req.cook({cookie}) -m found }}"
        yield f"http-request set-var(txn.given) req.cook({cookie}) if {alone} {is_there}"
    yield f"http-request set-var(txn.key) var(txn.given),sha2(256) if {alone} {sound}"
    yield "http-request unset-var(txn.given)"
    refused = _answer(
        401,
        "ACCESS.UNAUTHENTICATED",
        "no key, or not one in force: send it as Authorization: Bearer sosie_…",
        **{"WWW-Authenticate": "'Bearer realm=\"sosie\"'"},
    )
    yield f"{refused} if {ours} {VERSIONED} !{{ var(txn.key) -m found }}"
    # All other paths are only read.
    message = "no path outside /v1 and /camara takes a body: see /openapi.json"
    bodiless = _answer(400, "REQUEST.MALFORMED", message)
    has_body = "{ req.hdr_val(content-length) gt 0 } || { req.hdr(transfer-encoding) -m found }"
    yield f"http-request set-var(txn.has_body) bool(1) if {has_body}"
    yield f"{bodiless} if {ours} !{VERSIONED} {{ var(txn.has_body) -m bool }}"


def _find_carrier(ours: str) -> Iterator[str]:
    """Rules that say whose a key is. Of one that was not in force lately an ingress is asked before
    the body of the request, so that no body of an unknown key takes a place, however slow it is."""
    known = f"{{ var(txn.key),in_table({_name('keys')}) }}"
    yield f"http-request set-var(txn.is_new) bool(1) if {ours} {VERSIONED} !{known}"
    is_new = "{ var(txn.is_new) -m bool }"
    is_page = f"{ours} !{VERSIONED} !{HEALTH}"
    for which in (is_new, is_page):
        yield f"http-request track-sc1 var(txn.client) table {_name('clients')} if {which}"
    address = "too many requests at once from this address without a known key"
    yield f"{_busy(address)} if {{ sc1_conn_cur gt {ONGOING_OF_ADDRESS} }}"
    carrier = f"var(txn.key),table_gpt0({_name('keys')})"
    yield f"http-request set-var(txn.carrier) {carrier} if {ours} {VERSIONED} {known}"
    yield f"http-request lua.{ASK} if {is_new}"
    yield f"http-request track-sc3 var(txn.key) table {_name('keys')} if {is_new}"
    yield f"http-request sc-set-gpt0(3) var(txn.carrier) if {is_new}"


def _bound_lanes(ours: str, config: ProxyConfig, ingresses: int) -> Iterator[str]:
    """Rules that say which lane has a request, and refuse those above a bound."""
    yield f"http-request set-var(txn.is_long) bool(1) if {LONG}"
    yield f"http-request set-var(txn.lane) str(own) if {ours}"
    for lane in LANES:
        yield f"http-request set-var(txn.lane) str({lane.name}) if {ours} {lane.which}"
    # A key is counted where it brings photographs, so that other calls do not get around the bound.
    yield "http-request set-var(txn.place) var(txn.lane)"
    for lane in (one for one in LANES if one.of):
        in_lane = f"{{ var(txn.lane) -m str {lane.name} }}"
        yield f"http-request set-var(txn.place) str({lane.of}) if {in_lane}"
    in_own = "{ var(txn.lane) -m str own }"
    yield f"http-request set-var(txn.place) str(enroll) if {in_own} {OTHER_PHOTOGRAPHS}"
    key = _busy("too many requests at once with this key: nothing was stored")
    carrier = _busy("too many requests at once with the keys of this carrier: nothing was stored")
    status, code, message = FULL
    full = _answer(status, code, message, **{"Retry-After": "1"})
    bounds = {"own": config.ongoing, "match": config.match_ongoing, "enroll": config.enroll_ongoing}
    for name, each in bounds.items():
        bound = each * ingresses
        if not bound:
            continue
        if config.key_share < 1:
            place = f"{{ var(txn.place) -m str {name} }}"
            of_key = max(1, math.ceil(bound * config.key_share))
            yield f"http-request track-sc2 var(txn.key) table {_name(name)} if {place}"
            yield from _refuse(key, name, place, of_key, 2, own=2)
            table, of_carrier = _name(f"{name}-carrier"), math.ceil((bound + of_key) / 2)
            yield f"http-request track-sc4 var(txn.carrier) table {table} if {place}"
            yield from _refuse(carrier, name, place, of_carrier, 4, own=2)
        for lane_name in (name, *(lane.name for lane in LANES if lane.of == name)):
            in_lane = f"{{ var(txn.lane) -m str {lane_name} }}"
            yield f"http-request track-sc5 str({lane_name}) table {_name('places')} if {in_lane}"
            yield from _refuse(full, name, in_lane, bound, 5, own=4 if config.key_share < 1 else 5)
    yield "http-request set-priority-class sc_conn_cur(4)"
    yield "http-after-response set-status 429 if { var(txn.waited) -m bool }"


def _refuse(rule: str, of: str, where: str, most: int, slot: int, *, own: int) -> Iterator[str]:
    """Rules that refuse what is above `most` of those that the tracked `slot` counts, or above a
    share of it while the slot counts refusals and, but for matches, photographs wait. Then who has
    at most half the share in its `own` slot goes on: others that are slow would keep them out.
    Refusals are forgotten when a request finds no other in its slot: nothing waits then."""
    count, lately = f"sc_conn_cur({slot})", f"{{ sc_get_gpc0({slot}) gt 0 }}"
    late = "" if of == "match" else f" {{ var({SAMPLED_MS}) -m int gt {LATE_MS} }}"
    over, share = f"{where} {{ {count} gt {most} }}", max(1, int(most * STANDING_SHARE))
    stands = f"{where} {{ {count} gt {share} }} {lately} {{ sc_gpc0_rate({slot}) gt 0 }}{late}"
    stands += f" {{ sc_conn_cur({own}) gt {share // 2} }}"
    yield f"http-request set-var(txn.forgotten) sc_clr_gpc0({slot}) if {where} {{ {count} eq 1 }}"
    yield f"http-request sc-inc-gpc0({slot}) if {over} || {stands}"
    yield f"{rule} if {over} || {stands}"


def _split_backend(text: str, lane: ProxyLane, config: ProxyConfig) -> str:
    """Adds a second backend of the same servers, so that these requests are counted separately."""
    section = _find_own(text)
    waiting_above = config.batch_ongoing if lane.name == "batch" else lane.waiting_above
    most = f" maxconn {waiting_above}" if waiting_above else ""
    enrolling = config.enrolling if lane.name == "enroll" else 0
    seen: Counter[str] = Counter()

    def track(found: re.Match[str]) -> str:
        seen[found["host"]] += 1
        # A node's metrics are told by its own ingresses, its health as long as it has one.
        is_apart = lane.name == "health" and found["host"] not in LOCAL
        spare = " backup" if is_apart or 0 < enrolling < seen[found["host"]] else ""
        # One health check a server is enough.
        return f"{found['server']} track {OWN}/{found['name']}{most}{spare}"

    server = r"^(?P<server> +server (?P<name>\S+) (?P<host>\S+):\d+) [^\n]*$"
    body = re.sub(server, track, section[1], flags=re.M)
    body = re.sub(r"^ +(?:option httpchk|http-check)[^\n]*\n", "", body, flags=re.M)
    body = re.sub(r"^( +default-server.*) check$", r"\1", body, flags=re.M)
    all_spare = "    option allbackups\n" if enrolling or lane.name == "health" else ""
    if lane.name == "batch":
        told = f"content-type application/json lf-string %[lua.{TELL}] hdr Retry-After 1"
        body += f"    timeout queue {config.batch_wait_ms}ms\n    http-error status 503 {told}\n"
    more = f"backend {OWN}-{lane.name}\n{all_spare}{body}"
    return text[: section.end()] + more + text[section.end() :]


def _describe(status: int, code: str, message: str) -> str:
    return json.dumps({"status": status, "code": code, "message": message})


def _answer(status: int, code: str, message: str, **headers: str) -> str:
    body = _describe(status, code, message)
    more = "".join(f" hdr {name} {value}" for name, value in headers.items())
    return (
        f"http-request return status {status} content-type application/json string '{body}'{more}"
    )


def _not_ready() -> str:
    message = "the service starts or stops: ask again"
    return _answer(503, "SERVICE.NOT_READY", message, **{"Retry-After": "2"})


def _busy(message: str) -> str:
    return _answer(429, "ACCESS.RATE_LIMITED", message, **{"Retry-After": "1"})


FULL = (429, "SERVICE.BUSY", "too many requests at once: nothing was stored")
INTERRUPTED, TIMED_OUT, MALFORMED = "interrupted.http", "timed-out.http", "malformed.http"
_FILES = {
    INTERRUPTED: (
        "503 Service Unavailable",
        "SERVICE.INTERRUPTED",
        "a part of the service was lost meanwhile: ask again with the same Idempotency-Key",
        "Retry-After: 1\r\n",
    ),
    TIMED_OUT: (
        "408 Request Timeout",
        "REQUEST.BODY_TIMEOUT",
        "the request did not come in time",
        "Connection: close\r\n",
    ),
    MALFORMED: (
        "400 Bad Request",
        "REQUEST.MALFORMED",
        "the request is not HTTP",
        "Connection: close\r\n",
    ),
}


QUESTIONS, ACTIONS = "ask.sock", "actions.lua"
CLOSE, ASK, TELL = "answer_and_close", "find_carrier", "tell_unanswered"
_ACTIONS = Template("""
local function copy(headers, names)
    local found = {}
    for name, values in pairs(headers or {}) do
        if names == nil or names[name] then
            found[name] = {}
            for _, value in pairs(values) do found[name][#found[name] + 1] = value end
        end
    end
    return found
end

core.register_action("$close", {"http-res"}, function(txn)
    local headers = copy(txn.http:res_get_headers())
    txn:done(txn:reply{status = txn.f:status(), headers = headers, body = txn.f:res_body()})
end)

local of_body = {"content-length", "transfer-encoding", "content-type", "connection", "expect"}
local shown = {["content-type"] = true, ["retry-after"] = true, ["www-authenticate"] = true}

core.register_action("$ask", {"http-req"}, function(txn)
    local headers = copy(txn.http:req_get_headers())
    for _, name in ipairs(of_body) do headers[name] = nil end
    local asked = {url = "http://127.0.0.1/v1/me", headers = headers, timeout = $asked_ms}
    asked.dst = "unix@$questions"
    local answer = core.httpclient():get(asked) or {}
    local told = copy(answer.headers)["$admitted"]
    if told then
        txn:set_var("txn.carrier", tonumber(told[1]))
    elseif (answer.status or 0) >= 400 then
        local headers = copy(answer.headers, shown)
        txn:done(txn:reply{status = answer.status, headers = headers, body = answer.body})
    else
        local headers = {["content-type"] = {"application/json"}, ["retry-after"] = {"1"}}
        txn:done(txn:reply{status = 503, headers = headers, body = [[$lost]]})
    end
end)

core.register_fetches("$tell", function(txn)
    if txn.sf:srv_name() ~= "" or txn.f:nbsrv() == 0 then return [[$lost]] end
    txn:set_var("txn.waited", true)
    return [[$full]]
end)
""")
"""What the configuration cannot say: the same answer as HAProxy's own, which ends the request
whatever is left of its body; whose a key is, or else what its request is answered; and why a
request of a lane with a bounded wait has no answer of a server: a lost one, or its turn came too
late."""


def write_answers(folder: Path) -> None:
    """Writes the files of HAProxy's own answers into `folder`."""
    actions = _ACTIONS.substitute(
        close=CLOSE,
        ask=ASK,
        asked_ms=ASKED_MS,
        admitted=ADMITTED,
        questions=folder / QUESTIONS,
        lost=_describe(503, *_FILES[INTERRUPTED][1:3]),
        tell=TELL,
        full=_describe(*FULL),
    )
    (folder / ACTIONS).write_text(actions, encoding="utf-8")
    for name, (status, code, message, headers) in _FILES.items():
        body = _describe(int(status[:3]), code, message)
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{headers}"
        (folder / name).write_bytes(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())


def prepare(path: Path, config: ProxyConfig, binary: Path) -> str | None:
    """Amends the configuration in place; on failure it stays unchanged, and the reason is
    returned."""
    original = path.read_text(encoding="utf-8")
    try:
        write_answers(path.parent)
        amended = amend(original, config, path.parent)
        trial = path.with_name(path.name + ".amended")
        trial.write_text(amended, encoding="utf-8")
        check = subprocess.run(  # noqa: S603 - the same binary that is to run
            [binary, "-c", "-f", trial],
            capture_output=True,
            text=True,
            timeout=CHECK_TIMEOUT_S,
            check=False,
        )
        if check.returncode:
            return f"HAProxy refuses the amended configuration: {check.stderr[:500]}"
        trial.replace(path)
    except TemplateChanged as change:
        return f"Serve's template has changed at {change}"
    except (OSError, subprocess.SubprocessError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def warn(log: Path, reason: str) -> None:
    """Logs one JSON line: the service runs, but with Serve's own proxy settings."""
    line = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "level": "warning",
        "event": "proxy_unamended",
        "reason": " ".join(reason.split()),
    }
    text = json.dumps(line) + "\n"
    sys.stderr.write(text)
    try:
        with log.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError:
        return


def main(arguments: Sequence[str]) -> None:
    """Amends the configuration named by `-f`, then runs HAProxy with the given arguments."""
    folder, binary, log, *given = arguments
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-f", dest="path", type=Path)
    known, _ = parser.parse_known_args(given)
    if known.path is not None:
        try:
            reason = prepare(known.path, read_config(Path(folder)), Path(binary))
        except (OSError, ValueError, TypeError) as error:
            reason = f"{CONFIG_FILE}: {type(error).__name__}"
        if reason is not None:
            warn(Path(log), reason)
    os.execv(binary, [binary, *given])  # noqa: S606 - the binary that the node's own code named


PLACE, SOCKET = "p", "admin.sock"
"""The admin socket, below a node's folder; Serve puts a folder of its own between the two."""

FRONTEND, BACKEND = "FRONTEND", "BACKEND"
OURS = "http-"
"""Prefix of the names of backends of our ingresses."""

# Frontends and backends without servers: this fits one buffer, so all is of one moment.
_STATISTICS = "show stat -1 3 -1"

Row = dict[str, str]


def list_sockets(folder: Path) -> list[Path]:
    """Admin sockets below `folder`; some may belong to ended proxies."""
    return sorted(folder.rglob(SOCKET))


def command(path: Path, text: str, timeout_s: float) -> str:
    """HAProxy's whole answer to one command within the time; else `OSError`."""
    deadline = time.monotonic() + timeout_s
    answer = b""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout_s)
        connection.connect(str(path))
        connection.sendall(text.encode() + b"\n")
        while piece := connection.recv(65536):
            answer += piece
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            connection.settimeout(left_s)
    return answer.decode(errors="replace")


def read_statistics(path: Path, timeout_s: float) -> list[Row]:
    """A row for each frontend and backend, with the columns of `show stat`; else `OSError`."""
    text = command(path, _STATISTICS, timeout_s)
    return list(csv.DictReader(text.removeprefix("# ").splitlines()))


def is_ours(row: Row) -> bool:
    """True for a backend of our ingresses."""
    return row["svname"] == BACKEND and row["pxname"].startswith(OURS)


if __name__ == "__main__":
    main(sys.argv[1:])
