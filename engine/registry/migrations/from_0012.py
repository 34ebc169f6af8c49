"""Revisions from 0012 on: accounts, liveness, events and webhooks, the life of lines, people.

A new one goes to the end of `MIGRATIONS`, and its number to `database.REVISIONS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import sqlalchemy as sa
from alembic import op

from engine.registry.migrations.from_0001 import (
    BYTES,
    CODE,
    FLOAT,
    ID,
    JSON,
    LONG_WORD,
    MOMENT,
    NAME,
    NUMBER,
    WORD,
    index_some,
    required,
)


def add_accounts() -> None:
    """Accounts of an identity provider and the sessions that were signed in with them."""
    op.create_table(
        "accounts",
        sa.Column("subject", BYTES, primary_key=True),
        required("person", NAME),
        required("name", BYTES, unique=True),
        required("created_at", MOMENT),
        sa.Column("mac", BYTES),
    )
    account = sa.ForeignKey("accounts.subject")
    op.create_table(
        "sessions",
        sa.Column("id", CODE, primary_key=True),
        required("digest", BYTES),
        required("subject", BYTES, account, index=True),
        required("person", NAME),
        required("role", WORD),
        sa.Column("carrier", CODE, sa.ForeignKey("carriers.code")),
        sa.Column("outlet", CODE, sa.ForeignKey("outlets.code")),
        required("created_at", MOMENT),
        required("expires_at", MOMENT),
        required("seen_at", MOMENT),
        sa.CheckConstraint("role IN ('outlet', 'carrier', 'fraud', 'operator')", name="role"),
        sa.CheckConstraint(IS_TENANT, name="carrier"),
        sa.CheckConstraint(IS_OUTLET, name="outlet"),
    )


IS_TENANT = "(role IN ('outlet', 'carrier')) = (carrier IS NOT NULL)"
IS_OUTLET = "(role = 'outlet') = (outlet IS NOT NULL)"


def add_holds() -> None:
    """Erasures that wait for open cases, outlets that may enroll nobody, attempts by outlet: null
    everywhere, so that every row keeps its code."""
    for table, name, kind in (
        ("documents", "erasure_asked_at", MOMENT),
        ("documents", "erasure_due_at", MOMENT),
        ("documents", "erasure_asked_by", NAME),
        ("documents", "erasure_number", sa.BigInteger()),
        ("outlets", "restriction", WORD),
        ("outlets", "restricted_at", MOMENT),
        ("outlets", "restricted_by", NAME),
        ("outlets", "restricted_person", NAME),
        ("outlets", "restriction_case", ID),
        ("outlets", "restriction_reason", NAME),
        ("outlets", "refused_attempts", sa.Integer()),
    ):
        op.add_column(table, sa.Column(name, kind))
    waits = "erasure_due_at IS NOT NULL"
    index_some("ix_documents_erasure", "documents", ["erasure_due_at"], waits)
    op.create_index("ix_enrollments_outlet", "enrollments", ["outlet", "created_at", "id"])


def note_what_was_decided_on() -> None:
    """The state of the gallery that a pair of documents was decided on."""
    op.add_column("judged_pairs", sa.Column("sequence", sa.BigInteger))


def count_seals() -> None:
    """How many values each data key has sealed: `sosie upgrade` counts what is there."""
    op.add_column("deployment", sa.Column("seals", sa.JSON))


def keep_attempts_decided_on() -> None:
    """What people decided on of attempts: templates of those without a reference, and scores."""
    op.create_table(
        "attempt_templates",
        sa.Column("id", ID, sa.ForeignKey("enrollments.id"), primary_key=True),
        required("document_id", ID, sa.ForeignKey("documents.id"), index=True),
        required("template", BYTES),
        sa.Column("mac", BYTES),
    )
    for side in ("left", "right"):
        op.add_column("judged_pairs", sa.Column(f"{side}_attempt_score", FLOAT))


def add_liveness() -> None:
    """Results of liveness checks, as capture systems signed them."""
    op.create_table(
        "liveness",
        sa.Column("id", ID, primary_key=True),
        required("use", WORD),
        required("received_at", MOMENT, index=True),
        sa.Column("token", BYTES, unique=True),
        sa.Column("problem", LONG_WORD),
        sa.Column("issuer", NAME),
        sa.Column("jti", NAME),
        sa.Column("decision", WORD),
        sa.Column("level", sa.String(64)),
        sa.Column("issued_at", MOMENT),
        sa.Column("carrier", CODE, sa.ForeignKey("carriers.code")),
        sa.Column("outlet", CODE, sa.ForeignKey("outlets.code")),
        sa.Column("enrollment_id", ID, sa.ForeignKey("enrollments.id"), index=True),
        sa.Column("mac", BYTES),
    )


def add_events() -> None:
    """An outbox of events, empty: of what happened before nobody is told."""
    op.create_table(
        "events",
        sa.Column("number", NUMBER, primary_key=True, autoincrement=False),
        required("id", ID, unique=True),
        required("type", LONG_WORD),
        required("at", MOMENT, index=True),
        required("subject", ID),
        sa.Column("carrier", CODE, sa.ForeignKey("carriers.code")),
        required("data", BYTES),
        sa.Column("mac", BYTES),
    )
    op.create_index("ix_events_carrier", "events", ["carrier", "number"])


def add_webhooks() -> None:
    """Webhooks and cursors; the outbox loses the indexes that nothing needs, which makes its rows
    cheaper to write."""
    with op.batch_alter_table("events") as events:
        events.drop_constraint("uq_events_id", type_="unique")
        events.drop_index("ix_events_at")
        events.add_column(sa.Column("line_id", ID))
        events.add_column(sa.Column("document_id", ID))
    index_some("ix_events_marks", "events", ["at"], "number % 128 < 2")
    op.create_table(
        "webhooks",
        sa.Column("id", ID, primary_key=True),
        sa.Column("carrier", CODE, sa.ForeignKey("carriers.code"), index=True),
        required("sink", BYTES),
        sa.Column("types", sa.JSON),
        required("state", WORD),
        required("secret", BYTES),
        sa.Column("earlier_secret", BYTES),
        sa.Column("earlier_until", MOMENT),
        required("created_at", MOMENT),
        required("created_by", NAME),
        sa.Column("mac", BYTES),
        sa.CheckConstraint("state IN ('active', 'paused', 'gone')", name="state"),
    )
    op.create_table(
        "cursors",
        sa.Column("name", CODE, primary_key=True),
        required("number", sa.BigInteger),
        required("generation", sa.BigInteger),
        sa.Column("holder", ID),
        sa.Column("held_until", MOMENT),
    )
    op.create_table(
        "undelivered",
        sa.Column("webhook_id", ID, sa.ForeignKey("webhooks.id"), primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        required("queue", ID),
        required("attempts", sa.Integer),
        sa.Column("due_at", MOMENT),
        sa.Column("fault", sa.String(64)),
        required("at", MOMENT),
    )


def add_life_of_lines() -> None:
    """The service of lines, what happened to them, who is asked for, campaigns."""
    op.add_column("lines", sa.Column("service", sa.String(24)))
    is_closed = "status = 'closed' AND msisdn_lookup IS NOT NULL"
    index_some("ix_lines_closed_number", "lines", ["msisdn_lookup"], is_closed)
    op.create_table(
        "line_events",
        sa.Column("id", ID, primary_key=True),
        required("line_id", ID, sa.ForeignKey("lines.id")),
        required("kind", LONG_WORD),
        required("at", MOMENT),
        required("recorded_at", MOMENT, index=True),
        sa.Column("cause", CODE),
        required("by", NAME),
        sa.Column("mac", BYTES),
    )
    op.create_index("ix_line_events_line", "line_events", ["line_id", "at"])
    add_campaigns()
    op.create_table(
        "limit_exemptions",
        sa.Column("document_id", ID, sa.ForeignKey("documents.id"), primary_key=True),
        required("cause", CODE),
        required("at", MOMENT),
        required("by", NAME),
        sa.Column("mac", BYTES),
    )


def add_campaigns() -> None:
    op.create_table(
        "campaigns",
        sa.Column("id", ID, primary_key=True),
        required("carrier", CODE, sa.ForeignKey("carriers.code")),
        required("name", NAME),
        required("state", WORD),
        required("deadline", MOMENT),
        required("steps", JSON),
        required("chosen", JSON),
        sa.Column("filled_to", ID),
        required("created_at", MOMENT),
        required("created_by", NAME),
        sa.Column("mac", BYTES),
    )
    op.create_table(
        "campaign_lines",
        sa.Column("campaign_id", ID, sa.ForeignKey("campaigns.id"), primary_key=True),
        sa.Column("line_id", ID, sa.ForeignKey("lines.id"), primary_key=True),
        required("state", WORD),
        required("at", MOMENT),
    )
    op.create_table(
        "reverifications",
        sa.Column("id", ID, primary_key=True),
        required("line_id", ID, sa.ForeignKey("lines.id")),
        required("rule", CODE),
        required("asked_at", MOMENT),
        sa.Column("next_step_at", MOMENT),
        required("steps", JSON),
        sa.Column("overdue_at", MOMENT),
        sa.Column("campaign_id", ID, sa.ForeignKey("campaigns.id")),
        sa.Column("mac", BYTES),
    )
    op.create_index("uq_reverifications_line", "reverifications", ["line_id", "rule"], unique=True)
    index_some("ix_reverifications_due", "reverifications", ["next_step_at", "id"], HAS_STEP)


HAS_STEP = "next_step_at IS NOT NULL"


def add_people() -> None:
    """People whom rules treat apart: guardians, exceptions, the dead, replaced documents."""
    add_guardians()
    add_deaths()


def add_guardians() -> None:
    op.create_table(
        "guardianships",
        sa.Column("line_id", ID, sa.ForeignKey("lines.id"), primary_key=True),
        required("document_id", ID, sa.ForeignKey("documents.id"), index=True),
        required("guardian_id", ID, sa.ForeignKey("documents.id"), index=True),
        required("enrollment_id", ID, sa.ForeignKey("enrollments.id")),
        required("ends_in", sa.Integer),
        required("created_at", MOMENT),
        sa.Column("mac", BYTES),
    )
    op.create_table(
        "exceptions",
        sa.Column("id", ID, sa.ForeignKey("enrollments.id"), primary_key=True),
        required("carrier", CODE, sa.ForeignKey("carriers.code")),
        required("outlet", CODE, sa.ForeignKey("outlets.code")),
        required("document_id", ID, sa.ForeignKey("documents.id"), index=True),
        required("cause", LONG_WORD),
        sa.Column("msisdn", BYTES),
        required("asked_at", MOMENT, index=True),
        required("case_id", ID, sa.ForeignKey("cases.id"), index=True),
        sa.Column("decided_at", MOMENT),
        sa.Column("line_id", ID, sa.ForeignKey("lines.id"), index=True),
        sa.Column("mac", BYTES),
    )
    op.create_index("ix_exceptions_outlet", "exceptions", ["outlet", "asked_at"])


def add_deaths() -> None:
    op.create_table(
        "deaths",
        sa.Column("document_id", ID, sa.ForeignKey("documents.id"), primary_key=True),
        required("source", LONG_WORD),
        required("reported_at", MOMENT),
        required("reported_by", NAME),
        required("reported_person", NAME),
        required("disputed_lines", sa.JSON),
        sa.Column("confirmed_at", MOMENT),
        sa.Column("confirmed_by", NAME),
        sa.Column("contested_at", MOMENT),
        sa.Column("contested_by", NAME),
        sa.Column("contested_person", NAME),
        sa.Column("lifted_at", MOMENT),
        sa.Column("lifted_by", NAME),
        sa.Column("mac", BYTES),
    )
    op.create_table(
        "replacements",
        sa.Column("document_id", ID, sa.ForeignKey("documents.id"), primary_key=True),
        required("successor_id", ID, sa.ForeignKey("documents.id"), index=True),
        required("enrollment_id", ID, sa.ForeignKey("enrollments.id")),
        required("score", FLOAT),
        required("replaced_at", MOMENT),
        sa.Column("mac", BYTES),
    )


def add_liveness_judge() -> None:
    """Results of a judge of the picture itself: which it was, null of what is there."""
    op.add_column("liveness", sa.Column("judge", sa.String(64)))


def index_campaigns_and_outlets() -> None:
    """Indexes by which campaigns take turns, and outlets are shown with their results."""
    columns = ["campaign_id", "next_step_at", "id"]
    index_some("ix_reverifications_campaign", "reverifications", columns, HAS_STEP)
    op.create_index("ix_liveness_outlet", "liveness", ["outlet", "received_at"])


def rename_head_and_cursors() -> None:
    """New names for what every write of an earlier version names: the head, and who holds a cursor.

    A process that was opened before the upgrade goes on, and those versions do not look at the
    schema as they write: this refuses it.
    """
    op.execute("ALTER TABLE deployment RENAME COLUMN audit_head TO chain_head")
    op.execute("ALTER TABLE cursors RENAME COLUMN holder TO held_by")


def add_role_metrics() -> None:
    """Lets a key have the role `metrics`."""
    # SQLite makes the table anew, and none of its checks is read back.
    kept = {"carrier": IS_TENANT, "outlet": IS_OUTLET, "rate_limit": "rate_limit > 0"}
    checks = tuple(
        sa.CheckConstraint(text, name=op.f(f"ck_api_keys_{name}")) for name, text in kept.items()
    )
    with op.batch_alter_table("api_keys", table_args=checks) as keys:
        if op.get_bind().dialect.name != "sqlite":
            keys.drop_constraint(op.f("ck_api_keys_role"), type_="check")
        role = "role IN ('outlet', 'carrier', 'fraud', 'operator', 'metrics')"
        keys.create_check_constraint(op.f("ck_api_keys_role"), role)


def add_codes_of_rows() -> None:
    """Codes of the rows that had none, for the key ring to make (`engine.registry.upgrade`)."""
    for table in (
        *("sweeps", "case_documents", "cursors", "undelivered"),
        *("campaign_lines", "tallies", "api_keys", "sessions"),
    ):
        op.add_column(table, sa.Column("mac", BYTES))


def index_proofs() -> None:
    """An index of the proofs that were taken in place of a face, which are counted by outlet."""
    columns = ["outlet", "received_at"]
    index_some("ix_liveness_proofs", "liveness", columns, "use = 'proof' AND problem IS NULL")


def add_consents() -> None:
    """Records of consent, and on a document since when it is withdrawn, by carrier."""
    op.add_column("documents", sa.Column("erasure_scope", sa.String(16)))
    op.add_column("documents", sa.Column("withdrawn", JSON))
    op.add_column("enrollments", sa.Column("consent", sa.LargeBinary))


MIGRATIONS: Mapping[str, Callable[[], None]] = {
    "0012": add_accounts,
    "0013": add_holds,
    "0014": note_what_was_decided_on,
    "0015": count_seals,
    "0016": keep_attempts_decided_on,
    "0017": add_liveness,
    "0018": add_events,
    "0019": add_webhooks,
    "0020": add_life_of_lines,
    "0021": add_people,
    "0022": add_liveness_judge,
    "0023": index_campaigns_and_outlets,
    "0024": rename_head_and_cursors,
    "0025": add_role_metrics,
    "0026": add_codes_of_rows,
    "0027": index_proofs,
    "0028": add_consents,
}
