"""The tables, as SQLAlchemy Core metadata that SQLite and PostgreSQL share."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ColumnElement,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    text,
)

from engine.registry.database import Day, Moment

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)


# SQLite makes a column its row id only under the exact name INTEGER.
RowNumber = BigInteger().with_variant(Integer(), "sqlite")
UuidText = String(36)
Code = String(64)
Json = JSON(none_as_null=True)


def _mac() -> Column[bytes]:
    """Authenticates the row; null only until an upgrade has come to it."""
    return Column("mac", LargeBinary)


def _partial_index(
    name: str, *columns: ColumnElement[Any], where: str, unique: bool = False
) -> None:
    """An index of the rows that a condition holds for, on both databases."""
    condition = text(where)
    Index(name, *columns, unique=unique, sqlite_where=condition, postgresql_where=condition)


sweeps = Table(
    "sweeps",
    metadata,
    Column("id", UuidText, primary_key=True),
    Column("state", String(16), nullable=False),
    Column("terms", Json, nullable=False),
    Column("requested_by", String(200), nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("started_at", Moment),
    Column("ended_at", Moment),
    Column("sequence", BigInteger),
    Column("progress", Json, nullable=False),
    Column("summary", Json),
    Column("fault", Text),
    _mac(),
    CheckConstraint(
        "state IN ('queued', 'running', 'paused', 'done', 'cancelled', 'failed')", name="state"
    ),
)
Index("ix_sweeps_created", sweeps.c.created_at, sweeps.c.id)

cases = Table(
    "cases",
    metadata,
    Column("id", UuidText, primary_key=True),
    Column("kind", Code, nullable=False),
    Column("origin", String(16), nullable=False),
    Column("state", String(16), nullable=False, index=True),
    Column("enrollment_id", ForeignKey("enrollments.id"), index=True),
    Column("document_ids", Json, nullable=False),
    Column("suspect_ids", Json, nullable=False),
    Column("line_id", ForeignKey("lines.id")),
    Column("line_ids", Json, nullable=False),
    Column("score", Float(53)),
    Column("risk", Float(53)),
    Column("sweep_id", ForeignKey("sweeps.id")),
    Column("group_key", String(128), index=True),
    Column("assignee", String(200)),
    Column("proposal", Json),
    Column("outcome", String(16)),
    Column("merged_into", ForeignKey("cases.id"), index=True),
    Column("opened_at", Moment, nullable=False),
    Column("updated_at", Moment, nullable=False),
    Column("closed_at", Moment),
    _mac(),
    Column("weakest", Float(53)),
    CheckConstraint("origin IN ('decision', 'dispute', 'reverification', 'sweep')", name="origin"),
    CheckConstraint("state IN ('open', 'assigned', 'proposed', 'closed', 'merged')", name="state"),
    CheckConstraint(
        "outcome IS NULL OR "
        "(outcome IN ('fraud', 'twins', 'mistake', 'unfounded') AND state = 'closed')",
        name="outcome",
    ),
    CheckConstraint("(state = 'merged') = (merged_into IS NOT NULL)", name="merged"),
)
Index("ix_cases_opened", cases.c.opened_at, cases.c.id)
IS_ALIVE = "state IN ('open', 'assigned', 'proposed')"
"""As the index below says it: only a query with these very words can use that."""
_IS_ALIVE_OF_LINE = f"line_id IS NOT NULL AND {IS_ALIVE}"
# One at a time: who disputes a line again is shown the case that people have.
_partial_index(
    "uq_cases_open_of_line", cases.c.line_id, cases.c.kind, unique=True, where=_IS_ALIVE_OF_LINE
)

# An index of `cases.document_ids`: every decision that opens a case asks which others share a
# document with it. No foreign key on the document, as the list has none.
case_documents = Table(
    "case_documents",
    metadata,
    Column("document_id", UuidText, primary_key=True),
    Column("case_id", ForeignKey(cases.c.id), primary_key=True, index=True),
    _mac(),
)

case_notes = Table(
    "case_notes",
    metadata,
    Column("id", RowNumber, primary_key=True, autoincrement=False),
    Column("case_id", ForeignKey(cases.c.id), nullable=False, index=True),
    Column("at", Moment, nullable=False),
    Column("actor", String(200), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("text", LargeBinary),
    _mac(),
)

judged_pairs = Table(
    "judged_pairs",
    metadata,
    Column("left_document", ForeignKey("documents.id"), primary_key=True),
    Column("right_document", ForeignKey("documents.id"), primary_key=True),
    Column("outcome", String(16), nullable=False),
    Column("score", Float(53), nullable=False),
    Column("case_id", ForeignKey(cases.c.id), nullable=False),
    Column("sweep_id", ForeignKey(sweeps.c.id)),
    Column("decided_at", Moment, nullable=False),
    Column("decided_by", String(200), nullable=False),
    _mac(),
    # The gallery's that was decided on; null of a pair from before it was noted.
    Column("sequence", BigInteger),
    # Of the holders' attempts that were decided on, each with the other's reference.
    Column("left_attempt_score", Float(53)),
    Column("right_attempt_score", Float(53)),
    CheckConstraint("outcome IN ('fraud', 'twins', 'mistake')", name="outcome"),
)

crops = Table(
    "crops",
    metadata,
    Column("id", UuidText, primary_key=True),
    # Null of an imported reference, which has no attempt.
    Column("enrollment_id", ForeignKey("enrollments.id"), index=True),
    Column("photograph", String(16), nullable=False),
    Column("image", LargeBinary, nullable=False),
    Column("kept_until", Moment, nullable=False, index=True),
    # Null where an attempt has no well-formed document.
    Column("document_id", ForeignKey("documents.id"), index=True),
    Column("received_at", Moment),
    Column("quality", Json),
    # Shown to nobody until a case names the document.
    Column("is_held", Boolean),
    # So long it is kept from when a case names its document.
    Column("case_days", Integer),
    _mac(),
    CheckConstraint("photograph IN ('live', 'portrait')", name="photograph"),
    CheckConstraint("enrollment_id IS NOT NULL OR document_id IS NOT NULL", name="owner"),
)


# What an attempt under a document without a reference showed, while people may be asked about it:
# else what they decide of it could not be found again.
attempt_templates = Table(
    "attempt_templates",
    metadata,
    # The attempt's.
    Column("id", ForeignKey("enrollments.id"), primary_key=True),
    Column("document_id", ForeignKey("documents.id"), nullable=False, index=True),
    Column("template", LargeBinary, nullable=False),
    _mac(),
)


# Of evidence of liveness: who said what of which request, and that it was said once.
liveness = Table(
    "liveness",
    metadata,
    Column("id", UuidText, primary_key=True),
    Column("use", String(16), nullable=False),
    Column("received_at", Moment, nullable=False, index=True),
    # Keyed, of issuer and jti: null of what may come again.
    Column("token", LargeBinary, unique=True),
    Column("problem", String(32)),
    Column("issuer", String(200)),
    Column("jti", String(200)),
    Column("decision", String(16)),
    Column("level", String(64)),
    Column("issued_at", Moment),
    Column("carrier", ForeignKey("carriers.code")),
    Column("outlet", ForeignKey("outlets.code")),
    Column("enrollment_id", ForeignKey("enrollments.id"), index=True),
    _mac(),
    # Of the model that looked at the picture itself: null of what a capture system signed.
    Column("judge", String(64)),
)
Index("ix_liveness_outlet", liveness.c.outlet, liveness.c.received_at)

# What happened, for the systems of carriers: written with it, in its order.
events = Table(
    "events",
    metadata,
    Column("number", RowNumber, primary_key=True, autoincrement=False),
    Column("id", UuidText, nullable=False),
    Column("type", String(32), nullable=False),
    Column("at", Moment, nullable=False),
    Column("subject", UuidText, nullable=False),
    # Null of what no carrier is told.
    Column("carrier", ForeignKey("carriers.code")),
    Column("data", LargeBinary, nullable=False),
    _mac(),
    # Of an enrollment that opened this line: the row is that event too, of the next number.
    Column("line_id", UuidText),
    # Whose it is, where the subject is something of a document: its events wait for one another.
    Column("document_id", UuidText),
)
Index("ix_events_carrier", events.c.carrier, events.c.number)
# Numbers follow the time, so few rows need an entry. A row has two numbers at most: one of two
# that follow each other is some row's own.
EVENTS_MARKED = 128
_partial_index("ix_events_marks", events.c.at, where=f"number % {EVENTS_MARKED} < 2")

# Where events go, by whom it was asked for: a carrier, or who runs the deployment.
webhooks = Table(
    "webhooks",
    metadata,
    Column("id", UuidText, primary_key=True),
    Column("carrier", ForeignKey("carriers.code"), index=True),
    Column("sink", LargeBinary, nullable=False),
    # Null: every type.
    Column("types", Json),
    Column("state", String(16), nullable=False),
    Column("secret", LargeBinary, nullable=False),
    # Signs as well, until then.
    Column("earlier_secret", LargeBinary),
    Column("earlier_until", Moment),
    Column("created_at", Moment, nullable=False),
    Column("created_by", String(200), nullable=False),
    _mac(),
    CheckConstraint("state IN ('active', 'paused', 'gone')", name="state"),
)

# How far a reader of events or of the audit chain has come: a webhook by its id, the export of the
# chain by its name. One process at a time holds it, until `held_until`; `generation` rises when
# people change what it stands for.
cursors = Table(
    "cursors",
    metadata,
    Column("name", Code, primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("held_by", UuidText),
    Column("held_until", Moment),
    _mac(),
)

# Events up to a webhook's cursor that it has not taken: to be tried again, or given up.
undelivered = Table(
    "undelivered",
    metadata,
    Column("webhook_id", ForeignKey(webhooks.c.id), primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    # The document, or the event's subject: those of one queue are delivered one after another.
    Column("queue", UuidText, nullable=False),
    Column("attempts", Integer, nullable=False),
    # Null of a dead letter.
    Column("due_at", Moment),
    Column("fault", String(64)),
    Column("at", Moment, nullable=False),
    _mac(),
)

# -- People whom rules treat apart --------------------------------------------------------------

# Who answers for the line of a minor: ids alone, and the year in which that ends.
guardianships = Table(
    "guardianships",
    metadata,
    Column("line_id", ForeignKey("lines.id"), primary_key=True),
    Column("document_id", ForeignKey("documents.id"), nullable=False, index=True),
    Column("guardian_id", ForeignKey("documents.id"), nullable=False, index=True),
    Column("enrollment_id", ForeignKey("enrollments.id"), nullable=False),
    Column("ends_in", Integer, nullable=False),
    Column("created_at", Moment, nullable=False),
    _mac(),
)

# Enrollments without a usable face or portrait, until and since two people have decided them.
exceptions = Table(
    "exceptions",
    metadata,
    # The enrollment's.
    Column("id", ForeignKey("enrollments.id"), primary_key=True),
    Column("carrier", ForeignKey("carriers.code"), nullable=False),
    Column("outlet", ForeignKey("outlets.code"), nullable=False),
    Column("document_id", ForeignKey("documents.id"), nullable=False, index=True),
    Column("cause", String(32), nullable=False),
    # The number that was asked for, with the name and the expiry of the document as they were
    # given; null once it was decided.
    Column("msisdn", LargeBinary),
    Column("asked_at", Moment, nullable=False, index=True),
    Column("case_id", ForeignKey("cases.id"), nullable=False, index=True),
    Column("decided_at", Moment),
    Column("line_id", ForeignKey("lines.id"), index=True),
    _mac(),
)
Index("ix_exceptions_outlet", exceptions.c.outlet, exceptions.c.asked_at)

# Holders reported dead; the row stays when a report turns out wrong, `lifted_at` says when.
deaths = Table(
    "deaths",
    metadata,
    Column("document_id", ForeignKey("documents.id"), primary_key=True),
    Column("source", String(32), nullable=False),
    Column("reported_at", Moment, nullable=False),
    Column("reported_by", String(200), nullable=False),
    Column("reported_person", String(200), nullable=False),
    Column("disputed_lines", Json, nullable=False),
    Column("confirmed_at", Moment),
    Column("confirmed_by", String(200)),
    Column("contested_at", Moment),
    Column("contested_by", String(200)),
    Column("contested_person", String(200)),
    Column("lifted_at", Moment),
    Column("lifted_by", String(200)),
    _mac(),
)

# Documents that enroll nobody any more, and the one of the same person that took their place.
replacements = Table(
    "replacements",
    metadata,
    # The one that was replaced.
    Column("document_id", ForeignKey("documents.id"), primary_key=True),
    Column("successor_id", ForeignKey("documents.id"), nullable=False, index=True),
    Column("enrollment_id", ForeignKey("enrollments.id"), nullable=False),
    Column("score", Float(53), nullable=False),
    Column("replaced_at", Moment, nullable=False),
    _mac(),
)

deployment = Table(
    "deployment",
    metadata,
    Column("singleton", Integer, primary_key=True, autoincrement=False),
    Column("deployment_id", UuidText, nullable=False),
    Column("key_check", LargeBinary, nullable=False),
    # Fingerprints of the data keys that rows may be sealed with, by version.
    Column("data_keys", Json, nullable=False),
    Column("model_digest", String(128), nullable=False),
    Column("dim", Integer, nullable=False),
    Column("rotation_id", String(32), nullable=False),
    Column("writer_epoch", BigInteger, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("audit_number", BigInteger, nullable=False),
    # The last entry's hash; a new name keeps out processes of versions that do not look, as they
    # write, whether the registry was upgraded since they opened it.
    Column("chain_head", LargeBinary, nullable=False),
    # Of number, head and sequence; null until an upgrade has authenticated every row.
    Column("audit_mac", LargeBinary),
    Column("created_at", Moment, nullable=False),
    # How many values each data key has sealed, by version.
    Column("seals", Json),
    CheckConstraint("singleton = 1", name="one_row"),
)

carriers = Table(
    "carriers",
    metadata,
    Column("code", Code, primary_key=True),
    Column("name", String(200), nullable=False),
    Column("line_limit", Integer, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("time_zone", String(64)),
    _mac(),
    CheckConstraint("line_limit >= 0", name="line_limit"),
)

outlets = Table(
    "outlets",
    metadata,
    Column("code", Code, primary_key=True),
    Column("carrier", ForeignKey(carriers.c.code), nullable=False),
    Column("is_open", Boolean, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("closed_at", Moment),
    Column("time_zone", String(64)),
    _mac(),
    # Why nothing is enrolled here for now, or any more; null where nothing hinders it.
    Column("restriction", String(16)),
    Column("restricted_at", Moment),
    Column("restricted_by", String(200)),
    Column("restricted_person", String(200)),
    # No foreign key: cases have one on enrollments, and those on outlets.
    Column("restriction_case", UuidText),
    # Null: the history of that case has it, sealed. A version before 0016 kept it here.
    Column("restriction_reason", String(200)),
    Column("refused_attempts", Integer),
)

documents = Table(
    "documents",
    metadata,
    Column("id", UuidText, primary_key=True),
    Column("kind", Code, nullable=False),
    # The keyed look-up is made of kind and number, so it is unique by itself.
    Column("lookup", LargeBinary, unique=True),
    Column("name_lookup", LargeBinary),
    Column("identity", LargeBinary),
    Column("expires_on", Day),
    Column("status", String(16), nullable=False),
    Column("created_at", Moment, nullable=False),
    # Beside the status, not in it: a block outlives an erasure, and lifting it changes no more.
    Column("blocked_at", Moment),
    Column("erased_at", Moment),
    _mac(),
    # An erasure that waits for open cases, until `erasure_due_at` at the latest.
    Column("erasure_asked_at", Moment),
    Column("erasure_due_at", Moment),
    Column("erasure_asked_by", String(200)),
    # Of the entry that is the certificate of what was erased.
    Column("erasure_number", BigInteger),
    CheckConstraint("status IN ('attempted', 'active', 'erased')", name="status"),
    CheckConstraint("(status = 'erased') = (identity IS NULL)", name="erased"),
    CheckConstraint("(lookup IS NULL) = (status = 'erased' AND blocked_at IS NULL)", name="lookup"),
)
# Partial: few documents are blocked.
_partial_index("ix_documents_blocked", documents.c.blocked_at, where="blocked_at IS NOT NULL")
_partial_index("ix_documents_attempted", documents.c.id, where="status = 'attempted'")
_partial_index(
    "ix_documents_erasure", documents.c.erasure_due_at, where="erasure_due_at IS NOT NULL"
)

enrollments = Table(
    "enrollments",
    metadata,
    Column("id", UuidText, primary_key=True),
    Column("sequence", BigInteger, nullable=False),
    Column("carrier", ForeignKey(carriers.c.code), nullable=False),
    Column("outlet", ForeignKey(outlets.c.code), nullable=False),
    Column("document_id", ForeignKey(documents.c.id), index=True),
    Column("decision", String(16), nullable=False),
    Column("reasons", Json, nullable=False),
    Column("evidence", Json, nullable=False),
    Column("consent_ref", String(200)),
    Column("captured_at", Moment),
    Column("created_at", Moment, nullable=False),
    # Since then it has no evidence any more; the decision stays.
    Column("expired_at", Moment),
    _mac(),
    CheckConstraint("decision IN ('approved', 'review', 'rejected')", name="decision"),
)
Index("ix_enrollments_outlet", enrollments.c.outlet, enrollments.c.created_at, enrollments.c.id)
_REJECTED = "decision = 'rejected' AND expired_at IS NULL"
_partial_index(
    "ix_enrollments_rejected", enrollments.c.created_at, enrollments.c.id, where=_REJECTED
)
_REVIEW = "decision = 'review' AND expired_at IS NULL"
_partial_index("ix_enrollments_review", enrollments.c.created_at, enrollments.c.id, where=_REVIEW)

references = Table(
    "references",
    metadata,
    Column("id", RowNumber, primary_key=True, autoincrement=False),
    Column("document_id", ForeignKey(documents.c.id), nullable=False, index=True),
    Column("enrollment_id", ForeignKey(enrollments.c.id)),
    Column("template", LargeBinary),
    Column("model_digest", String(128), nullable=False),
    Column("rotation_id", String(32), nullable=False),
    Column("added_sequence", BigInteger, nullable=False),
    Column("removed_sequence", BigInteger),
    _mac(),
    # Of another model, which searches do not use until the models are switched.
    Column("second_template", LargeBinary),
    Column("second_model_digest", String(128)),
    CheckConstraint("(template IS NULL) = (removed_sequence IS NOT NULL)", name="tombstone"),
)
Index("ix_references_added", references.c.added_sequence, references.c.id)
# Partial, or PostgreSQL without statistics reads every live reference through it.
_partial_index(
    "ix_references_removed", references.c.removed_sequence, where="removed_sequence IS NOT NULL"
)

lines = Table(
    "lines",
    metadata,
    Column("id", UuidText, primary_key=True),
    Column("msisdn_lookup", LargeBinary),
    Column("msisdn", LargeBinary),
    Column("document_id", ForeignKey(documents.c.id), nullable=False, index=True),
    Column("carrier", ForeignKey(carriers.c.code), nullable=False),
    Column("outlet", ForeignKey(outlets.c.code), nullable=False),
    Column("enrollment_id", ForeignKey(enrollments.c.id)),
    Column("status", String(16), nullable=False),
    Column("opened_at", Moment, nullable=False),
    Column("closed_at", Moment),
    _mac(),
    # What of its service it lacks; null of a line that has all. Beside the status, so that neither
    # a dispute nor its end changes it.
    Column("service", String(24)),
    CheckConstraint("status IN ('active', 'disputed', 'closed')", name="status"),
)
_partial_index(
    "uq_lines_number_in_use", lines.c.msisdn_lookup, unique=True, where="status <> 'closed'"
)
_CLOSED = "status = 'closed' AND msisdn IS NOT NULL"
_partial_index("ix_lines_closed", lines.c.closed_at, lines.c.id, where=_CLOSED)
# An event that ended a line is reported again by its number.
_partial_index(
    "ix_lines_closed_number",
    lines.c.msisdn_lookup,
    where="status = 'closed' AND msisdn_lookup IS NOT NULL",
)

# What happened to lines, as carriers report it and rules bring it about: ids and causes alone.
line_events = Table(
    "line_events",
    metadata,
    Column("id", UuidText, primary_key=True),
    Column("line_id", ForeignKey(lines.c.id), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("at", Moment, nullable=False),
    Column("recorded_at", Moment, nullable=False, index=True),
    Column("cause", String(64)),
    Column("by", String(200), nullable=False),
    _mac(),
)
Index("ix_line_events_line", line_events.c.line_id, line_events.c.at)

campaigns = Table(
    "campaigns",
    metadata,
    Column("id", UuidText, primary_key=True),
    Column("carrier", ForeignKey(carriers.c.code), nullable=False),
    Column("name", String(200), nullable=False),
    Column("state", String(16), nullable=False),
    Column("deadline", Moment, nullable=False),
    Column("steps", Json, nullable=False),
    Column("chosen", Json, nullable=False),
    Column("filled_to", UuidText),
    Column("created_at", Moment, nullable=False),
    Column("created_by", String(200), nullable=False),
    _mac(),
)

campaign_lines = Table(
    "campaign_lines",
    metadata,
    Column("campaign_id", ForeignKey(campaigns.c.id), primary_key=True),
    Column("line_id", ForeignKey(lines.c.id), primary_key=True),
    Column("state", String(16), nullable=False),
    Column("at", Moment, nullable=False),
    _mac(),
)

# Lines whose holders are asked for, and what happens next where they do not come.
reverifications = Table(
    "reverifications",
    metadata,
    Column("id", UuidText, primary_key=True),
    Column("line_id", ForeignKey(lines.c.id), nullable=False),
    Column("rule", Code, nullable=False),
    Column("asked_at", Moment, nullable=False),
    Column("next_step_at", Moment),
    # As they were when it was asked for: what a holder was told stays so.
    Column("steps", Json, nullable=False),
    Column("overdue_at", Moment),
    Column("campaign_id", ForeignKey(campaigns.c.id)),
    _mac(),
)
Index("uq_reverifications_line", reverifications.c.line_id, reverifications.c.rule, unique=True)
_partial_index(
    "ix_reverifications_due",
    reverifications.c.next_step_at,
    reverifications.c.id,
    where="next_step_at IS NOT NULL",
)
# Of each campaign, and of rules, by themselves: so none has to wait behind another's.
_partial_index(
    "ix_reverifications_campaign",
    reverifications.c.campaign_id,
    reverifications.c.next_step_at,
    reverifications.c.id,
    where="next_step_at IS NOT NULL",
)

# Documents that no limit on lines holds for, as those of firms.
limit_exemptions = Table(
    "limit_exemptions",
    metadata,
    Column("document_id", ForeignKey(documents.c.id), primary_key=True),
    Column("cause", Code, nullable=False),
    Column("at", Moment, nullable=False),
    Column("by", String(200), nullable=False),
    _mac(),
)

watchlist = Table(
    "watchlist",
    metadata,
    Column("id", RowNumber, primary_key=True, autoincrement=False),
    Column("document_lookup", LargeBinary, index=True),
    Column("template", LargeBinary),
    Column("reason", String(200), nullable=False),
    Column("added_at", Moment, nullable=False),
    Column("removed_at", Moment),
    _mac(),
    Column("second_template", LargeBinary),
    Column("second_model_digest", String(128)),
)

# Of failed comparisons: what `engine.matching.limits` bounds, by its name there.
tallies = Table(
    "tallies",
    metadata,
    Column("name", String(200), primary_key=True),
    Column("level", Float(53), nullable=False),
    Column("at", Moment, nullable=False),
    _mac(),
)

audit = Table(
    "audit",
    metadata,
    Column("number", RowNumber, primary_key=True, autoincrement=False),
    Column("at", Moment, nullable=False),
    Column("actor", String(200), nullable=False),
    Column("action", Code, nullable=False),
    Column("subject", String(200), nullable=False),
    Column("detail", Json, nullable=False),
    Column("hash", LargeBinary, nullable=False),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("scope", LargeBinary, primary_key=True),
    Column("payload_digest", LargeBinary, nullable=False),
    Column("enrollment_id", ForeignKey(enrollments.c.id), index=True),
    Column("response", Json, nullable=False),
    Column("created_at", Moment, nullable=False, index=True),
    _mac(),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Code, primary_key=True),
    # Keyed, of the whole key and of what it may do (`bind_key`): a reader of the table cannot use
    # it, and whoever alters a row makes it useless. Empty once the key is revoked.
    Column("digest", LargeBinary, nullable=False),
    Column("label", String(200), nullable=False),
    Column("role", String(16), nullable=False),
    Column("carrier", ForeignKey(carriers.c.code)),
    Column("outlet", ForeignKey(outlets.c.code)),
    Column("rate_limit", Float(53)),
    Column("created_at", Moment, nullable=False),
    Column("expires_at", Moment),
    Column("revoked_at", Moment),
    Column("person", String(200)),
    _mac(),
    CheckConstraint("role IN ('outlet', 'carrier', 'fraud', 'operator', 'metrics')", name="role"),
    CheckConstraint("(role IN ('outlet', 'carrier')) = (carrier IS NOT NULL)", name="carrier"),
    CheckConstraint("(role = 'outlet') = (outlet IS NOT NULL)", name="outlet"),
    CheckConstraint("rate_limit > 0", name="rate_limit"),
)

# Who has signed in by the identity provider: `subject` and `name` are keyed look-ups, of what the
# provider calls the account and of the person's name, so that no two accounts are one person.
accounts = Table(
    "accounts",
    metadata,
    Column("subject", LargeBinary, primary_key=True),
    Column("person", String(200), nullable=False),
    Column("name", LargeBinary, nullable=False, unique=True),
    Column("created_at", Moment, nullable=False),
    _mac(),
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", Code, primary_key=True),
    # As a key's: of the secret and of all that the session may do, but `seen_at`.
    Column("digest", LargeBinary, nullable=False),
    Column("subject", ForeignKey(accounts.c.subject), nullable=False, index=True),
    Column("person", String(200), nullable=False),
    Column("role", String(16), nullable=False),
    Column("carrier", ForeignKey(carriers.c.code)),
    Column("outlet", ForeignKey(outlets.c.code)),
    Column("created_at", Moment, nullable=False),
    Column("expires_at", Moment, nullable=False),
    Column("seen_at", Moment, nullable=False),
    _mac(),
    CheckConstraint("role IN ('outlet', 'carrier', 'fraud', 'operator')", name="role"),
    CheckConstraint("(role IN ('outlet', 'carrier')) = (carrier IS NOT NULL)", name="carrier"),
    CheckConstraint("(role = 'outlet') = (outlet IS NOT NULL)", name="outlet"),
)

SEALED = (
    (documents, documents.c.identity),
    (references, references.c.template),
    (references, references.c.second_template),
    (lines, lines.c.msisdn),
    (watchlist, watchlist.c.template),
    (watchlist, watchlist.c.second_template),
    (case_notes, case_notes.c.text),
    (crops, crops.c.image),
    (attempt_templates, attempt_templates.c.template),
    (events, events.c.data),
    (webhooks, webhooks.c.sink),
    (webhooks, webhooks.c.secret),
    (webhooks, webhooks.c.earlier_secret),
    (exceptions, exceptions.c.msisdn),
)
"""Every table with a sealed column; `rows.name_sealed` says how its seals name a row."""
