"""How many values each data key has sealed."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    """Adds it, empty: `sosie upgrade` counts what is there."""
    op.add_column("deployment", sa.Column("seals", sa.JSON()))
