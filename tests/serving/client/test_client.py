"""Both clients against the real application: in process, and over sockets that fail."""

import inspect
import re
import runpy
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from serving.api.body import decode, decode_query
from serving.api.endpoints import ENDPOINTS
from serving.client import ApiError, Client, KnownDocument, MatchItem, Options, SweepTerms
from serving.client.transport import delete, get
from serving.wire.cases import CaseEnding
from serving.wire.enrollments import Enrollment
from serving.wire.fields import Moment
from serving.wire.lines import CampaignRequest, ClosedLine
from serving.wire.people import SubjectRequest
from tests.serving.api.conftest import Service

ROOT = Path(__file__).parents[3]
ASTRONAUT = KnownDocument("cn-ric", "110105199003071239")
ID = "0198c2a4-7c1e-7b52-9d0c-3f4b6f6f6f10"


@pytest.fixture
def url(listen) -> str:
    return listen()


def client_of(service: Service, url: str, key: str, **options: Any) -> Client:
    return Client(url, service.keys[key], **options)


def test_an_activation_is_decided_found_and_read(service, url, make_activation) -> None:
    sent = make_activation()
    with client_of(service, url, "b1") as client:
        decided = client.enroll(sent)
        assert decided.is_approved
        assert decided.idempotency_key == sent.idempotency_key
        assert decided.duplicate_search.ran
        again = client.enroll(sent)
        assert again.is_repeated
        assert replace(again, is_repeated=False) == decided
        found = client.find_enrollment(sent.idempotency_key)
        assert replace(found, is_repeated=False) == decided
        record = client.read_enrollment(decided.enrollment_id)
        assert (record.carrier, record.outlet, record.decision) == ("blue", "b1", "approved")
        assert record.captured_at == sent.captured_at


def test_a_face_may_be_several_frames(service, url, photographs, make_activation) -> None:
    frames = tuple(path.read_bytes() for path in (photographs.live, photographs.later))
    portrait = photographs.portrait.read_bytes()
    with client_of(service, url, "b1") as client:
        checked = client.verify(list(frames), reference=portrait)
        assert checked.is_match
        (matched,) = client.match([MatchItem(frames, portrait)])
        assert matched.verification.score == checked.score
        mixed = (*frames, photographs.stranger.read_bytes())
        decided = client.enroll(make_activation(live=mixed))
        assert [one.reason for one in decided.reasons] == ["LIVE_FRAMES_DIFFER"]
        assert len(decided.frames) == 3


def test_a_holder_is_identified_verified_listed_and_disputes(service, url, photographs) -> None:
    face = photographs.later.read_bytes()
    with client_of(service, url, "fraud") as client:
        holder = client.identify(face).candidates[0]
        assert client.verify(face, document=ASTRONAUT).is_match
        assert client.verify(face, document_id=holder.document_id).is_match
        assert client.verify(face, line=holder.lines[0].line_id).is_match
        listed = client.query_lines(ASTRONAUT, face)
        assert listed.is_holder
        line = listed.lines[0]
        assert "138001" not in line.number
        opened = client.dispute(line.line_id, ASTRONAUT, face)
        assert client.dispute(line.line_id, ASTRONAUT, face) == opened


def test_what_a_key_may_not_do_is_an_api_error(service, url) -> None:
    with client_of(service, url, "b1") as client:
        with pytest.raises(ApiError) as raised:
            client.identify(b"x", options=Options(correlator="c-42"))
        assert (raised.value.status, raised.value.code) == (403, "ACCESS.FORBIDDEN")
        assert raised.value.correlator == "c-42"
        assert raised.value.attempts == 1
        assert client.whose_key().role == "outlet"
    with Client(url, "sosie_no_key") as stranger, pytest.raises(ApiError) as unknown:
        stranger.whose_key()
    assert unknown.value.code == "ACCESS.UNAUTHENTICATED"


ASK = """
import sys
import serving.client
assert serving.client.__file__.startswith(sys.path[0])
with serving.client.Client(sys.argv[1]) as client:
    print(client.ready().phase, client.version().api, {"engine", "indexes"} & set(sys.modules))
"""


def test_the_wheel_of_the_client_alone_asks_a_service_without_a_key(url, tmp_path) -> None:
    package, offline = ROOT / "packaging" / "client", ("--no-build-isolation", "--no-index")
    install = ("-m", "pip", "install", "--no-deps", *offline, "--target", tmp_path, package)
    subprocess.run([sys.executable, *install], capture_output=True, check=True)
    told = subprocess.run(
        [sys.executable, "-P", "-c", ASK, url],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout == "ready v1 set()\n"
    alone, whole = (
        tomllib.loads((folder / "pyproject.toml").read_text())["project"]
        for folder in (package, ROOT)
    )
    assert alone["dependencies"] == whole["optional-dependencies"]["client"]


def test_every_endpoint_has_a_method_that_sends_what_it_reads_and_reads_what_it_answers(
    make_activation,
) -> None:
    samples: dict[str, Any] = {
        "str": ID,
        "number": "+8613800138000",
        "Face": b"x",
        "KnownDocument": ASTRONAUT,
        "Activation": make_activation(),
        "sweeps.SweepRequest": SweepTerms(),
        "Sequence[MatchItem]": [MatchItem(b"x", search=True)],
        "Sequence[bytes]": [b"x"],
        "bytes": b"x",
        "Sequence[str]": [ID],
        "Outcome": "fraud",
        "cases.CaseStep": "close",
        "Sequence[cases.CaseEnding]": [
            CaseEnding("twins", Moment.of(datetime.now(UTC)), case_id=ID)
        ],
        "DeathStep": "confirm",
        "Restriction": "barred",
        "ReportedKind": "sim_swap",
        "ExemptionCause": "business",
        "people.SubjectRequest": SubjectRequest(ASTRONAUT, "asked for"),
        "lines.CampaignRequest": CampaignRequest(name="X", deadline=Moment.of(datetime.now(UTC))),
        "datetime": datetime.now(UTC),
    }
    one_of = {"verify": {"probe": b"x", "line": ID}, "search_people": {"msisdn": "X"}}
    called, answered = set(), list[str]()
    described = {(one.method, re.sub(r"\{\w+\}", "{}", one.path)): one for one in ENDPOINTS}

    def refuse(request: httpx.Request) -> httpx.Response:
        path = request.url.path.replace(f"/{ID}", "/{}")
        called.add((request.method, path))
        asked = described[request.method, path]
        answered[:] = [one.__name__ for one in asked.answers.values()]
        if asked.body is not None:
            decode(request.headers["content-type"], request.content, asked.body)
        if asked.query is not None:
            decode_query(dict(request.url.params), asked.query)
        error = {"status": 404, "code": "REQUEST.NOT_FOUND", "message": "none"}
        return httpx.Response(404, json=error)

    with Client("http://sosie.test", transport=httpx.MockTransport(refuse)) as client:
        for name, method in inspect.getmembers(client, inspect.ismethod):
            if name.startswith("_") or name == "close":
                continue
            parameters = inspect.signature(method).parameters.values()
            needed = [one for one in parameters if one.default is one.empty]
            given = [
                samples.get(one.name, samples[one.annotation])
                for one in needed
                if one.kind is not one.KEYWORD_ONLY
            ]
            named = {one.name: samples[one.annotation] for one in needed[len(given) :]}
            with pytest.raises(ApiError):
                method(*given, **named, **one_of.get(name, {}))
            # A match is unpacked for its caller.
            reads = re.findall(r"\w+\.(\w+)", inspect.signature(method).return_annotation)
            assert name == "match" or set(reads) <= set(answered)
    # Not for callers: a probe of the process, what Prometheus reads, and the description itself.
    hidden = {("GET", "/health/live"), ("GET", "/metrics"), ("GET", "/openapi.json")}
    hidden |= {("DELETE", "/v1/session")}  # sessions are browsers'
    assert called == described.keys() - hidden


def test_the_client_for_threads_is_up_to_date(tmp_path) -> None:
    (tmp_path / "async_client.py").symlink_to(ROOT / "serving/client/async_client.py")
    runpy.run_path(str(ROOT / "hatch_build.py"))["make_client"](tmp_path)
    made = (tmp_path / "client.py").read_text()
    assert (ROOT / "serving/client/client.py").read_text() == made, "run `make client`"


def test_every_activation_has_a_key_of_its_own_before_it_is_sent(make_activation) -> None:
    keys = {make_activation().idempotency_key for _ in range(100)}
    assert len(keys) == 100
    assert make_activation(idempotency_key="mine").idempotency_key == "mine"


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("+8613800138000", "/v1/lines/%2B8613800138000"),
        ("a/../b?c#d", "/v1/lines/a%2F..%2Fb%3Fc%23d"),
    ],
)
def test_an_id_is_one_step_of_the_path_whatever_it_holds(given: str, path: str) -> None:
    assert delete(ClosedLine, "lines", given).path == path


@pytest.mark.parametrize("given", ["", ".", ".."])
def test_an_id_that_would_name_another_route_is_refused(given: str) -> None:
    with Client("http://127.0.0.1:1") as client:
        for ask in (client.close_line, client.erase, client.read_enrollment):
            with pytest.raises(ValueError, match="give the id"):
                ask(given)


def test_a_key_in_a_query_is_quoted() -> None:
    call = get(Enrollment, "enrollments", idempotency_key="a&b=c d", limit=None)
    assert call.path == "/v1/enrollments?idempotency_key=a%26b%3Dc+d"


def test_a_request_that_asks_for_nothing_is_refused_before_it_is_sent() -> None:
    with Client("http://127.0.0.1:1") as client:
        with pytest.raises(ValueError, match="exactly one of reference, line, document"):
            client.verify(b"face")
        with pytest.raises(ValueError, match="give a reference, search, or both"):
            client.match([MatchItem(b"face")])
