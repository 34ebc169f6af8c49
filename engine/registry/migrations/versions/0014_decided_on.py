"""The state of the gallery that a pair of documents was decided on."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """Adds it, empty: of pairs that are there it is not known."""
    op.add_column("judged_pairs", sa.Column("sequence", sa.BigInteger()))
