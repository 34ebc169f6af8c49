"""Settings of what others say and take: capture systems, an authority, rules of lines, an identity
provider, receivers of events."""

import re
from datetime import date
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from schema.options import LivenessRules
from schema.people import Channel, ProofLevel, ProofWay
from schema.reasons import LivenessLevel, LivenessMode, LivenessUse
from serving.settings.sections import Section, is_private_address, setting


class AuthoritySettings(Section):
    """Whom a document is looked up at before a decision, beyond its form and check digits."""

    kind: Literal["form", "listed", "http"] = setting(
        "form", "form: nobody; listed: a file; http: the operator's service, docs/authority.md"
    )
    unavailable: Literal["review", "rejected", "proceed"] = setting(
        "review", "what an enrollment is where there is no answer"
    )
    unknown: Literal["review", "rejected", "proceed"] = setting(
        "rejected", "where no record has the document"
    )
    contradicts: Literal["review", "rejected"] = setting(
        "review", "where it is lost, revoked, of a dead person, differs, or two things are said"
    )
    list_file: str = setting(
        "", "listed: CSV of type, number, standing, in the home folder unless absolute"
    )
    url: str = setting(
        "", "http: takes a POST, as https://registry.example/v1/{type}; http on loopback"
    )
    token: SecretStr = setting(
        SecretStr(""), "a bearer token; better as SOSIE_AUTHORITY__TOKEN or in a file"
    )
    token_file: str = setting("", "file with the token, in the home folder unless absolute")
    ca_file: str = setting("", "PEM: the only authorities of certificates that are believed")
    client_certificate: str = setting("", "PEM, shown to the service")
    client_key: str = setting("", "PEM, its key where it is not in the same file")
    connect_timeout_s: float = setting(2, "for a connection, a part of timeout_s", gt=0, le=60)
    timeout_s: float = setting(5, "for a whole answer, and before that for a place", gt=0, le=60)
    concurrency: int = setting(8, "look-ups at once of each ingress; more wait", ge=1, le=256)
    max_answer_kib: float = setting(64, "a larger answer is none", gt=0, le=4096)
    breaker_failures: int = setting(
        5, "failures in a row, and it is not asked for a while", ge=1, le=1000
    )
    breaker_pause_s: float = setting(30, "so long", gt=0, le=3600)
    cache_s: dict[
        Literal["confirmed", "unknown", "contradicts"], Annotated[float, Field(ge=0, le=86400)]
    ] = setting(
        {}, "how long an ingress keeps answers in memory, as { confirmed = 600 }; empty: not at all"
    )
    sends_photograph: bool = setting(
        False, "the live photograph goes along, for its face to be compared"
    )
    min_face_score: float = setting(
        0, "least score of the authority's comparison, of 1; 0: its score is only kept", ge=0, le=1
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


class LivenessSettings(Section):
    """Evidence of liveness: results of the capture systems' presentation attack detection, which
    Sosie checks and does not make."""

    enrollment: LivenessMode = setting(
        LivenessMode.OFF, "off, observe (on record, no answer changes) or required"
    )
    verification: LivenessMode = setting(
        LivenessMode.OFF, "the same of verifications against a holder"
    )
    missing: Literal["rejected", "review"] = setting(
        "rejected", "what an enrollment without it is, where it is required"
    )
    max_age_s: float = setting(300, "an older result is stale", gt=0, le=3600)
    audience: str = setting("", "`aud` of the results; empty: the deployment's id", max_length=200)
    must_name: list[Literal["use", "document_sha256"]] = setting(
        [],
        "what a result must be made for, beside its photographs: claims that none goes without, as "
        '["use", "document_sha256"]; one that is there must fit in any case',
    )
    at_least: dict[LivenessUse | Channel, tuple[LivenessLevel, ...]] = setting(
        {},
        "levels that a result must tell, by use and by channel ([lines] channels), as { enrollment "
        '= ["iso30107-3:2"], online = ["cen18099:high"] }; a higher one of the standard will do',
    )
    issuers: dict[str, LivenessIssuer] = setting(
        {}, 'by `iss`, as { capture = { keys = "capture.json" } }'
    )
    carriers: dict[str, LivenessRules] = setting(
        {}, 'by code, as { red = { enrollment = "required" } }'
    )
    judge: str = setting(
        "", "card of a model of yours that looks at the picture itself; empty: none"
    )
    judge_mode: Literal["observe", "enforce"] = setting(
        "observe", "observe: on record, no answer changes; enforce: it decides"
    )

    @property
    def rules(self) -> dict[str | None, LivenessRules]:
        """The demands on one carrier's requests, where they differ, and on all under None."""
        usual = LivenessRules(self.enrollment, self.verification, at_least=self.at_least)
        return {None: usual} | self.carriers

    @model_validator(mode="after")
    def _has_issuers(self) -> Self:
        modes = {getattr(own, use) for own in self.rules.values() for use in LivenessUse}
        if modes - {None, LivenessMode.OFF} and not self.issuers:
            raise ValueError("name an issuer of results, with its keys, before they are asked for")
        named = {name for own in self.carriers.values() for name in own.issuers}
        if unknown := sorted(named.difference(self.issuers)):
            raise ValueError(f"carriers name the issuer {unknown[0]}, which has no keys")
        return self


class ProofIssuer(LivenessIssuer):
    """Who signs that a person was shown to be a document's holder in another way than by a face."""

    ways: list[ProofWay] = Field(description="what it may sign for", min_length=1)


class ProofSettings(Section):
    """Proofs in place of a face, each signed by who made it. `[people] proofs` opens ways."""

    # The row of one that was taken stays longer: a day at least.
    max_age_s: float = setting(900, "an older proof is stale", gt=0, le=82_800)
    at_least: dict[ProofWay, ProofLevel] = setting(
        {}, 'levels that a proof must tell, by way, as { mobile_id = "substantial" }'
    )
    issuers: dict[str, ProofIssuer] = setting(
        {}, 'by `iss`, as { state = { keys = "state.json", ways = ["mobile_id"] } }'
    )

    @property
    def signed(self) -> set[ProofWay]:
        """The ways for which somebody signs."""
        return {way for one in self.issuers.values() for way in one.ways}


class LinesSettings(Section):
    """The life of lines: rules by which holders are asked for, limits, and who reports."""

    rules: str = setting(
        "",
        "of every carrier: a built-in set, as vietnam (docs/lines.md), or a TOML file in the home "
        "folder unless absolute; empty: none",
    )
    carriers: dict[str, str] = setting(
        {}, 'the same of one carrier, by code, as { red = "vietnam" }'
    )
    person_limit: int = setting(
        0,
        "lines in use of a person over all carriers; 0: that of the rules, if any",
        ge=0,
        le=10_000,
    )
    channels: dict[str, Channel] = setting(
        {}, 'by which people come to an outlet, for limits of the rules, as { red-web = "online" }'
    )
    sim_changes_since: dict[str, date] = setting(
        {},
        "carriers that report every change of SIM, and since which day: they alone can be asked "
        "for the last one, as { red = 2026-12-01 }",
    )


Network = IPv4Network | IPv6Network


class WebhookSettings(Section):
    """Delivery of events to the addresses that tenants name (docs/events.md)."""

    deliver: bool = setting(
        True, "by the service; false where `sosie webhooks deliver` runs beside it"
    )
    allowed_networks: tuple[Network, ...] = setting(
        (),
        "networks that webhooks without a carrier may reach though they are not public, as "
        '["10.20.0.0/16"]; http is accepted to localhost alone, where it is named',
    )
    carrier_networks: dict[str, tuple[Network, ...]] = setting(
        {},
        "the same for the webhooks of a carrier, whose keys choose any port and path there, so "
        'name single hosts, as { blue = ["10.20.0.5/32"] }',
    )
    timeout_s: float = setting(15, "in which a receiver must have answered", ge=0.2, le=60)
    earlier_secret_h: float = setting(
        24, "so long the secret before a rotation signs as well", ge=0, le=720
    )

    def networks_of(self, carrier: str | None) -> tuple[Network, ...]:
        """Networks that are not public and that webhooks of a carrier, or of none, may reach."""
        return self.allowed_networks if carrier is None else self.carrier_networks.get(carrier, ())


class SignInSettings(Section):
    """Sign-in to the console with accounts of an OpenID Connect provider; off without an issuer."""

    issuer: str = setting("", "https address of the provider, as its tokens name it; empty: off")
    name: str = setting("", "on the button; empty: the host", max_length=60)
    client_id: str = setting("", "of this service at the provider")
    client_secret: SecretStr = setting(
        SecretStr(""), "better as SOSIE_SIGN_IN__CLIENT_SECRET or in a file; empty: a public client"
    )
    client_secret_file: str = setting(
        "", "file with the secret, in the home folder unless absolute"
    )
    scopes: str = setting("openid profile", "asked for, with openid")
    person_claim: str = setting(
        "preferred_username",
        "claim that names people, as --person of their keys; none they can change",
    )
    groups_claim: str = setting("groups", "claim that lists a person's groups")
    groups: dict[str, str] = setting(
        {},
        'what a group may do: fraud, operator, carrier:CODE or outlet:CARRIER/OUTLET, as { "fraud '
        'team" = "fraud" }; of several the first one here',
    )
    idle_min: float = setting(30, "minutes without a call, then a session ends", ge=1, le=1440)
    longest_h: float = setting(10, "hours after which a session ends in any case", gt=0, le=168)

    @field_validator("issuer")
    @classmethod
    def _is_private(cls, given: str) -> str:
        if given and ("?" in given or not is_private_address(given)):
            raise ValueError("give an https address (http on loopback alone), with no query")
        return given

    @field_validator("groups")
    @classmethod
    def _are_grants(cls, given: dict[str, str]) -> dict[str, str]:
        for value in given.values():
            if _GRANT.fullmatch(value) is None:
                raise ValueError("give fraud, operator, carrier:CODE or outlet:CARRIER/OUTLET")
        return given

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.issuer:
            for name in ("client_id", "groups"):
                if not getattr(self, name):
                    raise ValueError(f"an issuer needs {name} too")
        if self.client_secret.get_secret_value() and self.client_secret_file:
            raise ValueError("give client_secret or client_secret_file, not both")
        return self


_GRANT = re.compile(r"fraud|operator|carrier:[^/\s]+|outlet:[^/\s]+/[^/\s]+")
