"""Keys of the role `metrics`."""

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"

ROLE = "role IN ('outlet', 'carrier', 'fraud', 'operator', 'metrics')"
KEPT = {
    "carrier": "(role IN ('outlet', 'carrier')) = (carrier IS NOT NULL)",
    "outlet": "(role = 'outlet') = (outlet IS NOT NULL)",
    "rate_limit": "rate_limit > 0",
}


def upgrade() -> None:
    """Lets a key have the role; the others stay as they are."""
    # SQLite makes the table anew, and none of its checks is read back.
    checks = tuple(
        sa.CheckConstraint(text, name=op.f(f"ck_api_keys_{name}")) for name, text in KEPT.items()
    )
    with op.batch_alter_table("api_keys", table_args=checks) as keys:
        if op.get_bind().dialect.name != "sqlite":
            keys.drop_constraint(op.f("ck_api_keys_role"), type_="check")
        keys.create_check_constraint(op.f("ck_api_keys_role"), ROLE)
