"""Faces held against faces: match, templates, verification, and what a search brings by chance."""

from typing import Annotated

from msgspec import Meta

from schema.decisions import HolderScore, Interval
from schema.people import ProofWay
from schema.reasons import ToldKind, tell_kind
from serving.wire.fields import (
    HOLDER_EXAMPLE,
    Advice,
    AnswerBody,
    FacePoint,
    Frames,
    KnownDocument,
    LivenessToken,
    MatchWord,
    Moment,
    OtherWays,
    Photograph,
    PrivateAnswer,
    ProofToken,
    RequestBody,
    SentKind,
    Template,
    TriesLeft,
    about,
    known,
)

MAX_ITEMS = 256
MAX_PHOTOGRAPHS = 2 * MAX_ITEMS
MAX_ID_LENGTH = 128
MATCH_CANDIDATES = 100
"""So many candidates an item of a match lists at most; it counts all."""

ItemId = Annotated[str, about("the caller's own, given back", max_length=MAX_ID_LENGTH)]
ITEMS = Meta(min_length=1, max_length=MAX_ITEMS)
"""More are an error of their own, `MATCH.TOO_MANY_ITEMS` (422)."""
# Who writes JSON gives a `Template`, which is bytes that are written as base64url.
IssuedTemplate = Annotated[
    bytes,
    about("a template from `POST /v1/templates`: base64url in JSON, binary or text in MessagePack"),
]

Beside = Annotated[
    tuple[str, ...], about("SEVERAL_FACES where it is no match and a picture shows another face")
]


class Face(RequestBody):
    """An image, or several frames, or a template, one of them; `kind`, `point` are the image's."""

    image: Photograph | Frames | None = None
    template: IssuedTemplate | None = None
    kind: SentKind | None = None
    point: FacePoint | None = None

    def __post_init__(self) -> None:
        if (self.image is None) is (self.template is None):
            raise ValueError("give an image or a template, one of both")
        if self.told is not None and self.image is None:
            raise ValueError("a template has no kind and no point: leave them out")

    @property
    def told(self) -> ToldKind:
        return tell_kind(self.kind, self.point)


def _require_single(reference: Face | None) -> None:
    if reference is not None and isinstance(reference.image, tuple):
        raise ValueError("a reference is one photograph: give the frames as the probe")


class MatchItem(RequestBody, kw_only=True):
    """A probe held against a reference (1:1), against the gallery (1:N, `search`), or both."""

    id: ItemId | None = None
    probe: Face
    reference: Face | None = None
    search: bool = False

    def __post_init__(self) -> None:
        if self.reference is None and not self.search:
            raise ValueError("nothing to do: give a reference, search, or both")
        _require_single(self.reference)


class MatchRequest(RequestBody):
    """Thresholds are the deployment's; more than 256 items, or 512 photographs in them, are
    `MATCH.TOO_MANY_ITEMS` (422)."""

    items: Annotated[tuple[MatchItem, ...], ITEMS]


class TemplateItem(RequestBody, kw_only=True):
    """A photograph to make a template of."""

    id: ItemId | None = None
    image: Photograph
    kind: SentKind | None = None

    def __post_init__(self) -> None:
        """Nothing to check: the id is given back and never stored."""


class TemplatesRequest(RequestBody):
    """More than 256 items are `MATCH.TOO_MANY_ITEMS` (422)."""

    items: Annotated[tuple[TemplateItem, ...], ITEMS]


class ItemError(AnswerBody, omit_defaults=True):
    """Why an item, or a part of it, was not judged; the other items are."""

    code: Annotated[str, about("MATCH.NO_FACE, MATCH.TEMPLATE_INVALID, IMAGE.DAMAGED …")]
    message: str
    part: Annotated[str, known("probe", "reference")] | None = None
    problems: Annotated[
        tuple[str, ...] | None,
        about("all that is wrong with a photograph; the code is the first to mend"),
    ] = None
    advice: Advice | None = None


class ItemVerification(AnswerBody, omit_defaults=True):
    """1:1: a match at `score >= threshold`."""

    is_match: bool
    score: Annotated[float, about("cosine, higher is closer", ge=-1.000001, le=1.000001)]
    threshold: float
    problems: Beside = ()


class Candidate(AnswerBody, omit_defaults=True, kw_only=True):
    """A holder whose reference looks like the probe.

    To outlets and carriers a name that is theirs alone, the same at every hit; to the other roles
    the ids.
    """

    holder: Annotated[str | None, Meta(examples=[HOLDER_EXAMPLE])]
    document_id: Annotated[str | None, about("for fraud and operator alone")] = None
    reference_id: Annotated[int | None, about("for fraud and operator alone")] = None
    score: Annotated[float | None, about("null to a tenant")]


class ExpectedFalseCandidates(Interval, AnswerBody):
    """How many strangers such a search brings on average; at most `value` where `is_bound`."""


class Search(AnswerBody):
    """What a search by face found."""

    candidates: tuple[AnswerBody, ...]
    found: int
    searched: Annotated[int, about("references in the gallery that was searched")]
    gallery_sequence: int
    threshold: float
    expected_false_candidates: ExpectedFalseCandidates | None


class ItemIdentification(Search):
    """1:N: every reference at or above the threshold; an empty list is a true "nobody"."""

    candidates: Annotated[
        tuple[Candidate, ...], about(f"best first, to a tenant by name; {MATCH_CANDIDATES} at most")
    ]
    found: Annotated[int, about("how many there are, listed or not")]


class MatchResult(AnswerBody, omit_defaults=True):
    """The answer to one item: what it asked for, or an error; both where one part failed."""

    id: str | None = None
    verification: ItemVerification | None = None
    identification: ItemIdentification | None = None
    error: ItemError | None = None


class MatchResults(AnswerBody):
    """One result for each item, in their order."""

    items: tuple[MatchResult, ...]


class TemplateResult(PrivateAnswer, omit_defaults=True):
    """A template, or why there is none; `quality` where a face was found."""

    id: str | None = None
    template: Annotated[
        Template | None, about("opaque, for this tenant alone; binary in MessagePack")
    ] = None
    quality: dict[str, float] | None = None
    error: ItemError | None = None


class Templates(AnswerBody):
    """One result for each item, in their order; every template ends with its time or its model."""

    expires_at: Moment
    model_digest: str
    items: tuple[TemplateResult, ...]


class VerificationRequest(RequestBody):
    """A probe, and exactly one of `reference`, `line`, `document` and `document_id`; to a carrier
    of which no face is kept, a `portrait` with its `document`, and with the `line` that is under
    it. A `proof` comes in place of the probe, with the `line`, by its number, and its
    `document`."""

    probe: Face | None = None
    reference: Face | None = None
    line: Annotated[str, about("its number or its id", min_length=1, max_length=64)] | None = None
    document: KnownDocument | None = None
    document_id: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    liveness: (
        Annotated[LivenessToken, about("of the probe, which is then the photograph itself")] | None
    ) = None
    portrait: Annotated[Face, about("the document's, where no face is on file")] | None = None
    proof: ProofToken | None = None

    def __post_init__(self) -> None:
        RequestBody.__post_init__(self)
        came = {name for name in self.__struct_fields__ if getattr(self, name) is not None}
        if "proof" in came:
            if came != {"proof", "line", "document"}:
                raise ValueError("a proof comes with the line and its document, and nothing else")
            return
        if self.probe is None:
            raise ValueError("give a probe, or a proof in its place")
        if "portrait" in came and "document" not in came:
            raise ValueError("a portrait comes with its document: give both")
        if self.portrait is not None and self.portrait.image is None:
            raise ValueError("a portrait is a photograph, not a template")
        named = came & {"reference", "line", "document", "document_id"}
        if len(named - {"line"} if "portrait" in came else named) != 1:
            raise ValueError("give exactly one of reference, line, document and document_id")
        if {"reference", "liveness"} <= came:
            raise ValueError("liveness is looked at where a holder is verified: leave it out")
        _require_single(self.reference)
        _require_single(self.portrait)


class Verification(HolderScore, AnswerBody):
    """A match at `score >= threshold`, or by a proof, which has no score."""

    way: Annotated[str, known(*ProofWay), about("of the proof; null where a face came")] | None = (
        None
    )
    other_ways: OtherWays = ()
    tries_left: TriesLeft = None
    problems: Beside = ()
    match_word: MatchWord = None
