"""Faces of imported references, faces held until a case names them, and the codes of their rows."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

OF_ITS_ATTEMPT = (
    "UPDATE crops SET document_id = "
    "(SELECT document_id FROM enrollments WHERE enrollments.id = crops.enrollment_id)"
)


def upgrade() -> None:
    """Adds the columns; a crop that is there gets the document of its attempt. Its code is for the
    key ring to make (`engine.registry.upgrade`)."""
    with op.batch_alter_table("crops") as crops:
        crops.alter_column("enrollment_id", existing_type=sa.String(36), nullable=True)
        crops.add_column(sa.Column("document_id", sa.String(36)))
        crops.add_column(sa.Column("received_at", sa.String(27)))
        crops.add_column(sa.Column("quality", sa.JSON(none_as_null=True)))
        crops.add_column(sa.Column("is_held", sa.Boolean()))
        crops.add_column(sa.Column("case_days", sa.Integer()))
        crops.add_column(sa.Column("mac", sa.LargeBinary()))
    op.execute(OF_ITS_ATTEMPT)
    with op.batch_alter_table("crops") as crops:
        crops.create_foreign_key("fk_crops_document_id", "documents", ["document_id"], ["id"])
        crops.create_check_constraint(
            op.f("ck_crops_owner"), "enrollment_id IS NOT NULL OR document_id IS NOT NULL"
        )
    op.create_index("ix_crops_document_id", "crops", ["document_id"])
