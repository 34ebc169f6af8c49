"""Webhooks and cursors; of the outbox the indexes that nothing needs leave."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"

MOMENT = sa.String(27)
MARKS = sa.text("number % 128 < 2")


def upgrade() -> None:
    """Adds the tables, empty, and makes the outbox's rows cheaper to write."""
    with op.batch_alter_table("events") as events:
        events.drop_constraint("uq_events_id", type_="unique")
        events.drop_index("ix_events_at")
        events.add_column(sa.Column("line_id", sa.String(36)))
        events.add_column(sa.Column("document_id", sa.String(36)))
    op.create_index(
        "ix_events_marks", "events", ["at"], sqlite_where=MARKS, postgresql_where=MARKS
    )
    op.create_table(
        "webhooks",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("carrier", sa.String(64)),
        sa.Column("sink", sa.LargeBinary(), nullable=False),
        sa.Column("types", sa.JSON()),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("secret", sa.LargeBinary(), nullable=False),
        sa.Column("earlier_secret", sa.LargeBinary()),
        sa.Column("earlier_until", MOMENT),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("created_by", sa.String(200), nullable=False),
        sa.Column("mac", sa.LargeBinary()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhooks")),
        sa.ForeignKeyConstraint(["carrier"], ["carriers.code"], name=op.f("fk_webhooks_carrier")),
        sa.CheckConstraint(
            "state IN ('active', 'paused', 'gone')", name=op.f("ck_webhooks_state")
        ),
    )
    op.create_index("ix_webhooks_carrier", "webhooks", ["carrier"])
    op.create_table(
        "cursors",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("holder", sa.String(36)),
        sa.Column("held_until", MOMENT),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_cursors")),
    )
    op.create_table(
        "undelivered",
        sa.Column("webhook_id", sa.String(36), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("queue", sa.String(36), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due_at", MOMENT),
        sa.Column("fault", sa.String(64)),
        sa.Column("at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("webhook_id", "number", name=op.f("pk_undelivered")),
        sa.ForeignKeyConstraint(
            ["webhook_id"], ["webhooks.id"], name=op.f("fk_undelivered_webhook_id")
        ),
    )
