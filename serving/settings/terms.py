"""Settings of what decisions ask for: liveness, an authority, the rules of lines and of people."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from schema.reasons import LivenessLevel, LivenessMode, LivenessUse
from serving.settings.sections import Section, is_private_address


class AuthoritySettings(Section):
    """Whom a document is looked up at before a decision, beyond its form and check digits."""

    kind: Literal["form", "listed", "http"] = Field(
        default="form",
        description="form: nobody; listed: a file; http: the operator's service, docs/authority.md",
    )
    unavailable: Literal["review", "rejected", "proceed"] = Field(
        default="review", description="what an enrollment is where there is no answer"
    )
    unknown: Literal["review", "rejected", "proceed"] = Field(
        default="rejected", description="where no record has the document"
    )
    contradicts: Literal["review", "rejected"] = Field(
        default="review",
        description="where it is lost, revoked, of a dead person, differs, or two things are said",
    )
    list_file: str = Field(
        default="",
        description="listed: CSV of type, number, standing, in the home folder unless absolute",
    )
    url: str = Field(
        default="",
        description="http: takes a POST, as https://registry.example/v1/{type}; http on loopback",
    )
    token: SecretStr = Field(
        default=SecretStr(""),
        description="a bearer token; better as SOSIE_AUTHORITY__TOKEN or in a file",
    )
    token_file: str = Field(
        default="", description="file with the token, in the home folder unless absolute"
    )
    ca_file: str = Field(
        default="", description="PEM: the only authorities of certificates that are believed"
    )
    client_certificate: str = Field(default="", description="PEM, shown to the service")
    client_key: str = Field(default="", description="PEM, its key where it is not in the same file")
    connect_timeout_s: float = Field(
        default=2, gt=0, le=60, description="for a connection, a part of timeout_s"
    )
    timeout_s: float = Field(
        default=5, gt=0, le=60, description="for a whole answer, and before that for a place"
    )
    concurrency: int = Field(
        default=8, ge=1, le=256, description="look-ups at once of each ingress; more wait"
    )
    max_answer_kib: float = Field(default=64, gt=0, le=4096, description="a larger answer is none")
    breaker_failures: int = Field(
        default=5, ge=1, le=1000, description="failures in a row, and it is not asked for a while"
    )
    breaker_pause_s: float = Field(default=30, gt=0, le=3600, description="so long")
    cache_s: dict[
        Literal["confirmed", "unknown", "contradicts"], Annotated[float, Field(ge=0, le=86400)]
    ] = Field(
        default={},
        description="how long an ingress keeps answers in memory, as { confirmed = 600 }; empty: "
        "not at all",
    )
    sends_photograph: bool = Field(
        default=False, description="the live photograph goes along, for its face to be compared"
    )
    min_face_score: float = Field(
        default=0,
        ge=0,
        le=1,
        description="least score of the authority's comparison, of 1; 0: its score is only kept",
    )

    def kept_s(self) -> dict[str, float]:
        """The time to keep answers, by their kind."""
        return {kind: seconds for kind, seconds in self.cache_s.items() if seconds}

    @field_validator("url")
    @classmethod
    def _is_private(cls, given: str) -> str:
        if given and not is_private_address(given):
            raise ValueError("give an https address (http on loopback alone), without a password")
        if set(given.replace("{type}", "")) & set("{}"):
            raise ValueError("{type} alone may stand in it: a number would be in every log")
        return given

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.kind == "listed" and not self.list_file:
            raise ValueError("kind listed needs list_file")
        if self.kind == "http" and not self.url:
            raise ValueError("kind http needs url")
        if self.token.get_secret_value() and self.token_file:
            raise ValueError("give token or token_file, not both")
        if self.client_key and not self.client_certificate:
            raise ValueError("client_key needs client_certificate")
        if self.min_face_score and not self.sends_photograph:
            raise ValueError("min_face_score needs sends_photograph")
        if self.sends_photograph and self.kept_s():
            raise ValueError("what is said of a photograph is not kept: leave cache_s out")
        return self


class LivenessIssuer(Section):
    """A capture system that signs what its detector says of a face."""

    keys: str = Field(
        description="file with its public keys, a JWK Set, in the home folder unless absolute"
    )


class CarrierLiveness(Section):
    """What is asked of one carrier's requests, where it differs."""

    enrollment: LivenessMode | None = None
    verification: LivenessMode | None = None
    issuers: list[str] = Field(
        default=[], description="who may sign for its subscribers; empty: every issuer"
    )
    at_least: dict[LivenessUse, list[LivenessLevel]] = Field(
        default={}, description="the levels of its results, where they differ"
    )


class LivenessSettings(Section):
    """Evidence of liveness: results of the capture systems' presentation attack detection, which
    Sosie checks and does not make."""

    enrollment: LivenessMode = Field(
        default=LivenessMode.OFF,
        description="off, observe (on record, no answer changes) or required",
    )
    verification: LivenessMode = Field(
        default=LivenessMode.OFF, description="the same of verifications against a holder"
    )
    missing: Literal["rejected", "review"] = Field(
        default="rejected", description="what an enrollment without it is, where it is required"
    )
    max_age_s: float = Field(default=300, gt=0, le=3600, description="an older result is stale")
    audience: str = Field(
        default="", max_length=200, description="`aud` of the results; empty: the deployment's id"
    )
    must_name: list[Literal["use", "document_sha256"]] = Field(
        default=[],
        description="what a result must be made for, beside its photographs: claims that none goes "
        'without, as ["use", "document_sha256"]; one that is there must fit in any case',
    )
    at_least: dict[LivenessUse, list[LivenessLevel]] = Field(
        default={},
        description="levels that a result must tell, by use, as "
        '{ enrollment = ["iso30107-3:2", "cen18099:high"] }; a higher one of the standard will do',
    )
    issuers: dict[str, LivenessIssuer] = Field(
        default={}, description='by `iss`, as { capture = { keys = "capture.json" } }'
    )
    carriers: dict[str, CarrierLiveness] = Field(
        default={}, description='by code, as { red = { enrollment = "required" } }'
    )
    judge: str = Field(
        default="",
        description="card of a model of yours that looks at the picture itself; empty: none",
    )
    judge_mode: Literal["observe", "enforce"] = Field(
        default="observe", description="observe: on record, no answer changes; enforce: it decides"
    )

    def modes(self) -> dict[LivenessUse, LivenessMode]:
        """The demands on all carriers' requests."""
        return {
            LivenessUse.ENROLLMENT: self.enrollment,
            LivenessUse.VERIFICATION: self.verification,
        }

    def least(self) -> dict[tuple[str | None, LivenessUse], list[LivenessLevel]]:
        """The levels asked for, by carrier and use; of all carriers under None."""
        given = {None: self.at_least} | {code: own.at_least for code, own in self.carriers.items()}
        return {(code, use): levels for code, own in given.items() for use, levels in own.items()}

    def carrier_modes(self) -> dict[str, dict[LivenessUse, LivenessMode]]:
        """The demands on one carrier's requests, where they differ."""
        return {
            code: {
                use: mode for use in LivenessUse if (mode := getattr(own, use.value)) is not None
            }
            for code, own in self.carriers.items()
        }

    @model_validator(mode="after")
    def _has_issuers(self) -> Self:
        modes = [*self.modes().values()]
        modes += [mode for own in self.carrier_modes().values() for mode in own.values()]
        if any(mode is not LivenessMode.OFF for mode in modes) and not self.issuers:
            raise ValueError("name an issuer of results, with its keys, before they are asked for")
        named = {name for own in self.carriers.values() for name in own.issuers}
        if unknown := sorted(named.difference(self.issuers)):
            raise ValueError(f"carriers name the issuer {unknown[0]}, which has no keys")
        return self


class LinesSettings(Section):
    """The life of lines: rules by which holders are asked for, limits, and who reports."""

    rules: str = Field(
        default="",
        description="of every carrier: a built-in set, as vietnam (docs/lines.md), or a TOML file "
        "in the home folder unless absolute; empty: none",
    )
    carriers: dict[str, str] = Field(
        default={}, description='the same of one carrier, by code, as { red = "vietnam" }'
    )
    person_limit: int = Field(
        default=0,
        ge=0,
        le=10_000,
        description="lines in use of a person over all carriers; 0: that of the rules, if any",
    )
    sim_changes_since: dict[str, date] = Field(
        default={},
        description="carriers that report every change of SIM, and since which day: they alone can "
        "be asked for the last one, as { red = 2026-12-01 }",
    )
