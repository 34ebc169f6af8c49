"""Keys of the service, and cases about a line."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

MOMENT = sa.String(27)
UUID_TEXT = sa.String(36)
CODE = sa.String(64)


def upgrade() -> None:
    """Adds what is new; every row that is there stays as it was."""
    create_api_keys()
    add_line_of_cases()


def create_api_keys() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", CODE, nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("label", sa.String(200), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("carrier", CODE),
        sa.Column("outlet", CODE),
        sa.Column("rate_limit", sa.Float(precision=53)),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("expires_at", MOMENT),
        sa.Column("revoked_at", MOMENT),
        sa.CheckConstraint(
            "role IN ('outlet', 'carrier', 'fraud', 'operator')", name=op.f("ck_api_keys_role")
        ),
        sa.CheckConstraint(
            "(role IN ('outlet', 'carrier')) = (carrier IS NOT NULL)",
            name=op.f("ck_api_keys_carrier"),
        ),
        sa.CheckConstraint(
            "(role = 'outlet') = (outlet IS NOT NULL)", name=op.f("ck_api_keys_outlet")
        ),
        sa.CheckConstraint("rate_limit > 0", name=op.f("ck_api_keys_rate_limit")),
        sa.ForeignKeyConstraint(["carrier"], ["carriers.code"], name="fk_api_keys_carrier"),
        sa.ForeignKeyConstraint(["outlet"], ["outlets.code"], name="fk_api_keys_outlet"),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
    )


def add_line_of_cases() -> None:
    with op.batch_alter_table("cases") as cases:
        cases.add_column(sa.Column("line_id", UUID_TEXT))
        cases.create_foreign_key("fk_cases_line_id", "lines", ["line_id"], ["id"])
    op.create_index(
        "uq_cases_open_of_line",
        "cases",
        ["line_id", "kind"],
        unique=True,
        sqlite_where=sa.text("line_id IS NOT NULL AND state = 'open'"),
        postgresql_where=sa.text("line_id IS NOT NULL AND state = 'open'"),
    )
