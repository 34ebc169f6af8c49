"""The time zones of carriers and outlets, by whose date the expiry of a document is judged."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Adds them, empty: the deployment's own time zone holds until one is set."""
    for table in ("carriers", "outlets"):
        op.add_column(table, sa.Column("time_zone", sa.String(length=64)))
