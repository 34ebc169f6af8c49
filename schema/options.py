"""Terms that operators set, as the domain goes by them: a deployment's settings are made of these
types as they are. A dataclass says bounds and descriptions where it says its defaults."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Set
from dataclasses import asdict, dataclass, field, replace
from datetime import time, timedelta
from functools import cached_property
from types import MappingProxyType
from typing import Literal, TypeVar

from schema import frozen
from schema.people import Channel, ProofWay
from schema.phases import CropScope
from schema.reasons import LivenessLevel, LivenessMode, LivenessUse, PhotographKind

T = TypeVar("T")


def option(default: T, description: str = "", **bounds: float | str) -> T:
    """A field of a dataclass with its description in the settings file.

    `bounds` are `ge`, `gt`, `le`, `lt` and `pattern`, which the loader of the settings asks for.
    """
    made: T = field(default=default, metadata={"description": description, **bounds})
    return made


def days(default: int, description: str, most: int = 36_500) -> int:
    """A field of so many days at most."""
    return option(default, description, ge=0, le=most)


@frozen
class QualityLimits:
    """Limits beyond which a photograph is refused, of the measures in `engine.faces.quality`.

    Each stands where the expected loss exceeds 10 %: where so many of LFW's photographs, degraded
    step by step, no longer match their mates. `sosie bench accuracy` measures what they miss and
    what they refuse without need; docs/decisions/0037 has the curves.
    """

    min_inter_eye_px: float = option(8.0, "pixels; else FACE_TOO_SMALL", ge=0)
    min_sharpness: float = option(0.37, "else BLURRED", ge=0)
    min_exposure: float = option(0.05, "mean brightness, of 1; else TOO_DARK", ge=0)
    max_exposure: float = option(0.93, "else TOO_BRIGHT", ge=0)
    min_contrast: float = option(0.03, "else LOW_CONTRAST", ge=0)
    max_yaw_deg: float = option(45.0, "turned left or right; else POSE", ge=0)
    max_pitch_deg: float = option(35.0, "turned up or down; else POSE", ge=0)
    max_roll_deg: float = option(180.0, "tilted; else POSE", ge=0)
    min_detail_bytes: float = option(
        106.0, "of the file, a square of one eye distance; else COMPRESSED", ge=0
    )
    min_clarity: float = option(
        0.78,
        "length of the embedder's vector, of 1 for a usual face; else the cause that shows, or "
        "UNCLEAR",
        ge=0,
    )
    max_cut_share: float = option(0.3, "of the face off the picture; else FACE_CUT", ge=0)
    max_burnt_share: float = option(0.1, "of the face's pixels white; else GLARE", ge=0)
    min_eye_light: float = option(0.4, "light at the eyes, of the cheeks'; else FACE_COVERED", ge=0)


@frozen
class ChipLimits(QualityLimits):
    """The same of a photograph from a document's chip, which is stored small."""

    min_detail_bytes: float = option(
        90.0, "of the file, a square of one eye distance; else COMPRESSED", ge=0
    )


QUALITY_LIMITS: Mapping[PhotographKind, QualityLimits] = MappingProxyType(
    {
        PhotographKind.LIVE: QualityLimits(),
        PhotographKind.PRINTED: QualityLimits(),
        PhotographKind.CHIP: ChipLimits(),
    }
)


@frozen
class Limits:
    """Bounds on what is found out of holders, and on comparisons that fail; 0 is no bound.

    [templates.md](docs/templates.md) says where they come from.
    """

    holder_failures: int = option(
        6,
        "what one carrier finds out of one holder: a failure or a near match is 1, a near "
        "look-alike 2",
        ge=0,
    )
    holder_shown: int = option(60, "answers with a score of one holder, to the fraud team", ge=0)
    holder_h: float = option(1440, "hours of the two above", gt=0, le=2160)
    outlet_key_failures: int = option(
        200, "failed comparisons and rejections of an outlet's key; an approval is one less", ge=0
    )
    key_failures: int = option(5000, "of any other; a carrier's: 4 times", ge=0)
    key_h: float = option(24, "hours of the two above", gt=0)
    searched_faces: int = option(
        256, "faces that all keys of a carrier together search for in 24 hours", ge=0
    )


NO_LIMITS = Limits(
    holder_failures=0, holder_shown=0, outlet_key_failures=0, key_failures=0, searched_faces=0
)


ProofBrings = Literal["approved", "review"]
KeepFaces = Literal["all", "none"]


@frozen
class CarrierPeople:
    """Rules of one carrier, where they differ."""

    age_of_majority: int | None = option(None, ge=0, le=25)
    minor_face: Literal["required", "guardian"] | None = None
    exceptions: bool | None = None
    exceptions_per_outlet: int | None = option(None, ge=1, le=100_000)
    proofs: Mapping[ProofWay, ProofBrings] | None = None
    verified_by: tuple[ProofWay, ...] | None = None
    proofs_per_outlet: int | None = option(None, ge=1, le=100_000)
    face_tries: int | None = option(None, ge=0, le=10)
    keep_faces: KeepFaces | None = None
    search_law: str | None = None
    contact: str | None = None
    replacement_delay_h: int | None = option(None, ge=0, le=8_784)


@frozen
class AllBut:
    """All carriers but these."""

    codes: Set[str]

    def __contains__(self, code: object) -> bool:
        return code not in self.codes


@dataclass(frozen=True)
class PeopleRules:
    """People whom rules treat apart: minors, and those without a usable face or portrait."""

    age_of_majority: int = option(
        0,
        "whoever is younger, in whole years by the outlet's date, needs a guardian's document and "
        "face; 17 in Indonesia; 0: no age is asked for",
        ge=0,
        le=25,
    )
    minor_face: Literal["required", "guardian"] = option(
        "required",
        "of a minor: a face and portrait of their own too; or guardian: the guardian's are enough",
    )
    exceptions: bool = option(
        False,
        "whether an enrollment may come without a usable face or portrait, with a cause; two "
        "people of the fraud team decide it",
    )
    exceptions_per_outlet: int = option(
        5, "asked for by one outlet in exceptions_days", ge=1, le=100_000
    )
    exceptions_days: int = option(30, "see exceptions_per_outlet", ge=1, le=366)
    proofs: Mapping[ProofWay, ProofBrings] = field(
        default_factory=dict,
        metadata={
            "description": "other ways than a face, and what each brings, as { mobile_id = "
            '"approved", certificate = "review" }; [proofs] says who signs; empty: none'
        },
    )
    verified_by: tuple[ProofWay, ...] = option(
        (), 'the ways by which the holder of a line is verified, as ["mobile_id"]; empty: none'
    )
    proofs_per_outlet: int = option(
        100, "that one outlet may bring in exceptions_days", ge=1, le=100_000
    )
    face_tries: int = option(
        0,
        "tries of a face under a document before another way must be offered, counted and told; "
        "one is forgotten a day; 0: none are",
        ge=0,
        le=10,
    )
    keep_faces: KeepFaces = option(
        "all", "none: nothing of a face is kept; a set of rules of lines may say so, too"
    )
    search_law: str = option(
        "", "the law by which a face not kept is searched for among those others keep; empty: none"
    )
    contact: str = option(
        "", "where people turn about a decision, as its page for them says; empty: who gives it"
    )
    countries: tuple[str, ...] = option(
        (), "where what is kept is processed, and to where it is passed on, as its papers say"
    )
    replacement_delay_h: int = option(
        0,
        "how long after two people have decided it a document may be replaced, each then; 0: at "
        "once, and of a certain face under the same name without them",
        ge=0,
        le=8_784,
    )
    carriers: Mapping[str, CarrierPeople] = field(
        default_factory=dict,
        metadata={"description": "by code, as { red = { age_of_majority = 17 } }"},
    )

    @property
    def window(self) -> timedelta:
        """In which an outlet may ask for so many exceptions."""
        return timedelta(days=self.exceptions_days)

    @cached_property
    def unkept(self) -> Container[str]:
        """The carriers of whose faces nothing is kept."""
        return self._choose(lambda one: one.keep_faces == "none")

    @cached_property
    def unsearched(self) -> Container[str]:
        """The carriers of these whose faces no law searches for among all."""
        return self._choose(lambda one: one.keep_faces == "none" and not one.search_law)

    @property
    def has_idle_law(self) -> bool:
        """True where a law of a search is named of faces that are kept, and searched for anyway."""
        kept = {code: one for code, one in self.carriers.items() if code not in self.unkept}
        is_idle = self.keep_faces == "all" and len(kept) == len(self.carriers)
        return bool(is_idle and self.search_law) or any(one.search_law for one in kept.values())

    def _choose(self, holds: Callable[[PeopleRules], bool]) -> Container[str]:
        """The carriers of whose rules this holds."""
        apart = {code for code in self.carriers if holds(self.of(code)) is not holds(self)}
        return AllBut(apart) if holds(self) else apart

    def of(self, carrier: str) -> PeopleRules:
        """The rules of a carrier."""
        if carrier not in self.carriers:
            return self
        own = asdict(self.carriers[carrier])
        return replace(self, **{name: one for name, one in own.items() if one is not None})


NO_RULES = PeopleRules()


@frozen
class LineLimits:
    """Most lines of a person over all carriers; 0 for any number."""

    person_limit: int = 0
    """In use."""
    day_limit: int = 0
    """Opened within 24 hours."""
    approval_h: int = 0
    """Each further one is approved over the first, and that holds for so many hours."""
    outlets: Mapping[str, int] = field(default_factory=dict)
    """In use, when one of these outlets opens another."""
    own: Mapping[str, LineLimits] = field(default_factory=dict)
    """Of what these carriers open."""


@frozen
class LivenessRules:
    """Demands on the evidence of liveness of a carrier's requests; None: those on all carriers'."""

    enrollment: LivenessMode | None = None
    verification: LivenessMode | None = None
    issuers: tuple[str, ...] = option((), "who may sign for its subscribers; empty: every issuer")
    at_least: Mapping[LivenessUse | Channel, tuple[LivenessLevel, ...]] = field(
        default_factory=dict,
        metadata={"description": "the levels of its results, where they differ"},
    )


@frozen(kw_only=True)
class Retention:
    """Days until data that is no longer needed is deleted; 0 keeps it.

    The period of a rejected attempt begins with its decision; of one that went to review, with the
    closing of its case, or its decision where it had none; of a line, with its closing; of an
    answer, when it is stored. A document known from such attempts alone expires with the last of
    them. A crop has its own date. Data under a document that an open case names stays longer, as
    does a document whose erasure is asked for.
    """

    rejected_days: int = days(
        180,
        "scores, consent and stored answer of a rejected attempt, and a document without an "
        "approved attempt; 0: kept",
    )
    review_days: int = days(
        180,
        "the same of an attempt that went to review, since its case was closed, or since its "
        "decision where it had none; 0: kept",
    )
    closed_lines_days: int = days(730, "the number of a line since it was closed; 0: kept")
    answers_days: int = days(
        30, "stored answers: an Idempotency-Key sent later is decided again; 0: kept"
    )
    liveness_days: int = days(
        730, "results of liveness checks: who said what of which attempt, and when; 0: kept"
    )
    people_days: int = days(
        365,
        "exceptions that were decided and opened no line in use, guardians since the year in which "
        "they no longer answer for anybody; 0: kept",
    )
    events_days: int = days(30, "events, whether or not they were read; 0: kept")
    line_events_days: int = days(730, "what happened to lines, and why; 0: kept")
    watchlist_days: int = days(0, "an entry of the watch-list; 0: until people remove it")
    faces_days: int = days(
        0, "an enrolled face since its holder's last line with any carrier was closed; 0: kept"
    )
    case_hold_days: int = days(
        30,
        "so long at most an open case holds back what it needs: from when an erasure was asked "
        "for, or beyond these dates; 0: not at all",
        most=365,
    )
    daily_at: str = option(
        "02:30",
        "service: time of the daily run, UTC; empty: only by sosie retention run",
        pattern=r"^(([01]\d|2[0-3]):[0-5]\d)?$",
    )

    @property
    def hold(self) -> timedelta:
        """So long beyond its time an open case keeps what it needs."""
        return timedelta(days=self.case_hold_days)

    @property
    def run_at(self) -> time | None:
        """The time (UTC) of the service's daily run; None for never."""
        return time.fromisoformat(self.daily_at) if self.daily_at else None


@frozen
class CropPolicy:
    """Which crops are kept, and for how long: `days` after the photograph passed through, or after
    a case named its document; `hold_days` where no case does, shown to nobody meanwhile."""

    keep: CropScope = option(
        CropScope.NONE,
        "none; those that a decision, a sweep or a dispute brings into a case; or all",
    )
    days: int = option(
        30,
        "how long a crop is kept from its photograph, or from when a case names its document; "
        "longer by retention.case_hold_days at most while a case is open",
        ge=1,
        le=3650,
    )
    hold_days: int = option(
        0,
        "for keep = cases: so long the crops of everybody are held, shown to nobody, for a case "
        "that may come; 0 holds none, and cases show those who opened them alone",
        ge=0,
        le=366,
    )

    @property
    def keeps_any(self) -> bool:
        return self.keep is not CropScope.NONE


NO_CROPS = CropPolicy()
