"""The score of the weakest link of a case, by which a queue tells cases apart."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Adds it, empty: of cases that are there it is not known."""
    op.add_column("cases", sa.Column("weakest", sa.Float(precision=53)))
