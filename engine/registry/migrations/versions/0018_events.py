"""An outbox of events."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"

MOMENT = sa.String(27)
NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Adds it, empty: of what happened before nobody is told."""
    op.create_table(
        "events",
        sa.Column("number", NUMBER, autoincrement=False),
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("type", sa.String(32), nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("subject", sa.String(36), nullable=False),
        sa.Column("carrier", sa.String(64)),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("mac", sa.LargeBinary()),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_events")),
        sa.UniqueConstraint("id", name=op.f("uq_events_id")),
        sa.ForeignKeyConstraint(["carrier"], ["carriers.code"], name=op.f("fk_events_carrier")),
    )
    op.create_index("ix_events_at", "events", ["at"])
    op.create_index("ix_events_carrier", "events", ["carrier", "number"])
