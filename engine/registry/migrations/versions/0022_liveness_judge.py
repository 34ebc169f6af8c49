"""Results of a judge that looks at the picture itself, beside those that were signed."""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"


def upgrade() -> None:
    """Adds which judge it was: nobody, of what is there."""
    op.add_column("liveness", sa.Column("judge", sa.String(64)))
