"""An index by which the job of retention finds attempts that went to review."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

WHERE = sa.text("decision = 'review' AND expired_at IS NULL")


def upgrade() -> None:
    """Adds it; every row that is there stays as it was."""
    op.create_index(
        "ix_enrollments_review",
        "enrollments",
        ["created_at", "id"],
        sqlite_where=WHERE,
        postgresql_where=WHERE,
    )
