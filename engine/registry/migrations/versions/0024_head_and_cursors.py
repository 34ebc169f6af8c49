"""New names for what every write of an earlier version names: the head, and who holds a cursor.

A process that was opened before the upgrade goes on, and those versions do not look at the schema
as they write: this refuses it.
"""

from alembic import op

revision = "0024"
down_revision = "0023"


def upgrade() -> None:
    """Renames both columns, whose values stay."""
    op.execute("ALTER TABLE deployment RENAME COLUMN audit_head TO chain_head")
    op.execute("ALTER TABLE cursors RENAME COLUMN holder TO held_by")
