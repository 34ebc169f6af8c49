"""Accounts of an identity provider and the sessions that were signed in with them."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.create_table(
        "accounts",
        sa.Column("subject", sa.LargeBinary(), nullable=False),
        sa.Column("person", sa.String(200), nullable=False),
        sa.Column("name", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.String(27), nullable=False),
        sa.Column("mac", sa.LargeBinary()),
        sa.PrimaryKeyConstraint("subject", name=op.f("pk_accounts")),
        sa.UniqueConstraint("name", name=op.f("uq_accounts_name")),
    )
    op.create_table(
        "sessions",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("subject", sa.LargeBinary(), nullable=False),
        sa.Column("person", sa.String(200), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("carrier", sa.String(64)),
        sa.Column("outlet", sa.String(64)),
        sa.Column("created_at", sa.String(27), nullable=False),
        sa.Column("expires_at", sa.String(27), nullable=False),
        sa.Column("seen_at", sa.String(27), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sessions")),
        sa.ForeignKeyConstraint(
            ["subject"], ["accounts.subject"], name=op.f("fk_sessions_subject")
        ),
        sa.ForeignKeyConstraint(["carrier"], ["carriers.code"], name=op.f("fk_sessions_carrier")),
        sa.ForeignKeyConstraint(["outlet"], ["outlets.code"], name=op.f("fk_sessions_outlet")),
        sa.CheckConstraint(
            "role IN ('outlet', 'carrier', 'fraud', 'operator')", name=op.f("ck_sessions_role")
        ),
        sa.CheckConstraint(
            "(role IN ('outlet', 'carrier')) = (carrier IS NOT NULL)",
            name=op.f("ck_sessions_carrier"),
        ),
        sa.CheckConstraint(
            "(role = 'outlet') = (outlet IS NOT NULL)", name=op.f("ck_sessions_outlet")
        ),
    )
    op.create_index("ix_sessions_subject", "sessions", ["subject"])
