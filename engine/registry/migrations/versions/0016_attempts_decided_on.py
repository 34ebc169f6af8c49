"""What people decided on of attempts: templates of those without a reference, and their scores."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    """Adds both, empty: of attempts that are there nothing was kept."""
    op.create_table(
        "attempt_templates",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("document_id", sa.String(36), nullable=False),
        sa.Column("template", sa.LargeBinary(), nullable=False),
        sa.Column("mac", sa.LargeBinary()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attempt_templates")),
        sa.ForeignKeyConstraint(
            ["id"], ["enrollments.id"], name=op.f("fk_attempt_templates_id")
        ),
        sa.ForeignKeyConstraint(
            ["document_id"], ["documents.id"], name=op.f("fk_attempt_templates_document_id")
        ),
    )
    op.create_index("ix_attempt_templates_document_id", "attempt_templates", ["document_id"])
    for side in ("left", "right"):
        op.add_column("judged_pairs", sa.Column(f"{side}_attempt_score", sa.Float(53)))
