"""The first schema of the registry."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

JSON = sa.JSON(none_as_null=True)
MOMENT = sa.String(27)
UUID_TEXT = sa.String(36)
CODE = sa.String(64)
ROW_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Makes every table, referenced ones first."""
    create_deployment()
    create_carriers()
    create_outlets()
    create_documents()
    create_enrollments()
    create_references()
    create_lines()
    create_cases()
    create_watchlist()
    create_audit()
    create_idempotency()


def create_deployment() -> None:
    op.create_table(
        "deployment",
        sa.Column("singleton", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("deployment_id", UUID_TEXT, nullable=False),
        sa.Column("key_check", sa.LargeBinary(), nullable=False),
        sa.Column("data_keys", JSON, nullable=False),
        sa.Column("model_digest", sa.String(128), nullable=False),
        sa.Column("dim", sa.Integer(), nullable=False),
        sa.Column("rotation_id", sa.String(32), nullable=False),
        sa.Column("writer_epoch", sa.BigInteger(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("audit_number", sa.BigInteger(), nullable=False),
        sa.Column("audit_head", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.CheckConstraint("singleton = 1", name=op.f("ck_deployment_one_row")),
        sa.PrimaryKeyConstraint("singleton", name="pk_deployment"),
    )


def create_carriers() -> None:
    op.create_table(
        "carriers",
        sa.Column("code", CODE, nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("line_limit", sa.Integer(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.CheckConstraint("line_limit >= 0", name=op.f("ck_carriers_line_limit")),
        sa.PrimaryKeyConstraint("code", name="pk_carriers"),
    )


def create_outlets() -> None:
    op.create_table(
        "outlets",
        sa.Column("code", CODE, nullable=False),
        sa.Column("carrier", CODE, nullable=False),
        sa.Column("is_open", sa.Boolean(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("closed_at", MOMENT),
        sa.ForeignKeyConstraint(["carrier"], ["carriers.code"], name="fk_outlets_carrier"),
        sa.PrimaryKeyConstraint("code", name="pk_outlets"),
    )


def create_documents() -> None:
    op.create_table(
        "documents",
        sa.Column("id", UUID_TEXT, nullable=False),
        sa.Column("kind", CODE, nullable=False),
        sa.Column("lookup", sa.LargeBinary()),
        sa.Column("name_lookup", sa.LargeBinary()),
        sa.Column("identity", sa.LargeBinary()),
        sa.Column("expires_on", sa.Date()),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("blocked_at", MOMENT),
        sa.Column("erased_at", MOMENT),
        sa.CheckConstraint(
            "(status = 'erased') = (identity IS NULL)", name=op.f("ck_documents_erased")
        ),
        sa.CheckConstraint(
            "(lookup IS NULL) = (status = 'erased' AND blocked_at IS NULL)",
            name=op.f("ck_documents_lookup"),
        ),
        sa.CheckConstraint(
            "status IN ('attempted', 'active', 'erased')", name=op.f("ck_documents_status")
        ),
        sa.PrimaryKeyConstraint("id", name="pk_documents"),
        sa.UniqueConstraint("lookup", name="uq_documents_lookup"),
    )
    op.create_index(
        "ix_documents_blocked",
        "documents",
        ["blocked_at"],
        sqlite_where=sa.text("blocked_at IS NOT NULL"),
        postgresql_where=sa.text("blocked_at IS NOT NULL"),
    )


def create_enrollments() -> None:
    op.create_table(
        "enrollments",
        sa.Column("id", UUID_TEXT, nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("carrier", CODE, nullable=False),
        sa.Column("outlet", CODE, nullable=False),
        sa.Column("document_id", UUID_TEXT),
        sa.Column("decision", sa.String(16), nullable=False),
        sa.Column("reasons", JSON, nullable=False),
        sa.Column("evidence", JSON, nullable=False),
        sa.Column("consent_ref", sa.String(200)),
        sa.Column("captured_at", MOMENT),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.CheckConstraint(
            "decision IN ('approved', 'review', 'rejected')", name=op.f("ck_enrollments_decision")
        ),
        sa.ForeignKeyConstraint(["carrier"], ["carriers.code"], name="fk_enrollments_carrier"),
        sa.ForeignKeyConstraint(
            ["document_id"], ["documents.id"], name="fk_enrollments_document_id"
        ),
        sa.ForeignKeyConstraint(["outlet"], ["outlets.code"], name="fk_enrollments_outlet"),
        sa.PrimaryKeyConstraint("id", name="pk_enrollments"),
    )
    op.create_index("ix_enrollments_document_id", "enrollments", ["document_id"])


def create_references() -> None:
    op.create_table(
        "references",
        sa.Column("id", ROW_NUMBER, autoincrement=False, nullable=False),
        sa.Column("document_id", UUID_TEXT, nullable=False),
        sa.Column("enrollment_id", UUID_TEXT),
        sa.Column("template", sa.LargeBinary()),
        sa.Column("model_digest", sa.String(128), nullable=False),
        sa.Column("rotation_id", sa.String(32), nullable=False),
        sa.Column("added_sequence", sa.BigInteger(), nullable=False),
        sa.Column("removed_sequence", sa.BigInteger()),
        sa.CheckConstraint(
            "(template IS NULL) = (removed_sequence IS NOT NULL)",
            name=op.f("ck_references_tombstone"),
        ),
        sa.ForeignKeyConstraint(
            ["document_id"], ["documents.id"], name="fk_references_document_id"
        ),
        sa.ForeignKeyConstraint(
            ["enrollment_id"], ["enrollments.id"], name="fk_references_enrollment_id"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_references"),
    )
    op.create_index("ix_references_added", "references", ["added_sequence", "id"])
    op.create_index("ix_references_document_id", "references", ["document_id"])
    op.create_index(
        "ix_references_removed",
        "references",
        ["removed_sequence"],
        sqlite_where=sa.text("removed_sequence IS NOT NULL"),
        postgresql_where=sa.text("removed_sequence IS NOT NULL"),
    )


def create_lines() -> None:
    op.create_table(
        "lines",
        sa.Column("id", UUID_TEXT, nullable=False),
        sa.Column("msisdn_lookup", sa.LargeBinary()),
        sa.Column("msisdn", sa.LargeBinary()),
        sa.Column("document_id", UUID_TEXT, nullable=False),
        sa.Column("carrier", CODE, nullable=False),
        sa.Column("outlet", CODE, nullable=False),
        sa.Column("enrollment_id", UUID_TEXT),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("opened_at", MOMENT, nullable=False),
        sa.Column("closed_at", MOMENT),
        sa.CheckConstraint(
            "status IN ('active', 'disputed', 'closed')", name=op.f("ck_lines_status")
        ),
        sa.ForeignKeyConstraint(["carrier"], ["carriers.code"], name="fk_lines_carrier"),
        sa.ForeignKeyConstraint(["document_id"], ["documents.id"], name="fk_lines_document_id"),
        sa.ForeignKeyConstraint(
            ["enrollment_id"], ["enrollments.id"], name="fk_lines_enrollment_id"
        ),
        sa.ForeignKeyConstraint(["outlet"], ["outlets.code"], name="fk_lines_outlet"),
        sa.PrimaryKeyConstraint("id", name="pk_lines"),
    )
    op.create_index("ix_lines_document_id", "lines", ["document_id"])
    op.create_index(
        "uq_lines_number_in_use",
        "lines",
        ["msisdn_lookup"],
        unique=True,
        sqlite_where=sa.text("status <> 'closed'"),
        postgresql_where=sa.text("status <> 'closed'"),
    )


def create_cases() -> None:
    op.create_table(
        "cases",
        sa.Column("id", UUID_TEXT, nullable=False),
        sa.Column("kind", CODE, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("enrollment_id", UUID_TEXT),
        sa.Column("document_ids", JSON, nullable=False),
        sa.Column("score", sa.Float(precision=53)),
        sa.Column("opened_at", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(
            ["enrollment_id"], ["enrollments.id"], name="fk_cases_enrollment_id"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_cases"),
    )
    op.create_index("ix_cases_enrollment_id", "cases", ["enrollment_id"])
    op.create_index("ix_cases_state", "cases", ["state"])


def create_watchlist() -> None:
    op.create_table(
        "watchlist",
        sa.Column("id", ROW_NUMBER, autoincrement=False, nullable=False),
        sa.Column("document_lookup", sa.LargeBinary()),
        sa.Column("template", sa.LargeBinary()),
        sa.Column("reason", sa.String(200), nullable=False),
        sa.Column("added_at", MOMENT, nullable=False),
        sa.Column("removed_at", MOMENT),
        sa.PrimaryKeyConstraint("id", name="pk_watchlist"),
    )
    op.create_index("ix_watchlist_document_lookup", "watchlist", ["document_lookup"])


def create_audit() -> None:
    op.create_table(
        "audit",
        sa.Column("number", ROW_NUMBER, autoincrement=False, nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("action", CODE, nullable=False),
        sa.Column("subject", sa.String(200), nullable=False),
        sa.Column("detail", JSON, nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_audit"),
    )


def create_idempotency() -> None:
    op.create_table(
        "idempotency",
        sa.Column("scope", sa.LargeBinary(), nullable=False),
        sa.Column("payload_digest", sa.LargeBinary(), nullable=False),
        sa.Column("enrollment_id", UUID_TEXT),
        sa.Column("response", JSON, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(
            ["enrollment_id"], ["enrollments.id"], name="fk_idempotency_enrollment_id"
        ),
        sa.PrimaryKeyConstraint("scope", name="pk_idempotency"),
    )
