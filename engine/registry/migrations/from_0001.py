"""Revisions 0001 to 0011: identities, lines, the fraud desk, codes of rows.

A revision says what it does to a schema of the one before, and stays as it was when it first ran,
whatever the tables of today are. Names of constraints and indexes follow from `columns.metadata`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import sqlalchemy as sa
from alembic import op

JSON = sa.JSON(none_as_null=True)
MOMENT = sa.String(27)
ID = sa.String(36)
CODE = sa.String(64)
NAME = sa.String(200)
WORD = sa.String(16)
LONG_WORD = sa.String(32)
BYTES = sa.LargeBinary()
FLOAT = sa.Float(53)
CARRIER, OUTLET = (CODE, "carriers.code"), (CODE, "outlets.code")
DOCUMENT, ENROLLMENT = (ID, "documents.id"), (ID, "enrollments.id")
LINE, CASE = (ID, "lines.id"), (ID, "cases.id")
NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def column(name: str, kind: Any, **options: Any) -> sa.Column[Any]:
    """A column, of a type or of a type and whose column it refers to."""
    kind, *refers = kind if isinstance(kind, tuple) else (kind,)
    return sa.Column(name, kind, *map(sa.ForeignKey, refers), **options)


def optional(**kinds: Any) -> list[sa.Column[Any]]:
    """Columns that may be null, by their names."""
    return [column(name, kind) for name, kind in kinds.items()]


def required(name: str, kind: Any, **options: Any) -> sa.Column[Any]:
    """A column that is never null."""
    return column(name, kind, nullable=False, **options)


def required_all(**kinds: Any) -> list[sa.Column[Any]]:
    """Columns that are never null, by their names."""
    return [required(name, kind) for name, kind in kinds.items()]


def add_columns(table: str, **kinds: Any) -> None:
    """Adds columns that are null of what is there."""
    for one in optional(**kinds):
        op.add_column(table, one)


def index_some(
    name: str, table: str, columns: list[str], where: str, *, unique: bool = False
) -> None:
    """Makes an index of the rows that a condition holds for, on both databases."""
    condition = sa.text(where)
    op.create_index(
        name, table, columns, unique=unique, sqlite_where=condition, postgresql_where=condition
    )


VERSION = sa.table("alembic_version", sa.column("version_num"))
"""Holds the revision of the schema that is there."""


def make_registry() -> None:
    """The first schema."""
    op.create_table(
        "alembic_version",
        required("version_num", LONG_WORD),
        sa.PrimaryKeyConstraint("version_num", name=op.f("alembic_version_pkc")),
    )
    op.bulk_insert(VERSION, [{"version_num": "0001"}])
    op.create_table(
        "deployment",
        column("singleton", sa.Integer, primary_key=True, autoincrement=False),
        *required_all(deployment_id=ID, key_check=BYTES, data_keys=JSON),
        *required_all(model_digest=sa.String(128), dim=sa.Integer, rotation_id=LONG_WORD),
        *required_all(writer_epoch=sa.BigInteger, sequence=sa.BigInteger),
        *required_all(audit_number=sa.BigInteger, audit_head=BYTES, created_at=MOMENT),
        sa.CheckConstraint("singleton = 1", name="one_row"),
    )
    op.create_table(
        "carriers",
        column("code", CODE, primary_key=True),
        *required_all(name=NAME, line_limit=sa.Integer, created_at=MOMENT),
        sa.CheckConstraint("line_limit >= 0", name="line_limit"),
    )
    op.create_table(
        "outlets",
        column("code", CODE, primary_key=True),
        *required_all(carrier=CARRIER, is_open=sa.Boolean, created_at=MOMENT),
        column("closed_at", MOMENT),
    )
    make_attempts()
    make_lines()
    make_audit()


def make_attempts() -> None:
    op.create_table(
        "documents",
        column("id", ID, primary_key=True),
        required("kind", CODE),
        column("lookup", BYTES, unique=True),
        *optional(name_lookup=BYTES, identity=BYTES, expires_on=sa.Date),
        *required_all(status=WORD, created_at=MOMENT),
        *optional(blocked_at=MOMENT, erased_at=MOMENT),
        sa.CheckConstraint("(status = 'erased') = (identity IS NULL)", name="erased"),
        sa.CheckConstraint(
            "(lookup IS NULL) = (status = 'erased' AND blocked_at IS NULL)", name="lookup"
        ),
        sa.CheckConstraint("status IN ('attempted', 'active', 'erased')", name="status"),
    )
    index_some("ix_documents_blocked", "documents", ["blocked_at"], "blocked_at IS NOT NULL")
    op.create_table(
        "enrollments",
        column("id", ID, primary_key=True),
        *required_all(sequence=sa.BigInteger, carrier=CARRIER, outlet=OUTLET),
        column("document_id", DOCUMENT, index=True),
        *required_all(decision=WORD, reasons=JSON, evidence=JSON),
        *optional(consent_ref=NAME, captured_at=MOMENT),
        required("created_at", MOMENT),
        sa.CheckConstraint("decision IN ('approved', 'review', 'rejected')", name="decision"),
    )


def make_lines() -> None:
    op.create_table(
        "references",
        column("id", NUMBER, primary_key=True, autoincrement=False),
        required("document_id", DOCUMENT, index=True),
        *optional(enrollment_id=ENROLLMENT, template=BYTES),
        *required_all(model_digest=sa.String(128), rotation_id=LONG_WORD),
        required("added_sequence", sa.BigInteger),
        column("removed_sequence", sa.BigInteger),
        sa.CheckConstraint("(template IS NULL) = (removed_sequence IS NOT NULL)", name="tombstone"),
    )
    op.create_index("ix_references_added", "references", ["added_sequence", "id"])
    is_removed = "removed_sequence IS NOT NULL"
    index_some("ix_references_removed", "references", ["removed_sequence"], is_removed)
    op.create_table(
        "lines",
        column("id", ID, primary_key=True),
        *optional(msisdn_lookup=BYTES, msisdn=BYTES),
        required("document_id", DOCUMENT, index=True),
        *required_all(carrier=CARRIER, outlet=OUTLET),
        column("enrollment_id", ENROLLMENT),
        *required_all(status=WORD, opened_at=MOMENT),
        column("closed_at", MOMENT),
        sa.CheckConstraint("status IN ('active', 'disputed', 'closed')", name="status"),
    )
    in_use = "status <> 'closed'"
    index_some("uq_lines_number_in_use", "lines", ["msisdn_lookup"], in_use, unique=True)
    op.create_table(
        "cases",
        column("id", ID, primary_key=True),
        required("kind", CODE),
        required("state", WORD, index=True),
        column("enrollment_id", ENROLLMENT, index=True),
        required("document_ids", JSON),
        column("score", FLOAT),
        required("opened_at", MOMENT),
    )


def make_audit() -> None:
    op.create_table(
        "watchlist",
        column("id", NUMBER, primary_key=True, autoincrement=False),
        column("document_lookup", BYTES, index=True),
        column("template", BYTES),
        *required_all(reason=NAME, added_at=MOMENT),
        column("removed_at", MOMENT),
    )
    op.create_table(
        "audit",
        column("number", NUMBER, primary_key=True, autoincrement=False),
        *required_all(at=MOMENT, actor=NAME, action=CODE, subject=NAME, detail=JSON, hash=BYTES),
    )
    op.create_table(
        "idempotency",
        column("scope", BYTES, primary_key=True),
        required("payload_digest", BYTES),
        column("enrollment_id", ENROLLMENT),
        *required_all(response=JSON, created_at=MOMENT),
    )


def add_keys() -> None:
    """Keys of the service, and cases about a line."""
    op.create_table(
        "api_keys",
        column("id", CODE, primary_key=True),
        *required_all(digest=BYTES, label=NAME, role=WORD),
        *optional(carrier=CARRIER, outlet=OUTLET, rate_limit=FLOAT),
        required("created_at", MOMENT),
        *optional(expires_at=MOMENT, revoked_at=MOMENT),
        sa.CheckConstraint("role IN ('outlet', 'carrier', 'fraud', 'operator')", name="role"),
        sa.CheckConstraint(
            "(role IN ('outlet', 'carrier')) = (carrier IS NOT NULL)", name="carrier"
        ),
        sa.CheckConstraint("(role = 'outlet') = (outlet IS NOT NULL)", name="outlet"),
        sa.CheckConstraint("rate_limit > 0", name="rate_limit"),
    )
    with op.batch_alter_table("cases") as cases:
        cases.add_column(column("line_id", ID))
        cases.create_foreign_key("fk_cases_line_id", "lines", ["line_id"], ["id"])
    is_open = "line_id IS NOT NULL AND state = 'open'"
    index_some("uq_cases_open_of_line", "cases", ["line_id", "kind"], is_open, unique=True)


ROWS_AT_ONCE = 5_000
CASES = sa.table(
    "cases",
    *map(sa.column, ("id", "kind", "line_id", "opened_at", "origin", "updated_at")),
    *(sa.column(name, JSON) for name in ("document_ids", "suspect_ids", "line_ids")),
)


def add_fraud_desk() -> None:
    """Sweeps, cases with a history and an outcome, judged pairs, crops."""
    op.create_table(
        "sweeps",
        column("id", ID, primary_key=True),
        *required_all(state=WORD, terms=JSON, requested_by=NAME, created_at=MOMENT),
        *optional(started_at=MOMENT, ended_at=MOMENT, sequence=sa.BigInteger),
        required("progress", JSON),
        *optional(summary=JSON, fault=sa.Text),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'paused', 'done', 'cancelled', 'failed')", name="state"
        ),
    )
    op.create_index("ix_sweeps_created", "sweeps", ["created_at", "id"])
    widen_cases()
    add_parts_of_cases()
    op.create_table(
        "crops",
        column("id", ID, primary_key=True),
        required("enrollment_id", ENROLLMENT, index=True),
        *required_all(photograph=WORD, image=BYTES),
        required("kept_until", MOMENT, index=True),
        sa.CheckConstraint("photograph IN ('live', 'portrait')", name="photograph"),
    )


def add_parts_of_cases() -> None:
    op.create_table(
        "case_documents",
        column("document_id", ID, primary_key=True),
        column("case_id", CASE, primary_key=True, index=True),
    )
    link_documents()
    op.create_table(
        "case_notes",
        column("id", NUMBER, primary_key=True, autoincrement=False),
        required("case_id", CASE, index=True),
        *required_all(at=MOMENT, actor=NAME, kind=WORD),
        column("text", BYTES),
    )
    op.create_table(
        "judged_pairs",
        column("left_document", DOCUMENT, primary_key=True),
        column("right_document", DOCUMENT, primary_key=True),
        *required_all(outcome=WORD, score=FLOAT, case_id=CASE),
        column("sweep_id", (ID, "sweeps.id")),
        *required_all(decided_at=MOMENT, decided_by=NAME),
        sa.CheckConstraint("outcome IN ('fraud', 'twins', 'mistake')", name="outcome"),
    )


def widen_cases() -> None:
    op.drop_index("uq_cases_open_of_line", "cases")
    with op.batch_alter_table("cases") as cases:
        for one in (
            *optional(origin=WORD, suspect_ids=JSON, line_ids=JSON, risk=FLOAT, sweep_id=ID),
            column("group_key", sa.String(128), index=True),
            *optional(assignee=NAME, proposal=JSON, outcome=WORD),
            column("merged_into", ID, index=True),
            *optional(updated_at=MOMENT, closed_at=MOMENT),
        ):
            cases.add_column(one)
    fill_cases()
    with op.batch_alter_table("cases") as cases:
        for one in optional(origin=WORD, suspect_ids=JSON, line_ids=JSON, updated_at=MOMENT):
            cases.alter_column(one.name, existing_type=one.type, nullable=False)
        cases.create_foreign_key("fk_cases_sweep_id", "sweeps", ["sweep_id"], ["id"])
        cases.create_foreign_key("fk_cases_merged_into", "cases", ["merged_into"], ["id"])
        for name, condition in (
            ("origin", "origin IN ('decision', 'dispute', 'reverification', 'sweep')"),
            ("state", "state IN ('open', 'assigned', 'proposed', 'closed', 'merged')"),
            (
                "outcome",
                "outcome IS NULL OR "
                "(outcome IN ('fraud', 'twins', 'mistake', 'unfounded') AND state = 'closed')",
            ),
            ("merged", "(state = 'merged') = (merged_into IS NOT NULL)"),
        ):
            cases.create_check_constraint(op.f(f"ck_cases_{name}"), condition)
    op.create_index("ix_cases_opened", "cases", ["opened_at", "id"])
    is_alive = "line_id IS NOT NULL AND state IN ('open', 'assigned', 'proposed')"
    index_some("uq_cases_open_of_line", "cases", ["line_id", "kind"], is_alive, unique=True)


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


ONE_PERSON = ("duplicate_identity", "possible_duplicate")


def pages_of_cases() -> Iterator[Sequence[sa.Row[Any]]]:
    page = sa.select(CASES).order_by(CASES.c.id).limit(ROWS_AT_ONCE)
    last = ""
    while rows := op.get_bind().execute(page.where(CASES.c.id > last)).all():
        yield rows
        last = rows[-1].id


def link_documents() -> None:
    named = sa.table("case_documents", sa.column("document_id"), sa.column("case_id"))
    for rows in pages_of_cases():
        links = [
            {"document_id": document_id, "case_id": row.id}
            for row in rows
            for document_id in dict.fromkeys(row.document_ids)
        ]
        if links:
            op.get_bind().execute(sa.insert(named), links)


def expire_attempts() -> None:
    """Attempts whose evidence has left, and indexes by which retention finds its rows."""
    add_columns("enrollments", expired_at=MOMENT)
    find_attempts("rejected")
    index_some("ix_documents_attempted", "documents", ["id"], "status = 'attempted'")
    is_closed = "status = 'closed' AND msisdn IS NOT NULL"
    index_some("ix_lines_closed", "lines", ["closed_at", "id"], is_closed)
    op.create_index("ix_idempotency_created_at", "idempotency", ["created_at"])
    op.create_index("ix_idempotency_enrollment_id", "idempotency", ["enrollment_id"])


def find_attempts(decision: str) -> None:
    condition = f"decision = '{decision}' AND expired_at IS NULL"
    index_some(f"ix_enrollments_{decision}", "enrollments", ["created_at", "id"], condition)


def add_tallies() -> None:
    """Counts of failed comparisons, by holder and by key, which bound how many there may be."""
    op.create_table(
        "tallies", column("name", NAME, primary_key=True), *required_all(level=FLOAT, at=MOMENT)
    )


def add_codes() -> None:
    """Codes of rows and of the audit head, for the key ring to fill (`engine.registry.upgrade`);
    the label of a key, or its id where it has none, counts as its person."""
    for table in (
        *("cases", "case_notes", "judged_pairs", "carriers", "outlets", "documents"),
        *("enrollments", "references", "lines", "watchlist", "idempotency"),
    ):
        add_columns(table, mac=BYTES)
    add_columns("deployment", audit_mac=BYTES)
    add_columns("api_keys", person=NAME)
    op.execute(
        "UPDATE api_keys SET person = CASE WHEN label <> '' THEN label ELSE 'key:' || id END "
        "WHERE role IN ('fraud', 'operator')"
    )


def add_time_zones() -> None:
    """Time zones, null: the deployment's own holds until one is set."""
    for table in ("carriers", "outlets"):
        add_columns(table, time_zone=sa.String(64))


def add_second_templates() -> None:
    """Templates of a second model beside those of the model in force."""
    for table in ("references", "watchlist"):
        add_columns(table, second_template=BYTES, second_model_digest=sa.String(128))


def keep_faces_of_references() -> None:
    """Faces of imported references, and faces held until a case names them; a crop that is there
    gets the document of its attempt. Its code is for the key ring to make."""
    with op.batch_alter_table("crops") as crops:
        crops.alter_column("enrollment_id", existing_type=ID, nullable=True)
        kept = {"document_id": ID, "received_at": MOMENT, "quality": JSON, "is_held": sa.Boolean}
        for one in optional(**kept, case_days=sa.Integer, mac=BYTES):
            crops.add_column(one)
    op.execute(
        "UPDATE crops SET document_id = "
        "(SELECT document_id FROM enrollments WHERE enrollments.id = crops.enrollment_id)"
    )
    with op.batch_alter_table("crops") as crops:
        crops.create_foreign_key("fk_crops_document_id", "documents", ["document_id"], ["id"])
        owner = "enrollment_id IS NOT NULL OR document_id IS NOT NULL"
        crops.create_check_constraint(op.f("ck_crops_owner"), owner)
    op.create_index("ix_crops_document_id", "crops", ["document_id"])


MIGRATIONS: Mapping[str, Callable[[], None]] = {
    "0001": make_registry,
    "0002": add_keys,
    "0003": add_fraud_desk,
    "0004": expire_attempts,
    "0005": partial(find_attempts, "review"),
    "0006": add_tallies,
    "0007": add_codes,
    "0008": add_time_zones,
    "0009": add_second_templates,
    "0010": partial(add_columns, "cases", weakest=FLOAT),
    "0011": keep_faces_of_references,
}
