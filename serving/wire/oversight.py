"""Wire types of liveness, readiness, API keys, calibration, imports and the audit chain."""

from typing import Annotated, Any

from msgspec import Meta

from schema.actors import Restriction, Role
from schema.decisions import CalibrationSource, Comparison
from schema.documents import AdmittedRow
from schema.people import Account
from schema.phases import BackupState, Phase
from serving.wire.cases import OutletLiveness, OutletPlace
from serving.wire.enrollments import Thresholds
from serving.wire.fields import (
    PAGE,
    AnswerBody,
    Limit,
    Moment,
    NextNumber,
    QueryString,
    RequestBody,
    about,
    known,
)

MAX_NUMBER = 2**53 - 1

AuditNumber = Annotated[int, Meta(ge=0, le=MAX_NUMBER)]
Exact = Annotated[str, Meta(min_length=1, max_length=200)]


class Liveness(AnswerBody):
    """This process answers."""

    status: Annotated[str, known("live")]


class Check(AnswerBody):
    """One condition of being ready."""

    is_ok: bool
    detail: str


class Readiness(AnswerBody):
    """Ready where every check is but those that are there only where something is to be mended that
    stops nothing: `anchor`, the audit head is not anchored outside; `accelerator`, faces are
    embedded without the one that is installed; `device`, the GPU searches no more; `upkeep`, the
    gallery or its snapshot is not rewritten since references were removed. The phase is null where
    the registrar cannot be reached."""

    is_ready: bool
    phase: Annotated[str, known(*Phase)] | None
    checks: Annotated[
        dict[str, Check],
        about("store, models, registrar, gallery, anchor, accelerator, device, upkeep"),
    ]


class Version(AnswerBody, omit_defaults=True):
    """Which version runs, and which model."""

    version: str
    api: Annotated[str, known("v1")]
    model_digest: str
    warnings: Annotated[
        tuple[str, ...],
        about(
            "thresholds that the model's calibration supports at a higher rate alone; an "
            "accelerator that is installed and not used"
        ),
    ] = ()
    runtime: Annotated[str, about("what embeds faces: provider and precision, as cuda float32")] = (
        ""
    )


class Credential(AnswerBody):
    """A key or a session, and what it is bound to."""

    key_id: str
    role: Annotated[str, known(*Role)]
    carrier: str | None
    outlet: str | None
    person: Annotated[str | None, about("whose key it is: two keys of one are not two")]


class KeyHolder(Credential):
    """What the key or the session that was sent stands for; `key_id` is of whichever it is."""

    name: Annotated[str, about("as histories of cases name whoever it is")] = ""
    ends_at: Annotated[
        Moment | None, about("of a session: when it ends at the latest; null: a key")
    ] = None


class EndedSession(AnswerBody):
    """The session that is over."""

    session_id: str


class SignInState(AnswerBody):
    """How people sign in to the console: the name of the provider, null where there are only keys;
    who is signed in; and whether nothing here is about anybody."""

    provider: str | None
    holder: KeyHolder | None
    is_sandbox: bool = False


class CurvePoint(AnswerBody):
    """A score as a threshold, with its false match rate; `low` to `high` is its 95 % interval."""

    score: float
    fmr: float
    low: float
    high: float
    fnmr: Annotated[float, about("of mated pairs, at that threshold")]


class Curve(AnswerBody):
    """One kind of comparison as it was measured.

    Beyond the last point no rate is known, but that it is `fmr_bound` at most.
    """

    comparison: Annotated[str, known(*Comparison)]
    mated_pairs: int
    nonmated_pairs: int
    highest_nonmated: Annotated[float, about("the highest score that two strangers reached")]
    fmr_bound: float
    points: Annotated[tuple[CurvePoint, ...], about("scores rise, rates fall")]


class Calibration(CalibrationSource, AnswerBody):
    """Where the rates were measured."""

    curves: tuple[Curve, ...]


class CalibratedThresholds(AnswerBody):
    """The deployment's thresholds; without a calibration of its model no rates are known."""

    model_digest: str
    thresholds: Thresholds
    calibration: Calibration | None


class AuditQuery(QueryString):
    """Entries above a number, in the order of the chain; without one the newest."""

    limit: Limit = PAGE
    after: AuditNumber | None = None
    action: Exact | None = None
    actor: Exact | None = None
    subject: Exact | None = None


class ChainQuery(QueryString):
    """Where to go on: `next` of the answer before."""

    after: AuditNumber = 0


class AuditEntry(AnswerBody):
    """One entry; `detail` holds ids, codes, counts and scores, and no name but that of the person
    of a key or a session, as `actor` has it."""

    number: int
    at: Moment
    actor: str
    action: str
    subject: str
    detail: dict[str, Any]
    hash: Annotated[str, about("keyed, over this entry and the hash before it; hexadecimal")]


class AuditPage(AnswerBody):
    """A page of the chain, in its order; `head` is the number of its newest entry."""

    entries: tuple[AuditEntry, ...]
    head: int
    next: NextNumber


class ChainPart(AnswerBody):
    """Whether the entries above `after`, up to `verified_to`, are as they were written.

    The chain is whole where every part from 0 on is intact, and the last has `next` null.
    """

    intact: bool
    after: int
    verified_to: int
    first_bad: Annotated[int | None, about("number of the first entry that is not as it was")]
    head: int
    next: Annotated[int | None, about("`after` of the next part; null at the end")]


class Backup(AnswerBody):
    """A copy of the registry in the home's folder `backups`.

    What has a greater number in the audit chain than `audit_number` is not in it.
    """

    name: str
    state: Annotated[str, known(*BackupState)]
    started_at: Moment
    audit_number: int | None
    audit_head: Annotated[str | None, about("the chain's hash there; hexadecimal")]
    bytes: int | None
    sha256: str | None
    fault: str | None


class Backups(AnswerBody):
    """The backups of a home, the newest first."""

    backups: tuple[Backup, ...]


# What the command line alone shows.


class ListedKey(Credential):
    """A key without its secret."""

    label: str
    rate_limit: float | None
    state: Annotated[str, known("in force", "expired", "revoked", "outlet closed")]
    created_at: Moment
    expires_at: Moment | None
    revoked_at: Moment | None


class ListedAccount(Account, AnswerBody):
    """An account, as the command line shows it."""

    since: Moment
    seen_at: Moment | None


class ListedOutlet(OutletPlace):
    """An outlet; one that is closed or restricted enrolls nobody. Its time zone, or its carrier's,
    says by which date documents expire; null for the deployment's."""

    time_zone: str | None
    restriction: Annotated[str | None, known(*Restriction)] = None
    restriction_case: str | None = None
    restriction_reason: str | None = None
    refused_attempts: int = 0
    liveness: OutletLiveness | None = None


class WatchedEntry(AnswerBody):
    """An entry of the watch-list."""

    watch_id: int
    reason: str
    has_face: bool
    has_document: bool
    added_at: Moment


class BlockedDocument(AnswerBody):
    """A document that is refused; one that was erased stays blocked."""

    document_id: str
    type: str
    is_erased: bool
    blocked_at: Moment


class ChainHead(AnswerBody):
    """The newest entry of the chain that was verified."""

    number: int
    hash: str


class ChainReport(AnswerBody):
    """The whole chain, verified, and what is damaged in the database beside it; `anchors`: so many
    heads were compared with it; `mends`: entries by which people have sealed what was broken."""

    entries: int
    intact: bool
    first_bad: int | None
    head: ChainHead
    damage: tuple[str, ...]
    anchors: int | None = None
    mends: tuple[AuditEntry, ...] = ()


class CertificateCheck(AnswerBody):
    """A certificate held against the chain; `fault` is null where it holds."""

    holds: bool
    fault: str | None
    audit_number: int


SEALED_EXAMPLE = "AQAAAAAA"
MOST_SEALED_BYTES = 24 * 2**20


class ImportChunk(RequestBody):
    """Rows of an import, sealed with the deployment's own key ring: nobody else makes one."""

    sealed: Annotated[
        bytes,
        about("base64 in JSON, binary in MessagePack", min_length=1, max_length=MOST_SEALED_BYTES),
    ]
    planned: Annotated[
        Annotated[str, Meta(max_length=64)] | None,
        about(
            "null: it is planned, and nothing is stored; the `digest` of a plan: it is stored, "
            "if the plan is still that one"
        ),
    ] = None


class AdmittedChunk(AnswerBody):
    """A plan, or what was stored by one. Sent again after that it is told, without rows."""

    digest: str
    is_committed: bool
    rows: tuple[AdmittedRow, ...]
    look_alikes: Annotated[
        int, about("faces that are there under another document; of a first plan")
    ] = 0
