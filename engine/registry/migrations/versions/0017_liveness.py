"""Results of liveness checks, as capture systems signed them."""

import sqlalchemy as sa
from alembic import op

MOMENT = sa.String(27)

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    """Adds the table, empty."""
    op.create_table(
        "liveness",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("use", sa.String(16), nullable=False),
        sa.Column("received_at", MOMENT, nullable=False),
        sa.Column("token", sa.LargeBinary()),
        sa.Column("problem", sa.String(32)),
        sa.Column("issuer", sa.String(200)),
        sa.Column("jti", sa.String(200)),
        sa.Column("decision", sa.String(16)),
        sa.Column("level", sa.String(64)),
        sa.Column("issued_at", MOMENT),
        sa.Column("carrier", sa.String(64)),
        sa.Column("outlet", sa.String(64)),
        sa.Column("enrollment_id", sa.String(36)),
        sa.Column("mac", sa.LargeBinary()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_liveness")),
        sa.UniqueConstraint("token", name=op.f("uq_liveness_token")),
        sa.ForeignKeyConstraint(["carrier"], ["carriers.code"], name=op.f("fk_liveness_carrier")),
        sa.ForeignKeyConstraint(["outlet"], ["outlets.code"], name=op.f("fk_liveness_outlet")),
        sa.ForeignKeyConstraint(
            ["enrollment_id"], ["enrollments.id"], name=op.f("fk_liveness_enrollment_id")
        ),
    )
    op.create_index("ix_liveness_received_at", "liveness", ["received_at"])
    op.create_index("ix_liveness_enrollment_id", "liveness", ["enrollment_id"])
