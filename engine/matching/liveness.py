"""Evidence of liveness: a capture system's signed result, bound to the bytes of a photograph.

A compact JWS (RFC 7515, ES256 or Ed25519) whose claims name the photograph by its SHA-256 and this
deployment as the audience. Sosie detects no presentation attack itself: it checks who says that
none was found, of which photograph, when, and that it is said once.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from joserfc.jws import JWSRegistry, deserialize_compact
from msgspec import Meta

from engine.errors import LivenessRefused, LivenessReplayed, RequestError
from engine.matching.limits import ChangeRunner
from engine.reasons import Decision, LivenessMode, LivenessUse, Reason
from engine.registry.reader import Reader
from engine.registry.records import AuditEntry, Changes, LivenessRecord, new_id
from engine.registry.vault import Vault
from engine.registry.writer import Writer

if TYPE_CHECKING:
    from engine.faces.liveness_judge import Judged

MAX_TOKEN_LENGTH = 4096
CLOCK_SKEW = timedelta(seconds=60)
"""How far the clocks of a capture system and of this machine may lie apart."""


@dataclass(frozen=True, slots=True)
class JudgeTerms:
    """What is made of the scores of a judge that looks at the picture itself, of the model
    `digest`: live from `live` on, not live below `spoof`. Its findings decide where it `enforces`.
    """

    digest: str
    live: float
    spoof: float
    enforces: bool = False

    def weigh(self, judged: Judged | None) -> Judgement:
        """A face that was not judged, or by another model, is not passed over in silence."""
        if judged is None:
            return Judgement(self, None, "none", Reason.LIVENESS_MISSING, Decision.REVIEW)
        score = judged.score
        if judged.digest != self.digest or math.isnan(score):
            return Judgement(self, None, "none", Reason.LIVENESS_UNCERTAIN, Decision.REVIEW)
        if score >= self.live:
            return Judgement(self, score, "live", None, None)
        if score < self.spoof:
            return Judgement(self, score, "spoof", Reason.LIVENESS_FAILED, Decision.REJECTED)
        return Judgement(self, score, "uncertain", Reason.LIVENESS_UNCERTAIN, Decision.REVIEW)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge found of the picture itself; `found` is live, spoof, uncertain or none."""

    terms: JudgeTerms
    score: float | None
    found: str
    problem: Reason | None
    gravity: Decision | None

    @property
    def brings(self) -> Decision | None:
        """What it brings to an enrollment, where it has a say."""
        return self.gravity if self.terms.enforces else None

    @property
    def band(self) -> str:
        """Which tenth its score is in, for metrics."""
        return "none" if self.score is None else f"{min(int(self.score * 10), 9) / 10:.1f}"

    def describe(self) -> dict[str, Any]:
        """What evidence keeps of it."""
        return {
            "mode": "enforce" if self.terms.enforces else "observe",
            "model_digest": self.terms.digest,
            "found": self.found,
            "score": None if self.score is None else round(self.score, 4),
            "live": self.terms.live,
            "spoof": self.terms.spoof,
        }

    def record(
        self,
        use: LivenessUse,
        at: datetime,
        carrier: str | None,
        outlet: str | None,
        enrollment_id: str | None = None,
    ) -> LivenessRecord:
        """The row that keeps it."""
        return LivenessRecord(
            id=new_id(),
            use=use.value,
            received_at=at,
            problem=None if self.problem is None else self.problem.value,
            decision=self.found,
            carrier=carrier,
            outlet=outlet,
            enrollment_id=enrollment_id,
            judge=self.terms.digest,
        )


@dataclass(frozen=True, slots=True)
class LivenessTerms:
    """What a deployment asks for: `modes` of all carriers, and those of one where they differ.

    A result is taken for `max_age`; where one is required and `missing`, an enrollment is rejected
    or goes to review. `judge`: of what looks at the picture itself.
    """

    modes: Mapping[LivenessUse, LivenessMode] = field(default_factory=dict)
    carriers: Mapping[str, Mapping[LivenessUse, LivenessMode]] = field(default_factory=dict)
    missing: Decision = Decision.REJECTED
    max_age: timedelta = timedelta(seconds=300)
    judge: JudgeTerms | None = None

    def mode(self, use: LivenessUse, carrier: str | None) -> LivenessMode:
        """Of a carrier's requests; None is one that asks about all."""
        own = self.carriers.get(carrier, {}) if carrier is not None else {}
        return own.get(use, self.modes.get(use, LivenessMode.OFF))

    def weigh(self, problem: Reason | None) -> Decision | None:
        """What a problem brings to an enrollment where evidence is required."""
        if problem is Reason.LIVENESS_MISSING:
            return self.missing
        return None if problem is None else _GRAVITY[problem]


NOT_ASKED = LivenessTerms()
_SPENT = (None, Reason.LIVENESS_FAILED, Reason.LIVENESS_UNCERTAIN)
_GRAVITY = {
    Reason.LIVENESS_INVALID: Decision.REJECTED,
    Reason.LIVENESS_MISBOUND: Decision.REJECTED,
    Reason.LIVENESS_FAILED: Decision.REJECTED,
    Reason.LIVENESS_STALE: Decision.REJECTED,
    Reason.LIVENESS_UNCERTAIN: Decision.REVIEW,
}


@dataclass(frozen=True, slots=True)
class LivenessResult:
    """A result as it was checked when it came; `problem` is None where it says that all is well.

    Who has not signed it is no issuer: then all else is None. `jti` is its own name, `level` what
    the issuer's detector was tested to (as `iso30107-3:2`), `iad` the same of injected pictures.
    """

    problem: Reason | None = None
    issuer: str | None = None
    jti: str | None = None
    decision: str | None = None
    method: str | None = None
    level: str | None = None
    iad: str | None = None
    issued_at: datetime | None = None

    @property
    def is_spent(self) -> bool:
        """Whether its name must not come again: not of one that speaks of another photograph, or
        whoever has seen it could use it up."""
        return self.jti is not None and self.problem in _SPENT


NO_RESULT = LivenessResult(Reason.LIVENESS_MISSING)

_Short = Annotated[str, Meta(max_length=64)]
_Name = Annotated[str, Meta(min_length=1, max_length=200)]
_Sha256 = Annotated[str, Meta(pattern="^[0-9a-fA-F]{64}$")]
_Seconds = Annotated[float, Meta(ge=0, le=253_402_300_799)]


class _Claims(msgspec.Struct, frozen=True, kw_only=True):
    """Others are ignored, as RFC 7519 has it."""

    iss: _Name
    jti: _Name
    iat: _Seconds
    exp: _Seconds
    aud: _Name | list[_Name]
    live_sha256: _Sha256 | list[_Sha256]
    decision: Literal["live", "spoof", "uncertain"]
    method: _Short | None = None
    level: _Short | None = None
    iad: _Short | None = None


_REGISTRY = JWSRegistry(algorithms=["ES256", "Ed25519", "EdDSA"])
# EdDSA is the older name of Ed25519 (RFC 9864), and what most send.
_REGISTRY.algorithms = {
    **{name: JWSRegistry.algorithms[name] for name in ("ES256", "Ed25519")},
    "EdDSA": JWSRegistry.algorithms["Ed25519"],
}


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
        use: LivenessUse,
        carrier: str | None,
        now: datetime,
    ) -> LivenessResult | None:
        """The result that came with a live photograph, or its frames; None where the carrier's
        are not looked at.

        Whatever is wrong with it is its `problem`: a result is no reason to refuse the call.
        """
        if self.terms.mode(use, carrier) is LivenessMode.OFF:
            return None
        if token is None:
            return NO_RESULT
        claims = self._read(token)
        if claims is None:
            return LivenessResult(Reason.LIVENESS_INVALID)
        return LivenessResult(
            self._find_problem(claims, photographs, now),
            issuer=claims.iss,
            jti=claims.jti,
            decision=claims.decision,
            method=claims.method,
            level=claims.level,
            iad=claims.iad,
            issued_at=datetime.fromtimestamp(claims.iat, UTC),
        )

    def _read(self, token: str) -> _Claims | None:
        """The claims of a result that one of the issuers has signed, with its own key."""
        if len(token) > MAX_TOKEN_LENGTH or not token.isascii():
            return None
        try:
            # Whose keys to try is all that is taken from it unchecked.
            parts = token.split(".")
            issuer = json.loads(_decode(parts[1])).get("iss") if len(parts) == 3 else None
            keys = self._issuers.get(issuer) if isinstance(issuer, str) else None
            if keys is None:
                return None
            signed = deserialize_compact(token, keys, registry=_REGISTRY)
            claims = msgspec.json.decode(signed.payload, type=_Claims)
            # A text that names two issuers could be signed by one in the other's name.
            return claims if claims.iss == issuer else None
        except (JoseError, msgspec.MsgspecError, ValueError, AttributeError, RecursionError):
            return None

    def _find_problem(
        self, claims: _Claims, photographs: Sequence[bytes], now: datetime
    ) -> Reason | None:
        audiences = [claims.aud] if isinstance(claims.aud, str) else claims.aud
        told = claims.live_sha256
        named = {one.lower() for one in ([told] if isinstance(told, str) else told)}
        shown = {hashlib.sha256(one).hexdigest() for one in photographs}
        # Every frame, or a picture could be slipped in beside the one that was judged.
        if self.audience not in audiences or not shown or not shown <= named:
            return Reason.LIVENESS_MISBOUND
        if claims.decision == "spoof":
            return Reason.LIVENESS_FAILED
        issued, ends = (datetime.fromtimestamp(at, UTC) for at in (claims.iat, claims.exp))
        oldest, newest = now - self.terms.max_age - CLOCK_SKEW, now + CLOCK_SKEW
        if not oldest <= issued <= newest or ends + CLOCK_SKEW < now:
            return Reason.LIVENESS_STALE
        return Reason.LIVENESS_UNCERTAIN if claims.decision == "uncertain" else None


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def read_token(path: Path) -> str:
    """The result in a file; `RequestError` where there is none."""
    try:
        with path.open("rb") as file:
            token = file.read(MAX_TOKEN_LENGTH + 2).strip()
    except OSError as error:
        raise RequestError(f"{path}: {error.strerror}: name the file with the result") from None
    if not token or len(token) > MAX_TOKEN_LENGTH or not token.isascii():
        raise RequestError(f"{path}: give the file with the capture system's result, a compact JWS")
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


def name_token(vault: Vault, result: LivenessResult) -> bytes | None:
    """The keyed name under which a result is known to have come; None where it may come again."""
    if not result.is_spent:
        return None
    return vault.look_up("liveness", f"{result.issuer}\0{result.jti}")


@dataclass(frozen=True, slots=True)
class Weighed:
    """A result beside the carrier's mode; `problem` and `brings` are None where it has no say."""

    mode: LivenessMode
    result: LivenessResult
    token: bytes | None = None
    is_repeated: bool = False
    brings: Decision | None = None

    @property
    def problem(self) -> Reason | None:
        """What is wrong with it, where that is asked."""
        return self.result.problem if self.mode is LivenessMode.REQUIRED else None

    def describe(self) -> dict[str, Any]:
        """What evidence keeps of it."""
        told = {name: str(one) for name, one in asdict(self.result).items() if one is not None}
        if self.result.issued_at is not None:
            told["issued_at"] = self.result.issued_at.isoformat()
        return {"mode": self.mode.value, **told, "is_repeated": self.is_repeated}

    def record(
        self,
        use: LivenessUse,
        at: datetime,
        carrier: str | None,
        outlet: str | None,
        enrollment_id: str | None = None,
    ) -> LivenessRecord:
        """The row that keeps it."""
        result = self.result
        return LivenessRecord(
            id=new_id(),
            use=use.value,
            received_at=at,
            token=None if self.is_repeated else self.token,
            problem=None if result.problem is None else result.problem.value,
            issuer=result.issuer,
            jti=result.jti,
            decision=result.decision,
            level=result.level,
            issued_at=result.issued_at,
            carrier=carrier,
            outlet=outlet,
            enrollment_id=enrollment_id,
        )


class LivenessBatch:
    """Weighs the results of a batch, in order: each is taken once, here and ever before."""

    def __init__(
        self,
        terms: LivenessTerms,
        vault: Vault,
        registry: Reader,
        results: Sequence[LivenessResult | None],
    ) -> None:
        self._terms = terms
        self._vault = vault
        named = (name_token(vault, one) for one in results if one is not None)
        names = [one for one in named if one is not None]
        self._used = registry.used_liveness(names) if names else set()

    def weigh(
        self, result: LivenessResult | None, use: LivenessUse, carrier: str | None
    ) -> Weighed | None:
        """What a result brings by itself; None where no evidence is looked at."""
        mode = self._terms.mode(use, carrier)
        if mode is LivenessMode.OFF:
            return None
        shown = result or NO_RESULT
        brings = self._terms.weigh(shown.problem) if mode is LivenessMode.REQUIRED else None
        return Weighed(mode, shown, name_token(self._vault, shown), brings=brings)

    def spend(self, weighed: Weighed | None) -> Weighed | None:
        """The same, used from now on; `LivenessReplayed` where it is required and was before."""
        if weighed is None or weighed.token is None:
            return weighed
        if weighed.token not in self._used:
            self._used.add(weighed.token)
            return weighed
        if weighed.mode is LivenessMode.REQUIRED:
            raise LivenessReplayed(
                "this evidence of liveness was used before: capture the face again"
            )
        return replace(weighed, is_repeated=True)


def admit_verification(
    runner: ChangeRunner,
    registry: Reader,
    vault: Vault,
    terms: LivenessTerms,
    result: LivenessResult | None,
    judged: Judged | None = None,
    *,
    actor: str,
    carrier: str | None,
    outlet: str | None,
) -> None:
    """Keeps what came with a verification of liveness, and lets it go on where it may.

    `LivenessRefused` where evidence is required and something is wrong with it, or where the judge
    of the picture enforces and finds something, before anybody is looked up; `LivenessReplayed`.
    """
    use = LivenessUse.VERIFICATION
    judgement = None if terms.judge is None else terms.judge.weigh(judged)
    if terms.mode(use, carrier) is LivenessMode.OFF and judgement is None:
        return

    def perform(writer: Writer, now: datetime) -> list[Reason]:
        batch = LivenessBatch(terms, vault, registry, [result])
        weighed = batch.spend(batch.weigh(result, use, carrier))
        entries, kept, problems = [], [], []
        if weighed is not None:
            issuer, problem = weighed.result.issuer or "none", weighed.result.problem
            entries.append(_note_checked(actor, issuer, problem))
            kept.append(weighed.record(use, now, carrier, outlet))
            problems.append(weighed.problem)
        if judgement is not None:
            entries.append(_note_checked(actor, "judge", judgement.problem))
            kept.append(judgement.record(use, now, carrier, outlet))
            problems.append(judgement.problem if judgement.terms.enforces else None)
        writer.commit(Changes(writer.sequence, tuple(entries), liveness=tuple(kept)))
        return [one for one in problems if one is not None]

    problems = runner.run(perform)
    if problems:
        raise LivenessRefused(
            f"the evidence of liveness does not hold ({problems[0].value}): capture the face again"
        )


def _note_checked(actor: str, issuer: str, problem: Reason | None) -> AuditEntry:
    told = None if problem is None else problem.value
    return AuditEntry(actor, "liveness.checked", issuer, {"problem": told})
