import traceback
from dataclasses import astuple, replace
from pathlib import Path

import pytest
from sqlalchemy import select

from engine.errors import SosieError
from engine.registry.database import new_id
from engine.registry.store import Store, every_table
from tests.engine.registry.conftest import ENTRY, Writes, committed


@pytest.fixture
def filled(store, writer, enroll) -> Writes:
    return committed(writer, enroll(writer, 3))


def secrets_of(changes: Writes) -> list[bytes]:
    """Every form of a name, a number or a template that must not lie open anywhere."""
    texts = {text for row in changes.documents for text in astuple(row.identity)[:2]}
    texts |= {line.msisdn for line in changes.lines} | {line.msisdn[1:] for line in changes.lines}
    encoded = [text.encode(code) for text in texts for code in ("utf-8", "utf-16-le")]
    return encoded + [row.template[:4].tobytes() for row in changes.references]


def stored_bytes(store: Store) -> bytes:
    """All that lies in the database: the SQLite file itself, or every value of PostgreSQL."""
    if store._engine.dialect.name == "sqlite":
        return Path(store._engine.url.database).read_bytes()
    values = []
    with store._engine.connect() as connection:
        for table in every_table():
            for row in connection.execute(select(table)):
                values += [v if isinstance(v, bytes) else str(v).encode() for v in row]
    return b"\0".join(values)


def test_no_name_number_or_template_lies_open_in_the_database(store, filled) -> None:
    content = stored_bytes(store)
    assert len(content) > 2000
    assert filled.documents[0].id.encode() in content
    assert not [secret for secret in secrets_of(filled) if secret in content]


def test_no_record_shows_a_name_number_or_template(store, filled) -> None:
    document = filled.documents[0]
    shown = repr(
        (
            filled,
            store.documents([document.lookup]),
            store.identity(document.id),
            store.lines_of(document.id),
            store.enrollment(filled.enrollments[0].id),
            list(store.audit_entries()),
            store,
            store.vault,
        )
    )
    open_forms = [line.msisdn[1:] for line in filled.lines]
    open_forms += [text for row in filled.documents for text in astuple(row.identity)[:2]]
    open_forms += [str(row.template[0]) for row in filled.references]
    assert not [text for text in open_forms if text in shown]


def test_no_error_shows_a_name_number_or_look_up(store, writer, filled) -> None:
    document, line = filled.documents[0], filled.lines[0]
    other = replace(line, id=new_id(), outlet="none")
    for write, constraint in (
        (replace(document, id=new_id()), "lookup"),
        (replace(line, id=new_id()), r"uq_lines_number_in_use|lines\.msisdn_lookup"),
        (other, "refused the transaction"),
    ):
        with pytest.raises(SosieError, match=constraint) as caught:
            writer.commit([ENTRY, write])
        assert caught.value.__cause__ is None
        shown = "".join(traceback.format_exception(caught.value))
        for secret in (*astuple(document.identity)[:2], line.msisdn, document.lookup.hex()):
            assert secret not in shown
        assert str(line.msisdn_lookup) not in shown
