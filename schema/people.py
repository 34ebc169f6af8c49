"""People: those who sign in, those whom rules treat apart, as the dead, or who show no face; and
consent to the use of a face."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Self

import msgspec
from msgspec import Meta, structs

from schema.decoding import Value


class Account(Value):
    """Who has signed in by the identity provider; `sessions` have not expired, one that is idle
    may have ended."""

    person: str
    since: datetime
    sessions: int
    seen_at: datetime | None


class DeathSource(StrEnum):
    """Where a report comes from."""

    REGISTRY = "registry"
    """The state's."""
    CERTIFICATE = "certificate"
    FAMILY = "family"
    OTHER = "other"


class DeathStep(StrEnum):
    """A step on a holder who is reported dead; a report names its source."""

    REPORT = "report"
    CONFIRM = "confirm"
    CONTEST = "contest"
    LIFT = "lift"


class ExceptionCause(StrEnum):
    """Why an enrollment comes without a usable face or portrait."""

    CONDITION = "condition"
    """A documented medical condition."""
    INJURY = "injury"
    DISABILITY = "disability"
    AGE = "age"
    NOT_SHOWN = "not_shown"
    """The face is covered, and its showing refused."""
    PORTRAIT_UNREADABLE = "portrait_unreadable"
    """Neither the document nor its chip gives a portrait."""


class ProofWay(StrEnum):
    """Ways beside a face by which a person is shown to be a document's holder."""

    MOBILE_ID = "mobile_id"
    """An application of the state's, or of carriers together, that holds the document."""
    REGISTER_EXTRACT = "register_extract"
    CERTIFICATE = "certificate"
    """An authority's, as where fingers fail."""
    WALLET = "wallet"
    """A presentation that a verifier has checked."""


NOT_KEPT = "not_kept"
"""Stands for a way where lines were opened by a face that was not kept."""


class ProofLevel(StrEnum):
    """Levels of a proof, the weakest first (eIDAS, article 8)."""

    LOW = "low"
    SUBSTANTIAL = "substantial"
    HIGH = "high"

    def reaches(self, least: Self) -> bool:
        levels = list(ProofLevel)
        return levels.index(self) >= levels.index(least)


class ExceptionTally(Value):
    """Exceptions that an outlet has asked for: enrollments without a usable face or portrait."""

    outlet: str
    carrier: str
    asked: int
    decided: int
    granted: int
    last_at: datetime


MAX_CONSENT_LENGTH = 200
"""Of the reference, and of each text of the record, in characters."""
RENEWED = "renewed_consent"
"""Why two people look at the first face after a withdrawal: it may be anybody's."""
FIRST_FACE = "first_face"
"""Stands for that, and for how others have opened lines, in answers to tenants."""
_Text = Annotated[str, Meta(min_length=1, max_length=MAX_CONSENT_LENGTH)]


class Channel(StrEnum):
    """Ways by which people come to a carrier."""

    OUTLET = "outlet"
    ONLINE = "online"
    AGENT = "agent"


class GivenConsent(Value, kw_only=True, omit_defaults=True):
    """The record of one consent; its repr shows nothing of it."""

    given_at: datetime
    purpose: _Text
    text_version: Annotated[_Text, Meta(description="of the text that was agreed to")]
    language: Annotated[
        str,
        Meta(pattern="^[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8})*$", max_length=35, description="BCP 47"),
    ]
    channel: Channel
    taken_by: Annotated[_Text, Meta(description="who took it, as a clerk's code")] | None = None
    guardian: Annotated[_Text, Meta(description="who gave it for a minor")] | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(…)"

    def plain(self) -> Mapping[str, str]:
        """Its texts, as JSON has them."""
        said = structs.asdict(self) | {"given_at": self.given_at.isoformat()}
        return {name: text for name, text in said.items() if text is not None}


class Consent(Value):
    """A subscriber's consent: the reference alone is the short form, and says nothing of when."""

    ref: str | None = None
    given: GivenConsent | None = None

    def is_given_after(self, moment: datetime) -> bool:
        return self.given is not None and self.given.given_at > moment

    @property
    def kept(self) -> str | Mapping[str, Any] | None:
        """The part that stays beside a name: of the short form its reference."""
        if self.given is None:
            return self.ref
        return {"consent_ref": self.ref, "consent": self.given.plain()}


NO_CONSENT = Consent()


def read_given(text: str | bytes) -> GivenConsent:
    """The record from its JSON, as a file or a cell has it; `ValueError` where it is none."""
    given = msgspec.json.decode(text, type=GivenConsent)
    if given.given_at.tzinfo is None:
        raise ValueError("given_at has no time zone")
    return given
