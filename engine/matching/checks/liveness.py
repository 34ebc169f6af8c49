"""Evidence of liveness: a capture system's signed result, bound to the bytes of a photograph.

A compact JWS (RFC 7515, ES256 or Ed25519) whose claims name the photograph by its SHA-256 and this
deployment as the audience, and may name what it was made for. Sosie detects no presentation attack
itself: it checks who says that none was found, of which photograph, when, and that it is said once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from joserfc.jwk import KeySet
from msgspec import structs

from engine.errors import LivenessRefused, LivenessReplayed, RequestError, SosieError
from engine.faces.liveness_judge import Judged, Judgement, JudgeTerms
from engine.matching.checks.signed_results import Sha256, Short, SignedClaims, digest, read_signed
from engine.matching.judge import AttemptBatch, DecidedAttempt, DecisionCheck
from engine.matching.policy import Evidence, EvidencePart
from engine.matching.requests import Attempt, EnrollmentRequest
from engine.registry.audit import AuditEntry
from engine.registry.database import new_id
from engine.registry.enrollments import LivenessRecord
from engine.registry.rows import Write
from engine.registry.store import Reader
from engine.registry.vault import Vault
from engine.registry.writer import ChangeRunner, Writer
from schema import frozen
from schema.actors import Caller
from schema.decisions import Finding, RecordedLiveness
from schema.options import LivenessRules
from schema.people import Channel
from schema.reasons import Decision, LivenessMode, LivenessUse, Photograph, Reason, is_level_reached


@frozen
class LivenessTerms:
    """What a deployment asks for, by its `rules` for all carriers (None), and for one where they
    differ.

    A result is taken for `max_age`; where one is required and `missing`, an enrollment is rejected
    or goes to review. `judge`: of what looks at the picture itself.
    """

    rules: Mapping[str | None, LivenessRules] = field(default_factory=dict)
    missing: Decision = Reason.LIVENESS_MISSING.row.brings
    max_age: timedelta = timedelta(seconds=300)
    must_name: frozenset[str] = frozenset()
    """Of `use` and `document_sha256`: claims that no result goes without."""
    judge: JudgeTerms | None = None
    channels: Mapping[str, Channel] = field(default_factory=dict)
    """By which people come to an outlet."""

    def mode(self, use: LivenessUse, carrier: str | None) -> LivenessMode:
        """The mode of a carrier's requests; None is one that asks about all."""
        given = [getattr(one, use.value) for one in self._rules_of(carrier)]
        return next((one for one in given if one is not None), LivenessMode.OFF)

    def may_sign(self, issuer: str, carrier: str | None) -> bool:
        """True where the issuer may sign for a carrier's subscribers."""
        allowed = self.rules[carrier].issuers if carrier in self.rules else ()
        return not allowed or issuer in allowed

    def is_weak(
        self, claims: _Claims, use: LivenessUse, carrier: str | None, outlet: str | None
    ) -> bool:
        """True where a level that use or channel asks for is not reached by what a result tells."""
        given, told = self._rules_of(carrier), (claims.level, claims.iad)
        channel = self.channels.get(outlet or "")
        for asking in (use,) if channel is None else (use, channel):
            asked = next((one.at_least[asking] for one in given if asking in one.at_least), ())
            if not all(any(is_level_reached(one, wanted) for one in told) for wanted in asked):
                return True
        return False

    def _rules_of(self, carrier: str | None) -> list[LivenessRules]:
        return [self.rules[one] for one in (carrier, None) if one in self.rules]

    def weigh(
        self, result: RecordedLiveness | None, use: LivenessUse, carrier: str | None
    ) -> Decision | None:
        """The decision that a result brings; None where all is well, or none is required."""
        problem = Reason.LIVENESS_MISSING if result is None else result.problem
        if problem is None or self.mode(use, carrier) is not LivenessMode.REQUIRED:
            return None
        if problem is Reason.LIVENESS_MISSING:
            return self.missing
        return problem.row.brings

    def judge_faces(self, judged: Sequence[Judged | None]) -> Judgement | None:
        """Judges the face that seems least live; None without a judge or face."""
        return None if self.judge is None or not judged else self.judge.weigh_all(judged)


NOT_ASKED = LivenessTerms()
LIVENESS_CHECKED = "liveness.checked"
"""In the audit chain: what came with a verification, or came again."""
REPLAYED = "LIVENESS_REPLAYED"
"""Stands beside reasons in what is kept of results: one that had come before."""


class _Claims(SignedClaims, frozen=True, kw_only=True):
    live_sha256: Sha256 | list[Sha256]
    decision: Literal["live", "spoof", "uncertain"]
    method: Short | None = None
    level: Short | None = None
    iad: Short | None = None
    use: Short | None = None
    document_sha256: Sha256 | None = None


class LivenessChecker:
    """Checks results of the issuers that the operator has named; thread-safe."""

    def __init__(self, terms: LivenessTerms, issuers: Mapping[str, KeySet], audience: str) -> None:
        """`audience` is what results must have been made for: this deployment."""
        self.terms = terms
        self.audience = audience
        self._issuers = dict(issuers)

    def check(
        self,
        token: str | None,
        photographs: Sequence[bytes],
        is_pointed: bool,
        use: LivenessUse,
        subject: str,
        carrier: str | None,
        outlet: str | None,
        now: datetime,
    ) -> RecordedLiveness | None:
        """The result that came with a live photograph, or its frames, perhaps with a point of the
        face; None where the carrier's are not looked at. `subject` is as `name_document` says it.

        Whatever is wrong with it is its `problem`: a result is no reason to refuse the call.
        """
        mode = self.terms.mode(use, carrier)
        if mode is LivenessMode.OFF:
            return None
        if token is None:
            return RecordedLiveness(mode, Reason.LIVENESS_MISSING)
        claims = read_signed(token, self._issuers, _Claims)
        if claims is None or not self.terms.may_sign(claims.iss, carrier):
            return RecordedLiveness(mode, Reason.LIVENESS_INVALID)
        # It does not say which face of a picture lives: a point could choose a printed one there.
        problem = self._find_problem(claims, () if is_pointed else photographs, use, subject, now)
        # A detector that is not good enough brings no review by being unsure, either.
        is_settled = problem not in (None, Reason.LIVENESS_UNCERTAIN)
        if not is_settled and self.terms.is_weak(claims, use, carrier, outlet):
            problem = Reason.LIVENESS_WEAK
        return RecordedLiveness(
            mode,
            problem,
            issuer=claims.iss,
            issued_at=datetime.fromtimestamp(claims.iat, UTC),
            **{
                name: getattr(claims, name)
                for name in ("jti", "decision", "method", "level", "iad")
            },
        )

    def _find_problem(
        self,
        claims: _Claims,
        photographs: Sequence[bytes],
        use: LivenessUse,
        subject: str,
        now: datetime,
    ) -> Reason | None:
        listed = claims.live_sha256
        named = {one.lower() for one in ([listed] if isinstance(listed, str) else listed)}
        shown = set(map(digest, photographs))
        # Every frame, or a picture could be slipped in beside the one that was judged.
        if not claims.is_for(self.audience) or not shown or not shown <= named:
            return Reason.LIVENESS_MISBOUND
        made_for = {
            "use": (claims.use, use.value),
            "document_sha256": (claims.document_sha256, digest(subject.encode(errors="replace"))),
        }
        for name, (told, asked) in made_for.items():
            # A face that was shown for one purpose is taken for no other.
            is_wrong = name in self.terms.must_name if told is None else told.lower() != asked
            if is_wrong:
                return Reason.LIVENESS_MISBOUND
        if claims.decision == "spoof":
            return Reason.LIVENESS_FAILED
        if claims.is_stale(now, self.terms.max_age):
            return Reason.LIVENESS_STALE
        return Reason.LIVENESS_UNCERTAIN if claims.decision == "uncertain" else None


def name_token(vault: Vault, result: RecordedLiveness) -> bytes | None:
    """The keyed name under which a result is known to have come; None where it may come again."""
    if not result.is_spent:
        return None
    return vault.look_up("liveness", f"{result.issuer}\0{result.jti}")


@frozen
class Weighed:
    """A result beside the carrier's mode; `problem` and `brings` are None where it has no say."""

    mode: LivenessMode
    result: RecordedLiveness
    token: bytes | None = None
    is_repeated: bool = False
    brings: Decision | None = None

    @property
    def problem(self) -> Reason | None:
        """The fault of the evidence, where that is asked."""
        return self.result.problem if self.mode is LivenessMode.REQUIRED else None

    @property
    def refusal(self) -> LivenessReplayed | None:
        """Why nothing is decided by it: one is required, and this was used before."""
        if not self.is_repeated or self.mode is not LivenessMode.REQUIRED:
            return None
        return LivenessReplayed("this evidence of liveness was used before: capture the face again")

    def describe(self) -> RecordedLiveness:
        """Describes it for the evidence."""
        changed = {"mode": self.mode, "jti": None, "is_repeated": self.is_repeated}
        return structs.replace(self.result, **changed)


def record_liveness(
    one: Weighed | Judgement,
    use: LivenessUse,
    at: datetime,
    carrier: str | None,
    outlet: str | None,
    enrollment_id: str | None = None,
) -> LivenessRecord:
    """The row that keeps a result, or what a judge found."""
    if isinstance(one, Judgement):
        told: dict[str, Any] = {"decision": one.found, "judge": one.terms.digest}
        problem = one.problem and one.problem.value
    else:
        names = ("issuer", "jti", "decision", "level", "issued_at")
        told = {name: getattr(one.result, name) for name in names}
        told["token"] = None if one.is_repeated else one.token
        problem = REPLAYED if one.is_repeated else one.result.problem and one.result.problem.value
    return LivenessRecord(
        id=new_id(),
        use=use.value,
        received_at=at,
        problem=problem,
        carrier=carrier,
        outlet=outlet,
        enrollment_id=enrollment_id,
        **told,
    )


class LivenessBatch:
    """Weighs the results of a batch, in order: each is taken once, here and ever before."""

    def __init__(
        self, terms: LivenessTerms, registry: Reader, results: Sequence[RecordedLiveness | None]
    ) -> None:
        self._terms = terms
        self._vault = registry.vault
        names = [name for one in results if one and (name := name_token(self._vault, one))]
        self._used = registry.used_liveness(names) if names else set()

    def weigh(
        self, result: RecordedLiveness | None, use: LivenessUse, carrier: str | None
    ) -> Weighed | None:
        """The reason that a result brings by itself; None where no evidence is looked at."""
        mode = self._terms.mode(use, carrier)
        if mode is LivenessMode.OFF:
            return None
        shown = result or RecordedLiveness(mode, Reason.LIVENESS_MISSING)
        brings = self._terms.weigh(shown, use, carrier)
        return Weighed(mode, shown, name_token(self._vault, shown), brings=brings)

    def spend(self, weighed: Weighed | None) -> Weighed | None:
        """The same, used from now on, or `is_repeated` where it was before."""
        if weighed is None or weighed.token is None:
            return weighed
        if weighed.token in self._used:
            return replace(weighed, is_repeated=True)
        self._used.add(weighed.token)
        return weighed


@frozen(kw_only=True)
class LivenessOfVerification:
    """A verification's evidence of liveness, on whose behalf, and its result."""

    runner: ChangeRunner
    registry: Reader
    terms: LivenessTerms
    result: RecordedLiveness | None
    judged: Judged | None
    caller: Caller

    def require(self) -> None:
        """Before anybody is looked up: `LivenessRefused` where evidence is required and something
        is wrong with it, or where the judge of the picture enforces and finds something, and
        `LivenessReplayed`; that is kept. Else nothing is used yet.
        """
        if _find_refusal(*self._weigh()) is not None:
            self.use()

    def use(self) -> None:
        """Keeps what came, used from now on; raises as `require` where that has changed."""
        if self._weigh() == (None, None):
            return
        if (error := self.runner.run(self._keep)) is not None:
            raise error

    def _weigh(self) -> tuple[Weighed | None, Judgement | None]:
        batch = LivenessBatch(self.terms, self.registry, [self.result])
        weighed = batch.spend(
            batch.weigh(self.result, LivenessUse.VERIFICATION, self.caller.carrier)
        )
        judge = self.terms.judge
        return weighed, None if judge is None else judge.weigh(self.judged)

    def _keep(self, writer: Writer, now: datetime) -> RequestError | None:
        weighed, judgement = self._weigh()
        given = (LivenessUse.VERIFICATION, now, self.caller.carrier, self.caller.outlet)
        writes: list[Write] = []
        for one in (weighed, judgement):
            if one is not None:
                row = record_liveness(one, *given)
                by = "judge" if one is judgement else row.issuer or "none"
                entry = AuditEntry(
                    self.caller.actor, LIVENESS_CHECKED, by, {"problem": row.problem}
                )
                writes += [entry, row]
        writer.commit(writes)
        return _find_refusal(weighed, judgement)


def _find_refusal(weighed: Weighed | None, judgement: Judgement | None) -> RequestError | None:
    if weighed is not None and weighed.refusal is not None:
        return weighed.refusal
    found = None if weighed is None else weighed.problem
    if found is None and judgement is not None and judgement.terms.enforces:
        found = judgement.problem
    if found is None:
        return None
    text = f"the evidence of liveness does not hold ({found.value}): capture the face again"
    return LivenessRefused(text)


@frozen(kw_only=True)
class LivenessPart(EvidencePart):
    """Problems of the evidence of liveness, where it is required, and those that a judge of the
    picture itself found, where it is to decide."""

    liveness_problem: Reason | None = None
    liveness_brings: Decision | None = None
    judge_problem: Reason | None = None
    judge_brings: Decision | None = None

    def find(self, _evidence: Evidence, _version: str) -> list[Finding]:
        told = (
            (self.liveness_problem, self.liveness_brings),
            (self.judge_problem, self.judge_brings),
        )
        found = [
            Finding(problem, brings, Photograph.LIVE)
            for problem, brings in told
            if problem is not None and brings is not None
        ]
        # Rejections first, as they are told with those of the photographs.
        return sorted(dict.fromkeys(found), key=lambda one: one.decision is not Decision.REJECTED)


def find_brought(request: EnrollmentRequest, terms: LivenessTerms) -> Decision | None:
    """What the result that came with a request brings by itself."""
    if request.shows_nobody:
        return None
    return terms.weigh(request.liveness, LivenessUse.ENROLLMENT, request.carrier)


class LivenessCheck(DecisionCheck):
    """Weighs what came of liveness with the attempts of a batch."""

    part = LivenessPart
    unasked = NOT_ASKED

    def __init__(self, batch: AttemptBatch, terms: LivenessTerms) -> None:
        super().__init__(batch, terms)
        results = [one.request.liveness for one in batch.attempts]
        self._results = LivenessBatch(terms, batch.registry, results)
        self._weighed: dict[int, tuple[Weighed | None, Judgement | None]] = {}

    @classmethod
    def spares(cls, terms: LivenessTerms, request: EnrollmentRequest) -> bool:
        judged = terms.judge_faces(request.faces_judged)
        found = (find_brought(request, terms), None if judged is None else judged.brings)
        return Decision.REJECTED in found

    def weigh(self, place: int, attempt: Attempt, _evidence: Evidence) -> Sequence[EvidencePart]:
        request = attempt.request
        asked = (request.liveness, LivenessUse.ENROLLMENT, request.carrier)
        weighed = None if request.shows_nobody else self._results.weigh(*asked)
        judged = self._terms.judge_faces(request.faces_judged)
        self._weighed[place] = weighed, judged
        part = LivenessPart()
        if weighed is not None:
            part = LivenessPart(liveness_problem=weighed.problem, liveness_brings=weighed.brings)
        if judged is not None and judged.brings is not None:
            part = replace(part, judge_problem=judged.problem, judge_brings=judged.brings)
        return [part]

    def refuse(self, made: DecidedAttempt) -> SosieError | None:
        """Each result is used by one decision: where one is required and came again, that is kept,
        and nothing is decided by it."""
        weighed, judged = self._weighed[made.place]
        spent = self._results.spend(weighed)
        self._weighed[made.place] = spent, judged
        if spent is None or spent.refusal is None:
            return None
        by, actor = spent.result.issuer or "none", made.attempt.request.actor
        self._batch.writes.append(AuditEntry(actor, LIVENESS_CHECKED, by, {"problem": REPLAYED}))
        self._keep(spent, made.attempt, None)
        return spent.refusal

    def describe(self, made: DecidedAttempt) -> None:
        weighed, judged = self._weighed[made.place]
        made.recorded.liveness = None if weighed is None else weighed.describe()
        said = None if judged is None else judged.describe()
        if said is not None and not made.may_keep:
            # It is measured on the face.
            said = structs.replace(said, score=None)
        made.recorded.liveness_judge = said

    def write(self, made: DecidedAttempt) -> None:
        for one in self._weighed[made.place]:
            if one is not None:
                self._keep(one, made.attempt, made.decided.enrollment_id)

    def _keep(self, one: Weighed | Judgement, attempt: Attempt, enrollment_id: str | None) -> None:
        outlet, at = attempt.outlet, self._batch.now
        given = (LivenessUse.ENROLLMENT, at, outlet.carrier, outlet.code, enrollment_id)
        self._batch.writes.append(record_liveness(one, *given))
