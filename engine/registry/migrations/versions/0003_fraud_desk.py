"""Sweeps, cases with a history and an outcome, judged pairs, crops."""

from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

JSON = sa.JSON(none_as_null=True)
MOMENT = sa.String(27)
UUID_TEXT = sa.String(36)
CODE = sa.String(64)
ROW_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
ROWS_AT_ONCE = 5_000
ONE_PERSON = ("duplicate_identity", "possible_duplicate")
IS_ALIVE_OF_LINE = "line_id IS NOT NULL AND state IN ('open', 'assigned', 'proposed')"
CASES = sa.table(
    "cases",
    sa.column("id"),
    sa.column("kind"),
    sa.column("line_id"),
    sa.column("opened_at"),
    sa.column("document_ids", JSON),
    sa.column("origin"),
    sa.column("suspect_ids", JSON),
    sa.column("line_ids", JSON),
    sa.column("updated_at"),
)


def upgrade() -> None:
    """Adds what is new; every case that is there keeps what it says."""
    create_sweeps()
    widen_cases()
    fill_cases()
    bind_cases()
    create_case_documents()
    create_case_notes()
    create_judged_pairs()
    create_crops()


def create_sweeps() -> None:
    op.create_table(
        "sweeps",
        sa.Column("id", UUID_TEXT, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("terms", JSON, nullable=False),
        sa.Column("requested_by", sa.String(200), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("started_at", MOMENT),
        sa.Column("ended_at", MOMENT),
        sa.Column("sequence", sa.BigInteger()),
        sa.Column("progress", JSON, nullable=False),
        sa.Column("summary", JSON),
        sa.Column("fault", sa.Text()),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'paused', 'done', 'cancelled', 'failed')",
            name=op.f("ck_sweeps_state"),
        ),
        sa.PrimaryKeyConstraint("id", name="pk_sweeps"),
    )
    op.create_index("ix_sweeps_created", "sweeps", ["created_at", "id"])


def widen_cases() -> None:
    op.drop_index("uq_cases_open_of_line", "cases")
    with op.batch_alter_table("cases") as cases:
        cases.add_column(sa.Column("origin", sa.String(16)))
        cases.add_column(sa.Column("suspect_ids", JSON))
        cases.add_column(sa.Column("line_ids", JSON))
        cases.add_column(sa.Column("risk", sa.Float(precision=53)))
        cases.add_column(sa.Column("sweep_id", UUID_TEXT))
        cases.add_column(sa.Column("group_key", sa.String(128)))
        cases.add_column(sa.Column("assignee", sa.String(200)))
        cases.add_column(sa.Column("proposal", JSON))
        cases.add_column(sa.Column("outcome", sa.String(16)))
        cases.add_column(sa.Column("merged_into", UUID_TEXT))
        cases.add_column(sa.Column("updated_at", MOMENT))
        cases.add_column(sa.Column("closed_at", MOMENT))


def fill_cases() -> None:
    """What an older case says by itself: a dispute is about its line, a duplicate about all."""
    names = ("origin", "suspect_ids", "line_ids", "updated_at")
    fill = (
        sa.update(CASES)
        .where(CASES.c.id == sa.bindparam("key"))
        .values({name: sa.bindparam(f"new_{name}") for name in names})
    )
    for rows in pages_of_cases():
        op.get_bind().execute(
            fill,
            [
                {
                    "key": row.id,
                    "new_origin": "dispute" if row.kind == "dispute" else "decision",
                    "new_suspect_ids": row.document_ids if row.kind in ONE_PERSON else [],
                    "new_line_ids": [] if row.line_id is None else [row.line_id],
                    "new_updated_at": row.opened_at,
                }
                for row in rows
            ],
        )


def pages_of_cases() -> Iterator[Sequence[sa.Row[Any]]]:
    page = sa.select(CASES).order_by(CASES.c.id).limit(ROWS_AT_ONCE)
    last = ""
    while rows := op.get_bind().execute(page.where(CASES.c.id > last)).all():
        yield rows
        last = rows[-1].id


def bind_cases() -> None:
    with op.batch_alter_table("cases") as cases:
        cases.alter_column("origin", existing_type=sa.String(16), nullable=False)
        cases.alter_column("suspect_ids", existing_type=JSON, nullable=False)
        cases.alter_column("line_ids", existing_type=JSON, nullable=False)
        cases.alter_column("updated_at", existing_type=MOMENT, nullable=False)
        cases.create_foreign_key("fk_cases_sweep_id", "sweeps", ["sweep_id"], ["id"])
        cases.create_foreign_key("fk_cases_merged_into", "cases", ["merged_into"], ["id"])
        cases.create_check_constraint(
            op.f("ck_cases_origin"),
            "origin IN ('decision', 'dispute', 'reverification', 'sweep')",
        )
        cases.create_check_constraint(
            op.f("ck_cases_state"),
            "state IN ('open', 'assigned', 'proposed', 'closed', 'merged')",
        )
        cases.create_check_constraint(
            op.f("ck_cases_outcome"),
            "outcome IS NULL OR "
            "(outcome IN ('fraud', 'twins', 'mistake', 'unfounded') AND state = 'closed')",
        )
        cases.create_check_constraint(
            op.f("ck_cases_merged"), "(state = 'merged') = (merged_into IS NOT NULL)"
        )
    for name, columns in (
        ("ix_cases_group_key", ["group_key"]),
        ("ix_cases_merged_into", ["merged_into"]),
        ("ix_cases_opened", ["opened_at", "id"]),
    ):
        op.create_index(name, "cases", columns)
    op.create_index(
        "uq_cases_open_of_line",
        "cases",
        ["line_id", "kind"],
        unique=True,
        sqlite_where=sa.text(IS_ALIVE_OF_LINE),
        postgresql_where=sa.text(IS_ALIVE_OF_LINE),
    )


def create_case_documents() -> None:
    op.create_table(
        "case_documents",
        sa.Column("document_id", UUID_TEXT, nullable=False),
        sa.Column("case_id", UUID_TEXT, nullable=False),
        sa.ForeignKeyConstraint(["case_id"], ["cases.id"], name="fk_case_documents_case_id"),
        sa.PrimaryKeyConstraint("document_id", "case_id", name="pk_case_documents"),
    )
    op.create_index("ix_case_documents_case_id", "case_documents", ["case_id"])
    named = sa.table("case_documents", sa.column("document_id"), sa.column("case_id"))
    for rows in pages_of_cases():
        links = [
            {"document_id": document_id, "case_id": row.id}
            for row in rows
            for document_id in dict.fromkeys(row.document_ids)
        ]
        if links:
            op.get_bind().execute(sa.insert(named), links)


def create_case_notes() -> None:
    op.create_table(
        "case_notes",
        sa.Column("id", ROW_NUMBER, autoincrement=False, nullable=False),
        sa.Column("case_id", UUID_TEXT, nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("text", sa.LargeBinary()),
        sa.ForeignKeyConstraint(["case_id"], ["cases.id"], name="fk_case_notes_case_id"),
        sa.PrimaryKeyConstraint("id", name="pk_case_notes"),
    )
    op.create_index("ix_case_notes_case_id", "case_notes", ["case_id"])


def create_judged_pairs() -> None:
    op.create_table(
        "judged_pairs",
        sa.Column("left_document", UUID_TEXT, nullable=False),
        sa.Column("right_document", UUID_TEXT, nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("score", sa.Float(precision=53), nullable=False),
        sa.Column("case_id", UUID_TEXT, nullable=False),
        sa.Column("sweep_id", UUID_TEXT),
        sa.Column("decided_at", MOMENT, nullable=False),
        sa.Column("decided_by", sa.String(200), nullable=False),
        sa.CheckConstraint(
            "outcome IN ('fraud', 'twins', 'mistake')", name=op.f("ck_judged_pairs_outcome")
        ),
        sa.ForeignKeyConstraint(["case_id"], ["cases.id"], name="fk_judged_pairs_case_id"),
        sa.ForeignKeyConstraint(
            ["left_document"], ["documents.id"], name="fk_judged_pairs_left_document"
        ),
        sa.ForeignKeyConstraint(
            ["right_document"], ["documents.id"], name="fk_judged_pairs_right_document"
        ),
        sa.ForeignKeyConstraint(["sweep_id"], ["sweeps.id"], name="fk_judged_pairs_sweep_id"),
        sa.PrimaryKeyConstraint("left_document", "right_document", name="pk_judged_pairs"),
    )


def create_crops() -> None:
    op.create_table(
        "crops",
        sa.Column("id", UUID_TEXT, nullable=False),
        sa.Column("enrollment_id", UUID_TEXT, nullable=False),
        sa.Column("photograph", sa.String(16), nullable=False),
        sa.Column("image", sa.LargeBinary(), nullable=False),
        sa.Column("kept_until", MOMENT, nullable=False),
        sa.CheckConstraint("photograph IN ('live', 'portrait')", name=op.f("ck_crops_photograph")),
        sa.ForeignKeyConstraint(
            ["enrollment_id"], ["enrollments.id"], name="fk_crops_enrollment_id"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_crops"),
    )
    op.create_index("ix_crops_enrollment_id", "crops", ["enrollment_id"])
    op.create_index("ix_crops_kept_until", "crops", ["kept_until"])
