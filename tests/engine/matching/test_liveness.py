"""Evidence of liveness: what is taken, what is refused, and that nothing is taken twice."""

import hashlib
import json
import warnings
from base64 import urlsafe_b64encode
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import ECKey, Key, OctKey, OKPKey
from sqlalchemy import select

from engine.errors import LivenessReplayed, RequestError
from engine.faces.liveness_judge import Judged, JudgeTerms
from engine.matching.checks.liveness import LivenessChecker, LivenessTerms
from engine.matching.checks.order import replay
from engine.matching.checks.signed_results import load_issuer
from engine.matching.holders import erase_holder
from engine.matching.samples import Sample
from engine.registry.enrollments import LivenessCount
from engine.retention.job import DirectRunner, run_retention
from schema.actors import Caller
from schema.decisions import RecordedLiveness
from schema.options import NO_LIMITS, LivenessRules, PeopleRules
from schema.people import Channel
from schema.phases import Retained
from schema.reasons import Decision, LivenessMode, LivenessUse, Reason
from tests.engine.matching.conftest import CHILD, NOW, card
from tests.engine.retention.conftest import only
from tests.tables import tables

LIVE, OTHER = b"the live photograph", b"another photograph"
US = "0198c2a4-7c1e-7b52-9d0c-3f4b6f6f6f10"
KEY = ECKey.generate_key("P-256", parameters={"kid": "one"})
EDWARDS = OKPKey.generate_key("Ed25519", parameters={"kid": "two"})
STRANGE = ECKey.generate_key("P-256", parameters={"kid": "one"})
RULES = LivenessRules(enrollment=LivenessMode.REQUIRED)
REQUIRED = {None: RULES}


def claims(**changes: Any) -> dict[str, Any]:
    at = int(NOW.timestamp())
    given = {
        "iss": "capture",
        "jti": "session-1",
        "iat": at - 30,
        "exp": at + 60,
        "aud": US,
        "live_sha256": hashlib.sha256(LIVE).hexdigest(),
        "decision": "live",
        "level": "iso30107-3:2",
    }
    return {name: value for name, value in (given | changes).items() if value is not None}


def sign(key: Key = KEY, alg: str = "ES256", **changes: Any) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # EdDSA is what many still send
        header = {"alg": alg, "kid": str(key.kid)}
        return jws.serialize_compact(header, json.dumps(claims(**changes)), key, [alg])


def write_keys(folder: Path, *keys: Key, private: bool = False) -> Path:
    path = folder / "capture.json"
    path.write_text(json.dumps({"keys": [key.as_dict(private=private) for key in keys]}))
    return path


def make_checker(folder: Path, terms: LivenessTerms | None = None) -> LivenessChecker:
    issuers = {"capture": load_issuer(write_keys(folder, KEY, EDWARDS))}
    return LivenessChecker(terms or LivenessTerms(REQUIRED), issuers, US)


@pytest.fixture(scope="module")
def checker(tmp_path_factory) -> LivenessChecker:
    return make_checker(tmp_path_factory.mktemp("keys"))


def check(
    checker: LivenessChecker, token: str | None, *photographs: bytes, whose: str = "blue b1"
) -> RecordedLiveness | None:
    given = (LivenessUse.ENROLLMENT, "passport:P1", *whose.split(), NOW)
    return checker.check(token, photographs or (LIVE,), False, *given)


def problem_of(checker: LivenessChecker, token: str | None, *photographs: bytes) -> Reason | None:
    result = check(checker, token, *photographs)
    return result.problem


def unsigned(header: object) -> str:
    parts = (json.dumps(header).encode(), json.dumps(claims()).encode(), b"")
    return ".".join(urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def test_a_level_below_what_carrier_use_and_channel_ask_for_is_weak_and_a_higher_one_is_not(
    tmp_path,
) -> None:
    enrollment, asked = LivenessUse.ENROLLMENT, ("iso30107-3:2", "cen18099:substantial")
    usual = {enrollment: ("iso30107-3:3",), Channel.ONLINE: ("cen18099:high",)}
    rules = {
        None: replace(RULES, at_least=usual),
        "blue": LivenessRules(at_least={enrollment: asked}),
        "green": LivenessRules(at_least={enrollment: (), Channel.ONLINE: ("iso30107-3:1",)}),
    }
    terms = LivenessTerms(rules, channels={"web": Channel.ONLINE, "shop": Channel.OUTLET})
    checker = make_checker(tmp_path, terms)
    for level, iad, whose, is_weak in (
        ("iso30107-3:2", "cen18099:high", "blue b1", False),
        ("iso30107-3:3", "cen18099:substantial", "blue shop", False),
        ("iso30107-3:1", "cen18099:high", "blue b1", True),
        ("iso30107-3:2", None, "blue b1", True),
        ("iso30107-3:9", "cen18099:high", "blue b1", True),
        ("iso30107-3:2", "cen18099:high", "red b1", True),
        # What a channel asks for is asked beside, and a carrier's own stands in its place.
        ("iso30107-3:3", "cen18099:substantial", "blue web", True),
        ("iso30107-3:1", None, "green web", False),
        (None, None, "green web", True),
        (None, None, "green b1", False),
    ):
        told = check(checker, sign(level=level, iad=iad), whose=whose)
        assert told.problem == (Reason.LIVENESS_WEAK if is_weak else None)
    unsure = sign(level="iso30107-3:1", iad="cen18099:high", decision="uncertain")
    assert problem_of(checker, unsure) is Reason.LIVENESS_WEAK


@pytest.mark.parametrize(("key", "alg"), [(KEY, "ES256"), (EDWARDS, "EdDSA"), (EDWARDS, "Ed25519")])
def test_a_result_of_a_known_issuer_is_taken(checker, key: Key, alg: str) -> None:
    result = check(checker, sign(key, alg))
    assert (result.problem, result.issuer, result.jti) == (None, "capture", "session-1")
    assert (result.level, result.issued_at) == ("iso30107-3:2", NOW - timedelta(seconds=30))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"live_sha256": hashlib.sha256(OTHER).hexdigest()}, Reason.LIVENESS_MISBOUND),
        ({"aud": "another deployment"}, Reason.LIVENESS_MISBOUND),
        ({"aud": ["another", US]}, None),
        ({"decision": "spoof"}, Reason.LIVENESS_FAILED),
        ({"decision": "uncertain"}, Reason.LIVENESS_UNCERTAIN),
        ({"exp": NOW.timestamp() - 61}, Reason.LIVENESS_STALE),
        ({"exp": NOW.timestamp() - 59}, None),
        ({"iat": NOW.timestamp() - 361}, Reason.LIVENESS_STALE),
        ({"iat": NOW.timestamp() + 61}, Reason.LIVENESS_STALE),
        ({"iss": "another"}, Reason.LIVENESS_INVALID),
        ({"jti": ""}, Reason.LIVENESS_INVALID),
        ({"jti": None}, Reason.LIVENESS_INVALID),
        ({"exp": None}, Reason.LIVENESS_INVALID),
        ({"decision": "alive"}, Reason.LIVENESS_INVALID),
        ({"live_sha256": "abc"}, Reason.LIVENESS_INVALID),
        ({"iat": 1e300}, Reason.LIVENESS_INVALID),
        ({"exp": 253_402_300_799}, None),
        ({"jti": "nul\0"}, Reason.LIVENESS_INVALID),
        ({"jti": "line\n"}, Reason.LIVENESS_INVALID),
        ({"level": "ü"}, Reason.LIVENESS_INVALID),
        ({"use": "enrollment"}, None),
        ({"use": "verification"}, Reason.LIVENESS_MISBOUND),
        ({"use": "payment"}, Reason.LIVENESS_MISBOUND),
        ({"use": ["enrollment"]}, Reason.LIVENESS_INVALID),
        ({"document_sha256": hashlib.sha256(b"passport:P1").hexdigest().upper()}, None),
        ({"document_sha256": hashlib.sha256(b"passport:P2").hexdigest()}, Reason.LIVENESS_MISBOUND),
        ({"document_sha256": "P1"}, Reason.LIVENESS_INVALID),
        ({"device": {"model": "any"}, "score": 0.99}, None),
    ],
)
def test_what_is_wrong_with_a_result_is_named(
    checker, changes: dict[str, Any], problem: Reason | None
) -> None:
    assert problem_of(checker, sign(**changes)) is problem


def test_what_no_known_key_has_signed_is_nobodys_word(checker) -> None:
    own_secret = OctKey.import_key(json.dumps(KEY.as_dict(private=False)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = {"alg": "HS256", "kid": "one"}
        confused = jws.serialize_compact(header, json.dumps(claims()), own_secret, ["HS256"])
    token = sign()
    for forged in (
        unsigned({"alg": "none"}),
        unsigned({"alg": "none", "kid": "one"}),
        confused,
        sign(STRANGE),
        token[:-6] + "AAAAAA",
        ".".join((token.split(".")[0], sign(jti="x").split(".")[1], token.split(".")[2])),
        token + "." + token,
        "no token",
        "a" * 5000,
        jws.serialize_compact({"alg": "ES256"}, json.dumps(claims()), KEY, ["ES256"]),
    ):
        result = check(checker, forged)
        assert result == RecordedLiveness("required", Reason.LIVENESS_INVALID)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=8), part),
    max_leaves=6,
)
HEADERS = st.fixed_dictionaries(
    {"alg": st.sampled_from(["ES256", "EdDSA", "none"]) | JSON, "kid": st.just("one") | JSON},
    optional={"crit": JSON, "b64": JSON, "jwk": JSON, "typ": JSON},
)


@given(st.text(max_size=200) | st.builds(".".join, st.lists(st.text(max_size=40), min_size=3)))
def test_no_text_is_more_than_an_invalid_result(text) -> None:
    checker = LivenessChecker(LivenessTerms(REQUIRED), {}, US)
    assert problem_of(checker, text) is Reason.LIVENESS_INVALID


@settings(deadline=None)
@given(HEADERS | JSON)
@example({"alg": "ES256", "kid": "one", "crit": 5})
@example(["kid", "alg"])
def test_no_header_is_more_than_an_invalid_result(checker, header: object) -> None:
    assert problem_of(checker, unsigned(header)) is Reason.LIVENESS_INVALID


def test_a_result_names_what_it_was_made_for_where_that_is_asked(tmp_path) -> None:
    both = {"use": "enrollment", "document_sha256": hashlib.sha256(b"passport:P1").hexdigest()}
    for must in ({"use"}, {"document_sha256"}, {"use", "document_sha256"}):
        checker = make_checker(tmp_path, LivenessTerms(REQUIRED, must_name=frozenset(must)))
        assert problem_of(checker, sign(**both)) is None
        assert problem_of(checker, sign()) is Reason.LIVENESS_MISBOUND
        for name in must:
            without = {one: value for one, value in both.items() if one != name}
            assert problem_of(checker, sign(**without)) is Reason.LIVENESS_MISBOUND


def test_every_frame_must_be_one_that_was_judged(checker) -> None:
    both = [hashlib.sha256(one).hexdigest() for one in (LIVE, OTHER)]
    assert problem_of(checker, sign(live_sha256=both), LIVE, OTHER) is None
    assert problem_of(checker, sign(live_sha256=both), LIVE) is None
    assert problem_of(checker, sign(), LIVE, OTHER) is Reason.LIVENESS_MISBOUND


def test_only_public_keys_of_two_kinds_are_an_issuers(tmp_path) -> None:
    nameless = ECKey.generate_key("P-256", auto_kid=False)
    for keys, private, fault in (
        ([KEY], True, "has a private key"),
        ([nameless], False, "has a key without kid"),
        ([ECKey.generate_key("P-384", parameters={"kid": "x"})], False, "of another kind"),
        ([KEY, STRANGE], False, "two keys of one kid"),
        ([], False, "has no keys"),
    ):
        with pytest.raises(RequestError, match=fault):
            load_issuer(write_keys(tmp_path, *keys, private=private))
    for text in ("", "[]", "{", '{"keys": 3}', '{"keys": [{"kty": "EC", "crv": "P-256"}]}'):
        (tmp_path / "capture.json").write_text(text)
        with pytest.raises(RequestError, match="public keys"):
            load_issuer(tmp_path / "capture.json")
    with pytest.raises(RequestError, match="No such file"):
        load_issuer(tmp_path / "missing.json")


def result(jti: str = "a", problem: Reason | None = None) -> RecordedLiveness:
    decision = {Reason.LIVENESS_FAILED: "spoof", Reason.LIVENESS_UNCERTAIN: "uncertain"}
    told = "live" if problem is None else decision.get(problem, "live")
    return RecordedLiveness(
        "required", problem, "capture", jti, told, level="iso30107-3:1", issued_at=NOW
    )


FAILED, UNSURE = Reason.LIVENESS_FAILED, Reason.LIVENESS_UNCERTAIN
PROBLEMS = (None, Reason.LIVENESS_MISBOUND, Reason.LIVENESS_STALE, FAILED, UNSURE)
INVALID = RecordedLiveness("required", Reason.LIVENESS_INVALID)
BRINGS = {None: Decision.APPROVED, UNSURE: Decision.REVIEW}


@pytest.mark.parametrize("shown", [None, INVALID, *(result("a", one) for one in PROBLEMS)])
def test_required_evidence_decides_and_replays(lab, shown: RecordedLiveness | None) -> None:
    reason = Reason.LIVENESS_MISSING if shown is None else shown.problem
    decision = BRINGS.get(reason, Decision.REJECTED)
    [answer] = lab.enroll(lab.request(liveness=shown), liveness=LivenessTerms(REQUIRED))
    assert (answer.decision, answer.reasons) == (decision, (reason,) if reason else ())
    record = lab.store.enrollment(answer.enrollment_id)
    assert replay(record).agrees
    assert record.evidence.liveness.problem == reason
    # Who is not shown to be alive is told of nobody.
    assert (answer.decided.scores.live_portrait is None) == (decision is Decision.REJECTED)
    (row,) = lab.store.rows(select(tables.liveness))
    assert (row.enrollment_id, row.outlet, row.problem) == (record.id, "blue-1", reason)
    assert (row.jti, row.decision) == ((shown.jti, shown.decision) if shown else (None, None))


def test_missing_evidence_may_go_to_people(lab) -> None:
    terms = LivenessTerms(REQUIRED, missing=Decision.REVIEW)
    [answer] = lab.enroll(lab.request(), liveness=terms)
    assert (answer.decision, answer.reasons) == (Decision.REVIEW, (Reason.LIVENESS_MISSING,))


def test_a_result_is_taken_once_in_a_batch_and_after_a_restart(lab) -> None:
    asked = [lab.request(liveness=result(jti)) for jti in ("a", "a", "b")]
    first, twin, other = lab.enroll(*asked, liveness=LivenessTerms(REQUIRED))
    assert (first.decision, other.decision) == (Decision.APPROVED, Decision.APPROVED)
    assert isinstance(twin, LivenessReplayed)
    # Nothing is decided, and yet it is on record that somebody tried.
    (kept,) = lab.store.rows(select(tables.liveness).where(tables.liveness.c.token.is_(None)))
    assert (kept.problem, kept.jti, kept.enrollment_id) == ("LIVENESS_REPLAYED", "a", None)
    actions = [one.entry.action for one in lab.store.audit_entries()]
    assert actions.count("liveness.checked") == 1
    again = lab.request(liveness=result("b"))
    with lab.registrar(liveness=LivenessTerms(REQUIRED)) as registrar:
        assert isinstance(registrar.enroll([again])[0], LivenessReplayed)
        # Of another photograph: that uses nothing up.
        misbound = lab.request(liveness=result("c", Reason.LIVENESS_MISBOUND))
        assert registrar.enroll([misbound])[0].decision is Decision.REJECTED
        [sound] = registrar.enroll([lab.request(liveness=result("c"))])
        assert sound.decision is Decision.APPROVED


def test_observing_changes_no_answer_and_keeps_what_came(lab) -> None:
    terms = LivenessTerms({None: LivenessRules(enrollment=LivenessMode.OBSERVE)})
    shown = [None, result("a", Reason.LIVENESS_FAILED), result("b"), result("b")]
    answers = lab.enroll(*(lab.request(liveness=one) for one in shown), liveness=terms)
    assert [(one.decision, one.reasons) for one in answers] == [(Decision.APPROVED, ())] * 4
    kept = [lab.store.enrollment(one.enrollment_id).evidence.liveness for one in answers]
    assert [one.problem for one in kept] == ["LIVENESS_MISSING", "LIVENESS_FAILED"] + ([None] * 2)
    assert [one.is_repeated for one in kept] == [False, False, False, True]


def test_what_is_asked_differs_by_carrier(lab) -> None:
    terms = LivenessTerms({"blue": RULES})
    assert terms.mode(LivenessUse.ENROLLMENT, "blue") is LivenessMode.REQUIRED
    assert terms.mode(LivenessUse.VERIFICATION, "blue") is LivenessMode.OFF
    assert terms.mode(LivenessUse.ENROLLMENT, "red") is LivenessMode.OFF
    off = LivenessTerms({**REQUIRED, "blue": LivenessRules(enrollment=LivenessMode.OFF)})
    [answer] = lab.enroll(lab.request(liveness=result()), liveness=off)
    assert lab.store.enrollment(answer.enrollment_id).evidence.liveness is None
    assert lab.store.rows(select(tables.liveness)) == []


def test_results_leave_when_their_time_is_over(lab) -> None:
    lab.enroll(lab.request(liveness=result()), liveness=LivenessTerms(REQUIRED))
    with lab.store.writer() as writer:
        schedule = only(liveness_days=730)
        for later, left in ((729, 0), (731, 1)):
            runner = DirectRunner(writer, lambda days=later: NOW + timedelta(days=days))
            assert run_retention(runner, schedule, "test").left[Retained.LIVENESS] == left
    assert lab.store.rows(select(tables.liveness)) == []


def test_the_name_of_a_capture_session_leaves_with_the_holder(lab) -> None:
    with lab.registrar(liveness=LivenessTerms(REQUIRED)) as registrar:
        answer = registrar.enroll([lab.request(liveness=result())])[0]
        record = lab.store.enrollment(answer.enrollment_id)
        assert record.evidence.liveness.jti == "a"
        assert record.document_id is not None
        erase_holder(registrar, lab.store, record.document_id, "test")
        assert lab.store.enrollment(record.id).evidence.liveness.jti is None
        # That it was used stays.
        again = registrar.enroll([lab.request(liveness=result())])[0]
    assert isinstance(again, LivenessReplayed)


def test_an_issuer_signs_for_the_carriers_that_name_it(tmp_path) -> None:
    another = {**REQUIRED, "blue": LivenessRules(issuers=("another",)), "red": LivenessRules()}
    checker = make_checker(tmp_path, LivenessTerms(another))
    assert problem_of(checker, sign()) is Reason.LIVENESS_INVALID
    own = LivenessTerms({**REQUIRED, "blue": LivenessRules(issuers=("capture",))})
    assert problem_of(make_checker(tmp_path, own), sign()) is None


def test_what_is_rejected_for_its_liveness_is_no_failure_of_the_key(lab) -> None:
    caller = Caller("key:a", "blue-1")
    limits = replace(NO_LIMITS, outlet_key_failures=2)
    shown = [None] * 5 + [result()]
    with lab.registrar(liveness=LivenessTerms(REQUIRED), limits=limits) as registrar:
        answers = [registrar.enroll([lab.request(liveness=one, caller=caller)])[0] for one in shown]
    assert [one.decision for one in answers] == [Decision.REJECTED] * 5 + [Decision.APPROVED]


JUDGE = JudgeTerms("d1", live=0.8, spoof=0.2, enforces=True)
NAN = float("nan")


@pytest.mark.parametrize(
    ("judged", "decision", "reason"),
    [
        (Judged("d1", 0.8), "approved", None),
        (Judged("d1", 0.79), "review", Reason.LIVENESS_UNCERTAIN),
        (Judged("d1", 0.2), "review", Reason.LIVENESS_UNCERTAIN),
        (Judged("d1", 0.19), "rejected", Reason.LIVENESS_FAILED),
        (Judged("d1", NAN), "review", Reason.LIVENESS_UNCERTAIN),
        (Judged("d2", 0.9), "review", Reason.LIVENESS_UNCERTAIN),
        (None, "review", Reason.LIVENESS_MISSING),
    ],
)
def test_what_a_judge_of_the_picture_found_decides_and_replays(
    lab, judged: Judged | None, decision: str, reason: Reason | None
) -> None:
    asked = (lab.request() for _ in range(2))
    request, again = (replace(one, live=replace(one.live, judged=judged)) for one in asked)
    [answer] = lab.enroll(request, liveness=LivenessTerms(judge=JUDGE))
    assert answer.decision == decision
    assert answer.reasons == (() if reason is None else (reason,))
    assert lab.replays(answer)
    [row] = lab.store.rows(select(tables.liveness))
    assert (row.judge, row.problem, row.token) == ("d1", reason, None)
    counts = lab.store.liveness_counts(NOW - timedelta(days=1), NOW)
    is_missing = reason is Reason.LIVENESS_MISSING
    told = (int(not is_missing), int(reason is FAILED), int(is_missing))
    assert counts == [LivenessCount("blue", "blue-1", True, *told)]
    assert lab.store.liveness_counts(NOW - timedelta(days=1), NOW, ["blue-2"]) == []
    assert lab.store.liveness_counts(NOW, NOW + timedelta(days=1)) == []
    observed = LivenessTerms(judge=replace(JUDGE, enforces=False))
    assert lab.enroll(again, liveness=observed)[0].decision == "approved"


@pytest.mark.parametrize(
    ("own", "theirs", "decision", "reason"),
    [
        (0.9, 0.9, "approved", None),
        (0.9, 0.1, "rejected", FAILED),
        (0.1, 0.9, "rejected", FAILED),
        (0.5, 0.1, "rejected", FAILED),
        (0.9, 0.5, "review", UNSURE),
        (0.9, NAN, "review", UNSURE),
        (0.9, None, "review", Reason.LIVENESS_MISSING),
        (None, 0.1, "rejected", FAILED),
    ],
)
def test_of_a_minor_and_a_guardian_the_face_that_seems_least_live_counts(
    lab, own: float | None, theirs: float | None, decision: str, reason: Reason | None
) -> None:
    def judged(sample: Sample, score: float | None) -> Sample:
        return replace(sample, judged=None if score is None else Judged("d1", score))

    shown = lab.guardian(lab.people.person(), 2)
    shown = replace(shown, live=judged(shown.live, theirs))
    request = lab.request(document=card(1, CHILD), guardian=shown)
    terms = {"liveness": LivenessTerms(judge=JUDGE), "people": PeopleRules(age_of_majority=17)}
    [answer] = lab.enroll(replace(request, live=judged(request.live, own)), **terms)
    assert answer.decision == decision
    assert answer.reasons == (() if reason is None else (reason,))
    assert lab.replays(answer)
    # One row of an enrollment, or outlets with many minors would lead the ranking.
    [row] = lab.store.rows(select(tables.liveness))
    assert row.problem == reason


def test_of_several_frames_the_one_that_seems_least_live_counts(lab) -> None:
    _, request = lab.newcomer()
    for scores, least in (((0.9, 0.3, 0.8), 0.3), ((0.9, NAN), NAN), ((0.9,), 0.9)):
        frames = tuple(replace(request.live, judged=Judged("d1", one)) for one in scores)
        found = replace(request.live, frames=frames, judged=frames[0].judged).least_judged
        assert found.score == pytest.approx(least, nan_ok=True)
