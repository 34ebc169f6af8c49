"""People whom rules treat apart: guardians, exceptions, the dead, replaced documents."""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"

MOMENT = sa.String(27)
ID = sa.String(36)
WHO = sa.String(200)
NEW = {
    "guardianships": (
        sa.Column("line_id", ID, nullable=False),
        sa.Column("document_id", ID, nullable=False),
        sa.Column("guardian_id", ID, nullable=False),
        sa.Column("enrollment_id", ID, nullable=False),
        sa.Column("ends_in", sa.Integer(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
    ),
    "exceptions": (
        sa.Column("id", ID, nullable=False),
        sa.Column("carrier", sa.String(64), nullable=False),
        sa.Column("outlet", sa.String(64), nullable=False),
        sa.Column("document_id", ID, nullable=False),
        sa.Column("cause", sa.String(32), nullable=False),
        sa.Column("msisdn", sa.LargeBinary()),
        sa.Column("asked_at", MOMENT, nullable=False),
        sa.Column("case_id", ID, nullable=False),
        sa.Column("decided_at", MOMENT),
        sa.Column("line_id", ID),
    ),
    "deaths": (
        sa.Column("document_id", ID, nullable=False),
        sa.Column("source", sa.String(32), nullable=False),
        sa.Column("reported_at", MOMENT, nullable=False),
        sa.Column("reported_by", WHO, nullable=False),
        sa.Column("reported_person", WHO, nullable=False),
        sa.Column("disputed_lines", sa.JSON(), nullable=False),
        sa.Column("confirmed_at", MOMENT),
        sa.Column("confirmed_by", WHO),
        sa.Column("contested_at", MOMENT),
        sa.Column("contested_by", WHO),
        sa.Column("contested_person", WHO),
        sa.Column("lifted_at", MOMENT),
        sa.Column("lifted_by", WHO),
    ),
    "replacements": (
        sa.Column("document_id", ID, nullable=False),
        sa.Column("successor_id", ID, nullable=False),
        sa.Column("enrollment_id", ID, nullable=False),
        sa.Column("score", sa.Float(53), nullable=False),
        sa.Column("replaced_at", MOMENT, nullable=False),
    ),
}
KEYS = {"line_id": "lines.id", "case_id": "cases.id", "id": "enrollments.id"} | {
    "enrollment_id": "enrollments.id",
    "carrier": "carriers.code",
    "outlet": "outlets.code",
    **dict.fromkeys(("document_id", "guardian_id", "successor_id"), "documents.id"),
}
INDEXED = (
    ("guardianships", ["document_id"]),
    ("guardianships", ["guardian_id"]),
    ("exceptions", ["document_id"]),
    ("exceptions", ["asked_at"]),
    ("exceptions", ["case_id"]),
    ("exceptions", ["line_id"]),
    ("replacements", ["successor_id"]),
)

def upgrade() -> None:
    """Adds the tables, empty."""
    for table, columns in NEW.items():
        op.create_table(
            table,
            *columns,
            sa.Column("mac", sa.LargeBinary()),
            sa.PrimaryKeyConstraint(columns[0].name, name=op.f(f"pk_{table}")),
            *(
                sa.ForeignKeyConstraint(
                    [column.name], [KEYS[column.name]], name=op.f(f"fk_{table}_{column.name}")
                )
                for column in columns
                if column.name in KEYS
            ),
        )
    for table, names in INDEXED:
        op.create_index(f"ix_{table}_{names[0]}", table, names)
    op.create_index("ix_exceptions_outlet", "exceptions", ["outlet", "asked_at"])
