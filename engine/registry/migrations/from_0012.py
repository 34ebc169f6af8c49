"""Revisions from 0012 on: accounts, liveness, events and webhooks, the life of lines, people.

A new one goes to the end of `MIGRATIONS`, and its number to `database.REVISIONS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import sqlalchemy as sa
from alembic import op

from engine.registry.migrations.from_0001 import (
    BYTES,
    CARRIER,
    CASE,
    CODE,
    DOCUMENT,
    ENROLLMENT,
    FLOAT,
    ID,
    JSON,
    LINE,
    LONG_WORD,
    MOMENT,
    NAME,
    NUMBER,
    OUTLET,
    WORD,
    add_columns,
    column,
    index_some,
    optional,
    required,
    required_all,
)


def make_coded(name: str, *parts: sa.schema.SchemaItem) -> None:
    """Makes a table whose rows have codes."""
    op.create_table(name, *parts, column("mac", BYTES))


def add_accounts() -> None:
    """Accounts of an identity provider and the sessions that were signed in with them."""
    make_coded(
        "accounts",
        column("subject", BYTES, primary_key=True),
        required("person", NAME),
        required("name", BYTES, unique=True),
        required("created_at", MOMENT),
    )
    op.create_table(
        "sessions",
        column("id", CODE, primary_key=True),
        required("digest", BYTES),
        required("subject", (BYTES, "accounts.subject"), index=True),
        *required_all(person=NAME, role=WORD),
        *optional(carrier=CARRIER, outlet=OUTLET),
        *required_all(created_at=MOMENT, expires_at=MOMENT, seen_at=MOMENT),
        sa.CheckConstraint("role IN ('outlet', 'carrier', 'fraud', 'operator')", name="role"),
        sa.CheckConstraint(IS_TENANT, name="carrier"),
        sa.CheckConstraint(IS_OUTLET, name="outlet"),
    )


IS_TENANT = "(role IN ('outlet', 'carrier')) = (carrier IS NOT NULL)"
IS_OUTLET = "(role = 'outlet') = (outlet IS NOT NULL)"


def add_holds() -> None:
    """Erasures that wait for open cases, outlets that may enroll nobody, attempts by outlet: null
    everywhere, so that every row keeps its code."""
    asked = {"erasure_asked_at": MOMENT, "erasure_due_at": MOMENT, "erasure_asked_by": NAME}
    add_columns("documents", **asked, erasure_number=sa.BigInteger)
    by = {"restriction": WORD, "restricted_at": MOMENT, "restricted_by": NAME}
    why = {"restricted_person": NAME, "restriction_case": ID, "restriction_reason": NAME}
    add_columns("outlets", **by, **why, refused_attempts=sa.Integer)
    waits = "erasure_due_at IS NOT NULL"
    index_some("ix_documents_erasure", "documents", ["erasure_due_at"], waits)
    op.create_index("ix_enrollments_outlet", "enrollments", ["outlet", "created_at", "id"])


def keep_attempts_decided_on() -> None:
    """What people decided on of attempts: templates of those without a reference, and scores."""
    make_coded(
        "attempt_templates",
        column("id", ENROLLMENT, primary_key=True),
        required("document_id", DOCUMENT, index=True),
        required("template", BYTES),
    )
    for side in ("left", "right"):
        op.add_column("judged_pairs", column(f"{side}_attempt_score", FLOAT))


def add_liveness() -> None:
    """Results of liveness checks, as capture systems signed them."""
    make_coded(
        "liveness",
        column("id", ID, primary_key=True),
        required("use", WORD),
        required("received_at", MOMENT, index=True),
        column("token", BYTES, unique=True),
        *optional(problem=LONG_WORD, issuer=NAME, jti=NAME, decision=WORD, level=sa.String(64)),
        *optional(issued_at=MOMENT, carrier=CARRIER, outlet=OUTLET),
        column("enrollment_id", ENROLLMENT, index=True),
    )


def add_events() -> None:
    """An outbox of events, empty: of what happened before nobody is told."""
    make_coded(
        "events",
        column("number", NUMBER, primary_key=True, autoincrement=False),
        required("id", ID, unique=True),
        required("type", LONG_WORD),
        required("at", MOMENT, index=True),
        required("subject", ID),
        column("carrier", CARRIER),
        required("data", BYTES),
    )
    op.create_index("ix_events_carrier", "events", ["carrier", "number"])


def add_webhooks() -> None:
    """Webhooks and cursors; the outbox loses the indexes that nothing needs, which makes its rows
    cheaper to write."""
    with op.batch_alter_table("events") as events:
        events.drop_constraint("uq_events_id", type_="unique")
        events.drop_index("ix_events_at")
        events.add_column(column("line_id", ID))
        events.add_column(column("document_id", ID))
    index_some("ix_events_marks", "events", ["at"], "number % 128 < 2")
    make_coded(
        "webhooks",
        column("id", ID, primary_key=True),
        column("carrier", CARRIER, index=True),
        required("sink", BYTES),
        column("types", sa.JSON),
        *required_all(state=WORD, secret=BYTES),
        *optional(earlier_secret=BYTES, earlier_until=MOMENT),
        *required_all(created_at=MOMENT, created_by=NAME),
        sa.CheckConstraint("state IN ('active', 'paused', 'gone')", name="state"),
    )
    op.create_table(
        "cursors",
        column("name", CODE, primary_key=True),
        *required_all(number=sa.BigInteger, generation=sa.BigInteger),
        *optional(holder=ID, held_until=MOMENT),
    )
    op.create_table(
        "undelivered",
        column("webhook_id", (ID, "webhooks.id"), primary_key=True),
        column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        *required_all(queue=ID, attempts=sa.Integer),
        *optional(due_at=MOMENT, fault=sa.String(64)),
        required("at", MOMENT),
    )


def add_life_of_lines() -> None:
    """The service of lines, what happened to them, who is asked for, campaigns."""
    add_columns("lines", service=sa.String(24))
    is_closed = "status = 'closed' AND msisdn_lookup IS NOT NULL"
    index_some("ix_lines_closed_number", "lines", ["msisdn_lookup"], is_closed)
    make_coded(
        "line_events",
        column("id", ID, primary_key=True),
        *required_all(line_id=LINE, kind=LONG_WORD, at=MOMENT),
        required("recorded_at", MOMENT, index=True),
        column("cause", CODE),
        required("by", NAME),
    )
    op.create_index("ix_line_events_line", "line_events", ["line_id", "at"])
    add_campaigns()
    make_coded(
        "limit_exemptions",
        column("document_id", DOCUMENT, primary_key=True),
        *required_all(cause=CODE, at=MOMENT, by=NAME),
    )


def add_campaigns() -> None:
    make_coded(
        "campaigns",
        column("id", ID, primary_key=True),
        *required_all(carrier=CARRIER, name=NAME, state=WORD, deadline=MOMENT, steps=JSON),
        required("chosen", JSON),
        column("filled_to", ID),
        *required_all(created_at=MOMENT, created_by=NAME),
    )
    op.create_table(
        "campaign_lines",
        column("campaign_id", (ID, "campaigns.id"), primary_key=True),
        column("line_id", LINE, primary_key=True),
        *required_all(state=WORD, at=MOMENT),
    )
    make_coded(
        "reverifications",
        column("id", ID, primary_key=True),
        *required_all(line_id=LINE, rule=CODE, asked_at=MOMENT),
        column("next_step_at", MOMENT),
        required("steps", JSON),
        *optional(overdue_at=MOMENT, campaign_id=(ID, "campaigns.id")),
    )
    op.create_index("uq_reverifications_line", "reverifications", ["line_id", "rule"], unique=True)
    index_some("ix_reverifications_due", "reverifications", ["next_step_at", "id"], HAS_STEP)


HAS_STEP = "next_step_at IS NOT NULL"


def add_people() -> None:
    """People whom rules treat apart: guardians, exceptions, the dead, replaced documents."""
    make_coded(
        "guardianships",
        column("line_id", LINE, primary_key=True),
        required("document_id", DOCUMENT, index=True),
        required("guardian_id", DOCUMENT, index=True),
        *required_all(enrollment_id=ENROLLMENT, ends_in=sa.Integer, created_at=MOMENT),
    )
    make_coded(
        "exceptions",
        column("id", ENROLLMENT, primary_key=True),
        *required_all(carrier=CARRIER, outlet=OUTLET),
        required("document_id", DOCUMENT, index=True),
        required("cause", LONG_WORD),
        column("msisdn", BYTES),
        required("asked_at", MOMENT, index=True),
        required("case_id", CASE, index=True),
        column("decided_at", MOMENT),
        column("line_id", LINE, index=True),
    )
    op.create_index("ix_exceptions_outlet", "exceptions", ["outlet", "asked_at"])
    make_coded(
        "deaths",
        column("document_id", DOCUMENT, primary_key=True),
        *required_all(source=LONG_WORD, reported_at=MOMENT, reported_by=NAME, reported_person=NAME),
        required("disputed_lines", sa.JSON),
        *optional(confirmed_at=MOMENT, confirmed_by=NAME, contested_at=MOMENT, contested_by=NAME),
        *optional(contested_person=NAME, lifted_at=MOMENT, lifted_by=NAME),
    )
    make_coded(
        "replacements",
        column("document_id", DOCUMENT, primary_key=True),
        required("successor_id", DOCUMENT, index=True),
        *required_all(enrollment_id=ENROLLMENT, score=FLOAT, replaced_at=MOMENT),
    )


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
        add_columns(table, mac=BYTES)


def index_proofs() -> None:
    """An index of the proofs that were taken in place of a face, which are counted by outlet."""
    columns = ["outlet", "received_at"]
    index_some("ix_liveness_proofs", "liveness", columns, "use = 'proof' AND problem IS NULL")


def add_consents() -> None:
    """Records of consent, and on a document since when it is withdrawn, by carrier."""
    add_columns("documents", erasure_scope=WORD, withdrawn=JSON)
    add_columns("enrollments", consent=BYTES)


MIGRATIONS: Mapping[str, Callable[[], None]] = {
    "0012": add_accounts,
    "0013": add_holds,
    "0014": partial(add_columns, "judged_pairs", sequence=sa.BigInteger),
    # `sosie upgrade` counts what is there.
    "0015": partial(add_columns, "deployment", seals=sa.JSON),
    "0016": keep_attempts_decided_on,
    "0017": add_liveness,
    "0018": add_events,
    "0019": add_webhooks,
    "0020": add_life_of_lines,
    "0021": add_people,
    "0022": partial(add_columns, "liveness", judge=sa.String(64)),
    "0023": index_campaigns_and_outlets,
    "0024": rename_head_and_cursors,
    "0025": add_role_metrics,
    "0026": add_codes_of_rows,
    "0027": index_proofs,
    "0028": add_consents,
}
