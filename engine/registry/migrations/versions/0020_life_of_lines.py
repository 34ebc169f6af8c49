"""The life of lines: their service, what happened to them, who is asked for, campaigns."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"

MOMENT = sa.String(27)
ID = sa.String(36)
CODE = sa.String(64)


def _table(
    name: str, *columns: sa.Column[Any], key: tuple[str, ...] = ("id",), **foreign: str
) -> None:
    constraints = [
        sa.ForeignKeyConstraint([column], [target], name=op.f(f"fk_{name}_{column}"))
        for column, target in foreign.items()
    ]
    key_of_all = sa.PrimaryKeyConstraint(*key, name=op.f(f"pk_{name}"))
    op.create_table(name, *columns, key_of_all, *constraints)


def upgrade() -> None:
    """Adds them, empty, and a column that is null everywhere, so that every row keeps its code."""
    op.add_column("lines", sa.Column("service", sa.String(24)))
    is_closed = sa.text("status = 'closed' AND msisdn_lookup IS NOT NULL")
    op.create_index(
        "ix_lines_closed_number",
        "lines",
        ["msisdn_lookup"],
        sqlite_where=is_closed,
        postgresql_where=is_closed,
    )
    _table(
        "line_events",
        sa.Column("id", ID, nullable=False),
        sa.Column("line_id", ID, nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("recorded_at", MOMENT, nullable=False),
        sa.Column("cause", CODE),
        sa.Column("by", sa.String(200), nullable=False),
        sa.Column("mac", sa.LargeBinary()),
        line_id="lines.id",
    )
    op.create_index("ix_line_events_line", "line_events", ["line_id", "at"])
    op.create_index("ix_line_events_recorded_at", "line_events", ["recorded_at"])
    _table(
        "campaigns",
        sa.Column("id", ID, nullable=False),
        sa.Column("carrier", CODE, nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("deadline", MOMENT, nullable=False),
        sa.Column("steps", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("chosen", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("filled_to", ID),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("created_by", sa.String(200), nullable=False),
        sa.Column("mac", sa.LargeBinary()),
        carrier="carriers.code",
    )
    _table(
        "campaign_lines",
        sa.Column("campaign_id", ID, nullable=False),
        sa.Column("line_id", ID, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        key=("campaign_id", "line_id"),
        campaign_id="campaigns.id",
        line_id="lines.id",
    )
    _table(
        "reverifications",
        sa.Column("id", ID, nullable=False),
        sa.Column("line_id", ID, nullable=False),
        sa.Column("rule", CODE, nullable=False),
        sa.Column("asked_at", MOMENT, nullable=False),
        sa.Column("next_step_at", MOMENT),
        sa.Column("steps", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("overdue_at", MOMENT),
        sa.Column("campaign_id", ID),
        sa.Column("mac", sa.LargeBinary()),
        line_id="lines.id",
        campaign_id="campaigns.id",
    )
    op.create_index(
        "uq_reverifications_line", "reverifications", ["line_id", "rule"], unique=True
    )
    condition = sa.text("next_step_at IS NOT NULL")
    op.create_index(
        "ix_reverifications_due",
        "reverifications",
        ["next_step_at", "id"],
        sqlite_where=condition,
        postgresql_where=condition,
    )
    _table(
        "limit_exemptions",
        sa.Column("document_id", ID, nullable=False),
        sa.Column("cause", CODE, nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("by", sa.String(200), nullable=False),
        sa.Column("mac", sa.LargeBinary()),
        key=("document_id",),
        document_id="documents.id",
    )
