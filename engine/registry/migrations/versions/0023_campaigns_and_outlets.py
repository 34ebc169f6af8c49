"""Steps of lines by campaign, and liveness results by outlet."""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"


def upgrade() -> None:
    """Adds the indexes by which campaigns take turns, and outlets are shown with their results."""
    condition = sa.text("next_step_at IS NOT NULL")
    op.create_index(
        "ix_reverifications_campaign",
        "reverifications",
        ["campaign_id", "next_step_at", "id"],
        sqlite_where=condition,
        postgresql_where=condition,
    )
    op.create_index("ix_liveness_outlet", "liveness", ["outlet", "received_at"])
