"""Templates of a second model beside those of the model in force, until the models are switched."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Adds them, empty."""
    for table in ("references", "watchlist"):
        op.add_column(table, sa.Column("second_template", sa.LargeBinary()))
        op.add_column(table, sa.Column("second_model_digest", sa.String(length=128)))
